//! Reviews over a catalog that is made here.

use super::templates::Budget;
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
        let sent = plan::text_of(&one.plan, one.literals.len(), &literal, &|_| String::new());
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
fn rows_of_any_number_are_one_template() {
    let path = ["public".into()];
    let policies = "[[table]]\nname = \"accounts\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n";
    let principal = principal();
    let context = context(&principal, &path);
    let sent = |gate: &Gate, sql: &str| gate.explain(sql, &context, None).remove(0).outcome.map_err(|d| d.error.message.clone());
    for (start, row, end) in [
        // Relations have a name for each row: not the same again.
        ("INSERT INTO accounts VALUES ", "(#, 1, (SELECT ssn FROM accounts WHERE id IN (#, #)))", ""),
        ("INSERT INTO accounts (id, ssn) VALUES ", "(#, 'a#')", ""),
        ("INSERT INTO accounts (id, ssn) VALUES ", "(DEFAULT, 'a#')", " RETURNING id, 'x' AS x"),
        ("INSERT INTO accounts (tenant_id, id) VALUES ", "('1', #)", ""),
        ("INSERT INTO accounts (tenant_id, id) VALUES ", "(DEFAULT, COALESCE(NULL, #))", ""),
        (
            "INSERT INTO accounts (id, ssn) VALUES ",
            "(CASE WHEN # = 7 THEN # ELSE 3 END, NULL)",
            " ON CONFLICT (id) DO UPDATE SET ssn = 'again' WHERE accounts.id = 1000",
        ),
    ] {
        let gate = gate(policies);
        for count in 3..40 {
            let rows: Vec<String> = (0..count).map(|n| row.replace('#', &(n * count).to_string())).collect();
            let sql = format!("{start}{}{end}", rows.join(", "));
            // With a comment inside, a statement is read as it is.
            let unfolded = sent(&self::gate(policies), &sql.replacen("INTO", "/* as it is */ INTO", 1));
            assert!(unfolded.is_ok(), "{unfolded:?}");
            assert_eq!(sent(&gate, &sql), unfolded, "{sql}");
        }
        let templates = if row.contains("SELECT") { 38 } else { 1 };
        assert_eq!(gate.state.load().templates.len(), templates, "{row}");
    }
}

#[test]
fn generated_statements_do_not_make_ordinary_ones_forgotten() {
    let path = ["public".into()];
    let gate = gate("[[table]]\nname = \"accounts\"\nscope = \"tenant\"\ntenant_column = \"tenant_id\"\n");
    let principal = principal();
    let context = context(&principal, &path);
    let review = |sql: &str| gate.review(sql, &context).expect("a permitted statement");
    let plan = review("SELECT id FROM accounts").remove(0).plan;
    for n in 0..200usize {
        // Each is another: which of its values are negative.
        let list: Vec<String> = (0..2000).map(|i| if n >> (i % 8) & 1 == 1 { format!("-{i}") } else { format!("{i}") }).collect();
        review(&format!("SELECT id FROM accounts WHERE id IN ({})", list.join(", ")));
    }
    assert!(gate.state.load().templates.bytes(Budget::Large) <= Budget::Large.bytes() + (1 << 20));
    assert!(gate.state.load().templates.len() < 200, "some are forgotten");
    assert!(Arc::ptr_eq(&plan, &review("SELECT id FROM accounts")[0].plan));
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
    let sent = gate.explain(sql, &context, None).remove(0).outcome.expect("a permitted statement");
    let mask = |alias: &str| format!("CASE WHEN {alias}.ssn IS NULL THEN NULL::pg_catalog.text ELSE NULL::pg_catalog.text END");
    let expected = format!("RETURNING WITH (OLD AS old, NEW AS new) {} AS ssn, {} AS now", mask("old"), mask("new"));
    assert!(sent.ends_with(&expected), "{sent}");
}

/// What a text asks for is bounded by what PostgreSQL would take, or by what is counted: not by what it has doubled.
#[test]
fn a_short_text_does_not_ask_for_any_number_of_columns() {
    let gate = gate("[[table]]\nname = 'accounts'\nscope = 'tenant'\ntenant_column = 'tenant_id'\n");
    let (principal, path) = (principal(), ["public".into()]);
    let context = context(&principal, &path);
    let refused = |sql: &str| {
        let begun = std::time::Instant::now();
        let told = gate.review(sql, &context).err().map(|denial| denial.error.sqlstate.0.to_string());
        println!("{:?} {} bytes: {told:?} {}", begun.elapsed(), sql.len(), &sql[..60]);
        told.unwrap_or_default()
    };
    let doubled = |levels: usize| {
        let level = |k: usize| format!(", c{k} AS (SELECT * FROM c{0} x, c{0} y)", k - 1);
        format!("WITH c0 AS (SELECT 1 AS a){} SELECT 1", (1..=levels).map(level).collect::<String>())
    };
    assert_eq!(refused(&doubled(10)), "");
    assert_eq!(refused(&doubled(40)), "54011");
    let nested = |levels: usize| (0..levels).fold("SELECT 1 AS a".to_owned(), |sql, _| format!("SELECT x.*, x.* FROM ({sql}) x"));
    assert_eq!(refused(&nested(10)), "");
    assert_eq!(refused(&nested(60)), "54011");
    let joined = (0..60).map(|n| format!("c10 n{n}")).collect::<Vec<_>>().join(" CROSS JOIN ");
    assert_eq!(refused(&doubled(10).replace(") SELECT 1", &format!(") SELECT 1 FROM {joined}"))), "54001");
    for (list, n, expected) in [
        ("SELECT {} FROM accounts", 1_600, ""),
        ("SELECT {} FROM accounts", 100_000, "54011"),
        ("SELECT 1 FROM accounts ORDER BY {}", 100_000, "54011"),
        ("SELECT 1 FROM accounts GROUP BY {}", 100_000, "54011"),
        ("SELECT ROW({}) FROM accounts", 100_000, "54011"),
        ("SELECT ({0}) = ({0}) FROM accounts", 50_000, "54011"),
    ] {
        assert_eq!(
            refused(&list.replace("{}", &vec!["id"; n].join(",")).replace("{0}", &vec!["id"; n].join(","))),
            expected,
            "{list}"
        );
    }
    let ctes =
        format!("WITH c AS (SELECT id FROM accounts) SELECT 1 WHERE {}", vec!["EXISTS (SELECT FROM c)"; 20_000].join(" AND "));
    assert_eq!(refused(&ctes), "");
    let one = vec!["1 AS a"; 1_600].join(",");
    assert_eq!(refused(&format!("SELECT 1 FROM (SELECT {one}) x")), "");
    let many =
        format!("SELECT 1 FROM accounts WHERE id IN ({})", (0..100_000).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
    assert_eq!(refused(&many), "");
    let rows = format!("INSERT INTO accounts (id, ssn) VALUES {}", vec!["(1, upper('x'))"; 20_000].join(","));
    refused(&rows);
}
