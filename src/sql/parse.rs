//! PostgreSQL's own parser, scanner and deparser (libpg_query), with caps and with errors as PostgreSQL words them.
//!
//! The library redirects the process's stderr while it parses (pg_query_parse.c: `dup2`), so calls must not overlap, and
//! what other threads write to file descriptor 2 meanwhile is lost: logs go to a duplicate of it, made at start-up.
//! It is called for new templates only, so one lock costs nothing.

use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use pg_query::NodeEnum;
use pg_query::protobuf::{ParseResult, ScanToken, Token};

use super::shape::shape;
use crate::error::{SqlError, sqlstate};
use crate::finding::{Denial, Reason};

mod respell;

/// Texts longer than this (bytes) are not parsed. Literals are out of a key, so this is a long statement.
pub const MAX_PARSE_BYTES: usize = 2 << 20;
/// Statements that nest deeper than this (levels, estimated from above) are refused.
pub const MAX_DEPTH: u32 = 1_500;
/// Statements that nest deeper than this need [`on_large_stack`], on an ordinary thread.
const DEEP: u32 = 64;
/// More ANDs and ORs than this are refused: the second parser's tree would be too deep even for a large stack.
const MAX_CONNECTIVES: u32 = 20_000;
/// Texts longer than this (bytes) count as deep.
const LONG: usize = 256 << 10;
/// 170 kB a level; libpg_query has been seen to need 32 MiB.
const LARGE_STACK: usize = 256 << 20;

static LIBRARY: Mutex<()> = Mutex::new(());

thread_local! {
    static HAS_LARGE_STACK: Cell<bool> = const { Cell::new(false) };
}

/// Trees that nest deeper than this need [`on_large_stack`] here.
fn deep() -> u32 {
    DEEP * crate::worker::room()
}

/// Runs a call into the library. It must not end the session by a panic, whatever the tree.
fn call<T>(f: impl FnOnce() -> pg_query::Result<T>) -> Result<T, Failure> {
    let guard = LIBRARY.lock().unwrap_or_else(PoisonError::into_inner);
    let result = catch_unwind(AssertUnwindSafe(f));
    drop(guard);
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::Library(error)),
        Err(panic) => Err(Failure::Panic(panic)),
    }
}

enum Failure {
    Library(pg_query::Error),
    Panic(Box<dyn Any + Send>),
}

impl Failure {
    /// The message of PostgreSQL, or a denial that is not a syntax error.
    fn message(self) -> Result<String, Denial> {
        match self {
            Failure::Library(pg_query::Error::Parse(m) | pg_query::Error::Scan(m) | pg_query::Error::Split(m)) => Ok(m),
            Failure::Library(pg_query::Error::Conversion(_)) => {
                Err(Denial::invalid(sqlstate::CHARACTER_NOT_IN_REPERTOIRE, "invalid byte sequence for encoding \"UTF8\": 0x00"))
            }
            Failure::Library(error) => Err(Denial::disagreement(format!("the parser's tree cannot be read: {error}"))),
            Failure::Panic(panic) => {
                drop(panic);
                Err(Denial::disagreement("the parser failed on this statement"))
            }
        }
    }
}

/// The tokens of PostgreSQL's scanner, comments included; offsets are bytes.
///
/// # Errors
/// 42601 with PostgreSQL's message.
pub fn scan(text: &str) -> Result<Vec<ScanToken>, Denial> {
    // Without a token, pg_query 18.1 makes a slice of a null pointer.
    if text.bytes().all(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | b'\x0b' | b'\x0c')) {
        return Ok(Vec::new());
    }
    if comments_in_a_run(text) > MAX_COMMENTS_IN_A_RUN {
        return Err(limit(sqlstate::STATEMENT_TOO_COMPLEX, "comments are nested too deeply"));
    }
    call(|| pg_query::scan_tokens(text)).map_err(|failure| match failure.message() {
        Ok(message) => syntax_error(text, message, None),
        Err(denial) => denial,
    })
}

/// The most comments that begin within one run of operator characters. PostgreSQL's scanner reads the rest of the run for each
/// (`/*/*/*..`): a hundred kilobytes of them take seconds.
const MAX_COMMENTS_IN_A_RUN: usize = 64;

fn comments_in_a_run(text: &str) -> usize {
    if !text.contains("/*") {
        return 0;
    }
    let is_operator = |b: u8| b"~!@#^&|`?+-*/%<>=".contains(&b);
    let count = |run: &[u8]| run.windows(2).filter(|pair| pair == b"/*").count();
    text.as_bytes().split(|b| !is_operator(*b)).map(count).max().unwrap_or_default()
}

/// Where the statements of a query string end (byte offsets), by the grammar.
///
/// # Errors
/// 42601 with PostgreSQL's message.
pub fn split(text: &str) -> Result<Vec<usize>, Denial> {
    let pieces = call(|| {
        let pieces = pg_query::split_with_parser(text)?;
        Ok(pieces.iter().map(|p| p.as_ptr() as usize - text.as_ptr() as usize + p.len()).collect::<Vec<_>>())
    });
    pieces.map_err(|failure| match failure.message() {
        Ok(message) => syntax_error(text, message, None),
        Err(denial) => denial,
    })
}

/// Parses a text of any number of statements. Where [`is_deep`] says so, call this, and whatever walks, clones or drops
/// the tree, inside [`on_large_stack`].
///
/// # Errors
/// 42601 with PostgreSQL's message and position, 54000 or 54001 over a cap.
pub fn parse(text: &str) -> Result<ParseResult, Denial> {
    if text.len() > MAX_PARSE_BYTES {
        return Err(limit(sqlstate::PROGRAM_LIMIT_EXCEEDED, "statement is too long"));
    }
    let tokens = scan(text)?;
    let depth = depth(&tokens);
    if connectives(&tokens) > MAX_CONNECTIVES {
        return Err(limit(sqlstate::STATEMENT_TOO_COMPLEX, "statement has too many conditions"));
    }
    if depth > MAX_DEPTH {
        return Err(limit(sqlstate::STATEMENT_TOO_COMPLEX, "statement is nested too deeply"));
    }
    if depth > deep() || text.len() > LONG { on_large_stack(|| parse_here(text, &tokens))? } else { parse_here(text, &tokens) }
}

fn parse_here(text: &str, tokens: &[ScanToken]) -> Result<ParseResult, Denial> {
    call(|| pg_query::parse(text, 0)).map(|r| r.protobuf).map_err(|failure| match failure.message() {
        Ok(message) => {
            let position = locate(text, &message, tokens);
            syntax_error(text, message, position)
        }
        Err(denial) => denial,
    })
}

/// Whether working on the tree of this text (walking, cloning, dropping it) needs [`on_large_stack`]. A text that cannot
/// be scanned has no tree.
pub fn is_deep(text: &str) -> bool {
    is_deep_with(text, 0)
}

/// [`is_deep`] of a text into which trees of so many levels are put.
pub fn is_deep_with(text: &str, levels: u32) -> bool {
    text.len() > LONG || levels_of(text).saturating_add(levels) > deep()
}

/// How many levels the tree of this text can have, from above.
pub fn levels_of(text: &str) -> u32 {
    scan(text).map_or(0, |tokens| depth(&tokens).max(connectives(&tokens)))
}

/// Runs `f` on a thread with a large stack, unless this is one.
///
/// # Errors
/// 54001 if there is no memory for the stack, or `f` panicked.
pub fn on_large_stack<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, Denial> {
    if HAS_LARGE_STACK.get() {
        return Ok(f());
    }
    let too_complex = || limit(sqlstate::STATEMENT_TOO_COMPLEX, "stack depth limit exceeded");
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("deep statement".into()).stack_size(LARGE_STACK).spawn_scoped(scope, || {
                HAS_LARGE_STACK.set(true);
                f()
            });
        thread.map_err(|_| too_complex())?.join().map_err(|_| too_complex())
    })
}

fn limit(sqlstate: crate::error::SqlState, message: &'static str) -> Denial {
    Denial::new(Reason::Limit, SqlError::new(sqlstate, message))
}

fn syntax_error(text: &str, message: String, position: Option<u32>) -> Denial {
    let position = position.or_else(|| {
        if message.ends_with("at end of input") {
            return character(text, text.len());
        }
        let near = near(&message)?;
        match text.match_indices(near).map(|(at, _)| at).collect::<Vec<_>>().as_slice() {
            [once] => character(text, *once),
            // An unterminated token goes to the end.
            [.., last] if message.starts_with("unterminated") => character(text, *last),
            _ => None,
        }
    });
    Denial::invalid(sqlstate::SYNTAX_ERROR, message).at(position)
}

/// The text that a message points at.
fn near(message: &str) -> Option<&str> {
    message.split_once("at or near \"")?.1.strip_suffix('"')
}

/// The 1-based position in characters of a byte offset.
pub fn character(text: &str, offset: usize) -> Option<u32> {
    u32::try_from(text.get(..offset)?.chars().count() + 1).ok()
}

/// The binding hides the error's position, so find it again: the offending token is the first of its spelling that the
/// text cannot be parsed up to.
fn locate(text: &str, message: &str, tokens: &[ScanToken]) -> Option<u32> {
    let near = near(message)?;
    if text.len() > LONG {
        return None; // it takes several more parses
    }
    let places: Vec<Range<usize>> =
        tokens.iter().map(|t| t.start as usize..t.end as usize).filter(|r| &text[r.clone()] == near).collect();
    let fails = |place: &Range<usize>| matches!(call(|| pg_query::parse(&text[..place.end], 0)), Err(Failure::Library(pg_query::Error::Parse(m))) if m == message);
    let first = match places.len() {
        0 => return None,
        1 => 0,
        _ => places.partition_point(|place| !fails(place)),
    };
    character(text, places.get(first)?.start)
}

/// ANDs and ORs: flat for PostgreSQL, one level each for the second parser.
fn connectives(tokens: &[ScanToken]) -> u32 {
    tokens.iter().filter(|t| matches!(t.token(), Token::And | Token::Or)).count() as u32
}

/// How deep the tree can be, from above: brackets and CASE nest, and within them every token that is no name, constant,
/// comma or flattened connective may be a level of its own (`a||b||c` is two).
fn depth(tokens: &[ScanToken]) -> u32 {
    #[derive(Clone, Copy, Default)]
    struct Level {
        /// Since the last separator: operators, NOT, casts.
        chain: u32,
        /// Joins and set operations, which separators do not end.
        tree: u32,
    }
    let mut outer: Vec<Level> = Vec::new();
    let mut level = Level::default();
    let (mut below, mut deepest) = (0u32, 0u32);
    for token in tokens {
        match token.token() {
            Token::Ascii40 | Token::Ascii91 | Token::Case => {
                below += level.chain + level.tree + 2;
                outer.push(level);
                level = Level::default();
            }
            Token::Ascii41 | Token::Ascii93 | Token::EndP => {
                if let Some(l) = outer.pop() {
                    below -= l.chain + l.tree + 2;
                    level = l;
                    level.chain += 1;
                }
            }
            Token::Ascii44 | Token::And | Token::Or | Token::When | Token::Then | Token::Else => level.chain = 0,
            Token::Join | Token::Union | Token::Intersect | Token::Except => level.tree += 2,
            Token::Ascii59 => level = Level::default(),
            Token::Ident | Token::Uident | Token::Sconst | Token::Usconst | Token::Bconst | Token::Xconst => {}
            Token::Iconst | Token::Fconst | Token::Param | Token::Ascii46 | Token::SqlComment | Token::CComment => {}
            _ => level.chain += 1, // any other token may be a level; too many is on the safe side
        }
        deepest = deepest.max(below + level.chain + level.tree);
    }
    deepest
}

/// A text that [`print`] made, with what the parser reads in it.
#[derive(Debug)]
pub struct Printed {
    text: String,
    /// `None` where it is too deep for an ordinary stack.
    tree: Option<ParseResult>,
}

impl Printed {
    /// # Errors
    /// As of [`parse`].
    pub fn read(text: String) -> Result<Printed, Denial> {
        let tree = if is_deep(&text) { None } else { Some(parse(&text)?) };
        Ok(Printed { text, tree })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the parser reads in the text, unless that is too deep for an ordinary stack.
    pub fn shallow_tree(&self) -> Option<&ParseResult> {
        self.tree.as_ref()
    }

    /// What the parser reads in the text, for `f`, on a stack that is large enough.
    ///
    /// # Errors
    /// Those of [`parse`], and of `f`.
    pub fn with_tree<T: Send>(&self, f: impl FnOnce(&ParseResult) -> Result<T, Denial> + Send) -> Result<T, Denial> {
        match &self.tree {
            Some(tree) => f(tree),
            None => on_large_stack(|| f(&parse(&self.text)?))?,
        }
    }
}

/// Prints a tree on one line and checks that the text reads back as the same tree.
///
/// # Errors
/// The deparser does not know a node, or the text reads differently: a `disagreement`.
pub fn print(tree: &ParseResult) -> Result<Printed, Denial> {
    reads_back(deparse(tree)?, tree).or_else(|denial| {
        // Some names the deparser writes as words that mean something else.
        reads_back(respell::print(tree, deparse)?.ok_or(denial)?, tree)
    })
}

/// Prints a tree on one line, unchecked: the text may read differently.
///
/// # Errors
/// The deparser does not know a node: a `disagreement`.
pub fn deparse(tree: &ParseResult) -> Result<String, Denial> {
    if tree.stmts.iter().filter_map(|s| s.stmt.as_deref()?.node.as_ref()).any(has_bad_copy_option) {
        return Err(Denial::disagreement("an option of COPY that cannot be printed"));
    }
    call(|| pg_query::deparse(tree, pg_query::DeparseOptions::default())).map_err(|failure| match failure.message() {
        Ok(message) => Denial::disagreement(format!("cannot be printed: {message}")),
        Err(denial) => denial,
    })
}

fn reads_back(text: String, tree: &ParseResult) -> Result<Printed, Denial> {
    let printed = Printed::read(text).map_err(|_| Denial::disagreement("what was printed cannot be parsed"))?;
    let is_same = printed.with_tree(|again| Ok(shape(tree) == shape(again)));
    match is_same.map_err(|_| Denial::disagreement("what was printed cannot be parsed"))? {
        true => Ok(printed),
        false => Err(Denial::disagreement("what was printed reads differently")),
    }
}

/// Whether it is a COPY with an option whose value is not of the kind that the deparser takes it for without looking: it would
/// read what is not there, or give up the process.
fn has_bad_copy_option(statement: &NodeEnum) -> bool {
    let NodeEnum::CopyStmt(copy) = statement else { return false };
    !copy.options.iter().all(|option| {
        let Some(NodeEnum::DefElem(d)) = &option.node else { return false };
        let value = d.arg.as_deref().and_then(|a| a.node.as_ref());
        let is_string = |v: &NodeEnum| matches!(v, NodeEnum::String(_));
        let is_number = |v: &NodeEnum| matches!(v, NodeEnum::Integer(_)) || matches!(v, NodeEnum::Float(_));
        let is_list = |v: &NodeEnum| {
            let strings = |items: &[pg_query::Node]| items.iter().all(|i| i.node.as_ref().is_some_and(is_string));
            matches!(v, NodeEnum::AStar(_)) || matches!(v, NodeEnum::List(list) if strings(&list.items))
        };
        match d.defname.as_str() {
            "format" => value.is_some_and(|v| matches!(v, NodeEnum::String(s) if ["text", "csv", "binary"].contains(&&*s.sval))),
            "delimiter" | "null" | "quote" | "escape" | "encoding" => value.is_some_and(is_string),
            "header" | "freeze" => {
                value.is_none_or(|v| is_string(v) || matches!(v, NodeEnum::Integer(_)) || matches!(v, NodeEnum::Boolean(_)))
            }
            "force_quote" | "force_null" | "force_not_null" => value.is_some_and(is_list),
            _ => value.is_none_or(|v| is_string(v) || is_number(v) || is_list(v)), // tidy: not a syntax kind
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_that_would_take_the_scanner_seconds_are_refused() {
        let nested = format!("SELECT {}{} 1", "/*".repeat(60_000), "*/".repeat(60_000));
        let limited = |text: &str| scan(text).unwrap_err().reason == Reason::Limit;
        assert!(limited(&nested) && parse(&nested).unwrap_err().reason == Reason::Limit);
        assert!(limited(&format!("SELECT 1 {}", "+/*".repeat(100))), "also where each begins behind an operator");
        parse(&format!("/{}/ SELECT 1 /* /* a */ */", "*".repeat(5000))).unwrap();
        parse(&format!("SELECT 1 {}", "/* a */ /* b */".repeat(500))).unwrap();
    }

    /// The deparser takes the values of options for what they should be: one that is not must not reach it.
    #[test]
    fn odd_options_of_copy_are_not_printed() {
        let print = |options: &str| print(&parse(&format!("COPY t FROM STDIN ({options})")).unwrap());
        for odd in [
            "FORMAT 'xml'",
            "FORMAT",
            "FORMAT 5",
            "FORMAT csv, DELIMITER 5",
            "NULL",
            "QUOTE 1.5",
            "ESCAPE *",
            "ENCODING (a)",
            "HEADER 1.5",
            "HEADER *",
            "FREEZE (a)",
            "FORCE_QUOTE a",
            "FORCE_NULL 5",
            "FORCE_NOT_NULL",
        ] {
            assert!(print(odd).is_err(), "{odd}");
        }
        for plain in [
            "FORMAT csv, DELIMITER ';', HEADER",
            "HEADER true",
            "FORCE_NULL (a, b)",
            "FORCE_QUOTE *, FORMAT csv",
            "on_error ignore",
        ] {
            print(plain).unwrap_or_else(|denial| panic!("{plain}: {denial}"));
        }
    }

    /// Names that the deparser writes as other syntax.
    #[test]
    fn what_is_printed_reads_the_same() {
        for (text, printed) in [
            ("SELECT a::pg_catalog.bpchar", "SELECT a::pg_catalog.bpchar"),
            ("SELECT CAST(NULL AS pg_catalog.bpchar)", "SELECT NULL::pg_catalog.bpchar"),
            (
                "SELECT 5::pg_catalog.bpchar[], char(3) 'x', char 'x'",
                "SELECT 5::pg_catalog.bpchar[], 'x'::char(3), 'x'::pg_catalog.bpchar",
            ),
            ("SELECT a::char, a::character(2), a::pg_catalog.bpchar(4)", "SELECT a::char(1), a::char(2), a::char(4)"),
            (
                "SELECT pg_catalog.overlay(a, b, 1, 2), OVERLAY(a PLACING b FROM 1 FOR 2)",
                "SELECT pg_catalog.\"overlay\"(a, b, 1, 2), OVERLAY(a PLACING b FROM 1 FOR 2)",
            ),
            (
                "DECLARE c CURSOR FOR WITH w AS (SELECT NULL::pg_catalog.bpchar) SELECT a FROM w WHERE EXISTS (SELECT b::pg_catalog.bpchar)",
                "DECLARE c CURSOR FOR WITH w AS (SELECT NULL::pg_catalog.bpchar) SELECT a FROM w WHERE EXISTS (SELECT b::pg_catalog.bpchar)",
            ),
        ] {
            assert_eq!(print(&parse(text).unwrap()).unwrap().text(), printed, "{text}");
        }
        // A literal that has the stand-in for a name in it is not touched.
        let literal = "SELECT NULL::pg_catalog.bpchar, 'bulkhead_pg_catalog.bpchar'";
        assert!(print(&parse(literal).unwrap()).is_err());
    }

    #[test]
    fn errors_are_postgresqls_with_the_position() {
        for (text, message, position) in [
            ("selec 1", "syntax error at or near \"selec\"", Some(1)),
            ("select 1 + from t, from", "syntax error at or near \"from\"", Some(12)),
            ("select 'é', from t where from", "syntax error at or near \"from\"", Some(13)),
            ("select a, (a b) from b) a", "syntax error at or near \"b\"", Some(14)),
            ("select (1", "syntax error at end of input", Some(10)),
            ("select 'a", "unterminated quoted string at or near \"'a\"", Some(8)),
            ("select 1a", "trailing junk after numeric literal at or near \"1a\"", Some(8)),
        ] {
            let denial = parse(text).unwrap_err();
            assert_eq!(denial.error.message, message);
            assert_eq!(denial.error.position, position, "{text}");
            assert_eq!(denial.error.sqlstate, sqlstate::SYNTAX_ERROR);
        }
    }

    #[test]
    fn ordinary_depth_parses_and_absurd_depth_is_refused() {
        let chain = |n: usize| format!("SELECT {}", vec!["a"; n].join("||"));
        let brackets = |n: usize| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n));
        let nots = |n: usize| format!("SELECT {} true", "NOT ".repeat(n));
        let unions = |n: usize| vec!["SELECT a, b"; n].join(" UNION ALL ");
        let cases = |n: usize| format!("SELECT {} 1 {}", "CASE WHEN a THEN b ELSE ".repeat(n), "END ".repeat(n));
        let joins = |n: usize| format!("SELECT 1 FROM a{}", " JOIN b ON a.x = b.x AND a.y = b.y".repeat(n));
        let subselects = |n: usize| format!("SELECT 1{} x{}", " FROM (SELECT 1".repeat(n), ") x".repeat(n));
        for n in [1, 60, 300] {
            for text in [chain(n), brackets(n), nots(n), unions(n), cases(n), joins(n), subselects(n)] {
                let tree = parse(&text).unwrap_or_else(|d| panic!("{n}: {d}: {}", &text[..40]));
                on_large_stack(|| print(&tree)).unwrap().unwrap();
                on_large_stack(move || drop(tree)).unwrap();
            }
        }
        // Just below the cap, everything that is done to a tree fits the large stack, in a debug build too.
        for text in [chain(1_400), brackets(600), nots(1_400), unions(250), cases(120), joins(250), subselects(150)] {
            let done = on_large_stack(|| {
                let tree = parse(&text)?;
                let printed = print(&tree)?;
                crate::sql::second::read(printed.text(), &tree)
            });
            done.unwrap().unwrap_or_else(|d| panic!("{d}: {}", &text[..40]));
        }
        // What is not called deep fits the stack of a thread: of an ordinary one, and of a worker's.
        let fit = |texts: &[String]| {
            for text in texts {
                assert!(!is_deep(text), "{text}");
                let tree = parse(text).unwrap();
                crate::sql::second::read(print(&tree).unwrap().text(), &tree).unwrap();
            }
        };
        fit(&[chain(60), brackets(30), nots(60), unions(12), cases(8), joins(12), subselects(8)]);
        let deeper = [chain(500), brackets(250), nots(500), unions(85), cases(60), joins(75), subselects(60)];
        assert!(deeper.iter().all(|text| is_deep(text)));
        crate::worker::on_a_worker(move || fit(&deeper));
        for text in [chain(50_000), brackets(50_000), nots(50_000), unions(50_000), cases(50_000), joins(50_000)] {
            assert_eq!(parse(&text).unwrap_err().reason, Reason::Limit);
        }
        // Many flat items are no depth.
        parse(&format!("SELECT 1 FROM t WHERE {}", vec!["a = 1"; 5000].join(" AND "))).unwrap();
        parse(&format!("INSERT INTO t VALUES {}", vec!["(1, 'a', now())"; 5000].join(","))).unwrap();
    }
}
