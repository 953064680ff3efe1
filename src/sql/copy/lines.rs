//! Where a line ends: CopyReadLineText of PostgreSQL, one byte at a time so that the data may be cut anywhere.

use memchr::memchr3;

use super::{Dialect, bad_file, too_long};
use crate::error::SqlError;

/// All lines end alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newline {
    Unknown,
    Lf,
    Cr,
    CrLf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Inside,
    /// After a backslash that means something: any in text, the first byte of a line in csv.
    Backslash,
    /// After a carriage return that ends the line; a line feed may belong to it.
    Cr,
    /// After `\.` at the start of a line.
    Marker,
    /// The same, and a carriage return.
    MarkerCr,
    /// The end marker has come: all else is dropped.
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Quoting {
    quote: u8,
    /// `None`: the quote itself, doubled.
    escape: Option<u8>,
    has_end_marker: bool,
}

/// What a byte did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    More,
    /// The line is complete.
    Line,
    /// The line was complete before this byte, which must be taken again.
    LineBefore,
}

#[derive(Debug)]
pub(super) struct Splitter {
    quoting: Option<Quoting>,
    newline: Newline,
    state: State,
    in_quotes: bool,
    escaped: bool,
    /// The line so far, without what ends it.
    pub line: Vec<u8>,
    /// The number of the line in the client's data, as PostgreSQL counts: newlines in quotes too.
    pub number: u64,
    max_row: usize,
}

impl Splitter {
    pub fn new(dialect: &Dialect, max_row: usize) -> Self {
        let quoting = match dialect {
            Dialect::Csv(csv) => Some(Quoting {
                quote: csv.quote,
                escape: (csv.escape != csv.quote).then_some(csv.escape),
                has_end_marker: csv.has_end_marker,
            }),
            Dialect::Text { .. } | Dialect::Binary => None,
        };
        Splitter {
            quoting,
            newline: Newline::Unknown,
            state: State::Inside,
            in_quotes: false,
            escaped: false,
            line: Vec::new(),
            number: 1,
            max_row,
        }
    }

    /// Takes the bytes at the start of `data` that mean nothing here; how many.
    pub fn take_plain(&mut self, data: &[u8]) -> Result<usize, SqlError> {
        let plain = match (self.state, self.quoting) {
            (State::Ended, _) => return Ok(data.len()),
            (State::Inside, None) => memchr3(b'\\', b'\r', b'\n', data),
            (State::Inside, Some(q)) if !self.line.is_empty() && !self.escaped => {
                data.iter().position(|c| *c == q.quote || Some(*c) == q.escape || matches!(c, b'\r' | b'\n'))
            }
            (State::Inside | State::Backslash | State::Cr | State::Marker | State::MarkerCr, _) => Some(0),
        };
        let length = plain.unwrap_or(data.len());
        self.line.extend_from_slice(&data[..length]);
        self.check_length()?;
        Ok(length)
    }

    fn check_length(&self) -> Result<(), SqlError> {
        if self.line.len() > self.max_row { Err(too_long(self.max_row)) } else { Ok(()) }
    }

    /// Takes one byte.
    pub fn take(&mut self, c: u8) -> Result<Taken, SqlError> {
        match self.state {
            State::Inside => self.inside(c),
            State::Backslash => self.after_backslash(c),
            State::Cr => self.after_cr(c),
            State::Marker => self.after_marker(c),
            State::MarkerCr => match c {
                b'\n' => {
                    self.state = State::Ended;
                    Ok(Taken::More)
                }
                b'\r' => Err(mismatched_marker()),
                _ if self.quoting.is_some() => self.no_marker(b".\r", c),
                _ => Err(corrupt_marker()),
            },
            State::Ended => Ok(Taken::More),
        }
    }

    /// Whether a line stands there when the data ends.
    pub fn finish(&mut self) -> Result<bool, SqlError> {
        match self.state {
            State::Inside => Ok(!self.line.is_empty()),
            State::Backslash => {
                self.line.push(b'\\');
                Ok(true)
            }
            State::Cr if self.newline == Newline::CrLf => Err(self.stray_cr()),
            State::Cr => Ok(true),
            State::Marker | State::MarkerCr if self.quoting.is_none() => Err(corrupt_marker()),
            State::Marker => {
                self.line.extend_from_slice(b"\\.");
                Ok(true)
            }
            State::MarkerCr => Err(self.stray_cr()),
            State::Ended => Ok(false),
        }
    }

    /// The line was dealt with: the next one begins.
    pub fn next(&mut self) {
        self.line.clear();
        self.number += 1;
        self.in_quotes = false;
        self.escaped = false;
    }

    fn inside(&mut self, c: u8) -> Result<Taken, SqlError> {
        let marks = self.quoting.is_none_or(|q| q.has_end_marker && self.line.is_empty() && !self.in_quotes);
        if c == b'\\' && marks {
            self.state = State::Backslash;
            return Ok(Taken::More);
        }
        self.plain(c)
    }

    /// A byte of a line, after which the state is `Inside` again, or of a newline.
    fn plain(&mut self, c: u8) -> Result<Taken, SqlError> {
        self.state = State::Inside;
        if let Some(q) = self.quoting {
            if self.in_quotes && Some(c) == q.escape {
                self.escaped = !self.escaped;
            }
            if c == q.quote && !self.escaped {
                self.in_quotes = !self.in_quotes;
            }
            if Some(c) != q.escape {
                self.escaped = false;
            }
            let counted = if self.newline == Newline::Lf { b'\n' } else { b'\r' };
            if self.in_quotes && c == counted {
                self.number += 1;
            }
        }
        match c {
            b'\r' if !self.in_quotes => match self.newline {
                Newline::Unknown | Newline::CrLf => {
                    self.state = State::Cr;
                    Ok(Taken::More)
                }
                Newline::Cr => Ok(Taken::Line),
                Newline::Lf => Err(self.stray_cr()),
            },
            b'\n' if !self.in_quotes => match self.newline {
                Newline::Unknown | Newline::Lf => {
                    self.newline = Newline::Lf;
                    Ok(Taken::Line)
                }
                Newline::Cr | Newline::CrLf => Err(self.stray_lf()),
            },
            _ => {
                self.line.push(c);
                self.check_length()?;
                Ok(Taken::More)
            }
        }
    }

    fn after_backslash(&mut self, c: u8) -> Result<Taken, SqlError> {
        self.state = State::Inside;
        match (self.quoting, c) {
            (None, b'.') if !self.line.is_empty() => Err(bad_file("end-of-copy marker is not alone on its line")),
            (None | Some(_), b'.') => {
                self.state = State::Marker;
                Ok(Taken::More)
            }
            (None, _) => {
                // Whatever it is, also a newline.
                self.line.extend_from_slice(&[b'\\', c]);
                self.check_length()?;
                Ok(Taken::More)
            }
            (Some(_), _) => {
                self.line.push(b'\\');
                self.plain(c)
            }
        }
    }

    fn after_cr(&mut self, c: u8) -> Result<Taken, SqlError> {
        self.state = State::Inside;
        match (c, self.newline) {
            (b'\n', _) => {
                self.newline = Newline::CrLf;
                Ok(Taken::Line)
            }
            (_, Newline::CrLf) => Err(self.stray_cr()),
            (_, Newline::Unknown | Newline::Lf | Newline::Cr) => {
                self.newline = Newline::Cr;
                Ok(Taken::LineBefore)
            }
        }
    }

    fn after_marker(&mut self, c: u8) -> Result<Taken, SqlError> {
        let is_csv = self.quoting.is_some();
        match (self.newline, c) {
            (Newline::CrLf, b'\r') => {
                self.state = State::MarkerCr;
                Ok(Taken::More)
            }
            (Newline::CrLf, b'\n') if !is_csv => Err(mismatched_marker()),
            (Newline::Unknown, b'\r' | b'\n') | (Newline::Lf, b'\n') | (Newline::Cr, b'\r') => {
                self.state = State::Ended;
                Ok(Taken::More)
            }
            (Newline::Lf, b'\r') | (Newline::Cr, b'\n') => Err(mismatched_marker()),
            (_, _) if is_csv => self.no_marker(b".", c),
            (_, _) => Err(corrupt_marker()),
        }
    }

    /// In csv `\.` is data where more follows: what was held back, as such.
    fn no_marker(&mut self, held: &[u8], c: u8) -> Result<Taken, SqlError> {
        self.line.push(b'\\');
        self.state = State::Inside;
        for byte in held {
            // A carriage return is held only where lines end in two bytes: no line ends here.
            self.plain(*byte)?;
        }
        self.take(c)
    }

    fn stray_cr(&self) -> SqlError {
        match self.quoting {
            None => bad_file("literal carriage return found in data").with_hint("Use \"\\r\" to represent carriage return."),
            Some(_) => {
                bad_file("unquoted carriage return found in data").with_hint("Use quoted CSV field to represent carriage return.")
            }
        }
    }

    fn stray_lf(&self) -> SqlError {
        match self.quoting {
            None => bad_file("literal newline found in data").with_hint("Use \"\\n\" to represent newline."),
            Some(_) => bad_file("unquoted newline found in data").with_hint("Use quoted CSV field to represent newline."),
        }
    }
}

fn corrupt_marker() -> SqlError {
    bad_file("end-of-copy marker corrupt")
}

fn mismatched_marker() -> SqlError {
    bad_file("end-of-copy marker does not match previous newline style")
}
