//! A statement with its literals taken out: the key under which everything that was decided about its shape is kept.
//! Here: the types, the slow path (tokens of PostgreSQL's own scanner), refining a key, and cutting printed text.
//! The hot path is [`super::lexer`]; a differential test and a fuzz target hold it to the slow path.

use std::ops::Range;

use pg_query::protobuf::{ParseResult, ScanToken, Token};
use smallvec::SmallVec;

use super::{lexer, parse, sentinel};

pub mod lists;
pub mod rows;

use crate::error::sqlstate;
use crate::finding::{Denial, Reason};

/// Texts longer than this (bytes) are refused before they are read.
pub const MAX_TEXT_BYTES: usize = 16 << 20;

/// Where the literals of a statement stand in the client's text, in order: byte ranges of whole tokens, quotes included.
pub type Literals = SmallVec<[Range<u32>; 12]>;

/// A piece of a text to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// SQL that was printed and verified, or, for an unrestricted user, the client's own.
    Text(Box<str>),
    /// The n-th literal of the client's text, from 0, token for token.
    Literal(u16),
    /// The tenant's value as a constant of that type.
    Tenant(TenantType),
}

impl Segment {
    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        size_of::<Segment>()
            + match self {
                Segment::Text(text) => text.len(),
                Segment::Literal(_) | Segment::Tenant(_) => 0,
            }
    }
}

/// The type of a tenant column, as the slot is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TenantType {
    Int2,
    Int4,
    Int8,
    Text,
    Uuid,
}

impl TenantType {
    pub const ALL: [TenantType; 5] = [TenantType::Int2, TenantType::Int4, TenantType::Int8, TenantType::Text, TenantType::Uuid];

    /// Qualified name of the type.
    pub fn sql(self) -> &'static str {
        match self {
            TenantType::Int2 => "pg_catalog.int2",
            TenantType::Int4 => "pg_catalog.int4",
            TenantType::Int8 => "pg_catalog.int8",
            TenantType::Text => "pg_catalog.text",
            TenantType::Uuid => "pg_catalog.uuid",
        }
    }

    /// pg_type.oid.
    pub fn oid(self) -> u32 {
        match self {
            TenantType::Int2 => 21,
            TenantType::Int4 => 23,
            TenantType::Int8 => 20,
            TenantType::Text => 25,
            TenantType::Uuid => 2950,
        }
    }

    /// Name of the type in pg_catalog.
    pub fn name(self) -> &'static str {
        match self {
            TenantType::Int2 => "int2",
            TenantType::Int4 => "int4",
            TenantType::Int8 => "int8",
            TenantType::Text => "text",
            TenantType::Uuid => "uuid",
        }
    }
}

/// One statement of a query string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// Into [`Scratch::keys`].
    key: Range<usize>,
    /// Into the whole text that was read, not into the statement. Empty where nothing could be taken out.
    pub literals: Literals,
    /// With what it may repeat taken for one.
    pub folded: Option<Folded>,
    /// The highest `$n`, 0 for none.
    pub max_parameter: u16,
    /// The statement in the text that was read, without comments and whitespace around it.
    pub source: Range<u32>,
}

/// A statement in which what is repeated stands once or twice, so that one key is that of any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    /// Into the keys of the scratch.
    key: Range<usize>,
    pub literals: Literals,
    pub repeated: Repeated,
}

/// What is repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repeated {
    /// Lists of three literals and more after IN are their first and the rest. Here: which literals are the rest of a list, commas
    /// included: `2, 3, 4` of `IN (1, 2, 3, 4)`.
    Lists(SmallVec<[u16; 2]>),
    /// The rows of VALUES.
    Rows(rows::Rows),
}

impl Template {
    /// The key of a statement with [folded rows](Repeated::Rows), with three of them: the literals of the third come after all
    /// others. `text`: what was read.
    pub fn with_three_rows(&self, text: &str) -> Option<String> {
        rows::three(text, self.source.clone(), &self.literals)
    }
}

/// The statements of a query string; reused from text to text, so that reading one allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) keys: String,
    pub(super) statements: SmallVec<[Template; 1]>,
    /// Keys are the text between its literals.
    without_comments: bool,
}

impl Scratch {
    /// The statements in order; empty ones are left out.
    pub fn statements(&self) -> &[Template] {
        &self.statements
    }

    pub fn statements_mut(&mut self) -> &mut [Template] {
        &mut self.statements
    }

    /// The text of a statement with each literal replaced by a stand-in (see [`sentinel`]).
    pub fn key(&self, statement: &Template) -> &str {
        &self.keys[statement.key.clone()]
    }

    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.statements.clear();
    }

    /// Ends a statement whose key begins at `key_start`.
    pub(super) fn push(&mut self, key_start: usize, literals: Literals, max_parameter: u16, source: Range<u32>) {
        let key = key_start..self.keys.len();
        self.statements.push(Template { key, literals, folded: None, max_parameter, source });
    }

    /// Finds what may be lists of literals after IN, or rows of VALUES. `text`: what was read.
    pub fn fold(&mut self, text: &str) {
        for statement in self.statements.iter_mut().filter(|s| self.without_comments && s.literals.len() > 2) {
            let (source, literals, keys) = (&statement.source, &statement.literals, &mut self.keys);
            statement.folded =
                rows::fold(text, source.clone(), literals, keys).or_else(|| lists::fold(text, source.clone(), literals, keys));
        }
    }

    /// The key of a statement with what it repeats folded.
    pub fn folded_key(&self, folded: &Folded) -> &str {
        &self.keys[folded.key.clone()]
    }
}

/// Reads a query string into `scratch`: the fast lexer, or the slow path where it gives up.
///
/// # Errors
/// What PostgreSQL's scanner refuses (42601), tokens that versions read differently, caps (54000).
pub fn read(text: &str, scratch: &mut Scratch) -> Result<(), Denial> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(Denial::new(
            Reason::Limit,
            crate::error::SqlError::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, "query string is too long"),
        ));
    }
    let outcome = lexer::lex(text, scratch);
    scratch.without_comments = outcome == lexer::Outcome::Done;
    match outcome {
        lexer::Outcome::Done => Ok(()),
        lexer::Outcome::Slow => slow(text, scratch),
    }
}

/// Reads a query string by PostgreSQL's own scanner.
///
/// # Errors
/// As [`read`].
pub fn slow(text: &str, scratch: &mut Scratch) -> Result<(), Denial> {
    scratch.clear();
    let tokens = parse::scan(text)?;
    check_gaps(text, &tokens)?;
    check_comments(text, &tokens)?;
    let ends = statement_ends(text, &tokens)?;
    let mut start = 0;
    for end in ends {
        let statement: Vec<&ScanToken> = tokens[start..end].iter().filter(|t| !is_comment(t.token())).collect();
        start = end + 1;
        if let (Some(first), Some(last)) = (statement.first(), statement.last()) {
            let source = first.start as u32..last.end as u32;
            build(text, &statement, source, scratch)?;
        }
    }
    Ok(())
}

fn is_comment(token: Token) -> bool {
    matches!(token, Token::SqlComment | Token::CComment)
}

/// Between tokens there is nothing but what every version takes as whitespace (`\v` is none before version 16).
fn check_gaps(text: &str, tokens: &[ScanToken]) -> Result<(), Denial> {
    let mut at = 0usize;
    let ends = tokens.iter().map(|t| (t.start as usize, t.end as usize)).chain([(text.len(), text.len())]);
    for (start, end) in ends {
        let gap = text.get(at..start).ok_or_else(|| Denial::disagreement("tokens overlap"))?;
        if let Some(odd) = gap.bytes().position(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c')) {
            return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, "unexpected character between tokens")
                .at(parse::character(text, at + odd)));
        }
        at = end;
    }
    Ok(())
}

/// `%--` is an operator and a comment to PostgreSQL, and one operator to others: refused (isolation.md, P6).
fn check_comments(text: &str, tokens: &[ScanToken]) -> Result<(), Denial> {
    for pair in tokens.windows(2) {
        let [before, comment] = pair else { continue };
        let glued = before.end == comment.start && !is_comment(before.token());
        let operator =
            text.as_bytes().get((before.end as usize).wrapping_sub(1)).is_some_and(|b| b"+-*/<>=~!@#%^&|`?".contains(b));
        if comment.token() == Token::SqlComment && glued && operator {
            return Err(Denial::unsupported("a comment right after an operator cannot be secured")
                .hint("put a space before the comment")
                .at(parse::character(text, comment.start as usize)));
        }
    }
    Ok(())
}

/// Indexes of the tokens that end statements: each top-level `;` and the end of the text.
fn statement_ends(text: &str, tokens: &[ScanToken]) -> Result<Vec<usize>, Denial> {
    let mut depth = 0i32;
    let mut inner = false;
    let mut ends = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        match token.token() {
            Token::Ascii40 => depth += 1,
            Token::Ascii41 => depth -= 1,
            Token::Atomic => inner = true,
            Token::Ascii59 if depth != 0 => inner = true,
            Token::Ascii59 => ends.push(i),
            _ => {} // tokens, not syntax nodes: only these end or hide a statement's end
        }
    }
    if inner {
        // Semicolons inside a statement (CREATE RULE, BEGIN ATOMIC): only the grammar knows where it ends.
        let pieces = parse::split(text)?;
        let semicolon = |end: &usize| {
            let from = tokens.partition_point(|t| (t.start as usize) < *end);
            tokens[from..].iter().position(|t| t.token() == Token::Ascii59).map(|i| from + i)
        };
        ends = pieces.iter().filter_map(semicolon).collect();
    }
    ends.push(tokens.len());
    Ok(ends)
}

/// What stands in the key for a run of tokens.
enum Run {
    Verbatim,
    Literal(sentinel::Kind),
}

fn build(text: &str, tokens: &[&ScanToken], source: Range<u32>, scratch: &mut Scratch) -> Result<(), Denial> {
    let exact = has_collision(text, tokens)?;
    let key_start = scratch.keys.len();
    let mut literals = Literals::new();
    let mut max_parameter = 0u16;
    let mut copied = source.start as usize;
    let mut i = 0;
    while i < tokens.len() {
        let token = tokens[i];
        let (start, mut end) = (token.start as usize, token.end as usize);
        write_gap(&text[copied..start], &mut scratch.keys);
        let mut next = i + 1;
        let run = match token.token() {
            Token::Sconst => Run::Literal(sentinel::Kind::String),
            Token::Usconst => {
                if tokens.get(next).is_some_and(|t| t.token() == Token::Uescape)
                    && tokens.get(next + 1).is_some_and(|t| t.token() == Token::Sconst)
                {
                    end = tokens[next + 1].end as usize;
                    next += 2;
                }
                Run::Literal(sentinel::Kind::String)
            }
            Token::Iconst | Token::Fconst => number(text, start, end)?,
            Token::Param => {
                max_parameter = max_parameter.max(parameter(text, start, end)?);
                Run::Verbatim
            }
            _ => Run::Verbatim, // every other token is part of the key, byte for byte
        };
        match run {
            Run::Literal(kind) if !exact && fits(&literals) => {
                write_literal(kind, &text[start..end], literals.len() as u16, &mut scratch.keys);
                literals.push(start as u32..end as u32);
            }
            Run::Literal(_) | Run::Verbatim => scratch.keys.push_str(&text[start..end]),
        }
        copied = end;
        i = next;
    }
    if !fits(&literals) {
        literals.clear();
        scratch.keys.truncate(key_start);
        scratch.keys.push_str(&text[source.start as usize..source.end as usize]);
    }
    scratch.push(key_start, literals, max_parameter, source);
    Ok(())
}

fn fits(literals: &Literals) -> bool {
    literals.len() < sentinel::MAX_LITERALS
}

/// Whitespace as it is; where comments were, one space.
fn write_gap(gap: &str, key: &mut String) {
    if gap.bytes().all(|b| b.is_ascii_whitespace()) {
        key.push_str(gap);
    } else {
        key.push(' ');
    }
}

/// A plain string is safe wherever it stood; other forms get space around them, since `u&E'x'` is three tokens and
/// `u&'x'` is one.
fn write_literal(kind: sentinel::Kind, token: &str, index: u16, key: &mut String) {
    let plain = kind != sentinel::Kind::String || sentinel::is_plain_string(token);
    if !plain {
        key.push(' ');
    }
    sentinel::write(kind, index, key);
    if !plain {
        key.push(' ');
    }
}

fn number(text: &str, start: usize, end: usize) -> Result<Run, Denial> {
    let token = &text[start..end];
    let (mantissa, exponent) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let old = mantissa.bytes().all(|b| b.is_ascii_digit() || b == b'.') && exponent.bytes().all(|b| b.is_ascii_digit());
    // `0x1F` and `1_000` are numbers since version 16 only; before, a number with an alias.
    let followed = text.as_bytes().get(end).is_some_and(|b| lexer::is_identifier_byte(*b));
    if !old || followed {
        return Err(Denial::invalid(
            sqlstate::SYNTAX_ERROR,
            format!("trailing junk after numeric literal at or near \"{token}\""),
        )
        .hint("PostgreSQL versions read this number differently; write it in decimal digits")
        .at(parse::character(text, start)));
    }
    Ok(sentinel::number_kind(token).map_or(Run::Verbatim, Run::Literal))
}

fn parameter(text: &str, start: usize, end: usize) -> Result<u16, Denial> {
    let followed = text.as_bytes().get(end).is_some_and(|b| lexer::is_identifier_byte(*b));
    match text[start + 1..end].parse::<u16>() {
        Ok(n) if !followed => Ok(n),
        Ok(_) | Err(_) => Err(Denial::invalid(sqlstate::SYNTAX_ERROR, format!("there is no parameter {}", &text[start..end]))
            .at(parse::character(text, start))),
    }
}

/// Whether a stand-in could be confused with what the client wrote; then no literal is taken out. Two strings in a row
/// are a syntax error in PostgreSQL, and must not become one string in the key.
fn has_collision(text: &str, tokens: &[&ScanToken]) -> Result<bool, Denial> {
    let mut collision = false;
    for (i, token) in tokens.iter().enumerate() {
        let whole = &text[token.start as usize..token.end as usize];
        let contents = inside(whole, '\"');
        match token.token() {
            Token::Sconst | Token::Usconst | Token::Bconst | Token::Xconst => {
                let next = tokens.get(i + 1).map(|t| t.token());
                if matches!(next, Some(Token::Sconst | Token::Usconst | Token::Bconst | Token::Xconst)) {
                    let next = &text[tokens[i + 1].start as usize..tokens[i + 1].end as usize];
                    return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, format!("syntax error at or near \"{next}\""))
                        .at(parse::character(text, tokens[i + 1].start as usize)));
                }
                collision |= sentinel::is_plain_string(whole) && sentinel::looks_like_one(inside(whole, '\''));
            }
            Token::Iconst | Token::Fconst => collision |= sentinel::index_of_number(whole).is_some(),
            Token::Uident => collision = true,
            _ => {
                collision |= sentinel::looks_like_one(contents);
                if sentinel::looks_like_slot(contents) {
                    return Err(Denial::unsupported("names that begin with \"qzslot\" are reserved"));
                }
            }
        }
    }
    Ok(collision)
}

/// What stands between a pair of quotes; the token itself where there is none.
fn inside(token: &str, quote: char) -> &str {
    token.strip_prefix(quote).and_then(|t| t.strip_suffix(quote)).unwrap_or(token)
}

/// A key in which some literals stand as the client wrote them, because their values matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refined {
    pub key: String,
    /// How many literals of the template still count: all of them (the kept ones have no stand-in), or 0 where nothing
    /// could be taken out.
    pub live: u16,
}

/// The key of `statement` with the literals `keep` put back.
///
/// # Errors
/// The key cannot be scanned (it could before).
pub fn refine(text: &str, scratch: &Scratch, statement: &Template, keep: &[u16]) -> Result<Refined, Denial> {
    let literal = |i: u16| statement.literals.get(usize::from(i)).map(|r| &text[r.start as usize..r.end as usize]);
    // A kept literal must not look like a stand-in, in whatever way it is spelt.
    let collides = keep.iter().filter_map(|i| literal(*i)).any(|token| {
        if token.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            sentinel::index_of_number(token).is_some()
        } else {
            !sentinel::is_plain_string(token) || sentinel::looks_like_one(inside(token, '\''))
        }
    });
    let key = scratch.key(statement);
    let mut out = String::with_capacity(key.len());
    let mut copied = 0;
    for (range, index) in stand_ins(key, statement.literals.len())? {
        if collides || keep.contains(&index) {
            out.push_str(&key[copied..range.start]);
            out.push_str(literal(index).ok_or_else(|| Denial::disagreement("a stand-in without a literal"))?);
            copied = range.end;
        }
    }
    out.push_str(&key[copied..]);
    let live = if collides { 0 } else { statement.literals.len() as u16 };
    Ok(Refined { key: out, live })
}

/// Parses the key of a statement; where a value is part of the grammar (`float(24)`), the statement with all its values.
/// The refined key that comes back is the text of the tree.
///
/// # Errors
/// As [`parse::parse`], with message and position in the client's own text.
pub fn parse_statement(text: &str, scratch: &Scratch, statement: &Template) -> Result<(Refined, ParseResult), Denial> {
    let live = statement.literals.len() as u16;
    let first = Refined { key: scratch.key(statement).to_owned(), live };
    match parse::parse(&first.key) {
        Ok(tree) => return Ok((first, tree)),
        Err(denial) if denial.reason != Reason::Invalid => return Err(denial),
        Err(_) => {}
    }
    let all: Vec<u16> = (0..live).collect();
    let exact = Refined { live: 0, ..refine(text, scratch, statement, &all)? };
    match parse::parse(&exact.key) {
        Ok(tree) => Ok((exact, tree)),
        // The whole text has the error at the same token, under the client's own positions.
        Err(denial) => Err(parse::parse(text).err().unwrap_or(denial)),
    }
}

/// The stand-ins in a text, with the index of each that is below `live`.
fn stand_ins(text: &str, live: usize) -> Result<Vec<(Range<usize>, u16)>, Denial> {
    let mut found = Vec::new();
    for token in parse::scan(text)? {
        let range = token.start as usize..token.end as usize;
        let whole = &text[range.clone()];
        let index = match token.token() {
            Token::Sconst if sentinel::is_plain_string(whole) => sentinel::index_of_string(inside(whole, '\'')),
            Token::Iconst | Token::Fconst => sentinel::index_of_number(whole),
            _ => None,
        };
        if let Some(index) = index.filter(|i| usize::from(*i) < live) {
            found.push((range, index));
        }
    }
    Ok(found)
}

/// Cuts a printed statement at the stand-ins of its first `live` literals and at the tenant slots.
///
/// # Errors
/// A stand-in was printed as something else than the token it was, or is not a token of its own: then putting the
/// literal back would not be safe.
pub fn cut(printed: &str, live: u16) -> Result<Vec<Segment>, Denial> {
    let mut segments = Vec::new();
    let mut copied = 0;
    for token in parse::scan(printed)? {
        let (start, end) = (token.start as usize, token.end as usize);
        if let Some((segment, end)) = segment_at(printed, token.token(), start, end, live)? {
            let before = printed[..start].bytes().next_back();
            let after = printed.as_bytes().get(end).copied();
            let glued = |b: Option<u8>| b.is_some_and(|b| lexer::is_identifier_byte(b) || matches!(b, b'\'' | b'"'));
            // `&` before a string could make it U&'..', a dot beside a number another number.
            if glued(before) || glued(after) || before == Some(b'&') || before == Some(b'.') || after == Some(b'.') {
                return Err(Denial::disagreement("a constant was printed next to a word"));
            }
            if copied < start {
                segments.push(Segment::Text(printed[copied..start].into()));
            }
            segments.push(segment);
            copied = end;
        }
    }
    if copied < printed.len() {
        segments.push(Segment::Text(printed[copied..].into()));
    }
    Ok(segments)
}

fn segment_at(printed: &str, token: Token, start: usize, end: usize, live: u16) -> Result<Option<(Segment, usize)>, Denial> {
    let whole = &printed[start..end];
    match token {
        Token::Sconst => {
            let contents = inside(whole, '\'');
            if let Some(type_) = sentinel::slot_of_string(contents) {
                let cast = sentinel::slot_cast(type_);
                return match printed[end..].starts_with(cast) {
                    true => Ok(Some((Segment::Tenant(type_), end + cast.len()))),
                    false => Err(Denial::disagreement("the tenant slot was not printed as a typed constant")),
                };
            }
            let index = sentinel::index_of_string(contents).filter(|i| *i < live);
            Ok(index.map(|i| (Segment::Literal(i), end)))
        }
        Token::Iconst | Token::Fconst => {
            let index = sentinel::index_of_number(whole).filter(|i| *i < live);
            Ok(index.map(|i| (Segment::Literal(i), end)))
        }
        Token::SqlComment | Token::CComment => Err(Denial::disagreement("a comment was printed")),
        _ => {
            let contents = inside(whole, '\"');
            let stray =
                sentinel::index_of_string(contents).is_some_and(|i| i < live) || sentinel::slot_of_string(contents).is_some();
            if stray { Err(Denial::disagreement("a constant was printed as a name")) } else { Ok(None) }
        }
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
