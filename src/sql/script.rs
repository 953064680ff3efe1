//! The statements of a script for psql, as psql would send them: split at semicolons that PostgreSQL's scanner sees, without
//! meta commands and without the data of COPY.
//!
//! All branches of `\if` are taken. `:name`, `:'name'` and `:"name"` stand for their own names: their values are not known
//! here.

use std::ops::Range;

use pg_query::NodeEnum;
use pg_query::protobuf::{ScanToken, Token};

use super::parse;

/// One statement of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The line that it begins on, from 1.
    pub line: usize,
    /// Without its semicolon, and without comments before it.
    pub sql: String,
    /// psql's variables stand in it, and were replaced by their names.
    pub has_variables: bool,
}

/// Splits a script.
pub fn statements(text: &str) -> Vec<Statement> {
    let mut reader = Reader { text, found: Vec::new(), buffer: Buffer::default(), lines: (0, 1) };
    reader.read();
    reader.found
}

/// Meta commands that send what was typed so far.
const SENDING: [&str; 8] = ["g", "gx", "gset", "gexec", "gdesc", "crosstabview", "watch", "bind"];

struct Reader<'a> {
    text: &'a str,
    found: Vec<Statement>,
    buffer: Buffer,
    /// A byte offset, and the number of the line that it is on.
    lines: (usize, usize),
}

/// The statement that is being read.
#[derive(Default)]
struct Buffer {
    start: usize,
    /// Up to here its tokens are known.
    scanned: usize,
    /// Open parentheses.
    depth: usize,
    /// Open BEGIN ATOMIC and CASE of a function's body.
    blocks: usize,
    /// The first tokens, by which CREATE FUNCTION is known.
    head: Vec<Token>,
    /// Meta commands within it.
    holes: Vec<Range<usize>>,
}

impl Buffer {
    fn at(start: usize) -> Buffer {
        Buffer { start, scanned: start, ..Buffer::default() }
    }

    fn take(&mut self, token: Token) {
        if self.head.len() < 5 && !is_comment(token) {
            self.head.push(token);
        }
        let in_function = self.head.first() == Some(&Token::Create)
            && self.head.iter().any(|t| matches!(t, Token::Function | Token::Procedure));
        match token {
            Token::Ascii40 => self.depth += 1,
            Token::Ascii41 => self.depth = self.depth.saturating_sub(1),
            Token::BeginP if in_function => self.blocks += 1,
            Token::Case if in_function && self.blocks > 0 => self.blocks += 1,
            Token::EndP if in_function => self.blocks = self.blocks.saturating_sub(1),
            _ => {}
        }
    }
}

/// What a semicolon or backslash of the text is.
enum Mark {
    /// In a string, a name or a comment.
    Quoted,
    Semicolon,
    Backslash,
}

impl Reader<'_> {
    fn read(&mut self) {
        let mut look = 0;
        while let Some(at) = self.text[look..].find([';', '\\']).map(|i| look + i) {
            look = at + 1;
            match self.mark(at) {
                Mark::Quoted => {}
                Mark::Semicolon if self.buffer.depth == 0 && self.buffer.blocks == 0 => look = self.end(at, at + 1),
                Mark::Semicolon => {}
                Mark::Backslash => look = self.meta(at),
            }
        }
        self.end(self.text.len(), self.text.len());
    }

    /// Scans from where the tokens are known up to `at`.
    fn mark(&mut self, at: usize) -> Mark {
        let from = self.buffer.scanned;
        let Some(tokens) = scan_leniently(&self.text[from..=at]) else { return Mark::Quoted };
        let Some((last, before)) = tokens.split_last() else { return Mark::Quoted };
        before.iter().for_each(|t| self.buffer.take(t.token()));
        if is_comment(last.token()) {
            // It may go on.
            self.buffer.scanned = from + last.start as usize;
            return Mark::Quoted;
        }
        self.buffer.scanned = at + 1;
        if self.text.as_bytes()[at] == b';' { Mark::Semicolon } else { Mark::Backslash }
    }

    /// The statement ends before `end`; the next begins at `next`, or after the data of COPY.
    fn end(&mut self, end: usize, next: usize) -> usize {
        let mut next = next;
        let buffer = std::mem::take(&mut self.buffer);
        if let Some((start, statement)) = self.statement(&buffer, end) {
            if reads_data(&statement.sql) {
                next = after_data(self.text, next);
            }
            let line = self.line_of(start);
            self.found.push(Statement { line, ..statement });
        }
        self.buffer = Buffer::at(next);
        next
    }

    /// The text from the first token on, with where that stands; its line is not known yet.
    fn statement(&self, buffer: &Buffer, end: usize) -> Option<(usize, Statement)> {
        let mut sql = self.text[buffer.start..end].to_owned();
        for hole in &buffer.holes {
            let hole = hole.start - buffer.start..hole.end - buffer.start;
            sql.replace_range(hole.clone(), &" ".repeat(hole.len()));
        }
        // Where it cannot be scanned, comments before it stay.
        let tokens = parse::scan(&sql).unwrap_or_default();
        let start = match tokens.iter().find(|t| !is_comment(t.token())) {
            Some(token) => token.start as usize,
            None if tokens.is_empty() => sql.len() - sql.trim_start().len(),
            None => return None,
        };
        let (mut sql, offset) = (sql[start..].trim_end().to_owned(), start);
        let variables: Vec<usize> = variables(&tokens).map(|at| at - offset).collect();
        let has_variables = !variables.is_empty() && parse::parse(&sql).is_err();
        if has_variables {
            variables.iter().for_each(|at| sql.replace_range(*at..at + 1, " "));
        }
        (!sql.is_empty()).then_some((buffer.start + offset, Statement { line: 0, sql, has_variables }))
    }

    /// A meta command at `at`; gives where reading goes on.
    fn meta(&mut self, at: usize) -> usize {
        let rest = &self.text[at + 1..];
        if rest.starts_with(';') {
            return self.end(at, at + 2);
        }
        let name = &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len())];
        let line = &rest[..rest.find('\n').unwrap_or(rest.len())];
        // `\\` ends a command, but for those that take the whole line.
        let length = match line.find("\\\\") {
            Some(end) if name != "copy" && !rest.starts_with('!') => end + 2,
            Some(_) | None => line.len(),
        };
        let next = at + 1 + length;
        if SENDING.contains(&name) {
            return self.end(at, next);
        }
        let next =
            if name == "copy" && line.to_ascii_lowercase().contains("from stdin") { after_data(self.text, next) } else { next };
        let is_blank = self.text[self.buffer.start..at].trim().is_empty();
        if is_blank || matches!(name, "r" | "reset") {
            self.buffer = Buffer::at(next);
        } else {
            self.buffer.holes.push(at..next);
            self.buffer.scanned = next;
        }
        next
    }

    /// Offsets only grow.
    fn line_of(&mut self, offset: usize) -> usize {
        let (known, line) = self.lines;
        self.lines = (offset, line + self.text[known..offset].matches('\n').count());
        self.lines.1
    }
}

fn is_comment(token: Token) -> bool {
    matches!(token, Token::SqlComment | Token::CComment)
}

/// `None`: something is not closed. What PostgreSQL's scanner refuses otherwise (`123abc`) psql does not mind.
fn scan_leniently(text: &str) -> Option<Vec<ScanToken>> {
    let mut text = text.to_owned();
    loop {
        let message = match parse::scan(&text) {
            Ok(tokens) => return Some(tokens),
            Err(denial) => denial.error.message.into_owned(),
        };
        if message.starts_with("unterminated") {
            return None;
        }
        let near = message.split_once("at or near \"").and_then(|(_, near)| near.strip_suffix('"')).unwrap_or_default();
        let masked = text.replace(near, &"x".repeat(near.len()));
        if near.is_empty() || near.contains('\'') || masked == text {
            // Taken for the end: the mark is the last token.
            return Some(vec![ScanToken { start: 0, end: text.len() as i32, ..ScanToken::default() }]);
        }
        text = masked;
    }
}

/// Where the colons of variables stand; one in brackets is a slice's.
fn variables(tokens: &[ScanToken]) -> impl Iterator<Item = usize> {
    let mut brackets = 0;
    tokens.windows(2).filter_map(move |pair| {
        let [colon, name] = pair else { return None };
        match colon.token() {
            Token::Ascii91 => brackets += 1,
            Token::Ascii93 => brackets -= 1,
            Token::Ascii58 if brackets == 0 && colon.end == name.start => {
                return matches!(name.token(), Token::Ident | Token::Sconst).then_some(colon.start as usize);
            }
            _ => {}
        }
        None
    })
}

/// COPY FROM STDIN
fn reads_data(sql: &str) -> bool {
    let is_copy = sql.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("copy"));
    is_copy
        && parse::parse(sql).is_ok_and(|tree| {
            let node = tree.stmts.first().and_then(|s| s.stmt.as_ref()).and_then(|n| n.node.as_ref());
            matches!(node, Some(NodeEnum::CopyStmt(copy)) if copy.is_from && copy.filename.is_empty() && !copy.is_program)
        })
}

/// Behind the line `\.`, if data follows: a COPY that the server refuses reads none, and then the next statement, perhaps
/// another COPY, follows.
fn after_data(text: &str, from: usize) -> usize {
    let mut next = from;
    for line in text[from..].split_inclusive('\n') {
        next += line.len();
        let words = line.trim_start().to_ascii_lowercase();
        if line.trim_end_matches(['\r', '\n']) == "\\." {
            return next;
        }
        if words.starts_with("-- ") || words.starts_with("copy ") && words.contains("stdin") {
            break;
        }
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(usize, String)> {
        statements(text).into_iter().map(|s| (s.line, s.sql)).collect()
    }

    #[track_caller]
    fn check(text: &str, expected: &[(usize, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(line, sql)| (*line, (*sql).to_owned())).collect();
        assert_eq!(split(text), expected);
    }

    #[test]
    fn statements_end_at_semicolons_that_the_scanner_sees() {
        check(
            "-- first; of all\nSELECT 1; SELECT ';', \";\", $$;$$, E'\\';' /* ; /* ; */ ; */\n, 2;\n\n;SELECT 3",
            &[(2, "SELECT 1"), (2, "SELECT ';', \";\", $$;$$, E'\\';' /* ; /* ; */ ; */\n, 2"), (5, "SELECT 3")],
        );
        check(
            "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);TABLE t;",
            &[(1, "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)"), (1, "TABLE t")],
        );
        let function = "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END";
        check(&format!("{function};\nBEGIN; END;"), &[(1, function), (2, "BEGIN"), (2, "END")]);
        check("SELECT 123abc, 'a;b';\nSELECT 2;", &[(1, "SELECT 123abc, 'a;b'"), (2, "SELECT 2")]);
        check("  \n-- nothing\n", &[]);
    }

    #[test]
    fn meta_commands_are_psqls_own() {
        check(
            "\\echo it's; here\nSELECT 1 \\gset\n\\set x 'a;b' \\\\ SELECT 2;\nSELECT\n\\d t\n3;\nSELECT no \\r\nSELECT 4\\; SELECT 5;\n",
            &[(2, "SELECT 1"), (3, "SELECT 2"), (4, "SELECT\n    \n3"), (8, "SELECT 4"), (8, "SELECT 5")],
        );
    }

    #[test]
    fn data_of_copy_is_no_sql() {
        check(
            "COPY t FROM stdin;\n1\tit's; so\n\\N\tx\n\\.\nSELECT 1;\nCOPY t TO STDOUT;\nSELECT 2;\n\\copy t from stdin\n'\n\\.\nSELECT 3;\n",
            &[(1, "COPY t FROM stdin"), (5, "SELECT 1"), (6, "COPY t TO STDOUT"), (7, "SELECT 2"), (11, "SELECT 3")],
        );
        check(
            "COPY t (nope) FROM stdin;\nCOPY t FROM STDIN;\n1\n\\.\nSELECT 1;",
            &[(1, "COPY t (nope) FROM stdin"), (2, "COPY t FROM STDIN"), (5, "SELECT 1")],
        );
    }

    #[test]
    fn variables_stand_for_their_names() {
        let found = statements("SELECT :'a', :\"b\", a[1:n], x::int FROM :t;\nSELECT a[1:n], ':x';");
        assert_eq!(found[0].sql, "SELECT  'a',  \"b\", a[1:n], x::int FROM  t");
        assert!(found[0].has_variables && !found[1].has_variables);
        assert_eq!(found[1].sql, "SELECT a[1:n], ':x'");
    }
}
