//! Text and csv: lines in, lines of the text format with its default options out.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use memchr::memchr_iter;

use super::fields::{Fields, check_encoding, put_field};
use super::lines::{Splitter, Taken};
use super::{Dialect, Failure, Header, Target, TenantField, bad_file, violation};
use crate::error::SqlError;
use crate::sql::template::TenantType;

/// How many changes of the distance between sent and read line numbers are remembered. Errors come a batch of rows and what
/// is under way late; beyond this, a line number in an error may be wrong, and nothing else.
const REMEMBERED: usize = 1 << 16;
/// `MAX_COPY_DATA_DISPLAY` of PostgreSQL.
const SHOWN: usize = 100;

#[derive(Debug)]
pub(super) struct Rows {
    target: Arc<Target>,
    /// The tenant's text.
    tenant: Vec<u8>,
    header: Header,
    lines: Splitter,
    /// The client's rows have our form already, but for the tenant.
    ours: bool,
    fields: Fields,
    /// Rows sent.
    sent: u64,
    /// From which sent row on the client's line number is so much larger.
    shifts: VecDeque<(u64, u64)>,
}

impl Rows {
    pub fn new(target: Arc<Target>, tenant: &str, max_row: usize) -> Self {
        let header = match &target.dialect {
            Dialect::Text { delimiter: _, null: _, header } => *header,
            Dialect::Csv(csv) => csv.header,
            Dialect::Binary => Header::None,
        };
        let ours = match &target.dialect {
            Dialect::Text { delimiter: b'\t', null, header: _ } => null == "\\N" && target.tenant == TenantField::Added,
            Dialect::Text { .. } | Dialect::Csv(_) | Dialect::Binary => false,
        };
        let lines = Splitter::new(&target.dialect, max_row);
        let tenant = tenant.as_bytes().to_vec();
        Rows { target, tenant, header, lines, ours, fields: Fields::default(), sent: 0, shifts: VecDeque::new() }
    }

    pub fn feed(&mut self, data: &[u8], out: &mut BytesMut) -> Result<(), Box<Failure>> {
        let mut rest = data;
        loop {
            let plain = self.lines.take_plain(rest).map_err(|error| self.at_number(error))?;
            rest = &rest[plain..];
            let Some((&c, after)) = rest.split_first() else { return Ok(()) };
            match self.lines.take(c).map_err(|error| self.at_number(error))? {
                Taken::More => rest = after,
                Taken::Line => {
                    self.line_done(out)?;
                    rest = after;
                }
                Taken::LineBefore => self.line_done(out)?,
            }
        }
    }

    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), Box<Failure>> {
        let stands = self.lines.finish().map_err(|error| self.at_number(error))?;
        // A header is matched even where there is no line.
        if stands || self.header == Header::Matched {
            self.line_done(out)?;
        }
        Ok(())
    }

    pub fn line(&self, sent: u64) -> u64 {
        let before = self.shifts.iter().rev().find(|(from, _)| *from <= sent).or(self.shifts.front());
        sent + before.map_or(0, |(_, shift)| *shift)
    }

    fn line_done(&mut self, out: &mut BytesMut) -> Result<(), Box<Failure>> {
        check_encoding(&self.lines.line).map_err(|error| self.at_number(error))?;
        match std::mem::replace(&mut self.header, Header::None) {
            Header::None => self.row(out)?,
            Header::Skipped => {}
            Header::Matched => {
                self.read()?;
                self.match_header().map_err(|error| self.at_line(error))?;
            }
        }
        self.lines.next();
        Ok(())
    }

    fn read(&mut self) -> Result<(), Box<Failure>> {
        let line = &self.lines.line;
        let read = match &self.target.dialect {
            Dialect::Text { delimiter, null, header: _ } => self.fields.read_text(line, *delimiter, null.as_bytes()),
            Dialect::Csv(csv) => self.fields.read_csv(line, csv),
            Dialect::Binary => Ok(()),
        };
        read.map_err(|error| self.at_line(error))
    }

    /// A row of the client's becomes one of ours.
    fn row(&mut self, out: &mut BytesMut) -> Result<(), Box<Failure>> {
        if self.ours && is_canonical(&self.lines.line, self.target.columns.len()) {
            self.note_shift();
            out.put_slice(&self.lines.line);
            self.put_tenant(true, out);
            return Ok(());
        }
        self.read()?;
        let wanted = self.target.columns.len();
        if self.fields.len() > wanted {
            return Err(self.at_line(bad_file("extra data after last expected column")));
        }
        let supplied = self.target.supplied();
        self.note_shift();
        if let Some(missing) = self.target.columns.get(self.fields.len()) {
            let error = bad_file(format!("missing data for column \"{missing}\""));
            let sent = self.fields.len() - usize::from(supplied.is_some_and(|i| i < self.fields.len()));
            if sent > 0 && self.target.sent_columns().get(sent) == Some(&missing.as_str()) {
                // The server lacks the same field, but may have something to say about one before it first. The COPY fails here
                // in any case.
                self.put_fields(supplied, out);
                out.put_u8(b'\n');
            }
            return Err(self.at_line(error));
        }
        let is_own = supplied.is_none_or(|i| self.fields.get(i).is_some_and(|v| self.is_own(v)));
        if !is_own {
            return Err(self.at_line(violation(&self.target.table)));
        }
        self.put_fields(supplied, out);
        self.put_tenant(wanted > usize::from(supplied.is_some()), out);
        Ok(())
    }

    /// The last field of a row, and its end.
    fn put_tenant(&mut self, has_others: bool, out: &mut BytesMut) {
        if has_others {
            out.put_u8(b'\t');
        }
        put_field(out, Some(&self.tenant));
        out.put_u8(b'\n');
        self.sent += 1;
    }

    /// Of the row that is sent next.
    fn note_shift(&mut self) {
        let shift = self.lines.number - (self.sent + 1);
        if self.shifts.back().map_or(0, |(_, last)| *last) != shift {
            if self.shifts.len() == REMEMBERED {
                self.shifts.pop_front();
            }
            self.shifts.push_back((self.sent + 1, shift));
        }
    }

    /// All fields but the tenant's.
    fn put_fields(&self, supplied: Option<usize>, out: &mut BytesMut) {
        let own = self.fields.iter().enumerate().filter(|(i, _)| Some(*i) != supplied);
        for (n, (_, value)) in own.enumerate() {
            if n > 0 {
                out.put_u8(b'\t');
            }
            put_field(out, value);
        }
    }

    /// Whether a text means the session's tenant to the type's input function. What is sent is the session's own text in any
    /// case.
    fn is_own(&self, value: &[u8]) -> bool {
        match self.target.tenant_type {
            TenantType::Text => value == self.tenant,
            TenantType::Int2 | TenantType::Int4 | TenantType::Int8 => {
                let number = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|t| t.trim().parse::<i64>().ok());
                number(value).is_some_and(|v| number(&self.tenant) == Some(v))
            }
            TenantType::Uuid => {
                let digits = |text: &[u8]| {
                    let kept = text.iter().filter(|c| !matches!(c, b'-' | b'{' | b'}'));
                    kept.map(u8::to_ascii_lowercase).collect::<Vec<u8>>()
                };
                digits(value) == digits(&self.tenant)
            }
        }
    }

    fn match_header(&self) -> Result<(), SqlError> {
        let names = &self.target.columns;
        if self.fields.len() != names.len() {
            let (count, wanted) = (self.fields.len(), names.len());
            return Err(bad_file(format!("wrong number of fields in header line: got {count}, expected {wanted}")));
        }
        for (i, name) in names.iter().enumerate() {
            let found = self.fields.get(i);
            if found == Some(name.as_bytes()) {
                continue;
            }
            let got = match (found, &self.target.dialect) {
                (Some(value), _) => format!("\"{}\"", String::from_utf8_lossy(value)),
                (None, Dialect::Text { delimiter: _, null, header: _ }) => format!("null value (\"{null}\")"),
                (None, Dialect::Csv(csv)) => format!("null value (\"{}\")", csv.null),
                (None, Dialect::Binary) => String::new(),
            };
            let message = format!("column name mismatch in header line field {}: got {got}, expected \"{name}\"", i + 1);
            return Err(bad_file(message));
        }
        Ok(())
    }

    /// While a line is being read, its number is all that PostgreSQL shows.
    fn at_number(&self, error: SqlError) -> Box<Failure> {
        Failure::boxed(error, format!("COPY {}, line {}", self.target.table, self.lines.number))
    }

    fn at_line(&self, error: SqlError) -> Box<Failure> {
        let text = String::from_utf8_lossy(&self.lines.line);
        let (shown, dots) = match text.len() {
            0..=SHOWN => (&*text, ""),
            _ => (&text[..text.floor_char_boundary(SHOWN)], "..."),
        };
        Failure::boxed(error, format!("COPY {}, line {}: \"{shown}{dots}\"", self.target.table, self.lines.number))
    }
}

/// Whether a line of the text format has so many fields and is what [`put_field`] would make of them: it escapes nothing, and
/// has NULL as whole fields.
fn is_canonical(line: &[u8], fields: usize) -> bool {
    let is_null = |at: usize| {
        let (before, after) = (at.checked_sub(1).map(|i| line[i]), line.get(at + 2));
        line.get(at + 1) == Some(&b'N') && matches!(before, None | Some(b'\t')) && matches!(after, None | Some(b'\t'))
    };
    memchr_iter(b'\t', line).count() + 1 == fields && memchr_iter(b'\\', line).all(is_null)
}
