//! The hot path from text to template: reads a conservative subset of PostgreSQL's lexical rules and gives up
//! ([`Outcome::Slow`]) on everything else, so that what it accepts means the same to every version of PostgreSQL.
//!
//! Subset: `'..'` without a backslash (`''` is fine), decimal numbers, ASCII names, `".."` without `"` or `\`, `$n`,
//! operators without a comment opener inside, comments before or after a statement only.

use super::sentinel::{self, Kind};
use super::template::{Literals, Scratch};

/// Whether the fast lexer could read the whole text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The scratch holds nothing of use.
    Slow,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Word,
    Digit,
    Quote,
    DoubleQuote,
    Dollar,
    Operator,
    Dot,
    Open,
    Close,
    Punctuation,
    Semicolon,
    /// Backslash, NUL, control characters, bytes of non-ASCII characters: the slow path's.
    Other,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut i = 0;
    while i < 128 {
        classes[i] = match i as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => Class::Word,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'$' => Class::Dollar,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>'
            | b'=' => Class::Operator,
            b'.' => Class::Dot,
            b'(' => Class::Open,
            b')' => Class::Close,
            b',' | b'[' | b']' | b':' => Class::Punctuation,
            b';' => Class::Semicolon,
            _ => Class::Other,
        };
        i += 1;
    }
    classes
};

fn class(byte: u8) -> Class {
    CLASSES[usize::from(byte)]
}

/// Whether PostgreSQL lets the byte stand inside an unquoted name.
pub fn is_identifier_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

/// Gives up: leave it to PostgreSQL's scanner.
struct GiveUp;

/// Reads a query string into `scratch`.
pub fn lex(text: &str, scratch: &mut Scratch) -> Outcome {
    scratch.clear();
    let mut lexer = Lexer { text, bytes: text.as_bytes(), at: 0, scratch };
    match lexer.statements() {
        Ok(()) => Outcome::Done,
        Err(GiveUp) => Outcome::Slow,
    }
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    scratch: &'a mut Scratch,
}

/// A statement that is being read.
struct Open {
    key_start: usize,
    start: usize,
    /// End of its last token.
    end: usize,
    /// Up to where the text is in the key already.
    copied: usize,
    literals: Literals,
    max_parameter: u16,
    depth: i32,
    /// The token before was a string.
    after_string: bool,
}

impl Lexer<'_> {
    fn statements(&mut self) -> Result<(), GiveUp> {
        loop {
            self.skip_blank()?;
            match self.bytes.get(self.at) {
                None => return Ok(()),
                Some(b';') => self.at += 1,
                Some(_) => self.statement()?,
            }
        }
    }

    /// From its first token to the end of the text or to the semicolon, which is left.
    fn statement(&mut self) -> Result<(), GiveUp> {
        let mut open = Open {
            key_start: self.scratch.keys.len(),
            start: self.at,
            end: self.at,
            copied: self.at,
            literals: Literals::new(),
            max_parameter: 0,
            depth: 0,
            after_string: false,
        };
        while let Some(&byte) = self.bytes.get(self.at) {
            let start = self.at;
            let mut string = false;
            match class(byte) {
                Class::Space => {
                    self.at += 1;
                    continue;
                }
                Class::Word => self.word()?,
                Class::Digit => self.number(&mut open)?,
                Class::Dot => self.dot(&mut open)?,
                Class::Quote => {
                    if open.after_string {
                        return Err(GiveUp); // continued over a newline, or an error
                    }
                    self.string(&mut open)?;
                    string = true;
                }
                Class::DoubleQuote => self.quoted_name()?,
                Class::Dollar => self.parameter(&mut open)?,
                Class::Operator => {
                    if self.operator()? == Operator::Comment {
                        self.skip_blank()?;
                        match self.bytes.get(self.at) {
                            None => break,
                            Some(b';') if open.depth == 0 => break,
                            Some(_) => return Err(GiveUp),
                        }
                    }
                }
                Class::Open => {
                    open.depth += 1;
                    self.at += 1;
                }
                Class::Close => {
                    open.depth -= 1;
                    self.at += 1;
                }
                Class::Punctuation => self.at += 1,
                Class::Semicolon if open.depth != 0 => return Err(GiveUp),
                Class::Semicolon => break,
                Class::Other => return Err(GiveUp),
            }
            debug_assert!(self.at > start);
            open.after_string = string;
            open.end = self.at;
        }
        self.scratch.keys.push_str(&self.text[open.copied..open.end]);
        self.scratch.push(open.key_start, open.literals, open.max_parameter, open.start as u32..open.end as u32);
        Ok(())
    }

    /// Whitespace and comments. A comment that has another opener inside is the slow path's: comments nest.
    fn skip_blank(&mut self) -> Result<(), GiveUp> {
        while let Some(&byte) = self.bytes.get(self.at) {
            if class(byte) == Class::Space {
                self.at += 1;
                continue;
            }
            let rest = &self.bytes[self.at..];
            if rest.starts_with(b"--") {
                let length = rest.iter().position(|b| matches!(b, b'\n' | b'\r' | 0)).unwrap_or(rest.len());
                self.at += length;
            } else if rest.starts_with(b"/*") {
                let inside = &rest[2..];
                let end = inside.windows(2).position(|w| w == b"*/" || w == b"/*").ok_or(GiveUp)?;
                if inside[end] == b'/' || inside[..end].contains(&0) {
                    return Err(GiveUp);
                }
                self.at += 2 + end + 2;
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    fn word(&mut self) -> Result<(), GiveUp> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(|b| matches!(class(*b), Class::Word | Class::Digit | Class::Dollar)) {
            self.at += 1;
        }
        let word = &self.bytes[start..self.at];
        // ATOMIC may begin a body with semicolons.
        if word.len() == 6 && word.eq_ignore_ascii_case(b"atomic") || is_reserved(word) {
            return Err(GiveUp);
        }
        Ok(())
    }

    fn quoted_name(&mut self) -> Result<(), GiveUp> {
        if self.at > 0 && (is_identifier_byte(self.bytes[self.at - 1]) || matches!(self.bytes[self.at - 1], b'&' | b'\'')) {
            return Err(GiveUp);
        }
        let start = self.at + 1;
        let length = self.bytes[start..].iter().position(|b| matches!(b, b'"' | b'\\' | 0)).ok_or(GiveUp)?;
        let end = start + length;
        if self.bytes[end] != b'"' || length == 0 || is_reserved(&self.bytes[start..end]) {
            return Err(GiveUp);
        }
        self.at = end + 1;
        self.not_glued()
    }

    /// The byte after a quoted token or a number cannot be mistaken for a part of it.
    fn not_glued(&self) -> Result<(), GiveUp> {
        match self.bytes.get(self.at) {
            Some(b) if is_identifier_byte(*b) || matches!(b, b'\'' | b'"') => Err(GiveUp),
            Some(_) | None => Ok(()),
        }
    }

    fn string(&mut self, open: &mut Open) -> Result<(), GiveUp> {
        let start = self.at;
        if start > 0 && (is_identifier_byte(self.bytes[start - 1]) || self.bytes[start - 1] == b'&') {
            return Err(GiveUp); // E'', N'', U&'' and their like
        }
        self.at += 1;
        loop {
            let rest = &self.bytes[self.at..];
            let length = rest.iter().position(|b| matches!(b, b'\'' | b'\\' | 0)).ok_or(GiveUp)?;
            if rest[length] != b'\'' {
                return Err(GiveUp);
            }
            self.at += length + 1;
            if self.bytes.get(self.at) != Some(&b'\'') {
                break;
            }
            self.at += 1;
        }
        self.not_glued()?;
        if is_reserved(&self.bytes[start + 1..self.at - 1]) {
            return Err(GiveUp);
        }
        self.take(open, Kind::String, start)
    }

    fn number(&mut self, open: &mut Open) -> Result<(), GiveUp> {
        let start = self.at;
        self.digits();
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits();
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(GiveUp);
            }
        }
        self.not_glued()?;
        let token = &self.text[start..self.at];
        if self.bytes.get(self.at) == Some(&b'.') || sentinel::index_of_number(token).is_some() {
            return Err(GiveUp);
        }
        match sentinel::number_kind(token) {
            Some(kind) => self.take(open, kind, start),
            None => Ok(()),
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        self.at - start
    }

    /// A lone dot between names, or the beginning of a number (`.5`).
    fn dot(&mut self, open: &mut Open) -> Result<(), GiveUp> {
        match self.bytes.get(self.at + 1) {
            Some(b'.') => Err(GiveUp),
            Some(b'0'..=b'9') => {
                let before = self.at.checked_sub(1).map(|i| self.bytes[i]);
                if before.is_some_and(|b| is_identifier_byte(b) || matches!(b, b'"' | b'\'' | b')' | b']')) {
                    return Err(GiveUp);
                }
                self.number(open)
            }
            Some(_) | None => {
                self.at += 1;
                Ok(())
            }
        }
    }

    fn parameter(&mut self, open: &mut Open) -> Result<(), GiveUp> {
        self.at += 1;
        let start = self.at;
        self.digits();
        let number: u16 = self.text[start..self.at].parse().map_err(|_| GiveUp)?;
        open.max_parameter = open.max_parameter.max(number);
        self.not_glued()
    }

    fn operator(&mut self) -> Result<Operator, GiveUp> {
        let start = self.at;
        if self.bytes[start..].starts_with(b"--") || self.bytes[start..].starts_with(b"/*") {
            return Ok(Operator::Comment);
        }
        while self.bytes.get(self.at).is_some_and(|b| class(*b) == Class::Operator) {
            self.at += 1;
        }
        let run = &self.bytes[start..self.at];
        // NAMEDATALEN: the scanner says that it is too long.
        if run.len() > 63 {
            return Err(GiveUp);
        }
        if run.windows(2).any(|w| w == b"--" || w == b"/*") { Err(GiveUp) } else { Ok(Operator::Token) }
    }

    /// Puts a stand-in into the key for the token from `start` to here.
    fn take(&mut self, open: &mut Open, kind: Kind, start: usize) -> Result<(), GiveUp> {
        if open.literals.len() + 1 >= sentinel::MAX_LITERALS {
            return Err(GiveUp);
        }
        self.scratch.keys.push_str(&self.text[open.copied..start]);
        sentinel::write(kind, open.literals.len() as u16, &mut self.scratch.keys);
        open.literals.push(start as u32..self.at as u32);
        open.copied = self.at;
        Ok(())
    }
}

#[derive(PartialEq, Eq)]
enum Operator {
    Token,
    Comment,
}

/// Whether a word, a name or a string could be taken for a stand-in: rare, so the slow path sorts it out.
fn is_reserved(word: &[u8]) -> bool {
    word.len() >= 6 && word[0] | 0x20 == b'q' && word[1] | 0x20 == b'z'
}

/// Body of the fuzz target: on any input the fast lexer agrees with PostgreSQL's scanner or gives up.
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut fast = Scratch::default();
    if lex(text, &mut fast) == Outcome::Slow {
        let _ = super::template::slow(text, &mut fast);
        return;
    }
    let mut slow = Scratch::default();
    if let Err(denial) = super::template::slow(text, &mut slow) {
        panic!("accepted {text:?}, but the scanner says {denial:?}");
    }
    assert_eq!(fast.statements(), slow.statements(), "statements of {text:?}");
    assert_eq!(fast.keys, slow.keys, "keys of {text:?}");
}
