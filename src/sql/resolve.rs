//! Which operator, function or cast of `pg_catalog` PostgreSQL means by a name and types of arguments: the part of
//! parse_oper.c, parse_func.c and parse_coerce.c that gives one certain answer. Where it does not, there is none.

use super::types::oid;
use crate::catalog::{Cast, Catalog, FIRST_NORMAL, Function, Operator};

const ANYARRAY: u32 = 2277;
const ANYENUM: u32 = 3500;
const ANYRANGE: u32 = 3831;

/// Whether PostgreSQL itself brought it.
fn is_builtin(schema: &str, oid: u32, extension: Option<&String>) -> bool {
    schema == "pg_catalog" && oid < FIRST_NORMAL && extension.is_none()
}

/// The operator of `pg_catalog` that `left name right` means. `oid::UNKNOWN`: a literal or NULL.
pub fn operator<'c>(name: &str, left: u32, right: u32, catalog: &'c Catalog) -> Option<&'c Operator> {
    if left == 0 || right == 0 {
        return None;
    }
    let all = || catalog.operators_named(name).filter(|o| o.left != 0);
    let builtin = |o: &&'c Operator| is_builtin(&o.schema, o.oid, o.extension.as_ref());
    // A literal takes the other operand's type (binary_oper_exact).
    let (l, r) = match (left, right) {
        (oid::UNKNOWN, oid::UNKNOWN) => (oid::TEXT, oid::TEXT),
        (oid::UNKNOWN, other) | (other, oid::UNKNOWN) => (other, other),
        (l, r) => (l, r),
    };
    let takes = |o: &&'c Operator, l: u32, r: u32| o.left == l && o.right == r;
    if let Some(exact) = all().filter(builtin).find(|o| takes(o, l, r)) {
        // Of two that take these types the first in search_path is meant.
        let foreign = all().any(|o| !builtin(&o) && takes(&o, l, r));
        return (!foreign).then_some(exact);
    }
    // From here on PostgreSQL weighs all operators of that name that may take these types.
    let takes_too = |o: &'c Operator| may_fit(left, o.left, catalog) && may_fit(right, o.right, catalog);
    if all().any(|o| !builtin(&o) && takes_too(o)) && !crate::mutant!("quiet.operators-of-others") {
        return None;
    }
    let all = || all().filter(builtin);
    let textual = |t: u32| matches!(t, oid::TEXT | oid::VARCHAR);
    if textual(l) && textual(r) {
        return all().find(|o| takes(o, oid::TEXT, oid::TEXT));
    }
    if l == r
        && let Some(polymorphic) = polymorphic(l, catalog)
        // A literal beside a range may be a range or an element.
        && (polymorphic != ANYRANGE || left == right)
    {
        return all().find(|o| takes(o, polymorphic, polymorphic));
    }
    // Most exact matches win (func_select_candidate), the other operand being coerced.
    let fits = |given: u32, wanted: u32| given == wanted || given == oid::UNKNOWN || implicit(given, wanted, catalog);
    let score = |o: &&'c Operator| u8::from(o.left == left) + u8::from(o.right == right);
    let candidates: Vec<&Operator> = all().filter(|o| fits(left, o.left) && fits(right, o.right)).collect();
    let best = candidates.iter().map(score).max().filter(|s| *s > 0)?;
    let best: Vec<&Operator> = candidates.into_iter().filter(|o| score(o) == best).collect();
    // Of these, those that take the preferred type of the category where the operand must be coerced.
    let prefers = |given: u32, wanted: u32| given != wanted && is_preferred(given, wanted, catalog);
    let preferred = |o: &&Operator| u8::from(prefers(left, o.left)) + u8::from(prefers(right, o.right));
    let most = best.iter().map(preferred).max().unwrap_or_default();
    let best: Vec<&Operator> = best.into_iter().filter(|o| preferred(o) == most).collect();
    match best.as_slice() {
        [only] => Some(only),
        // A literal is a string where it may be one.
        [] | [_, _, ..] if left == oid::UNKNOWN || right == oid::UNKNOWN => {
            let at_literal = |o: &Operator| if left == oid::UNKNOWN { o.left } else { o.right };
            let mut strings = best.iter().filter(|o| at_literal(o) == oid::TEXT);
            strings.next().copied().filter(|_| strings.next().is_none())
        }
        [] | [_, _, ..] => None,
    }
}

/// Whether an operand of one type may be passed for another without being asked, in doubt yes.
fn may_fit(given: u32, wanted: u32, catalog: &Catalog) -> bool {
    let (Some(g), Some(w)) = (catalog.type_(given), catalog.type_(wanted)) else { return true };
    match (g.category, w.category) {
        (_, _) if given == wanted || given == oid::UNKNOWN || g.kind == 'd' || w.kind == 'p' || w.kind == 'd' => true,
        ('A', 'A') => may_fit(g.element, w.element, catalog),
        (_, _) => catalog.snapshot().casts.iter().any(|c| c.source == given && c.target == wanted && c.context == 'i'),
    }
}

/// Whether the wanted type is the preferred one of the given type's category (`typispreferred` of pg_type.dat).
fn is_preferred(given: u32, wanted: u32, catalog: &Catalog) -> bool {
    const VARBIT: u32 = 1562;
    let preferred = [oid::BOOL, oid::TEXT, oid::OID, oid::FLOAT8, oid::INET, oid::TIMESTAMPTZ, oid::INTERVAL, VARBIT];
    let category = |t: u32| catalog.type_(t).map(|t| t.category);
    preferred.contains(&wanted) && category(given) == category(wanted)
}

/// The pseudo-type that stands for arrays, enums or ranges among the arguments of operators.
fn polymorphic(type_oid: u32, catalog: &Catalog) -> Option<u32> {
    let found = catalog.type_(type_oid)?;
    match found.kind {
        'e' => Some(ANYENUM),
        'r' if found.schema == "pg_catalog" => Some(ANYRANGE),
        // int2vector and oidvector are arrays of another make.
        'b' if found.category == 'A' && found.name.starts_with('_') => Some(ANYARRAY),
        _ => None, // tidy: not a syntax kind
    }
}

/// Whether a type is coerced to another without being asked (`castcontext` i).
fn implicit(source: u32, target: u32, catalog: &Catalog) -> bool {
    cast(source, target, catalog).is_some_and(|c| c.context == 'i')
}

/// The entry of pg_cast for a cast that PostgreSQL itself brought.
pub fn cast(source: u32, target: u32, catalog: &Catalog) -> Option<&Cast> {
    catalog.snapshot().casts.iter().find(|c| c.source == source && c.target == target).filter(|c| c.function < FIRST_NORMAL)
}

/// The function of `pg_catalog` that a call means, `name` being known to be looked up there: all arguments whose types are
/// known match exactly, a varchar being a text to functions that know no varchar.
pub fn function<'c>(name: &str, arguments: &[u32], catalog: &'c Catalog) -> Option<&'c Function> {
    if arguments.contains(&0) || catalog.functions_named(name).any(|f| f.schema == "pg_catalog" && f.oid >= FIRST_NORMAL) {
        return None;
    }
    let all: Vec<&Function> = catalog
        .functions_named(name)
        .filter(|f| f.schema == "pg_catalog" && f.arguments.len() == arguments.len() && !f.variadic)
        .collect();
    let matching = |varchar: u32| {
        let fits =
            |given: u32, wanted: u32| given == oid::UNKNOWN || given == wanted || given == oid::VARCHAR && wanted == varchar;
        let mut found = all.iter().filter(|f| arguments.iter().zip(&f.arguments).all(|(g, w)| fits(*g, *w)));
        found.next().copied().filter(|_| found.next().is_none())
    };
    matching(oid::VARCHAR).or_else(|| matching(oid::TEXT))
}
