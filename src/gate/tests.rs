//! Reviews over a catalog that is made here.

use super::*;
use crate::catalog::{Column, Operator, Relation, Snapshot, Type};
use crate::principal::{Access, Tenant};

fn column(number: i16, name: &str, type_oid: u32) -> Column {
    Column {
        number,
        name: name.to_owned(),
        type_oid,
        typmod: -1,
        not_null: false,
        has_default: false,
        generated: false,
        computed: false,
        hidden: false,
        identity: None,
        collation: 0,
    }
}

fn type_(oid: u32, name: &str, category: char) -> Type {
    let (schema, name) = ("pg_catalog".to_owned(), name.to_owned());
    Type { oid, schema, name, kind: 'b', category, element: 0, base: 0, relation: 0, constrained: false }
}

/// A newer server than tests have a catalog of.
fn snapshot() -> Snapshot {
    let equals = Operator {
        oid: 96,
        schema: "pg_catalog".to_owned(),
        name: "=".to_owned(),
        left: 23,
        right: 23,
        result: 16,
        function: 65,
        extension: None,
    };
    Snapshot {
        server_version: 180_000,
        database: "shop".to_owned(),
        relations: vec![Relation {
            oid: 1,
            schema: "public".to_owned(),
            name: "accounts".to_owned(),
            kind: 'r',
            columns: vec![column(1, "id", 23), column(2, "tenant_id", 23), column(3, "ssn", 25)],
            parents: vec![],
            is_partition: false,
            unique_keys: vec![],
            row_security: false,
        }],
        types: vec![type_(23, "int4", 'N'), type_(25, "text", 'S'), type_(16, "bool", 'B')],
        operators: vec![equals],
        ..Snapshot::default()
    }
}

fn gate(policies: &str) -> Gate {
    let model = crate::policy::load::read(vec![("p.toml".into(), policies.to_owned())], &["shop".to_owned()]);
    let model = model.unwrap_or_else(|p| panic!("{}", p.render(false)));
    Gate::new(Level::Strict, Arc::new(Catalog::new(snapshot())), &model).expect("policies that fit")
}

fn context<'a>(principal: &'a Principal, search_path: &'a [Box<str>]) -> Context<'a> {
    Context { principal, search_path, protocol: Protocol::Simple, parameter_types: &[] }
}

fn principal() -> Principal {
    Principal {
        user: "one".into(),
        database: "shop".into(),
        roles: [].into(),
        access: Access::Fixed(Tenant("1".into())),
        tenant_setting: None,
    }
}

#[test]
fn lists_of_many_lengths_are_one_template() {
    let path = ["public".into()];
    let policies = "[[table]]\nname = \"accounts\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n";
    let gate = gate(policies);
    let principal = principal();
    let context = context(&principal, &path);
    for length in 3..300 {
        let list: Vec<String> = (0..length).map(|n| n.to_string()).collect();
        let sql = format!("SELECT id FROM accounts WHERE id IN ({})", list.join(", "));
        let approved = gate.review(&sql, &context).expect("a permitted statement");
        let one = &approved[0];
        let literal =
            |i: u16| sql[one.literals[usize::from(i)].start as usize..one.literals[usize::from(i)].end as usize].to_owned();
        let sent = plan::text_of(one.plan.segments(), &literal, &|_| String::new());
        assert!(sent.ends_with(&format!("accounts.id IN ({})", list.join(", "))), "{sent}");
    }
    assert_eq!(gate.state.load().templates.len(), 1);
    // Beside a literal that decides something, one template for each length, and no more for other values.
    for id in 0..50 {
        let sql = format!("SELECT id FROM accounts WHERE ssn IN ('a{id}', 'b', 'c') AND id = {id} ORDER BY 1");
        gate.review(&sql, &context).expect("a permitted statement");
    }
    assert_eq!(gate.state.load().templates.len(), 4, "unfolded, refined by its ORDER BY, and that");
}

#[test]
fn a_list_of_arguments_is_not_one_of_in() {
    let are_lists = |text: &str| are_lists(text, &[1]);
    assert!(are_lists("SELECT 1 WHERE a IN (2107300000, 2107300001)"));
    assert!(!are_lists("SELECT s.\"in\"(2107300000, 2107300001)"));
    assert!(!are_lists(""));
}

#[test]
fn versions_of_a_row_show_masks() {
    let path = ["public".into()];
    let policies = "[[table]]\nname = \"accounts\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n\
        [[table.column]]\nname = \"ssn\"\nmask = \"null\"\n";
    let gate = gate(policies);
    let principal = principal();
    let context = context(&principal, &path);
    let sql = "UPDATE accounts SET id = 1 RETURNING old.ssn, new.ssn AS now";
    let sent = gate.explain(sql, &context).remove(0).outcome.expect("a permitted statement");
    let mask = |alias: &str| format!("CASE WHEN {alias}.ssn IS NULL THEN NULL::pg_catalog.text ELSE NULL::pg_catalog.text END");
    let expected = format!("RETURNING WITH (OLD AS old, NEW AS new) {} AS ssn, {} AS now", mask("old"), mask("new"));
    assert!(sent.ends_with(&expected), "{sent}");
}
