//! Good outputs are accepted; each mutant of one is refused.

use super::*;
use crate::catalog::{Column, Relation, Snapshot};

pub(super) const ACCOUNTS: u32 = 100;
const ORDERS: u32 = 101;
pub(super) const PRODUCTS: u32 = 102;
const SECRETS: u32 = 103;
const PG_CLASS: u32 = 1259;
const PG_DATABASE: u32 = 1262;
const PICKED: u32 = u32::MAX;
const PG_SETTINGS: u32 = 12000;

struct Allowed;

impl Names for Allowed {
    fn allows_function(&self, schema: &str, name: &str, _arguments: Option<usize>) -> bool {
        schema == "pg_catalog"
            && matches!(
                name,
                "count"
                    | "lower"
                    | "sum"
                    | "generate_series"
                    | "to_json"
                    | "rank"
                    | "extract"
                    | "xpath"
                    | "current_setting"
                    | "current_database"
            )
    }

    fn allows_operator(&self, schema: &str, name: &str) -> bool {
        matches!(schema, "" | "pg_catalog") && matches!(name, "=" | "<" | ">" | "+" | "-" | "~~" | "BETWEEN" | "||")
    }

    fn allows_type(&self, schema: &str, name: &str) -> bool {
        schema == "pg_catalog" && matches!(name, "int4" | "text" | "numeric" | "regclass")
    }

    fn allows_collation(&self, schema: &str, name: &str) -> bool {
        (schema, name) == ("pg_catalog", "C")
    }

    fn allows_arguments(&self, name: &str, arguments: &[Argument<'_>]) -> bool {
        name != "current_setting" || arguments.first() == Some(&Argument::Text("timezone"))
    }
}

fn relation(oid: u32, schema: &str, name: &str, columns: &[&str]) -> Relation {
    let column = |(i, name): (usize, &&str)| Column {
        number: i as i16 + 1,
        name: (*name).to_owned(),
        type_oid: 25,
        typmod: -1,
        not_null: false,
        has_default: false,
        generated: false,
        computed: false,
        hidden: false,
        identity: None,
        collation: 0,
    };
    Relation {
        oid,
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind: 'r',
        columns: columns.iter().enumerate().map(column).collect(),
        parents: Vec::new(),
        is_partition: false,
        unique_keys: Vec::new(),
        row_security: false,
    }
}

fn text_type() -> crate::catalog::Type {
    let (schema, name) = ("pg_catalog".to_owned(), "text".to_owned());
    let (oid, kind, category) = (25, 'b', 'S');
    crate::catalog::Type { oid, schema, name, kind, category, element: 0, base: 0, relation: 0, constrained: false }
}

fn catalog() -> Catalog {
    Catalog::new(Snapshot {
        relations: vec![
            relation(ACCOUNTS, "public", "accounts", &["id", "tenant_id", "email", "balance", "ssn"]),
            relation(ORDERS, "public", "orders", &["id", "tenant_id", "account_id", "amount", "note"]),
            relation(PRODUCTS, "public", "products", &["id", "name"]),
            relation(SECRETS, "public", "secrets", &["id", "secret"]),
            relation(PG_CLASS, "pg_catalog", "pg_class", &["oid", "relname", "relpages"]),
            relation(PG_SETTINGS, "pg_catalog", "pg_settings", &["name", "setting", "line"]),
            relation(PG_DATABASE, "pg_catalog", "pg_database", &["oid", "datname"]),
        ],
        types: vec![text_type()],
        // On no list: they take a row of any kind, and a text.
        functions: vec![function("peek", 2249), function("spy", 25)],
        ..Snapshot::default()
    })
    .with_temporaries(vec![(relation(PICKED, "pg_temp", "picked", &["id", "whose"]), vec![])])
}

fn function(name: &str, argument: u32) -> crate::catalog::Function {
    crate::catalog::Function {
        oid: 20_000 + argument,
        schema: "public".to_owned(),
        name: name.to_owned(),
        kind: 'f',
        arguments: vec![argument],
        defaults: 0,
        variadic: false,
        returns: 25,
        returns_set: false,
        volatility: 'v',
        strict: false,
        outputs: vec![],
        extension: None,
    }
}

/// Row rules of `orders`, as `row.column`; empty: none.
#[derive(Clone, Copy, Default)]
pub(super) struct Rules {
    read: &'static str,
    update: &'static str,
    delete: &'static str,
    insert_check: &'static str,
    update_check: &'static str,
}

impl Rules {
    fn all(rules: &'static str) -> Rules {
        Rules { read: rules, update: rules, delete: rules, ..Rules::default() }
    }

    fn governed(self) -> Governed {
        Governed {
            tenant_column: "tenant_id".to_owned(),
            tenant_type: TenantType::Int4,
            read: predicates(self.read),
            update: predicates(self.update),
            delete: predicates(self.delete),
            insert_check: predicates(self.insert_check),
            update_check: predicates(self.update_check),
        }
    }
}

fn predicates(text: &str) -> Vec<Predicate> {
    if text.is_empty() {
        return Vec::new();
    }
    let tree = parse::parse(&format!("SELECT {text}")).unwrap();
    let Some(NodeEnum::SelectStmt(select)) = &tree.stmts[0].stmt.as_ref().unwrap().node else { panic!() };
    let Some(NodeEnum::ResTarget(target)) = &select.target_list[0].node else { panic!() };
    Predicate::conjuncts(target.val.as_deref().unwrap(), "row")
}

/// `accounts` and `orders` belong to tenants; `orders` has rules. `T(x)` is the injected predicate, `$T` the slot, `$R(x)`
/// what raises, `V(x)` a checked tenant.
fn check_with(kind: Kind, text: &str, rules: Rules) -> Result<(), Denial> {
    check_in(kind, text, &relations(rules))
}

pub(super) fn relations(rules: Rules) -> Relations {
    let picked = Governed { tenant_column: "whose".to_owned(), tenant_type: TenantType::Text, ..Rules::default().governed() };
    let own_database = predicates("row.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()");
    Relations {
        governed: HashMap::from([(ACCOUNTS, Rules::default().governed()), (ORDERS, rules.governed()), (PICKED, picked)]),
        shared: HashSet::from([PRODUCTS]),
        system: HashMap::from([
            (PG_CLASS, System { hidden: &["relpages"], rows: Vec::new(), single: None }),
            (
                PG_SETTINGS,
                System {
                    hidden: &["setting"],
                    single: Some(Single { column: "name", admits: |name| name == "timezone", hidden: &["line"] }),
                    ..System::default()
                },
            ),
            (PG_DATABASE, System { hidden: &[], rows: own_database, single: None }),
        ]),
        masks: HashMap::new(),
    }
}

pub(super) fn check_in(kind: Kind, text: &str, relations: &Relations) -> Result<(), Denial> {
    let sql = fill(text, "V(", |value| {
        let raise = "('bad_accounts\"'::pg_catalog.text OPERATOR(pg_catalog.||) COALESCE(";
        format!(
            "CASE WHEN {value} OPERATOR(pg_catalog.=) $T THEN $T ELSE {raise}{value}::pg_catalog.text, ''))::pg_catalog.int4 END"
        )
    });
    let sql = fill(&sql, "$R(", |alias| {
        let table = if alias == "a" { "accounts" } else { "orders" };
        format!("('bad_{table}\"'::pg_catalog.text OPERATOR(pg_catalog.||) {alias}.tableoid::pg_catalog.text)")
    });
    let sql = fill(&sql, "T(", |alias| format!("{alias}.tenant_id OPERATOR(pg_catalog.=) $T"));
    let sql = sql.replace("$T", "'qzslotint4'::pg_catalog.int4").replace("count(", "pg_catalog.count(");
    verify(&Printed::read(sql)?, &catalog(), &Expected { kind, relations, names: &Allowed, marker: "bad_" })
}

/// Replaces `open` .. `)` by what `with` makes of the text between.
fn fill(text: &str, open: &str, with: impl Fn(&str) -> String) -> String {
    let mut filled = String::new();
    for (i, piece) in text.split(open).enumerate() {
        let (inner, rest) = if i == 0 { ("", piece) } else { piece.split_once(')').unwrap() };
        if i > 0 {
            filled += &with(inner);
        }
        filled += rest;
    }
    filled
}

pub(super) fn kind_of(text: &str) -> Kind {
    match text.split_whitespace().next().unwrap() {
        "INSERT" => Kind::Insert,
        "UPDATE" => Kind::Update,
        "DELETE" => Kind::Delete,
        "MERGE" => Kind::Merge,
        "COPY" if text.contains(" FROM STDIN") => Kind::CopyFrom,
        "COPY" => Kind::CopyTo,
        "EXPLAIN" => Kind::Explain { estimates: false },
        "DECLARE" => Kind::DeclareCursor,
        "CREATE" => Kind::CreateTemporary,
        _ => Kind::Select,
    }
}

fn check(text: &str) -> Result<(), Denial> {
    check_with(kind_of(text), text, Rules::default())
}

/// Refused by the check, not for want of a valid text.
pub(super) fn is_refused(result: Result<(), Denial>) -> bool {
    result.is_err_and(|d| !d.error.message.contains("cannot be parsed"))
}

#[test]
fn temporary_tables_hold_rows_of_the_tenant() {
    const SLOT: &str = "'qzslottext'::pg_catalog.text AS whose";
    let of_accounts = format!("SELECT a.id AS id, {SLOT} FROM public.accounts a WHERE T(a)");
    for text in [
        format!("CREATE TEMPORARY TABLE pg_temp.picked AS {of_accounts}"),
        format!("CREATE TEMPORARY TABLE IF NOT EXISTS pg_temp.picked ON COMMIT DROP AS {of_accounts} WITH NO DATA"),
        "SELECT p.id FROM pg_temp.picked p WHERE p.whose OPERATOR(pg_catalog.=) 'qzslottext'::pg_catalog.text".to_owned(),
    ] {
        check(&text).unwrap_or_else(|d| panic!("{text}: {d}"));
    }
    for text in [
        format!("CREATE TABLE pg_temp.picked AS {of_accounts}"),
        format!("CREATE TABLE public.picked AS {of_accounts}"),
        format!("CREATE TEMPORARY TABLE picked AS {of_accounts}"),
        format!("CREATE TEMPORARY TABLE pg_temp.others AS {of_accounts}"),
        format!("CREATE TEMPORARY TABLE public.accounts AS {of_accounts}"),
        format!("CREATE TEMPORARY TABLE pg_temp.picked(whose, id) AS {of_accounts}"),
        format!("CREATE TEMPORARY TABLE pg_temp.picked TABLESPACE fast AS {of_accounts}"),
        format!("CREATE TEMPORARY TABLE pg_temp.picked WITH (fillfactor = 10) AS {of_accounts}"),
        format!("CREATE MATERIALIZED VIEW pg_temp.picked AS {of_accounts}"),
        format!("CREATE TEMPORARY TABLE pg_temp.picked AS SELECT a.id AS id, {SLOT} FROM public.accounts a"),
        format!("CREATE TEMPORARY TABLE pg_temp.picked AS SELECT {SLOT}, a.id AS id FROM public.accounts a WHERE T(a)"),
        format!(
            "CREATE TEMPORARY TABLE pg_temp.picked AS SELECT a.id AS id, a.email AS email, {SLOT} FROM public.accounts a WHERE T(a)"
        ),
        format!("CREATE TEMPORARY TABLE pg_temp.picked AS {of_accounts} UNION ALL {of_accounts}"),
        "CREATE TEMPORARY TABLE pg_temp.picked AS SELECT a.id AS id, '2' AS whose FROM public.accounts a WHERE T(a)".to_owned(),
        "CREATE TEMPORARY TABLE pg_temp.picked AS SELECT a.id AS id, a.email AS whose FROM public.accounts a WHERE T(a)"
            .to_owned(),
        "CREATE TEMPORARY TABLE pg_temp.picked AS EXECUTE p".to_owned(),
        "SELECT p.id FROM pg_temp.picked p".to_owned(),
        "SELECT p.id FROM pg_temp.picked p WHERE p.whose OPERATOR(pg_catalog.=) p.whose".to_owned(),
    ] {
        assert!(is_refused(check(&text)), "{text}");
    }
}

const A: &str = "public.accounts a";
const O: &str = "public.orders o";

#[test]
fn good_outputs_are_accepted() {
    for text in [
        "SELECT a.id, a.email AS e FROM public.accounts a WHERE T(a)",
        "SELECT a.id FROM public.accounts a WHERE T(a) AND (a.balance > 1 OR a.id = 2) ORDER BY id, a.email",
        "SELECT a.id FROM ONLY public.accounts a WHERE a.id = 2 AND T(a)",
        "SELECT x.spy FROM (SELECT 1 AS spy) x",
        "SELECT a.id, o.id FROM public.accounts a, public.orders o WHERE T(a) AND T(o) AND a.id = o.account_id",
        "SELECT 1 FROM public.accounts a JOIN public.orders o ON a.id = o.account_id AND T(o) WHERE T(a)",
        "SELECT 1 FROM public.accounts a LEFT JOIN public.orders o ON T(o) AND a.id = o.account_id WHERE T(a)",
        "SELECT 1 FROM public.orders o RIGHT JOIN public.accounts a ON T(o) WHERE T(a)",
        "SELECT 1 FROM public.accounts a LEFT JOIN (public.orders o JOIN public.accounts b ON T(b) AND b.id = o.id) ON T(o) WHERE T(a)",
        "SELECT 1 FROM (SELECT a.id FROM public.accounts a WHERE T(a)) x FULL JOIN (SELECT o.id FROM public.orders o WHERE T(o)) y ON x.id = y.id",
        "SELECT 1 FROM (SELECT a.id FROM public.accounts a WHERE T(a) OFFSET 0) x JOIN public.products p USING (id) AS u WHERE u.id = 1",
        "SELECT 1 FROM public.products p WHERE EXISTS (SELECT 1 FROM public.orders o WHERE T(o) AND o.account_id = p.id)",
        "SELECT a.id FROM public.accounts a WHERE T(a) UNION ALL SELECT o.id FROM public.orders o WHERE T(o) ORDER BY id",
        "WITH accounts AS (SELECT a.id FROM public.accounts a WHERE T(a)) SELECT c.id FROM accounts c",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT r1.n + 1 FROM r r1 WHERE r1.n < 5) SELECT r2.n FROM r r2",
        "WITH w AS (DELETE FROM public.orders o WHERE T(o) RETURNING o.id) SELECT x.id FROM w x",
        "SELECT count(*), pg_catalog.sum(a.balance) OVER (PARTITION BY a.email ORDER BY a.id) FROM public.accounts a WHERE T(a) GROUP BY email",
        "SELECT pg_catalog.to_json(a) FROM public.accounts a WHERE T(a) FOR UPDATE OF a",
        "SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relname ~~ 'x' ORDER BY relname",
        "SELECT CASE WHEN T(a) THEN a.email || 'x' ELSE NULL::pg_catalog.text END FROM public.accounts a WHERE T(a)",
        "SELECT 1 FROM public.accounts a LEFT JOIN public.orders o ON T(o) WHERE T(a) AND (CASE WHEN o.tableoid IS NULL OR T(o) THEN o.note || 'x' ELSE NULL::pg_catalog.text END) = 'y'",
        "SELECT x.tenant_id FROM public.accounts x(id2) WHERE T(x)",
        "SELECT g.n FROM pg_catalog.generate_series(1, 2) g(n)",
        "SELECT v.a FROM (VALUES (1), (2)) v(a)",
        "SELECT 1 FROM public.accounts a TABLESAMPLE system (10) WHERE T(a)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T), (DEFAULT, $T) RETURNING a.id",
        "INSERT INTO public.accounts AS a (tenant_id, id) SELECT $T, o.id FROM public.orders o WHERE T(o) UNION SELECT $T, 5",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) WHERE id > 3 DO UPDATE SET email = excluded.email WHERE CASE WHEN T(a) THEN a.balance > 1 ELSE $R(a)::pg_catalog.bool END",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, V(2)), (DEFAULT, $T) RETURNING a.id",
        "INSERT INTO public.accounts AS a (id, tenant_id) SELECT 1, V($1) UNION SELECT 2, V(o.id) FROM public.orders o WHERE T(o)",
        "UPDATE public.accounts a SET email = 'x', tenant_id = V(2) WHERE T(a)",
        "UPDATE public.accounts a SET tenant_id = $T WHERE T(a)",
        "SELECT d.datname FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() AND d.oid > 1",
        "SELECT pg_catalog.to_json(d) FROM pg_catalog.pg_database d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()",
        "SELECT pg_catalog.current_setting('timezone')",
        "SELECT 1 FROM public.accounts new WHERE T(new)",
        "SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name = 'timezone'",
        "SELECT (SELECT count(*) FROM public.orders o WHERE T(o) AND CASE WHEN T(o) THEN o.note || a.email = 'x' END) FROM public.accounts a WHERE T(a)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT DO NOTHING",
        "UPDATE public.accounts a SET email = 'x', balance = DEFAULT WHERE T(a)",
        "UPDATE public.accounts a SET (email, balance) = (SELECT o.note, o.amount FROM public.orders o WHERE T(o) AND o.account_id = a.id) WHERE T(a)",
        "UPDATE public.accounts a SET email = o.note FROM public.orders o WHERE T(a) AND T(o) AND o.account_id = a.id RETURNING a.id",
        "DELETE FROM public.accounts a USING public.orders o WHERE T(a) AND T(o)",
        "COPY (SELECT a.id FROM public.accounts a WHERE T(a)) TO STDOUT (FORMAT csv)",
        "COPY public.accounts (id, tenant_id) FROM STDIN",
        "COPY public.accounts (tenant_id) FROM STDIN (FORMAT binary)",
        "EXPLAIN (COSTS off) SELECT a.id FROM public.accounts a WHERE T(a)",
        "EXPLAIN (VERBOSE on, COSTS off, FORMAT json) UPDATE public.accounts a SET email = 'x' WHERE T(a)",
        "DECLARE c CURSOR FOR SELECT a.id FROM public.accounts a WHERE T(a)",
        "UPDATE public.accounts a SET balance = 0 WHERE CURRENT OF c RETURNING CASE WHEN T(a) THEN NULL::pg_catalog.int4 ELSE $R(a)::pg_catalog.int4 END",
        "UPDATE public.accounts a SET balance = CASE WHEN T(a) THEN a.balance + 1 ELSE NULL END WHERE CURRENT OF c RETURNING CASE WHEN (CASE WHEN T(a) THEN NULL::pg_catalog.int4 ELSE $R(a)::pg_catalog.int4 END) OPERATOR(pg_catalog.=) 0 THEN a.id ELSE a.id END AS id, a.email",
        "DELETE FROM public.accounts a WHERE CURRENT OF c RETURNING CASE WHEN T(a) THEN NULL::pg_catalog.int4 ELSE $R(a)::pg_catalog.int4 END",
    ] {
        check(text).unwrap_or_else(|d| panic!("{text}: {d}"));
    }
}

#[test]
fn a_copy_into_a_table_has_one_form() {
    for text in [
        "COPY public.accounts FROM STDIN",
        "COPY public.accounts (tenant_id, id) FROM STDIN",
        "COPY public.accounts (id) FROM STDIN",
        "COPY public.accounts (id, id, tenant_id) FROM STDIN",
        "COPY public.accounts (id, nothing, tenant_id) FROM STDIN",
        "COPY accounts (id, tenant_id) FROM STDIN",
        "COPY other.public.accounts (id, tenant_id) FROM STDIN",
        "COPY public.products (id, name) FROM STDIN",
        "COPY public.secrets (id, secret) FROM STDIN",
        "COPY pg_catalog.pg_class (oid, relname) FROM STDIN",
        "COPY public.accounts (id, tenant_id) FROM STDIN (FORMAT csv)",
        "COPY public.accounts (id, tenant_id) FROM STDIN (DELIMITER ',')",
        "COPY public.accounts (id, tenant_id) FROM STDIN (NULL 'x')",
        "COPY public.accounts (id, tenant_id) FROM STDIN (FORMAT binary, FREEZE true)",
        "COPY public.accounts (id, tenant_id) FROM STDIN (HEADER true)",
        "COPY public.accounts (id, tenant_id) FROM STDIN (ENCODING 'sjis')",
        "COPY public.accounts (id, tenant_id) FROM STDIN WHERE id > 1",
    ] {
        assert!(is_refused(check(text)), "{text}");
    }
    for text in [
        "COPY public.accounts (id, tenant_id) FROM '/tmp/x'",
        "COPY public.accounts (id, tenant_id) FROM PROGRAM 'x'",
        "COPY public.accounts (id, tenant_id) TO STDOUT",
        "COPY (SELECT a.id FROM public.accounts a WHERE T(a)) TO STDOUT",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T)",
    ] {
        assert!(is_refused(check_with(Kind::CopyFrom, text, Rules::default())), "{text}");
    }
    let rules = Rules { insert_check: "row.amount > 0", ..Rules::default() };
    assert!(check_with(Kind::CopyFrom, "COPY public.orders (id, tenant_id) FROM STDIN", Rules::default()).is_ok());
    assert!(is_refused(check_with(Kind::CopyFrom, "COPY public.orders (id, tenant_id) FROM STDIN", rules)));
}

#[test]
fn explain_shows_the_plan_only() {
    for options in
        ["", "(COSTS on)", "(COSTS)", "(COSTS off, COSTS on)", "(COSTS off, ANALYZE)", "ANALYZE", "(COSTS off, BUFFERS off)"]
    {
        let text = format!("EXPLAIN {options} SELECT a.id FROM {A} WHERE T(a)");
        assert!(is_refused(check(&text)), "{text}");
        let estimates = check_with(Kind::Explain { estimates: true }, &text, Rules::default());
        assert_eq!(estimates.is_ok(), !options.contains("ANALYZE") && !options.contains("BUFFERS"), "{text}");
    }
    assert!(is_refused(check(&format!("EXPLAIN (COSTS off) SELECT a.id FROM {A}"))));
}

#[test]
fn a_cursors_row_must_be_checked_when_it_is_returned() {
    let probe = "CASE WHEN T(a) THEN NULL::pg_catalog.int4 ELSE $R(a)::pg_catalog.int4 END";
    let always = "CASE WHEN true THEN NULL::pg_catalog.int4 ELSE $R(a)::pg_catalog.int4 END";
    let quiet = "CASE WHEN T(a) THEN NULL::pg_catalog.int4 ELSE NULL::pg_catalog.int4 END";
    for text in [
        format!("UPDATE {A} SET balance = 0 WHERE CURRENT OF c"),
        format!("UPDATE {A} SET balance = 0 WHERE CURRENT OF c RETURNING a.id"),
        format!("UPDATE {A} SET balance = 0 WHERE CURRENT OF c RETURNING a.id, {probe}"),
        format!("UPDATE {A} SET balance = 0 WHERE CURRENT OF c RETURNING {always}"),
        format!("UPDATE {A} SET balance = 0 WHERE CURRENT OF c RETURNING {quiet}"),
        format!("UPDATE {A} SET balance = 0 FROM {O} WHERE CURRENT OF c RETURNING {probe}"),
        format!("UPDATE {A} SET tenant_id = $T WHERE CURRENT OF c RETURNING {probe}"),
        format!("WITH w AS (UPDATE {A} SET balance = 0 WHERE CURRENT OF c RETURNING {probe}) SELECT 1"),
        format!("DELETE FROM {A} WHERE CURRENT OF c"),
        format!("DELETE FROM {A} WHERE CURRENT OF c RETURNING a.id"),
        format!("DELETE FROM {A} USING {O} WHERE CURRENT OF c RETURNING {probe}"),
        "DELETE FROM public.products p WHERE CURRENT OF c".to_owned(),
    ] {
        assert!(is_refused(check(&text)), "{text}");
    }
    let ruled = "DELETE FROM public.orders o WHERE CURRENT OF c RETURNING CASE WHEN T(o) THEN NULL::pg_catalog.int4 ELSE $R(o)::pg_catalog.int4 END";
    assert!(check(ruled).is_ok());
    assert!(is_refused(check_with(Kind::Delete, ruled, Rules::all("row.amount > 1"))));
}

#[test]
fn missing_or_misplaced_predicates_are_refused() {
    for text in [
        format!("SELECT a.id FROM {A}"),
        format!("SELECT a.id FROM {A} WHERE a.id = 1"),
        format!("SELECT a.id FROM {A} WHERE T(a) OR a.id = 1"),
        format!("SELECT a.id FROM {A} WHERE NOT T(a)"),
        format!("SELECT a.id FROM {A} WHERE a.id = 1 OR (a.id = 2 AND T(a))"),
        // another alias, another column, another operator, a literal, another type
        format!("SELECT a.id FROM {A}, {O} WHERE T(o) AND T(o)"),
        format!("SELECT a.id FROM {A} WHERE a.id OPERATOR(pg_catalog.=) $T"),
        format!("SELECT a.id FROM {A} WHERE a.tenant_id = $T"),
        format!("SELECT a.id FROM {A} WHERE a.tenant_id OPERATOR(public.=) $T"),
        format!("SELECT a.id FROM {A} WHERE a.tenant_id OPERATOR(pg_catalog.<) $T"),
        format!("SELECT a.id FROM {A} WHERE a.tenant_id OPERATOR(pg_catalog.=) 1::pg_catalog.int4"),
        format!("SELECT a.id FROM {A} WHERE a.tenant_id OPERATOR(pg_catalog.=) '1'::pg_catalog.int4"),
        format!("SELECT a.id FROM {A} WHERE a.tenant_id OPERATOR(pg_catalog.=) 'qzslottext'::pg_catalog.text"),
        format!("SELECT a.id FROM {A} WHERE a.tenant_id OPERATOR(pg_catalog.=) 'qzslotint4'"),
        // in HAVING, in a subquery, in the target list
        format!("SELECT count(*) FROM {A} HAVING T(a)"),
        format!("SELECT a.id FROM {A} WHERE EXISTS (SELECT 1 FROM public.products p WHERE T(a))"),
        format!("SELECT T(a) FROM {A}"),
        // the wrong side of outer joins
        format!("SELECT 1 FROM {A} LEFT JOIN {O} ON T(a) AND T(o)"),
        format!("SELECT 1 FROM {A} LEFT JOIN {O} ON a.id = o.id WHERE T(a) AND T(o)"),
        format!("SELECT 1 FROM {A} RIGHT JOIN {O} ON T(a) AND T(o)"),
        format!("SELECT 1 FROM {A} FULL JOIN {O} ON T(a) AND T(o) WHERE T(a) AND T(o)"),
        format!("SELECT 1 FROM {A} LEFT JOIN ({O} LEFT JOIN public.accounts b ON b.id = o.id) ON T(o) AND T(b) WHERE T(a)"),
        format!("SELECT 1 FROM ({A} JOIN {O} ON a.id = o.id) j WHERE T(a) AND T(o)"),
        // one arm of a set operation, one derived table, one CTE
        format!("SELECT a.id FROM {A} WHERE T(a) UNION ALL SELECT o.id FROM {O}"),
        format!("SELECT 1 FROM (SELECT a.id FROM {A}) x"),
        format!("WITH w AS (SELECT a.id FROM {A}) SELECT x.id FROM w x"),
        format!("SELECT 1 FROM {A} WHERE T(a) AND a.id IN (SELECT o.id FROM {O})"),
        format!("SELECT (SELECT count(*) FROM {O}) FROM {A} WHERE T(a)"),
        format!("SELECT a.id FROM {A} WHERE T(a) ORDER BY (SELECT o.id FROM {O})"),
        format!("SELECT a.id FROM {A} WHERE T(a) LIMIT (SELECT count(*) FROM {O})"),
        // an alias list that moves the tenant column away
        "SELECT 1 FROM public.accounts a(tenant_id, x) WHERE T(a)".to_owned(),
        format!("UPDATE {A} SET email = 'x'"),
        format!("UPDATE {A} SET email = 'x' FROM {O} WHERE T(a)"),
        format!("UPDATE {A} SET email = 'x' FROM {O} WHERE T(o)"),
        format!("DELETE FROM {A}"),
        format!("DELETE FROM {A} USING {O} WHERE T(a)"),
        format!("EXPLAIN SELECT a.id FROM {A}"),
        format!("COPY (SELECT a.id FROM {A}) TO STDOUT"),
    ] {
        assert!(is_refused(check(&text)), "{text}");
    }
}

#[test]
fn captured_and_unknown_names_are_refused() {
    for text in [
        // unqualified, unknown, not listed
        "SELECT a.id FROM accounts a WHERE T(a)",
        "SELECT a.id FROM public.nosuch a",
        "SELECT a.id FROM public.secrets a",
        "SELECT a.id FROM other.public.accounts a WHERE T(a)",
        // no alias, an alias twice, a reserved alias
        "SELECT accounts.id FROM public.accounts WHERE accounts.tenant_id OPERATOR(pg_catalog.=) $T",
        "SELECT a.id FROM public.accounts a WHERE T(a) AND EXISTS (SELECT 1 FROM (VALUES (1)) a(tenant_id))",
        "SELECT 1 FROM public.products excluded",
        // CTE scoping: itself, later ones, other parentheses
        "WITH accounts AS (SELECT b.id FROM accounts b) SELECT c.id FROM accounts c",
        "WITH v AS (SELECT b.id FROM w b), w AS (SELECT 1 AS id) SELECT c.id FROM v c",
        "SELECT 1 FROM (WITH w AS (SELECT 1 AS id) SELECT x.id FROM w x) y, w z",
        "WITH accounts AS (SELECT 1 AS id) SELECT b.id FROM accounts b, public.accounts a",
        // references
        "SELECT b.id FROM public.accounts a WHERE T(a)",
        "SELECT x.id FROM (SELECT b.id FROM public.accounts b WHERE T(b)) x WHERE b.id = 1",
        "SELECT x.peek FROM (SELECT 1 AS id) x",
        "SELECT ('x').spy",
        "SELECT x.spy FROM pg_catalog.unnest('{1}') x",
        "SELECT id FROM public.accounts a WHERE T(a)",
        "SELECT a.* FROM public.accounts a WHERE T(a)",
        "SELECT * FROM public.accounts a WHERE T(a)",
        "SELECT public.accounts.id FROM public.accounts a WHERE T(a)",
        "SELECT a.row_to_json FROM public.accounts a WHERE T(a)",
        "SELECT 1 FROM public.accounts a NATURAL JOIN public.products p WHERE T(a)",
        "SELECT 1 FROM public.accounts a JOIN public.products p USING (id) WHERE T(a)",
        // functions, operators, types, collations off the list
        "SELECT pg_catalog.pg_sleep(1)",
        "SELECT a.id FROM public.accounts a WHERE T(a) AND CASE WHEN T(a) THEN pg_catalog.pg_sleep(1) IS NULL ELSE false END",
        "SELECT lower('x')",
        "SELECT x.n FROM public.generate_series(1, 2) x(n)",
        "SELECT 1 OPERATOR(public.+) 2",
        "SELECT 1 ~ 2",
        "SELECT a.id::public.t FROM public.accounts a WHERE T(a)",
        "SELECT a.id COLLATE \"de\" FROM public.accounts a WHERE T(a)",
        // columns of catalogs
        "SELECT c.relpages FROM pg_catalog.pg_class c",
        "SELECT c.oid FROM pg_catalog.pg_class c ORDER BY relpages",
        "SELECT count(*) FROM pg_catalog.pg_class c GROUP BY relpages",
        "SELECT pg_catalog.to_json(c) FROM pg_catalog.pg_class c",
        "SELECT 1 FROM pg_catalog.pg_class c JOIN (VALUES (1)) v(relpages) USING (relpages) AS u",
        "SELECT 1 FROM pg_catalog.pg_class c(a, b, relname2)",
        "SELECT c FROM pg_catalog.pg_class c",
        // rows of catalogs
        "SELECT d.datname FROM pg_catalog.pg_database d",
        "SELECT d.datname FROM pg_catalog.pg_database d WHERE d.oid OPERATOR(pg_catalog.=) pg_catalog.current_database()",
        "SELECT 1 FROM public.products p LEFT JOIN pg_catalog.pg_database d ON true WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()",
        // arguments that name something
        "SELECT pg_catalog.current_setting('is_superuser')",
        "SELECT pg_catalog.current_setting($1)",
        "SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name = 'work_mem'",
        "SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name = 'timezone' OR true",
        "SELECT s.line FROM pg_catalog.pg_settings s WHERE s.name = 'timezone'",
        "SELECT (SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name = 'timezone')",
        "SELECT s.setting FROM pg_catalog.pg_settings s, pg_catalog.pg_settings t WHERE t.name = 'timezone'",
        // a guard in a condition, where the outer rows have not passed theirs
        "SELECT 1 FROM public.accounts a WHERE T(a) AND EXISTS (SELECT 1 FROM public.orders o WHERE T(o) AND CASE WHEN T(o) THEN o.note || a.email = 'x' END)",
        // locks on what is only read
        "SELECT p.id FROM public.products p FOR UPDATE",
        "SELECT x.id FROM (SELECT p.id FROM public.products p) x FOR SHARE OF x",
        // other statements and clauses
        "SELECT 1; SELECT 2",
        "SELECT 1 INTO public.x",
        "SELECT a.id FROM public.accounts a WHERE T(a) FOR UPDATE OF b",
        "TRUNCATE public.accounts",
        "WITH w AS (SELECT 1) DELETE FROM public.accounts a WHERE T(a)",
        "COPY public.accounts TO STDOUT",
        "COPY (SELECT 1) TO '/tmp/x'",
        "COPY (SELECT 1) TO PROGRAM 'x'",
        "EXPLAIN ANALYZE SELECT 1",
        "",
    ] {
        let kind = if text.is_empty() { Kind::Select } else { kind_of(text) };
        assert!(is_refused(check_with(kind, text, Rules::default())), "{text}");
    }
}

#[test]
fn writes_outside_the_tenant_are_refused() {
    for text in [
        "INSERT INTO public.accounts AS a (id) VALUES (1)",
        "INSERT INTO public.accounts AS a (id) VALUES ($T)",
        "INSERT INTO public.accounts AS a VALUES (1, $T)",
        "INSERT INTO public.accounts AS a DEFAULT VALUES",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, 2)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, '2'::pg_catalog.int4)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, DEFAULT)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $1)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T), (2, 2)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T), (2)",
        "INSERT INTO public.accounts AS a (tenant_id, id) VALUES (1, $T)",
        "INSERT INTO public.accounts AS a (id, tenant_id, tenant_id) VALUES (1, $T, $T)",
        "INSERT INTO public.accounts AS a (id, tenant_id) SELECT $T, 1",
        "INSERT INTO public.accounts AS a (id, tenant_id) SELECT 1, $T UNION ALL SELECT 1, 2",
        "INSERT INTO public.accounts AS a (id, tenant_id) SELECT o.id, $T FROM public.orders o",
        "INSERT INTO public.products AS p (id) VALUES (1)",
        "INSERT INTO accounts AS a (id, tenant_id) VALUES (1, $T)",
        "INSERT INTO public.accounts (id, tenant_id) VALUES (1, $T)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) DO UPDATE SET email = 'x'",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) DO UPDATE SET email = 'x' WHERE a.id = 1 AND T(a)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) DO UPDATE SET email = 'x' WHERE T(a)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) DO UPDATE SET tenant_id = 2 WHERE CASE WHEN T(a) THEN true ELSE $R(a)::pg_catalog.bool END",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) DO UPDATE SET email = 'x' WHERE CASE WHEN T(a) THEN true ELSE true END",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) DO UPDATE SET email = 'x' WHERE CASE WHEN T(a) THEN true WHEN true THEN true ELSE $R(a)::pg_catalog.bool END",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) DO UPDATE SET email = 'x' WHERE CASE WHEN T(a) OR true THEN true ELSE $R(a)::pg_catalog.bool END",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, CASE WHEN 2 OPERATOR(pg_catalog.=) $T THEN $T ELSE 2 END)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, CASE WHEN 2 OPERATOR(pg_catalog.=) $T THEN 2 ELSE $T END)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, CASE WHEN NULL OPERATOR(pg_catalog.=) $T THEN $T ELSE ('bad_accounts\"'::pg_catalog.text OPERATOR(pg_catalog.||) NULL::pg_catalog.text)::pg_catalog.int4 END)",
        "UPDATE public.accounts a SET tenant_id = CASE WHEN a.id OPERATOR(pg_catalog.=) $T THEN $T ELSE ('bad_accounts\"'::pg_catalog.text OPERATOR(pg_catalog.||) COALESCE(2::pg_catalog.text, ''))::pg_catalog.int4 END WHERE T(a)",
        "UPDATE public.accounts a SET tenant_id = DEFAULT WHERE T(a)",
        "UPDATE public.accounts a SET tenant_id[1] = $T WHERE T(a)",
        "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) DO UPDATE SET (email, tenant_id) = ('x', 2) WHERE T(a)",
        "UPDATE public.accounts a SET tenant_id = 2 WHERE T(a)",
        "UPDATE public.accounts a SET (email, tenant_id) = ROW ('x', 2) WHERE T(a)",
        "UPDATE public.products p SET name = 'x'",
        "UPDATE public.accounts a SET email = 'x' WHERE CURRENT OF c",
        "WITH accounts AS (SELECT 1) DELETE FROM accounts a",
        "DELETE FROM pg_catalog.pg_class c",
    ] {
        let kind = if text.contains("DELETE FROM") { Kind::Delete } else { kind_of(text) };
        assert!(is_refused(check_with(kind, text, Rules::default())), "{text}");
    }
    let insert = |value: &str| format!("INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, {value})");
    for value in
        ["$2", "2107300001", "$1 + 1", "$1::pg_catalog.text", "'qzaaab'", "NULL", "(SELECT $T)", "CASE WHEN true THEN $T END"]
    {
        assert!(is_refused(check(&insert(value))), "{value}");
    }
}

#[test]
fn row_rules_are_part_of_the_policy() {
    let rules = Rules::all("row.amount > 0 OR row.note = 'row'");
    let with_rules = |text: &str| check_with(kind_of(text), &text.replace("R(o)", "(o.amount > 0 OR o.note = 'row')"), rules);
    // Rules that can raise stand behind the tenant's predicate.
    let loud = |text: &str| with_rules(&text.replace("L(o)", "CASE WHEN T(o) THEN R(o) ELSE false END"));
    for text in [
        "SELECT o.id FROM public.orders o WHERE T(o) AND L(o)",
        "SELECT CASE WHEN T(o) AND L(o) THEN o.note || 'x' END FROM public.orders o WHERE T(o) AND L(o)",
        "SELECT 1 FROM public.products p LEFT JOIN public.orders o ON T(o) AND L(o) WHERE CASE WHEN o.tableoid IS NULL OR T(o) AND L(o) THEN o.note = 'x' END",
    ] {
        loud(text).unwrap_or_else(|d| panic!("{text}: {d}"));
    }
    for text in [
        "SELECT o.id FROM public.orders o WHERE L(o) OR T(o)",
        "SELECT o.id FROM public.orders o WHERE T(o) AND CASE WHEN T(o) THEN R(o) ELSE true END",
        "SELECT o.id FROM public.orders o WHERE T(o) AND CASE WHEN T(o) THEN true WHEN true THEN R(o) ELSE false END",
        "SELECT o.id FROM public.orders o WHERE T(o) AND CASE WHEN T(o) THEN R(o) OR true ELSE false END",
    ] {
        assert!(is_refused(loud(text)), "{text}");
    }
    with_rules("SELECT o.i FROM public.orders o(i, t, c, amount, note) WHERE o.t OPERATOR(pg_catalog.=) $T AND R(o)").unwrap();
    with_rules("SELECT o.id FROM public.orders o WHERE T(o) AND R(o)").unwrap();
    with_rules("UPDATE public.orders o SET note = 'x' WHERE T(o) AND R(o)").unwrap();
    with_rules("SELECT CASE WHEN T(o) AND R(o) THEN o.note || 'x' END FROM public.orders o WHERE T(o) AND R(o)").unwrap();
    for text in [
        "SELECT o.id FROM public.orders o WHERE T(o)",
        "SELECT o.id FROM public.orders o WHERE R(o)",
        "SELECT o.id FROM public.orders o WHERE T(o) AND (o.amount > 1 OR o.note = 'row')",
        "SELECT o.id FROM public.orders o WHERE T(o) AND (R(o) OR o.id = 1)",
        "SELECT o.id FROM public.orders o, public.accounts a WHERE T(o) AND T(a) AND (a.amount > 0 OR a.note = 'row')",
        "SELECT o.id FROM public.orders o(tenant_id) WHERE T(o) AND R(o)",
        "DELETE FROM public.orders o WHERE T(o)",
        "SELECT CASE WHEN T(o) THEN o.note || 'x' END FROM public.orders o WHERE T(o) AND R(o)",
    ] {
        assert!(is_refused(with_rules(text)), "{text}");
    }
}

#[test]
fn rules_hold_for_what_they_are_about() {
    let rules = Rules {
        read: "row.note = 'r'",
        update: "row.note = 'u'",
        delete: "row.note = 'd'",
        insert_check: "row.note = 'i'",
        update_check: "row.note = 'c'",
    };
    let check = |text: &str| {
        // `N(ri)` checks a new row.
        let condition = |kinds: &str| kinds.chars().map(|k| format!("o.note = '{k}'")).collect::<Vec<_>>().join(" AND ");
        let text = fill(text, "N(", |kinds| {
            format!("CASE WHEN {} THEN NULL::pg_catalog.int4 ELSE $R(o)::pg_catalog.int4 END", condition(kinds))
        });
        check_with(if text.contains("DELETE") { Kind::Delete } else { kind_of(&text) }, &text, rules)
    };
    for text in [
        "SELECT o.id FROM public.orders o WHERE T(o) AND o.note = 'r'",
        "SELECT o.id FROM public.orders o WHERE T(o) AND o.note = 'r' AND o.note = 'u' FOR UPDATE",
        "SELECT x.id FROM (SELECT o.id FROM public.orders o WHERE T(o) AND o.note = 'r' AND o.note = 'u') x FOR SHARE",
        "SELECT x.id FROM (SELECT o.id FROM public.orders o WHERE T(o) AND o.note = 'r') x, public.accounts a WHERE T(a) FOR SHARE OF a",
        "UPDATE public.orders o SET amount = 1 WHERE T(o) AND o.note = 'u' RETURNING N(c) AS check",
        "UPDATE public.orders o SET amount = o.amount WHERE T(o) AND o.note = 'u' AND o.note = 'r' RETURNING N(cr) AS check",
        "UPDATE public.orders o SET amount = 1 WHERE T(o) AND o.note = 'u' AND o.note = 'r' RETURNING CASE WHEN N(cr) OPERATOR(pg_catalog.=) 0 THEN o.id ELSE o.id END AS id",
        "DELETE FROM public.orders o WHERE T(o) AND o.note = 'd'",
        "DELETE FROM public.orders o WHERE T(o) AND o.note = 'd' AND o.note = 'r' RETURNING o.id",
        "INSERT INTO public.orders AS o (tenant_id) VALUES ($T) RETURNING N(i)",
        "INSERT INTO public.orders AS o (tenant_id) VALUES ($T) ON CONFLICT (id) DO NOTHING RETURNING N(i)",
        "INSERT INTO public.orders AS o (tenant_id) VALUES ($T) ON CONFLICT (id) DO UPDATE SET amount = 1 WHERE CASE WHEN T(o) AND o.note = 'u' AND o.note = 'r' THEN true ELSE $R(o)::pg_catalog.bool END RETURNING N(ic)",
    ] {
        check(text).unwrap_or_else(|d| panic!("{text}: {d}"));
    }
    for text in [
        "SELECT o.id FROM public.orders o WHERE T(o) AND o.note = 'u'",
        "SELECT o.id FROM public.orders o WHERE T(o) AND o.note = 'r' FOR UPDATE",
        "SELECT o.id FROM public.orders o WHERE T(o) AND o.note = 'r' FOR KEY SHARE OF o",
        "SELECT x.id FROM (SELECT o.id FROM public.orders o WHERE T(o) AND o.note = 'r') x FOR SHARE",
        // the same conjunct twice: the second is the client's, which reads
        "UPDATE public.orders o SET amount = 1 WHERE T(o) AND o.note = 'u' AND o.note = 'u' RETURNING N(c)",
        "UPDATE public.orders o SET amount = o.amount WHERE T(o) AND o.note = 'u' RETURNING N(cr)",
        "UPDATE public.orders o SET amount = o.amount WHERE T(o) AND o.note = 'u' AND o.note = 'r' RETURNING N(c)",
        "UPDATE public.orders o SET amount = 1 WHERE T(o) AND o.note = 'u'",
        "UPDATE public.orders o SET amount = 1 WHERE T(o) AND o.note = 'u' AND o.note = 'r' RETURNING o.id",
        "UPDATE public.orders o SET amount = 1 WHERE T(o) AND o.note = 'u' AND o.note = 'r' RETURNING o.id, N(cr)",
        "UPDATE public.orders o SET amount = 1 WHERE T(o) AND o.note = 'u' AND o.note = 'r' RETURNING CASE WHEN N(cr) OPERATOR(pg_catalog.=) 0 THEN o.id ELSE o.amount END",
        "DELETE FROM public.orders o WHERE T(o) AND o.note = 'd' RETURNING o.id",
        "DELETE FROM public.orders o USING public.accounts a WHERE T(a) AND T(o) AND o.note = 'd' AND a.id = o.account_id",
        "INSERT INTO public.orders AS o (tenant_id) VALUES ($T)",
        "INSERT INTO public.orders AS o (tenant_id) VALUES ($T) RETURNING o.id",
        "INSERT INTO public.orders AS o (tenant_id) VALUES ($T) RETURNING N(r)",
        "INSERT INTO public.orders AS o (tenant_id) VALUES ($T) ON CONFLICT (id) DO UPDATE SET amount = 1 WHERE CASE WHEN T(o) AND o.note = 'u' AND o.note = 'r' THEN true ELSE $R(o)::pg_catalog.bool END RETURNING N(i)",
        "INSERT INTO public.orders AS o (tenant_id) VALUES ($T) ON CONFLICT (id) DO UPDATE SET amount = 1 WHERE CASE WHEN T(o) AND o.note = 'u' THEN true ELSE $R(o)::pg_catalog.bool END RETURNING N(ic)",
        "WITH w AS (INSERT INTO public.orders AS o (tenant_id) VALUES ($T)) DELETE FROM public.accounts a WHERE T(a)",
    ] {
        assert!(is_refused(check(text)), "{text}");
    }
}

#[test]
fn guards_must_hold_the_policy_of_what_they_guard() {
    let select = |guarded: &str| format!("SELECT {guarded} FROM {A}, {O}, LATERAL (SELECT 1 AS tenant_id) l WHERE T(a) AND T(o)");
    for guarded in [
        "CASE WHEN T(a) THEN a.email || 'x' END",
        "CASE WHEN T(a) AND T(o) THEN a.email || o.note END",
        "CASE WHEN T(a) THEN a.email || (SELECT p.name FROM public.products p) ELSE NULL::pg_catalog.text END",
        "CASE WHEN a.id = 1 THEN o.note ELSE 'x' END",
    ] {
        check(&select(guarded)).unwrap_or_else(|d| panic!("{guarded}: {d}"));
    }
    for guarded in [
        // guards another entry, one of two, a derived one with a column of that name, none that exists
        "CASE WHEN T(o) THEN a.email || 'x' END",
        "CASE WHEN T(a) THEN a.email || o.note END",
        "CASE WHEN T(l) THEN a.email || 'x' END",
        "CASE WHEN T(b) THEN a.email || 'x' END",
        // another column or type, weaker conditions
        "CASE WHEN a.id OPERATOR(pg_catalog.=) $T THEN a.email || 'x' END",
        "CASE WHEN a.id OPERATOR(pg_catalog.=) $T THEN 'x' END",
        "CASE WHEN T(a) OR a.id = 1 THEN a.email || 'x' END",
        "CASE WHEN NOT T(a) THEN a.email || 'x' END",
        "CASE WHEN o.tableoid IS NULL OR T(a) THEN a.email || 'x' END",
        // other branches
        "CASE WHEN T(a) THEN a.email || 'x' ELSE a.email || 'y' END",
        "CASE WHEN T(a) THEN 'x' WHEN true THEN a.email || 'y' END",
        "CASE WHEN T(a) THEN a.email || (SELECT o.note) END",
        "CASE WHEN T(a) THEN pg_catalog.to_json(o) END",
        "CASE WHEN T(a) THEN pg_catalog.to_json(o.*) END",
    ] {
        assert!(is_refused(check(&select(guarded))), "{guarded}");
    }
}

#[test]
fn large_texts_are_checked_in_reasonable_time() {
    let chain = format!("SELECT {} FROM public.accounts a WHERE T(a)", vec!["a.email"; 1_000].join(" || "));
    let rows = format!("INSERT INTO public.accounts AS a (id, tenant_id) VALUES {}", vec!["(1, $T)"; 5_000].join(", "));
    let conjuncts = format!("SELECT 1 FROM public.accounts a WHERE T(a) AND {}", vec!["a.id > 1"; 2_000].join(" AND "));
    let arms = vec!["SELECT a# FROM public.accounts a# WHERE T(a#)"; 150];
    let arms: Vec<_> = arms.iter().enumerate().map(|(i, arm)| arm.replace('#', &i.to_string())).collect();
    let start = std::time::Instant::now();
    let values = vec!["(1, V(2))"; 5_000].join(", ");
    let checked = format!("INSERT INTO public.accounts AS a (id, tenant_id) VALUES {values}");
    for text in [chain, rows, checked, conjuncts, arms.join(" UNION ALL ")] {
        let start = std::time::Instant::now();
        check(&text).unwrap_or_else(|d| panic!("{d}: {}", &text[..60]));
        println!("{:?} {}", start.elapsed(), &text[..60]);
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(60), "{:?}", start.elapsed());
}

const S: &str = "(SELECT o.id FROM public.orders o WHERE T(o) OFFSET 0) s";

#[test]
fn merge_filters_its_target_and_its_source() {
    let merge = |source: &str, on: &str, when: &str| format!("MERGE INTO {A} USING {source} ON {on} WHEN {when}");
    for text in [
        merge(S, "T(a) AND a.id = s.id", "MATCHED THEN DELETE"),
        merge(S, "T(a) AND a.id = s.id", "MATCHED AND a.balance = 1 THEN UPDATE SET email = 'x', tenant_id = V(s.id)"),
        merge(S, "T(a) AND a.id = s.id", "NOT MATCHED AND s.id = 1 THEN INSERT (id, tenant_id) VALUES (s.id, $T)"),
        merge(S, "T(a)", "NOT MATCHED THEN INSERT (tenant_id) VALUES (V(s.id)) WHEN MATCHED THEN DO NOTHING"),
        merge(S, "T(a)", "NOT MATCHED BY SOURCE AND T(a) AND a.id = 1 THEN DELETE RETURNING MERGE_ACTION(), s.id, a.id"),
        merge(S, "T(a)", "NOT MATCHED BY SOURCE AND T(a) AND CASE WHEN T(a) THEN a.email || 'x' = 'y' END THEN DO NOTHING"),
        merge("(public.products p JOIN public.orders o ON T(o))", "T(a)", "MATCHED THEN DELETE"),
        format!("WITH w AS ({}) SELECT x.id FROM w x", merge(S, "T(a)", "MATCHED THEN DELETE RETURNING s.id")),
    ] {
        check(&text).unwrap_or_else(|d| panic!("{text}: {d}"));
    }
    for text in [
        // the target: not in ON, in a WHEN only, of another alias
        merge(S, "a.id = s.id", "MATCHED THEN DELETE"),
        merge(S, "a.id = s.id", "MATCHED AND T(a) THEN DELETE"),
        merge(S, "T(a) OR a.id = s.id", "MATCHED THEN DELETE"),
        merge(S, "T(s)", "MATCHED THEN DELETE"),
        // the source: no filter, or one that inserts what it keeps out
        merge(O, "T(a)", "NOT MATCHED THEN INSERT (tenant_id) VALUES ($T)"),
        merge(O, "T(a) AND T(o)", "NOT MATCHED THEN INSERT (tenant_id) VALUES ($T)"),
        merge(O, "T(a) AND T(o)", "MATCHED THEN DELETE"),
        merge("(SELECT o.id FROM public.orders o) s", "T(a)", "MATCHED THEN DELETE"),
        merge("(public.products p LEFT JOIN public.orders o ON p.id = o.id)", "T(a)", "MATCHED THEN DELETE"),
        // rows that are not matched by source
        merge(S, "T(a)", "NOT MATCHED BY SOURCE THEN DELETE"),
        merge(S, "T(a)", "NOT MATCHED BY SOURCE AND a.id = 1 THEN DELETE"),
        merge(S, "T(a)", "NOT MATCHED BY SOURCE AND (T(a) OR a.id = 1) THEN UPDATE SET email = 'x'"),
        merge(S, "T(a)", "NOT MATCHED BY SOURCE AND T(a) THEN DELETE WHEN NOT MATCHED BY SOURCE THEN DELETE"),
        merge(S, "T(a)", "NOT MATCHED BY SOURCE AND T(a) AND CASE WHEN T(s) THEN a.email || 'x' = 'y' END THEN DELETE"),
        merge(S, "T(a)", "NOT MATCHED BY SOURCE AND T(a) AND s.id = 1 THEN DELETE"),
        // new rows
        merge(S, "T(a)", "NOT MATCHED THEN INSERT (id) VALUES (1)"),
        merge(S, "T(a)", "NOT MATCHED THEN INSERT DEFAULT VALUES"),
        merge(S, "T(a)", "NOT MATCHED THEN INSERT VALUES (1, $T)"),
        merge(S, "T(a)", "NOT MATCHED THEN INSERT (id, tenant_id) VALUES ($T, 1)"),
        merge(S, "T(a)", "NOT MATCHED THEN INSERT (id, tenant_id) VALUES (a.id, $T)"),
        merge(S, "T(a)", "NOT MATCHED THEN INSERT (tenant_id, tenant_id) VALUES ($T, 2)"),
        merge(S, "T(a)", "MATCHED THEN UPDATE SET tenant_id = 2"),
        merge(S, "T(a)", "MATCHED THEN UPDATE SET tenant_id = a.tenant_id"),
        merge(S, "T(a)", "MATCHED THEN UPDATE SET (email, tenant_id) = ('x', 2)"),
        // other targets
        "MERGE INTO public.products p USING (VALUES (1)) v(i) ON p.id = v.i WHEN MATCHED THEN DELETE".to_owned(),
        "WITH accounts AS (SELECT 1) MERGE INTO accounts a USING (VALUES (1)) v(i) ON T(a) WHEN MATCHED THEN DELETE".to_owned(),
        // sub-selects
        merge(S, "T(a)", "MATCHED AND EXISTS (SELECT 1 FROM public.orders x) THEN DELETE"),
        merge(S, "T(a)", "MATCHED THEN DELETE RETURNING (SELECT count(*) FROM public.orders x)"),
    ] {
        assert!(is_refused(check(&text)), "{text}");
    }
}

#[test]
fn merge_obeys_the_rules_of_its_target() {
    let merge = |on: &str, when: &str| format!("MERGE INTO {O} USING (VALUES (1)) v(i) ON {on} WHEN {when}");
    let with = |rules: Rules, text: &str| check_with(Kind::Merge, text, rules);
    let (delete, insert) = ("MATCHED THEN DELETE", "NOT MATCHED THEN INSERT (tenant_id) VALUES ($T)");
    let update = "MATCHED THEN UPDATE SET amount = 1";
    let read = Rules { read: "row.note = 'r'", delete: "row.note = 'r'", ..Rules::default() };
    for text in [merge("T(o) AND o.note = 'r'", delete), merge("T(o) AND o.note = 'r'", insert)] {
        with(read, &text).unwrap_or_else(|d| panic!("{text}: {d}"));
    }
    for (rules, text) in [
        (read, merge("T(o)", delete)),
        (read, merge("T(o) AND o.note = 'r'", update)),
        (Rules { delete: "row.note = 'd'", ..Rules::default() }, merge("T(o)", delete)),
        (Rules { delete: "row.note = 'd'", ..Rules::default() }, merge("T(o) AND o.note = 'd'", delete)),
        (Rules { update: "row.note = 'u'", ..Rules::default() }, merge("T(o) AND o.note = 'u'", update)),
        (Rules { update_check: "row.note = 'c'", ..Rules::default() }, merge("T(o)", update)),
        (Rules { insert_check: "row.note = 'c'", ..Rules::default() }, merge("T(o)", insert)),
    ] {
        assert!(is_refused(with(rules, &text)), "{text}");
    }
}

#[test]
fn versions_of_a_row_are_the_targets() {
    let update = |options: &str, list: &str| format!("UPDATE {A} SET email = 'x' WHERE T(a) RETURNING WITH ({options}) {list}");
    for text in [
        update("OLD AS v, NEW AS w", "v.email, w.email, a.email"),
        update("OLD AS v", "(SELECT count(*) FROM public.orders o WHERE T(o) AND o.note = v.email)"),
        "INSERT INTO public.accounts AS a (tenant_id) VALUES ($T) RETURNING WITH (OLD AS v) v.email".to_owned(),
        merge_returning("OLD AS v", "v.email"),
    ] {
        check(&text).unwrap_or_else(|d| panic!("{text}: {d}"));
    }
    for text in [
        update("OLD AS v", "w.email"),
        update("OLD AS v", "v.nosuch"),
        update("OLD AS v, NEW AS v", "v.email"),
        update("OLD AS a", "a.email"),
        format!("UPDATE {A} SET email = 'x' WHERE T(a) RETURNING old.email"),
        format!("UPDATE {A} SET email = v.email WHERE T(a) RETURNING WITH (OLD AS v) v.email"),
        format!("UPDATE {A} SET email = 'x' WHERE v.id = 1 AND T(a) RETURNING WITH (OLD AS v) v.email"),
        merge_returning("OLD AS s", "s.email"),
    ] {
        assert!(is_refused(check(&text)), "{text}");
    }
    // Who reads a version reads the row.
    let rules = Rules { read: "row.note = 'r'", ..Rules::default() };
    let delete = |filter: &str| format!("DELETE FROM {O} WHERE {filter} RETURNING WITH (OLD AS v) v.id");
    check_with(Kind::Delete, &delete("T(o) AND o.note = 'r'"), rules).unwrap();
    assert!(is_refused(check_with(Kind::Delete, &delete("T(o)"), rules)));
}

fn merge_returning(options: &str, list: &str) -> String {
    format!("MERGE INTO {A} USING {S} ON T(a) WHEN MATCHED THEN DELETE RETURNING WITH ({options}) {list}")
}

#[test]
fn tables_made_of_xml_and_json() {
    let from = |table: &str| format!("SELECT x.n FROM {A}, {table} WHERE T(a)");
    for text in [
        from("XMLTABLE('/a' PASSING a.email COLUMNS n pg_catalog.int4 PATH '@n' DEFAULT a.id, o FOR ORDINALITY) x"),
        from("JSON_TABLE(a.email, '$' COLUMNS (n pg_catalog.int4 PATH '$.n' DEFAULT a.id ON EMPTY)) x"),
        from("JSON_TABLE((SELECT o.note FROM public.orders o WHERE T(o)), '$' COLUMNS (n pg_catalog.int4)) x"),
    ] {
        check(&text).unwrap_or_else(|d| panic!("{text}: {d}"));
    }
    for text in [
        from("XMLTABLE('/a' PASSING (SELECT o.note FROM public.orders o) COLUMNS n pg_catalog.int4) x"),
        from("XMLTABLE((SELECT o.note FROM public.orders o) PASSING a.email COLUMNS n pg_catalog.int4) x"),
        from("XMLTABLE('/a' PASSING a.email COLUMNS n pg_catalog.int4 PATH (SELECT o.note FROM public.orders o)) x"),
        from("XMLTABLE('/a' PASSING a.email COLUMNS n pg_catalog.int4 DEFAULT (SELECT o.id FROM public.orders o)) x"),
        from(
            "XMLTABLE(XMLNAMESPACES((SELECT o.note FROM public.orders o) AS x), '/a' PASSING a.email COLUMNS n pg_catalog.int4) x",
        ),
        from("XMLTABLE('/a' PASSING a.email COLUMNS n public.odd) x"),
        from("XMLTABLE('/a' PASSING a.email COLUMNS n pg_catalog.int4) a"),
        from("XMLTABLE('/a' PASSING a.email COLUMNS n pg_catalog.int4)"),
        from("JSON_TABLE((SELECT o.note FROM public.orders o), '$' COLUMNS (n pg_catalog.int4)) x"),
        from("JSON_TABLE(a.email, '$' PASSING (SELECT o.note FROM public.orders o) AS y COLUMNS (n pg_catalog.int4)) x"),
        from("JSON_TABLE(a.email, '$' COLUMNS (n pg_catalog.int4 DEFAULT (SELECT o.id FROM public.orders o) ON ERROR)) x"),
        from("JSON_TABLE(a.email, '$' COLUMNS (NESTED '$' COLUMNS (n public.odd))) x"),
        from(
            "JSON_TABLE(a.email, '$' COLUMNS (NESTED '$' COLUMNS (n pg_catalog.int4 DEFAULT pg_catalog.pg_sleep(1) ON EMPTY))) x",
        ),
    ] {
        assert!(is_refused(check(&text)), "{text}");
    }
}
