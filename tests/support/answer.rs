//! What a server said to one message, decoded, with every byte of it.

use std::collections::BTreeMap;
use std::fmt;

/// A column of a RowDescription. Table and column numbers are left out: they are OIDs of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: Vec<u8>,
    pub type_oid: u32,
    pub typmod: i32,
    pub format: i16,
}

/// A row: a value is absent where it is NULL.
pub type Row = Vec<Option<Vec<u8>>>;

/// What one command gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub columns: Option<Vec<Column>>,
    pub rows: Vec<Row>,
    /// CopyData, message by message.
    pub copied: Vec<Vec<u8>>,
    /// Command tag; empty for an empty query, absent where the command did not complete.
    pub tag: Option<String>,
}

/// An ErrorResponse or NoticeResponse: fields by their letter.
#[derive(Clone, PartialEq, Eq)]
pub struct Report(pub BTreeMap<char, String>);

impl Report {
    pub fn field(&self, letter: char) -> &str {
        self.0.get(&letter).map_or("", String::as_str)
    }

    pub fn sqlstate(&self) -> &str {
        self.field('C')
    }

    pub fn message(&self) -> &str {
        self.field('M')
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.field('S'), self.sqlstate(), self.message())?;
        for (letter, name) in [('D', "detail"), ('H', "hint"), ('W', "context")] {
            if !self.field(letter).is_empty() {
                write!(f, " [{name}: {}]", self.field(letter))?;
            }
        }
        Ok(())
    }
}

/// Everything up to ReadyForQuery, or to the end of the connection.
#[derive(Clone, Default)]
pub struct Answer {
    pub parts: Vec<Part>,
    pub error: Option<Report>,
    pub notices: Vec<Report>,
    /// ParameterDescription, where a statement was described.
    pub parameters: Option<Vec<u32>>,
    /// CopyInResponse, where data was asked for.
    pub copy_formats: Option<Vec<u8>>,
    /// Transaction status of ReadyForQuery; absent where the connection ended.
    pub status: Option<u8>,
    /// There were more rows than are kept here.
    pub truncated: bool,
    /// Every byte received, of those that are kept.
    pub raw: Vec<u8>,
}

impl Answer {
    pub fn sqlstate(&self) -> &str {
        self.error.as_ref().map_or("", Report::sqlstate)
    }

    /// Rows of all commands.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.parts.iter().flat_map(|p| p.rows.iter())
    }

    /// The first value of the first row, as text.
    pub fn scalar(&self) -> Option<String> {
        let value = self.rows().next()?.first()?.as_ref()?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            if let Some(columns) = &part.columns {
                let names: Vec<String> =
                    columns.iter().map(|c| format!("{}:{}/{}", String::from_utf8_lossy(&c.name), c.type_oid, c.typmod)).collect();
                writeln!(f, "  columns {}", names.join(", "))?;
            }
            for row in part.rows.iter().take(12) {
                let values: Vec<String> = row
                    .iter()
                    .map(|v| v.as_ref().map_or("NULL".to_owned(), |v| String::from_utf8_lossy(v).into_owned()))
                    .collect();
                writeln!(f, "  ({})", values.join(", "))?;
            }
            if part.rows.len() > 12 {
                writeln!(f, "  .. {} rows", part.rows.len())?;
            }
            for line in part.copied.iter().take(5) {
                writeln!(f, "  copy {:?}", String::from_utf8_lossy(line))?;
            }
            writeln!(f, "  tag {:?}", part.tag)?;
        }
        for notice in &self.notices {
            writeln!(f, "  {notice:?}")?;
        }
        if let Some(error) = &self.error {
            writeln!(f, "  {error:?}")?;
        }
        write!(f, "  status {:?}", self.status.map(char::from))
    }
}
