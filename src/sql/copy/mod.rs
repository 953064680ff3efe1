//! The data of COPY .. FROM STDIN: what a client sends, in the dialect that it chose, becomes rows in one canonical form, in
//! which each row has the tenant as its last field. INVARIANT: the server parses nothing but that form (a row that has it already goes as it is), and the
//! tenant's field is written from the session, never from the data. A row that is misread spoils the client's own data; it
//! cannot forge a tenant.
//!
//! Rows and fields end where copyfromparse.c of PostgreSQL ends them. A row has exactly the columns that are expected, or the
//! COPY fails; so it does where PostgreSQL's versions differ about what ends the data.

mod binary;
mod fields;
mod lines;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::BytesMut;

use super::template::TenantType;
use crate::error::SqlError;

/// What a COPY fills, and how its data is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The table's name as errors show it.
    pub table: String,
    /// The columns that the client's rows have, in their order.
    pub columns: Vec<String>,
    pub tenant: TenantField,
    pub tenant_column: String,
    pub tenant_type: TenantType,
    pub dialect: Dialect,
}

/// Where the client's rows have the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantField {
    /// Nowhere: it is added.
    Added,
    /// In the column of that index: it must be the session's.
    Supplied(usize),
}

impl Target {
    /// The columns that the server is sent: the client's, and the tenant's as the last.
    pub fn sent_columns(&self) -> Vec<&str> {
        let own = self.columns.iter().map(String::as_str).filter(|c| *c != self.tenant_column);
        own.chain([self.tenant_column.as_str()]).collect()
    }

    fn supplied(&self) -> Option<usize> {
        match self.tenant {
            TenantField::Added => None,
            TenantField::Supplied(index) => Some(index),
        }
    }
}

/// The options of the client's COPY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    Text { delimiter: u8, null: String, header: Header },
    Csv(Csv),
    Binary,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csv {
    pub delimiter: u8,
    pub quote: u8,
    pub escape: u8,
    pub null: String,
    pub header: Header,
    /// By column.
    pub force_null: Vec<bool>,
    pub force_not_null: Vec<bool>,
    /// `\.` alone on a line ends the data: before PostgreSQL 18.
    pub has_end_marker: bool,
}

/// HEADER
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    None,
    Skipped,
    /// Its fields must be the columns' names.
    Matched,
}

/// Why a COPY fails, with what PostgreSQL would say in the context field. The context shows the client's own line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub error: SqlError,
    pub context: String,
}

impl Failure {
    fn boxed(error: SqlError, context: String) -> Box<Failure> {
        Box::new(Failure { error, context })
    }
}

/// Makes canonical rows of one COPY's data, which may come in pieces that end anywhere.
#[derive(Debug)]
pub struct Converter {
    form: Form,
}

#[derive(Debug)]
enum Form {
    Rows(Box<rows::Rows>),
    Tuples(Box<binary::Tuples>),
}

impl Converter {
    /// `tenant`: its text as PostgreSQL prints it. `max_row`: bytes that a row may have.
    ///
    /// # Errors
    /// 28000: the tenant is no value of its column's type.
    pub fn new(target: &Arc<Target>, tenant: &str, max_row: usize) -> Result<Converter, SqlError> {
        let form = match &target.dialect {
            Dialect::Binary => Form::Tuples(Box::new(binary::Tuples::new(target.clone(), tenant, max_row)?)),
            Dialect::Text { .. } | Dialect::Csv(_) => Form::Rows(Box::new(rows::Rows::new(target.clone(), tenant, max_row))),
        };
        Ok(Converter { form })
    }

    /// Takes a piece of the data and appends the rows that are whole now.
    ///
    /// # Errors
    /// What is wrong with a row. The rows before it have been written; the converter must not be used any more.
    pub fn feed(&mut self, data: &[u8], out: &mut BytesMut) -> Result<(), Box<Failure>> {
        match &mut self.form {
            Form::Rows(rows) => rows.feed(data, out),
            Form::Tuples(tuples) => tuples.feed(data, out),
        }
    }

    /// The data has ended.
    ///
    /// # Errors
    /// As [`Converter::feed`].
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), Box<Failure>> {
        match &mut self.form {
            Form::Rows(rows) => rows.finish(out),
            Form::Tuples(tuples) => tuples.finish(out),
        }
    }

    /// The line of the client's data that the server knows as this one: there may be a header, and newlines in quotes.
    pub fn line(&self, sent: u64) -> u64 {
        match &self.form {
            Form::Rows(rows) => rows.line(sent),
            Form::Tuples(_) => sent,
        }
    }
}

/// The words of PostgreSQL for a row that a policy does not admit.
fn violation(table: &str) -> SqlError {
    let message = format!("new row violates row-level security policy for table \"{table}\"");
    SqlError::new(crate::error::sqlstate::INSUFFICIENT_PRIVILEGE, message)
}

fn bad_file(message: impl Into<std::borrow::Cow<'static, str>>) -> SqlError {
    SqlError::new(crate::error::sqlstate::BAD_COPY_FILE_FORMAT, message)
}

fn too_long(max_row: usize) -> SqlError {
    let message = format!("a row of COPY is longer than {max_row} bytes");
    SqlError::new(crate::error::sqlstate::PROGRAM_LIMIT_EXCEEDED, message)
}

/// Body of the fuzz target: the first byte chooses a dialect, the second where the data is cut. Cuts change nothing; in what
/// comes out, every row ends in the tenant.
pub fn fuzz(data: &[u8]) {
    let [choice, cut, data @ ..] = data else { return };
    let header = if choice & 4 == 0 { Header::None } else { Header::Matched };
    let text = |delimiter, null: &str| Dialect::Text { delimiter, null: null.to_owned(), header };
    let csv = |quote, escape| {
        let forced = if choice & 8 == 0 { vec![] } else { vec![true, false] };
        let (force_null, force_not_null) = (forced.clone(), forced);
        let has_end_marker = choice & 16 == 0;
        Dialect::Csv(Csv {
            delimiter: b',',
            quote,
            escape,
            null: "x".to_owned(),
            header,
            force_null,
            force_not_null,
            has_end_marker,
        })
    };
    let dialect = match choice & 3 {
        0 => text(b'\t', "\\N"),
        1 => csv(b'"', b'"'),
        2 => csv(b'\'', b'\\'),
        _ => Dialect::Binary,
    };
    let is_binary = dialect == Dialect::Binary;
    let columns = vec!["a".to_owned(), "b".to_owned()];
    let (tenant_column, tenant_type) = ("tenant".to_owned(), TenantType::Int4);
    let (table, tenant) = ("t".to_owned(), TenantField::Added);
    let target = Arc::new(Target { table, columns, tenant, tenant_column, tenant_type, dialect });
    let run = |pieces: &[&[u8]]| {
        let mut out = BytesMut::new();
        let mut converter = Converter::new(&target, "7", 1 << 20).map_err(|error| error.message.into_owned())?;
        let fed = pieces.iter().try_for_each(|piece| converter.feed(piece, &mut out));
        fed.and_then(|()| converter.finish(&mut out)).map_err(|failure| failure.error.message.into_owned())?;
        Ok::<_, String>(out)
    };
    let at_once = run(&[data]);
    let (one, two) = data.split_at(usize::from(*cut).min(data.len()));
    assert_eq!(at_once, run(&[one, two]));
    let Ok(out) = at_once else { return };
    if is_binary {
        assert!(out.ends_with(&[0xff, 0xff]));
    } else {
        for row in out[..].split(|b| *b == b'\n').filter(|row| !row.is_empty()) {
            assert!(row.ends_with(b"\t7") && row.iter().filter(|b| **b == b'\t').count() == 2, "{row:?}");
        }
    }
}
