//! Which sequence the argument of `nextval` and `currval` names.
//!
//! It is found here, as PostgreSQL finds it, and its whole name is printed in the argument's place: what is judged is what
//! the server reads, whatever its search_path.

use pg_query::protobuf::{FuncCall, a_const};
use pg_query::{Node, NodeEnum};

use super::super::tree::{as_string, quoted_name, text_constant};
use super::{Analyser, Argument};
use crate::catalog::Relation;
use crate::error::sqlstate;
use crate::finding::Denial;

impl Analyser<'_> {
    /// The arguments of a call that takes a sequence, the sequence resolved where it is told by a constant.
    pub(super) fn sequence_arguments(&mut self, args: &mut [Node]) -> Result<Vec<Argument>, Denial> {
        let [arg] = args else { return Ok(vec![]) };
        let found = match uncast(arg).map(|inner| &inner.node) {
            Some(Some(NodeEnum::AConst(constant))) => {
                let Some(a_const::Val::Sval(text)) = &constant.val else { return Ok(vec![Argument::Other]) };
                if is_stand_in(&text.sval) {
                    self.pin_text(&text.sval);
                    return Ok(vec![Argument::Other]);
                }
                self.named_by_text(&text.sval)?
            }
            Some(Some(NodeEnum::FuncCall(call))) => match self.serial_sequence(call)? {
                Some(sequence) => sequence,
                None => return Ok(vec![Argument::Other]),
            },
            Some(Some(_) | None) | None => return Ok(vec![Argument::Other]),
        };
        if found.kind != 'S' {
            let message = format!("\"{}\" is not a sequence", found.name);
            return Err(Denial::invalid(sqlstate::WRONG_OBJECT_TYPE, message));
        }
        let (oid, name) = (found.oid, format!("{}.{}", written(&found.schema), written(&found.name)));
        *arg = text_constant(&name);
        Ok(vec![Argument::Sequence(oid)])
    }

    fn named_by_text(&self, text: &str) -> Result<&Relation, Denial> {
        match parts(text).as_deref() {
            Some([name]) => self.find_relation("", name),
            Some([schema, name]) => self.find_relation(schema, name),
            Some(_) | None => Err(Denial::unsupported("a sequence that is named like this cannot be secured")),
        }
    }

    /// `pg_get_serial_sequence('table', 'column')`, of constants.
    fn serial_sequence(&self, call: &FuncCall) -> Result<Option<&Relation>, Denial> {
        let name: Vec<&str> = call.funcname.iter().filter_map(as_string).collect();
        let texts: Vec<&str> = call.args.iter().filter_map(|a| uncast(a).and_then(text_of)).collect();
        let ([table, column], ["pg_catalog", "pg_get_serial_sequence"], 2) = (texts.as_slice(), name.as_slice(), call.args.len())
        else {
            return Ok(None);
        };
        if is_stand_in(table) || is_stand_in(column) {
            return Ok(None);
        }
        let table = self.named_by_text(table)?;
        let number = table.column(column).map(|c| c.number).ok_or_else(|| {
            let message = format!("column \"{column}\" of relation \"{}\" does not exist", table.name);
            Denial::invalid(sqlstate::UNDEFINED_COLUMN, message)
        })?;
        let catalog = self.context.catalog;
        let owned = catalog.sequences_of(table.oid).find(|s| s.owned && s.column == number);
        let sequence = owned.and_then(|s| catalog.relation(s.sequence));
        sequence.map(Some).ok_or_else(|| Denial::unsupported(format!("column \"{column}\" has no sequence of its own")))
    }
}

/// Whether it stands for a literal, which is then made part of the template's key, and this analysis void.
fn is_stand_in(text: &str) -> bool {
    super::super::sentinel::index_of_string(text).is_some()
}

/// The expression inside casts to types that name a sequence as it is written.
fn uncast(mut arg: &Node) -> Option<&Node> {
    while let Some(NodeEnum::TypeCast(cast)) = &arg.node {
        let type_name = cast.type_name.as_ref()?;
        let names: Vec<&str> = type_name.names.iter().filter_map(as_string).collect();
        if !matches!(names.as_slice(), ["pg_catalog", "regclass" | "text"]) || !type_name.array_bounds.is_empty() {
            return None;
        }
        arg = cast.arg.as_deref()?;
    }
    Some(arg)
}

fn text_of(node: &Node) -> Option<&str> {
    let Some(NodeEnum::AConst(constant)) = &node.node else { return None };
    match &constant.val {
        Some(a_const::Val::Sval(text)) => Some(&text.sval),
        Some(a_const::Val::Ival(_) | a_const::Val::Fval(_) | a_const::Val::Boolval(_) | a_const::Val::Bsval(_)) | None => None,
    }
}

/// A name as `regclass` reads it: words are folded and need no quotes, even where they are keywords.
fn written(name: &str) -> String {
    if is_word(name) && !name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_owned() } else { quoted_name(name) }
}

fn is_word(name: &str) -> bool {
    let start = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    start && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The parts of a qualified name in a string. `None` for what is not surely read alike by PostgreSQL: numbers are OIDs there.
fn parts(text: &str) -> Option<Vec<String>> {
    let mut found = vec![];
    let mut rest = text;
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"')?;
                (quoted[..end].to_owned(), &quoted[end + 1..])
            }
            None => {
                let end = rest.find('.').unwrap_or(rest.len());
                (rest[..end].to_ascii_lowercase(), &rest[end..])
            }
        };
        if part.is_empty() || part.len() > 63 || !rest.starts_with('"') && !is_word(&part) {
            return None;
        }
        found.push(part);
        if after.is_empty() {
            return Some(found);
        }
        rest = after.strip_prefix('.')?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_strings_are_read_as_regclass_reads_them() {
        let read = |text| parts(text).map(|parts| parts.join("|"));
        assert_eq!(read("Orders_id_seq").as_deref(), Some("orders_id_seq"));
        assert_eq!(read("public.\"Orders_id_seq\"").as_deref(), Some("public|Orders_id_seq"));
        assert_eq!(read("a.b.c").as_deref(), Some("a|b|c"));
        for odd in ["", "16400", "a.", ".a", "a b", "a\"b", "\"a\"\"b\"", "\"a\"b", "\"a", "a..b", "\u{212a}", "-"] {
            assert_eq!(read(odd), None, "{odd}");
        }
        assert_eq!(written("orders"), "orders");
        assert_eq!(written("Orders"), "\"Orders\"");
    }
}
