//! `COPY table FROM STDIN`: the columns, and the options of copy.c. What an option means is decided here, since the server is
//! sent none of them: an option that is not known is refused by name.

use pg_query::protobuf::{self as pg, DefElem};
use pg_query::{Node, NodeEnum};

use super::super::copy::{Csv, Dialect, Header};
use super::super::tree::as_string;
use super::scope::{RteId, RteKind, Usage};
use super::{Analyser, Relation};
use crate::error::sqlstate;
use crate::finding::Denial;

/// A COPY into a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFrom {
    /// The table.
    pub rte: RteId,
    /// The columns that the rows have, in their order.
    pub columns: Vec<String>,
    pub dialect: Dialect,
}

impl Analyser<'_> {
    pub(super) fn copy_from(&mut self, copy: &mut pg::CopyStmt) -> Result<CopyFrom, Denial> {
        let pg::CopyStmt { relation, query, attlist, is_from: _, is_program, filename, options, where_clause } = copy;
        if *is_program || !filename.is_empty() {
            return Err(Denial::policy("COPY from a file or program is not permitted"));
        }
        if where_clause.is_some() {
            return Err(Denial::unsupported("COPY FROM .. WHERE cannot be secured"));
        }
        let (Some(relation), None) = (relation, query) else {
            return Err(Denial::unsupported("this COPY cannot be secured"));
        };
        // Options are grammar: a literal among them belongs to the template's key.
        for text in options.iter().filter_map(element).filter_map(|d| d.arg.as_deref()).filter_map(as_string) {
            self.pin_text(text);
        }
        let item = self.relation(relation, Usage::Insert)?;
        let rte = item.rte.ok_or_else(|| Denial::unsupported("this target cannot be secured"))?;
        let RteKind::Relation { oid, usage: _ } = self.rtes[rte].kind else {
            return Err(Denial::unsupported("this target cannot be secured"));
        };
        let table = self.context.catalog.relation(oid).ok_or_else(|| Denial::unsupported("this target cannot be secured"))?;
        if !matches!(table.kind, 'r' | 'p') {
            return Err(Denial::unsupported(format!(
                "COPY FROM into \"{}\", which is not a table, cannot be secured",
                table.name
            )));
        }
        let columns = columns(table, attlist)?;
        let version = self.context.catalog.snapshot().server_version;
        let dialect = Options::read(options, version)?.dialect(table, &columns, version)?;
        Ok(CopyFrom { rte, columns, dialect })
    }
}

/// The columns of the list; without one, all that are not generated, in the table's order.
fn columns(table: &Relation, list: &[Node]) -> Result<Vec<String>, Denial> {
    if list.is_empty() {
        return Ok(table.columns.iter().filter(|c| !c.generated && !c.hidden).map(|c| c.name.clone()).collect());
    }
    let mut columns: Vec<String> = vec![];
    for name in list {
        let name = as_string(name).ok_or_else(|| Denial::unsupported("this column list cannot be secured"))?;
        let column = table.column(name).ok_or_else(|| unknown_column(table, name))?;
        if column.generated {
            let denial = Denial::invalid(sqlstate::INVALID_COLUMN_REFERENCE, format!("column \"{name}\" is a generated column"));
            let error = denial.error.with_detail("Generated columns cannot be used in COPY.");
            return Err(Denial { error: Box::new(error), ..denial });
        }
        if columns.iter().any(|c| c == name) {
            return Err(Denial::invalid(sqlstate::DUPLICATE_COLUMN, format!("column \"{name}\" specified more than once")));
        }
        columns.push(name.to_owned());
    }
    Ok(columns)
}

fn unknown_column(table: &Relation, name: &str) -> Denial {
    let message = format!("column \"{name}\" of relation \"{}\" does not exist", table.name);
    Denial::invalid(sqlstate::UNDEFINED_COLUMN, message)
}

fn element(option: &Node) -> Option<&DefElem> {
    match &option.node {
        Some(NodeEnum::DefElem(d)) => Some(d),
        Some(_) | None => None,
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Denial {
    Denial::invalid(sqlstate::INVALID_PARAMETER_VALUE, message)
}

fn redundant() -> Denial {
    Denial::invalid(sqlstate::SYNTAX_ERROR, "conflicting or redundant options")
}

/// Names of columns in an option: a list, or all.
enum Names {
    List(Vec<String>),
    All,
}

/// The options as they are written; `None`: not given.
#[derive(Default)]
struct Options {
    format: Option<String>,
    delimiter: Option<String>,
    null: Option<String>,
    header: Option<Header>,
    quote: Option<String>,
    escape: Option<String>,
    force_null: Option<Names>,
    force_not_null: Option<Names>,
    encoding: Option<String>,
}

impl Options {
    fn read(options: &[Node], version: u32) -> Result<Options, Denial> {
        let mut found = Options::default();
        for option in options {
            let d = element(option).ok_or_else(|| Denial::unsupported("this COPY option cannot be secured"))?;
            let DefElem { defnamespace, defname, arg, defaction: _, location: _, arg_location: _ } = d;
            let unknown = || Denial::unsupported(format!("COPY FROM option \"{defname}\" cannot be secured"));
            if !defnamespace.is_empty() {
                return Err(unknown());
            }
            let text = || arg.as_deref().and_then(as_string).map(str::to_owned).ok_or_else(unknown);
            match defname.as_str() {
                "format" => once(&mut found.format, text()?)?,
                "delimiter" => once(&mut found.delimiter, text()?)?,
                "null" => once(&mut found.null, text()?)?,
                "quote" => once(&mut found.quote, text()?)?,
                "escape" => once(&mut found.escape, text()?)?,
                "encoding" => once(&mut found.encoding, text()?)?,
                "header" => once(&mut found.header, header(arg.as_deref(), version)?)?,
                "force_null" => once(&mut found.force_null, names(arg.as_deref()).ok_or_else(unknown)?)?,
                "force_not_null" => once(&mut found.force_not_null, names(arg.as_deref()).ok_or_else(unknown)?)?,
                _ => return Err(unknown()), // tidy: not a syntax kind
            }
        }
        Ok(found)
    }

    /// Checks them as ProcessCopyOptions does.
    fn dialect(self, table: &Relation, columns: &[String], version: u32) -> Result<Dialect, Denial> {
        if let Some(encoding) = &self.encoding
            && !matches!(encoding.to_ascii_lowercase().as_str(), "utf8" | "utf-8" | "unicode")
        {
            return Err(Denial::unsupported(format!("COPY FROM with encoding \"{encoding}\" cannot be secured")));
        }
        let only_csv = |given: bool, option: &str| match given {
            true => Err(Denial::unsupported(format!("COPY {option} available only in CSV mode"))),
            false => Ok(()),
        };
        let format = self.format.as_deref().unwrap_or("text");
        match format {
            "binary" => {
                for (given, option) in [(self.delimiter.is_some(), "DELIMITER"), (self.null.is_some(), "NULL")] {
                    if given {
                        return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, format!("cannot specify {option} in BINARY mode")));
                    }
                }
                if self.header.is_some_and(|h| h != Header::None) {
                    return Err(Denial::unsupported("cannot specify HEADER in BINARY mode"));
                }
            }
            "text" | "csv" => {}
            _ => return Err(invalid(format!("COPY format \"{format}\" not recognized"))), // tidy: not a syntax kind
        }
        if format != "csv" {
            only_csv(self.quote.is_some(), "quote")?;
            only_csv(self.escape.is_some(), "escape")?;
            only_csv(self.force_not_null.is_some(), "force not null")?;
            only_csv(self.force_null.is_some(), "force null")?;
        }
        let header = self.header.unwrap_or(Header::None);
        match format {
            "binary" => Ok(Dialect::Binary),
            "csv" => self.csv(table, columns, header, version).map(Dialect::Csv),
            _ => self.text(header, version), // tidy: not a syntax kind
        }
    }

    fn text(self, header: Header, version: u32) -> Result<Dialect, Denial> {
        if header != Header::None && version < 150_000 {
            return Err(Denial::unsupported("COPY HEADER available only in CSV mode"));
        }
        let delimiter = one_byte(self.delimiter.as_deref(), b'\t', "delimiter")?;
        let null = self.null.unwrap_or_else(|| "\\N".to_owned());
        if matches!(delimiter, b'\\' | b'.' | b'a'..=b'z' | b'0'..=b'9') {
            return Err(invalid(format!("COPY delimiter cannot be \"{}\"", char::from(delimiter))));
        }
        check_null(&null, delimiter)?;
        Ok(Dialect::Text { delimiter, null, header })
    }

    fn csv(self, table: &Relation, columns: &[String], header: Header, version: u32) -> Result<Csv, Denial> {
        let delimiter = one_byte(self.delimiter.as_deref(), b',', "delimiter")?;
        let quote = one_byte(self.quote.as_deref(), b'"', "quote")?;
        let escape = one_byte(self.escape.as_deref(), quote, "escape")?;
        let null = self.null.unwrap_or_default();
        if delimiter == quote {
            return Err(invalid("COPY delimiter and quote must be different"));
        }
        // PostgreSQL takes these. What they do to the end marker, or to the ends of lines, is nobody's wish.
        let odd = [("DELIMITER", delimiter, b'\\'), ("QUOTE", quote, b'\\'), ("QUOTE", quote, b'.')];
        for (option, byte, refused) in odd {
            if byte == refused {
                return Err(Denial::unsupported(format!(
                    "COPY FROM in csv format with {option} '{}' cannot be secured",
                    char::from(refused)
                )));
            }
        }
        for (option, byte) in [("QUOTE", quote), ("ESCAPE", escape)] {
            if matches!(byte, b'\r' | b'\n') {
                return Err(Denial::unsupported(format!("COPY FROM with a newline as {option} cannot be secured")));
            }
        }
        check_null(&null, delimiter)?;
        if null.bytes().any(|b| b == quote) {
            return Err(invalid("CSV quote character must not appear in the NULL specification"));
        }
        Ok(Csv {
            delimiter,
            quote,
            escape,
            null,
            header,
            force_null: forced(self.force_null, "FORCE_NULL", table, columns, version)?,
            force_not_null: forced(self.force_not_null, "FORCE_NOT_NULL", table, columns, version)?,
            has_end_marker: version < 180_000,
        })
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Denial> {
    match place.replace(value) {
        Some(_) => Err(redundant()),
        None => Ok(()),
    }
}

fn one_byte(given: Option<&str>, default: u8, option: &str) -> Result<u8, Denial> {
    match given.map(str::as_bytes) {
        None => Ok(default),
        Some([b'\r' | b'\n']) if option == "delimiter" => Err(invalid("COPY delimiter cannot be newline or carriage return")),
        Some([byte]) if byte.is_ascii() => Ok(*byte),
        Some(_) => Err(Denial::unsupported(format!("COPY {option} must be a single one-byte character"))),
    }
}

fn check_null(null: &str, delimiter: u8) -> Result<(), Denial> {
    if null.contains(['\r', '\n']) {
        return Err(invalid("COPY null representation cannot use newline or carriage return"));
    }
    if null.bytes().any(|b| b == delimiter) {
        return Err(invalid("COPY delimiter must not appear in the NULL specification"));
    }
    Ok(())
}

/// defGetCopyHeaderChoice
fn header(arg: Option<&Node>, version: u32) -> Result<Header, Denial> {
    let matches = version >= 150_000;
    let wanted = || {
        let more = if matches { " or \"match\"" } else { "" };
        Denial::invalid(sqlstate::SYNTAX_ERROR, format!("header requires a Boolean value{more}"))
    };
    let word = match arg.map(|a| &a.node) {
        None => return Ok(Header::Skipped),
        Some(Some(NodeEnum::Integer(i))) if i.ival == 0 => "false".to_owned(),
        Some(Some(NodeEnum::Integer(i))) if i.ival == 1 => "true".to_owned(),
        Some(Some(NodeEnum::Boolean(b))) => b.boolval.to_string(),
        Some(Some(NodeEnum::String(s))) => s.sval.to_ascii_lowercase(),
        Some(Some(_) | None) => return Err(wanted()),
    };
    match word.as_str() {
        "true" | "on" => Ok(Header::Skipped),
        "false" | "off" => Ok(Header::None),
        "match" if matches => Ok(Header::Matched),
        _ => Err(wanted()), // tidy: not a syntax kind
    }
}

fn names(arg: Option<&Node>) -> Option<Names> {
    match &arg?.node {
        Some(NodeEnum::AStar(_)) => Some(Names::All),
        Some(NodeEnum::List(list)) => {
            list.items.iter().map(|i| as_string(i).map(str::to_owned)).collect::<Option<_>>().map(Names::List)
        }
        Some(_) | None => None,
    }
}

/// Which columns an option names.
fn forced(names: Option<Names>, option: &str, table: &Relation, columns: &[String], version: u32) -> Result<Vec<bool>, Denial> {
    let names = match names {
        None => return Ok(vec![]),
        Some(Names::All) if version >= 170_000 => return Ok(vec![true; columns.len()]),
        Some(Names::All) => {
            let option = option.to_ascii_lowercase();
            return Err(invalid(format!("argument to option \"{option}\" must be a list of column names")));
        }
        Some(Names::List(names)) => names,
    };
    for name in &names {
        table.column(name).ok_or_else(|| unknown_column(table, name))?;
        if !columns.contains(name) {
            let message = format!("{option} column \"{name}\" not referenced by COPY");
            return Err(Denial::invalid(sqlstate::INVALID_COLUMN_REFERENCE, message));
        }
    }
    Ok(columns.iter().map(|c| names.contains(c)).collect())
}
