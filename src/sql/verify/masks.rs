//! Masked columns: each stands in its mask and nowhere else. The masks are stated here again, as text, by what they show.

use pg_query::NodeEnum;
use pg_query::protobuf::{CaseExpr, CaseWhen, ColumnRef, Node, NullTest, NullTestType};

use super::writes::{expression, quoted};
use super::*;
use crate::catalog::Relation;
use crate::sql::shape;

/// A column that may be read as its mask only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    pub column: String,
    pub shows: Shows,
}

/// What a mask shows of a value that is not NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shows {
    /// NULL
    Nothing,
    /// `***`
    Stars,
    /// Four stars; behind them the last four characters, of eight or more.
    LastFour,
    /// The first character if there are two or more, `***@`, and what follows the last at sign.
    Email,
    /// 32 hexadecimal digits of SHA-256 of the key, the tenant (if there is one) and the value.
    Pseudonym { key: String, tenant_column: Option<String> },
}

/// A masked column of an entry, by the name that it has there.
#[derive(Clone, Debug)]
pub(super) struct Masked {
    pub name: String,
    /// Of the only expression in which it may stand.
    shape: String,
    /// INSERT may not supply it.
    is_pseudonym: bool,
}

/// The columns of an entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Named {
    pub names: Vec<String>,
    pub masked: Vec<Masked>,
}

impl Named {
    pub fn is_masked(&self, column: &str) -> bool {
        self.masked.iter().any(|m| m.name == column)
    }
}

/// `alias."column" IS NULL` as the first test of a CASE: what every mask begins with.
fn tested(node: &Node) -> Option<(&str, &str)> {
    let Some(NodeEnum::CaseExpr(case)) = node.node.as_ref() else { return None };
    let CaseExpr { xpr: _, casetype: _, casecollid: _, arg: None, args, defresult: _, location: _ } = case.as_ref() else {
        return None;
    };
    let Some(NodeEnum::CaseWhen(when)) = args.first()?.node.as_ref() else { return None };
    let CaseWhen { xpr: _, expr, result: _, location: _ } = when.as_ref();
    let Some(NodeEnum::NullTest(test)) = expr.as_deref()?.node.as_ref() else { return None };
    let NullTest { xpr: _, arg, nulltesttype, argisrow: _, location: _ } = test.as_ref();
    if *nulltesttype != NullTestType::IsNull as i32 {
        return None;
    }
    let Some(NodeEnum::ColumnRef(ColumnRef { fields, location: _ })) = arg.as_deref()?.node.as_ref() else { return None };
    match strings(fields).ok()?.as_slice() {
        [alias, column] => Some((alias, column)),
        [] | [_] | [_, _, _, ..] => None,
    }
}

impl Verifier<'_> {
    /// The columns of a relation under an alias and its list of names.
    pub(super) fn named(&self, relation: &Relation, alias: &str, names: Vec<String>) -> Result<Named, Denial> {
        let masks = self.expected.relations.masks.get(&relation.oid).map(Vec::as_slice).unwrap_or_default();
        let printed = |column: &str| {
            let position = relation.columns.iter().position(|c| c.name == column);
            position.and_then(|i| names.get(i)).ok_or_else(|| refused("a masked column is not in the catalog"))
        };
        let mut masked = Vec::new();
        for Mask { column, shows } in masks {
            let name = printed(column)?.clone();
            let own = relation.column(column).ok_or_else(|| refused("a masked column is not in the catalog"))?;
            let type_ = self.type_text(own)?;
            let tenant = match shows {
                Shows::Pseudonym { key: _, tenant_column: Some(tenant) } => Some(printed(tenant)?.as_str()),
                Shows::Pseudonym { key: _, tenant_column: None }
                | Shows::Nothing
                | Shows::Stars
                | Shows::LastFour
                | Shows::Email => None,
            };
            let is_pseudonym = matches!(shows, Shows::Pseudonym { key: _, tenant_column: _ });
            masked.push(Masked { shape: expression(&text(shows, alias, &name, tenant, &type_))?, name, is_pseudonym });
        }
        Ok(Named { names, masked })
    }

    /// The type of a column with its modifier.
    fn type_text(&self, column: &crate::catalog::Column) -> Result<String, Denial> {
        let type_ = self.catalog.type_(column.type_oid).ok_or_else(|| refused("a masked column of an unknown type"))?;
        let name = format!("{}.{}", quoted(&type_.schema, '"'), quoted(&type_.name, '"'));
        let n = column.typmod;
        Ok(match (n, type_.name.as_str()) {
            (-1, _) => name,
            (_, "varchar" | "bpchar") => format!("{name}({})", n - 4),
            (_, "numeric") => {
                let scale = (n - 4) & 0x7ff;
                format!("{name}({},{})", (n - 4) >> 16, if scale >= 1024 { scale - 2048 } else { scale })
            }
            (_, "time" | "timetz" | "timestamp" | "timestamptz") => format!("{name}({n})"),
            (_, other_type) => return Err(refused(format!("a masked column of type {other_type} with a modifier"))),
        })
    }

    /// Whether an expression is the mask of a column in scope, whole and unchanged.
    pub(super) fn is_mask(&mut self, node: &Node) -> bool {
        let Some((alias, column)) = tested(node) else { return false };
        let named = if alias == "excluded" && self.is_visible(alias) {
            Some(&self.excluded)
        } else {
            self.resolve(alias).ok().and_then(Entry::named)
        };
        let found = named.and_then(|n| n.masked.iter().find(|m| m.name == column));
        let is_mask = found.is_some_and(|m| {
            // A plan shows constants, and the key is one.
            let shown = m.is_pseudonym && matches!(self.expected.kind, Kind::Explain { estimates: _ });
            !shown && (m.shape == shape::shape(node) || crate::mutant!("check.mask-shape"))
        });
        if is_mask {
            let alias = alias.to_owned();
            self.read.insert(alias);
        }
        is_mask
    }

    /// A bare name in ORDER BY, GROUP BY or DISTINCT ON: an output column, and not one that a masked column hides.
    pub(super) fn check_bare_mask(&self, name: &str, first: Finds) -> Result<(), Denial> {
        let Some((here, outer)) = self.levels.split_last() else { return Ok(()) };
        let masked = |level: &Level| {
            level.aliases.iter().filter_map(|a| self.entries.get(a)).filter_map(Entry::named).any(|n| n.is_masked(name))
        };
        let is_output = here.outputs.iter().any(|o| o == name);
        let reaches_input = match first {
            Finds::OutputFirst => !is_output && (masked(here) || outer.iter().any(masked)),
            Finds::InputFirst => masked(here) || (!is_output && outer.iter().any(masked)),
        };
        if reaches_input && !crate::mutant!("check.bare-mask") {
            Err(refused(format!("the masked column \"{name}\" by its bare name")))
        } else {
            Ok(())
        }
    }

    /// INSERT does not supply what shows as a pseudonym.
    pub(super) fn check_fillable(&self, name: &str, target: &Entry) -> Result<(), Denial> {
        if target.named().is_some_and(|n| n.masked.iter().any(|m| m.is_pseudonym && m.name == name))
            && !crate::mutant!("check.fillable")
        {
            return Err(refused(format!("a value for the column \"{name}\", which shows as a pseudonym")));
        }
        Ok(())
    }

    /// SET never assigns to a masked column.
    pub(super) fn check_unmasked_target(&self, name: &str, target: &Entry) -> Result<(), Denial> {
        if target.named().is_some_and(|n| n.is_masked(name)) && !crate::mutant!("check.masked-target") {
            return Err(refused(format!("an assignment to the masked column \"{name}\"")));
        }
        Ok(())
    }
}

/// Where PostgreSQL looks first for a bare name in a key (findTargetlistEntrySQL92).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finds {
    /// ORDER BY, DISTINCT ON
    OutputFirst,
    /// GROUP BY
    InputFirst,
}

fn text(shows: &Shows, alias: &str, column: &str, tenant: Option<&str>, type_: &str) -> String {
    let value = format!("{}.{}", quoted(alias, '"'), quoted(column, '"'));
    let head = format!("CASE WHEN {value} IS NULL THEN NULL::{type_}");
    let v = format!("{value}::pg_catalog.text");
    let s = |text: &str| format!("{}::pg_catalog.text", quoted(text, '\''));
    let join = |a: &str, b: &str| format!("({a} OPERATOR(pg_catalog.||) {b})");
    match shows {
        Shows::Nothing => format!("{head} ELSE NULL::{type_} END"),
        Shows::Stars => format!("{head} ELSE {}::{type_} END", s("***")),
        Shows::LastFour => format!(
            "{head} WHEN pg_catalog.length({v}) OPERATOR(pg_catalog.>=) 8 THEN {}::{type_} ELSE {}::{type_} END",
            join(&s("****"), &format!("pg_catalog.right({v}, 4)")),
            s("****"),
        ),
        Shows::Email => {
            let at = format!("pg_catalog.strpos({v}, {})", s("@"));
            let domain = format!("pg_catalog.reverse(pg_catalog.split_part(pg_catalog.reverse({v}), {}, 1))", s("@"));
            let hidden = join(&s("***@"), &domain);
            let shown = join(&format!("pg_catalog.left({v}, 1)"), &hidden);
            format!(
                "{head} WHEN {at} OPERATOR(pg_catalog.>) 2 THEN {shown}::{type_} WHEN {at} OPERATOR(pg_catalog.>) 0 THEN {hidden}::{type_} \
                 ELSE {}::{type_} END",
                s("***"),
            )
        }
        Shows::Pseudonym { key, tenant_column: _ } => {
            let mut hashed = s(key);
            if let Some(tenant) = tenant {
                hashed =
                    join(&join(&hashed, &s(":")), &format!("{}.{}::pg_catalog.text", quoted(alias, '"'), quoted(tenant, '"')));
            }
            hashed = join(&join(&hashed, &s(":")), &v);
            let escaped = format!("pg_catalog.replace({hashed}, pg_catalog.chr(92), pg_catalog.repeat(pg_catalog.chr(92), 2))");
            let hex = format!("pg_catalog.encode(pg_catalog.sha256({escaped}::pg_catalog.bytea), {})", s("hex"));
            format!("{head} ELSE pg_catalog.left({hex}, 32)::{type_} END")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ACCOUNTS, PRODUCTS, Rules, check_in, is_refused, kind_of, relations};
    use super::*;

    fn check_as(shows: Shows, text: &str) -> Result<(), Denial> {
        let mut relations = relations(Rules::default());
        relations.masks.insert(ACCOUNTS, vec![Mask { column: "ssn".to_owned(), shows }]);
        relations.masks.insert(PRODUCTS, vec![Mask { column: "name".to_owned(), shows: Shows::Nothing }]);
        check_in(kind_of(text), text, &relations)
    }

    /// `M(x)` is the mask of `x`, which shows nothing.
    fn check(text: &str) -> Result<(), Denial> {
        let mut filled = String::new();
        for (i, piece) in text.split("M(").enumerate() {
            let (value, rest) = if i == 0 { ("", piece) } else { piece.split_once(')').unwrap() };
            if i > 0 {
                filled += &format!("CASE WHEN {value} IS NULL THEN NULL::pg_catalog.text ELSE NULL::pg_catalog.text END");
            }
            filled += rest;
        }
        check_as(Shows::Nothing, &filled)
    }

    #[test]
    fn a_masked_column_stands_in_its_mask() {
        for text in [
            "SELECT a.id, M(a.ssn) AS ssn FROM public.accounts a WHERE T(a) AND M(a.ssn) = 'x' ORDER BY ssn, M(a.ssn)",
            "SELECT count(*) FROM public.accounts a WHERE T(a) GROUP BY M(a.ssn) HAVING M(a.ssn) > 'x'",
            "SELECT x.ssn FROM (SELECT M(f.ssn) AS ssn FROM public.accounts f WHERE T(f) OFFSET 0) x JOIN (VALUES (1)) v(ssn) USING (ssn) AS j",
            "SELECT M(a.s) FROM public.accounts a(i, t, e, b, s) WHERE a.t OPERATOR(pg_catalog.=) $T",
            "SELECT pg_catalog.to_json(ROW(a.id, M(a.ssn))) FROM public.accounts a WHERE T(a)",
            "SELECT M(p.name) FROM public.products p",
            "SELECT o.note AS ssn FROM public.orders o WHERE T(o) ORDER BY ssn",
            "INSERT INTO public.accounts AS a (ssn, tenant_id) VALUES ('x', $T) ON CONFLICT (ssn) WHERE a.ssn = 'x' DO UPDATE SET email = M(excluded.ssn) WHERE CASE WHEN T(a) THEN M(a.ssn) = 'x' ELSE $R(a)::pg_catalog.bool END RETURNING M(a.ssn)",
            "UPDATE public.accounts a SET email = 'x' WHERE T(a) RETURNING M(a.ssn)",
            "DELETE FROM public.accounts a WHERE T(a) AND M(a.ssn) = 'x'",
            "UPDATE public.accounts a SET email = 'x' WHERE T(a) RETURNING WITH (OLD AS v, NEW AS w) M(v.ssn), M(w.ssn), M(a.ssn), v.email",
            "MERGE INTO public.accounts a USING (VALUES (1)) v(id) ON T(a) AND M(a.ssn) = 'x' WHEN MATCHED AND M(a.ssn) > 'x' THEN DELETE WHEN NOT MATCHED THEN INSERT (ssn, tenant_id) VALUES ('x', $T)",
        ] {
            check(text).unwrap_or_else(|d| panic!("{text}: {d}"));
        }
    }

    #[test]
    fn and_nowhere_else() {
        for text in [
            // as it is
            "SELECT a.ssn FROM public.accounts a WHERE T(a)",
            "SELECT a.id FROM public.accounts a WHERE T(a) AND a.ssn = 'x'",
            "SELECT a.id FROM public.accounts a WHERE T(a) ORDER BY a.ssn",
            "SELECT count(*) FROM public.accounts a WHERE T(a) GROUP BY a.ssn",
            "SELECT pg_catalog.rank() OVER (ORDER BY a.ssn) FROM public.accounts a WHERE T(a)",
            "SELECT a.s FROM public.accounts a(i, t, e, b, s) WHERE a.t OPERATOR(pg_catalog.=) $T",
            "SELECT p.name FROM public.products p",
            "SELECT (SELECT a.ssn) FROM public.accounts a WHERE T(a)",
            "SELECT x.ssn FROM (SELECT f.ssn AS ssn FROM public.accounts f WHERE T(f) OFFSET 0) x",
            // by its bare name, where no output has it or GROUP BY finds the column first
            "SELECT a.id FROM public.accounts a WHERE T(a) ORDER BY ssn",
            "SELECT DISTINCT ON (ssn) a.id FROM public.accounts a WHERE T(a)",
            "SELECT M(a.ssn) AS ssn FROM public.accounts a WHERE T(a) GROUP BY ssn",
            "SELECT (SELECT 1 FROM public.products p ORDER BY ssn) FROM public.accounts a WHERE T(a)",
            // in a whole row
            "SELECT pg_catalog.to_json(a) FROM public.accounts a WHERE T(a)",
            "SELECT pg_catalog.to_json(a.*) FROM public.accounts a WHERE T(a)",
            "SELECT (a).ssn FROM public.accounts a WHERE T(a)",
            "SELECT a IS NULL FROM public.accounts a WHERE T(a)",
            "SELECT pg_catalog.to_json(p) FROM public.products p",
            // by USING
            "SELECT 1 FROM public.accounts a JOIN (VALUES ('x')) v(ssn) USING (ssn) AS j WHERE T(a)",
            "SELECT 1 FROM public.products a JOIN public.products b USING (name) AS j",
            // in RETURNING and in SET, or assigned to
            "UPDATE public.accounts a SET email = 'x' WHERE T(a) RETURNING a.ssn",
            "UPDATE public.accounts a SET email = a.ssn WHERE T(a)",
            "UPDATE public.accounts a SET ssn = 'x' WHERE T(a)",
            "UPDATE public.accounts a SET ssn = M(a.ssn) WHERE T(a)",
            "DELETE FROM public.accounts a WHERE T(a) RETURNING a.ssn",
            "DELETE FROM public.accounts a WHERE T(a) RETURNING WITH (OLD AS v) v.ssn",
            "DELETE FROM public.accounts a WHERE T(a) RETURNING WITH (OLD AS v) pg_catalog.to_json(v)",
            "DELETE FROM public.accounts a WHERE T(a) RETURNING WITH (OLD AS v) CASE WHEN v.ssn IS NULL THEN NULL::pg_catalog.text ELSE a.ssn END",
            "MERGE INTO public.accounts a USING (VALUES (1)) v(id) ON T(a) AND a.ssn = 'x' WHEN MATCHED THEN DELETE",
            "MERGE INTO public.accounts a USING (VALUES (1)) v(id) ON T(a) WHEN MATCHED AND a.ssn = 'x' THEN DELETE",
            "MERGE INTO public.accounts a USING (VALUES (1)) v(id) ON T(a) WHEN MATCHED THEN UPDATE SET email = a.ssn",
            "MERGE INTO public.accounts a USING (VALUES (1)) v(id) ON T(a) WHEN MATCHED THEN UPDATE SET ssn = 'x'",
            "MERGE INTO public.orders o USING (SELECT f.ssn AS s FROM public.accounts f WHERE T(f) OFFSET 0) v ON T(o) WHEN MATCHED THEN DELETE",
            "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) RETURNING a.ssn",
            "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) DO UPDATE SET email = a.ssn WHERE CASE WHEN T(a) THEN true ELSE $R(a)::pg_catalog.bool END",
            "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) DO UPDATE SET email = excluded.ssn WHERE CASE WHEN T(a) THEN true ELSE $R(a)::pg_catalog.bool END",
            "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) DO UPDATE SET ssn = 'x' WHERE CASE WHEN T(a) THEN true ELSE $R(a)::pg_catalog.bool END",
            "INSERT INTO public.accounts AS a (id, tenant_id) VALUES (1, $T) ON CONFLICT (id) DO UPDATE SET email = 'x' WHERE CASE WHEN T(a) THEN a.ssn = 'x' ELSE $R(a)::pg_catalog.bool END",
            "INSERT INTO public.orders AS o (note, tenant_id) SELECT a.ssn, $T FROM public.accounts a WHERE T(a)",
            // in what is not its mask: another column's, another type, other branches, more of it
            "SELECT CASE WHEN a.email IS NULL THEN NULL::pg_catalog.text ELSE a.ssn END FROM public.accounts a WHERE T(a)",
            "SELECT CASE WHEN a.ssn IS NULL THEN NULL::pg_catalog.text ELSE a.ssn END FROM public.accounts a WHERE T(a)",
            "SELECT CASE WHEN a.ssn IS NULL THEN NULL::pg_catalog.int4 ELSE NULL::pg_catalog.int4 END FROM public.accounts a WHERE T(a)",
            "SELECT CASE WHEN a.ssn IS NOT NULL THEN NULL::pg_catalog.text ELSE NULL::pg_catalog.text END FROM public.accounts a WHERE T(a)",
            "SELECT CASE WHEN a.ssn IS NULL THEN 'x'::pg_catalog.text ELSE NULL::pg_catalog.text END FROM public.accounts a WHERE T(a)",
            "SELECT CASE WHEN a.ssn IS NULL THEN NULL::pg_catalog.text WHEN a.ssn = 'x' THEN NULL::pg_catalog.text END FROM public.accounts a WHERE T(a)",
            "SELECT M(b.ssn) FROM public.accounts a WHERE T(a)",
        ] {
            assert!(is_refused(check(text)), "{text}");
        }
    }

    #[test]
    fn each_mask_is_exact() {
        let of = |mask: &str| format!("SELECT {mask} FROM public.accounts a WHERE T(a)");
        let head = "CASE WHEN a.ssn IS NULL THEN NULL::pg_catalog.text";
        let (v, text) = ("a.ssn::pg_catalog.text", "::pg_catalog.text");
        let last4 = |least: i32, last: i32| {
            of(&format!(
                "{head} WHEN pg_catalog.length({v}) OPERATOR(pg_catalog.>=) {least} THEN ('****'{text} OPERATOR(pg_catalog.||) \
                 pg_catalog.right({v}, {last})){text} ELSE '****'{text}{text} END"
            ))
        };
        check_as(Shows::LastFour, &last4(8, 4)).unwrap();
        for mutant in [last4(0, 4), last4(8, 5), last4(8, -1), last4(8, 4).replace("right", "left")] {
            assert!(is_refused(check_as(Shows::LastFour, &mutant)), "{mutant}");
        }
        let stars = of(&format!("{head} ELSE '***'{text}{text} END"));
        check_as(Shows::Stars, &stars).unwrap();
        for other in [Shows::Nothing, Shows::LastFour, Shows::Email] {
            assert!(is_refused(check_as(other, &stars)));
        }
        let pseudonym = |key: &str, tenant: &str| {
            of(&format!(
                "{head} ELSE pg_catalog.left(pg_catalog.encode(pg_catalog.sha256(pg_catalog.replace((((('{key}'{text} OPERATOR(pg_catalog.||) \
                 ':'{text}) OPERATOR(pg_catalog.||) a.{tenant}{text}) OPERATOR(pg_catalog.||) ':'{text}) OPERATOR(pg_catalog.||) {v}), \
                 pg_catalog.chr(92), pg_catalog.repeat(pg_catalog.chr(92), 2))::pg_catalog.bytea), 'hex'{text}), 32){text} END"
            ))
        };
        let shows = || Shows::Pseudonym { key: "secret".to_owned(), tenant_column: Some("tenant_id".to_owned()) };
        check_as(shows(), &pseudonym("secret", "tenant_id")).unwrap();
        let explained = format!("EXPLAIN (COSTS OFF) {}", pseudonym("secret", "tenant_id"));
        assert!(is_refused(check_as(shows(), &explained)));
        let insert = "INSERT INTO public.accounts AS a (ssn, tenant_id) VALUES ('x', $T)";
        assert!(is_refused(check_as(shows(), insert)));
        for mutant in [pseudonym("", "tenant_id"), pseudonym("secret", "id")] {
            assert!(is_refused(check_as(shows(), &mutant)), "{mutant}");
        }
    }
}
