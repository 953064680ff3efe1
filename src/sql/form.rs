//! A statement's form: what is left of its text without values, comments, blanks and repetitions. What applications are known by.
//!
//! ```text
//! Select name FROM customers WHERE id IN (7, 8, -9) -- x      select name from customers where id in ( ? )
//! INSERT INTO t (a, b) VALUES (1, 'x'), ($1, NULL)            insert into t ( a , b ) values ( ? )
//! ```
//! Constants and parameters are `?`; so are TRUE, FALSE, NULL and DEFAULT where a value may stand, for drivers write them so. What is repeated
//! after a comma stands once, if it holds a value. Names stay as they are written. A form's form is itself. What is a statement's form says
//! nothing of what it may do: that is analysis's to say.

use pg_query::protobuf::{KeywordKind, ScanToken, Token};
use sha2::{Digest, Sha256};

use super::parse;
use crate::finding::Denial;

/// What a form is told by: nobody finds another one for it.
pub type FormId = u128;

/// The id of a form.
pub fn id_of(form: &str) -> FormId {
    let hash = Sha256::digest(form.as_bytes());
    hash.first_chunk().map_or(0, |half| u128::from_be_bytes(*half))
}

/// What stands for a value.
const VALUE: &str = "?";

/// What stands for the form of a text that has none. No text has this one: in forms, brackets stand apart.
pub const NONE: &str = "(none)";

/// Deeper brackets are no form's.
const MAX_DEPTH: usize = 100;

/// The form of a text, semicolons at its end left out.
///
/// # Errors
/// PostgreSQL's scanner does not read it; 54001: it is nested too deeply.
pub fn form(text: &str) -> Result<String, Denial> {
    let tokens = parse::scan(text)?;
    let words = words(text, &tokens);
    let mut rest = words.as_slice();
    while let [before @ .., last] = rest
        && last == ";"
    {
        rest = before;
    }
    let mut reading = Reading { rest: rest.iter(), depth: 0 };
    let items = reading.list()?;
    let mut out = String::with_capacity(text.len());
    print(&items, &mut out);
    Ok(out)
}

/// Of `prepare name ( types ) as query`, the query's.
pub fn of_prepared(form: &str) -> &str {
    let from = form.find(" as ").map_or(0, |at| at + 4);
    if form.starts_with("prepare ") { &form[from..] } else { form }
}

/// Whether a form has a value in it.
pub fn has_values(form: &str) -> bool {
    words_of(form).any(|word| word == VALUE)
}

/// The words of a form, or of what was printed as one.
pub fn words_of(form: &str) -> impl Iterator<Item = &str> {
    Words { rest: form }
}

/// Blanks stand between words, and in quoted names.
struct Words<'f> {
    rest: &'f str,
}

impl<'f> Iterator for Words<'f> {
    type Item = &'f str;

    fn next(&mut self) -> Option<&'f str> {
        let text = self.rest.trim_start_matches(' ');
        let mut quoted = false;
        let end = text.bytes().position(|b| {
            quoted ^= b == b'"';
            b == b' ' && !quoted
        });
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }
}

/// Tokens as a form has them.
fn words(text: &str, tokens: &[ScanToken]) -> Vec<String> {
    let mut words: Vec<String> = Vec::with_capacity(tokens.len());
    // Whether what ends before the last word may be what a sign takes for its left side.
    let mut ends_a_value = [false; 2];
    let mut before = None;
    for token in tokens {
        let written = text.get(token.start as usize..token.end as usize).unwrap_or_default();
        let kind = token.token();
        match kind {
            // UESCAPE and its character belong to the constant before them.
            Token::SqlComment | Token::CComment | Token::Uescape => {}
            Token::Sconst if before == Some(Token::Uescape) => {}
            Token::Sconst | Token::Usconst | Token::Bconst | Token::Xconst | Token::Param => words.push(VALUE.to_owned()),
            Token::Iconst | Token::Fconst => {
                // A sign of its own: `- 1` of `= - 1`, not that of `a - 1`.
                if !ends_a_value[0] && words.last().is_some_and(|sign| sign == "-" || sign == "+") {
                    words.pop();
                }
                words.push(VALUE.to_owned());
            }
            _ => words.push(word(written, words.last().map(String::as_str))), // tidy: tokens, not syntax kinds
        }
        if !matches!(kind, Token::SqlComment | Token::CComment) {
            ends_a_value = [ends_a_value[1], words.last().is_some_and(|word| ends_value(word, token.keyword_kind()))];
            before = Some(kind);
        }
    }
    // Drivers name cursors anew each time.
    if let [first, name, ..] = words.as_mut_slice()
        && first == "declare"
    {
        VALUE.clone_into(name);
    }
    words
}

/// A word that is no constant by its token.
fn word(written: &str, before: Option<&str>) -> String {
    if written.starts_with('"') || written.starts_with("U&") || written.starts_with("u&") {
        return written.to_owned();
    }
    let lower = written.to_ascii_lowercase();
    let names_a_value = matches!(lower.as_str(), "true" | "false" | "null" | "default");
    // IS NULL, NOT NULL, SET DEFAULT say something of their own; .. = NULL and (NULL, do not.
    let says_more = matches!(before, None | Some("is" | "not" | "set"));
    if names_a_value && !says_more { VALUE.to_owned() } else { lower }
}

/// Whether a word may be what a sign takes for its left side: names and values; keywords mostly not.
fn ends_value(word: &str, keyword: KeywordKind) -> bool {
    if word == VALUE || word == ")" || word == "]" || word == "end" || word.starts_with("current_") {
        return true;
    }
    let is_name = word.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '"' || !c.is_ascii());
    let begins = matches!(word, "by" | "between" | "values" | "like" | "ilike" | "similar" | "is" | "escape" | "returning");
    is_name && keyword != KeywordKind::ReservedKeyword && !begins
}

/// One word, or what stands in brackets, by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node<'w> {
    Word(&'w str),
    Group(&'w str, Vec<Item<'w>>, &'w str),
}

/// What stands between commas.
type Item<'w> = Vec<Node<'w>>;

struct Reading<'w> {
    rest: std::slice::Iter<'w, String>,
    depth: usize,
}

impl<'w> Reading<'w> {
    /// Up to the bracket that closes, which is taken.
    fn list(&mut self) -> Result<Vec<Item<'w>>, Denial> {
        if self.depth > MAX_DEPTH {
            return Err(Denial::unsupported("brackets are nested too deeply"));
        }
        let mut items = vec![vec![]];
        while let Some(word) = self.rest.next() {
            match word.as_str() {
                ")" | "]" if self.depth > 0 => break,
                "," => items.push(vec![]),
                "(" | "[" => {
                    self.depth += 1;
                    let inner = self.list()?;
                    self.depth -= 1;
                    let close = if word == "(" { ")" } else { "]" };
                    push(&mut items, Node::Group(word, inner, close));
                }
                other => push(&mut items, Node::Word(other)),
            }
        }
        items.iter_mut().for_each(plain_values);
        Ok(folded(items))
    }
}

/// Values as drivers write them: an array of values, and a value with its type, are a value: `ARRAY[1, 2]`, `'{}'`, `'NaN'::float`.
fn plain_values(item: &mut Item<'_>) {
    let mut at = 0;
    while at < item.len() {
        if let [Node::Word("array"), Node::Group("[", inner, _), ..] = &item[at..]
            && inner.iter().all(|item| matches!(item.as_slice(), [] | [Node::Word(VALUE)]))
        {
            item.splice(at..at + 2, [Node::Word(VALUE)]);
        }
        while let [Node::Word(VALUE), Node::Word("::"), Node::Word(_), rest @ ..] = &item[at..] {
            // timestamptz(3), int[]
            let more = rest.iter().take_while(|node| matches!(node, Node::Group(_, inner, _) if !has_names(inner))).count();
            item.drain(at + 1..at + 3 + more);
        }
        at += 1;
    }
}

fn has_names(items: &[Item<'_>]) -> bool {
    items.iter().flatten().any(|node| !matches!(node, Node::Word(VALUE)))
}

fn push<'w>(items: &mut [Item<'w>], node: Node<'w>) {
    if let Some(item) = items.last_mut() {
        item.push(node);
    }
}

/// Without what is repeated after a comma: the same as stands before it, with a value in it.
fn folded(items: Vec<Item<'_>>) -> Vec<Item<'_>> {
    let mut kept: Vec<Item<'_>> = vec![];
    for mut item in items {
        // Of rows, what comes before the first one and after the last one is no part of it.
        let is_row = matches!(item.first(), Some(Node::Group(..)));
        match kept.last_mut() {
            Some(before) if (*before == item || is_row && before.ends_with(&item)) && has_value(&item) => {}
            Some(before) if is_row && before.ends_with(&item[..1]) && has_value(&item[..1]) => before.extend(item.drain(1..)),
            Some(_) | None => kept.push(item),
        }
    }
    kept
}

fn has_value(nodes: &[Node<'_>]) -> bool {
    nodes.iter().any(|node| match node {
        Node::Word(word) => *word == VALUE,
        Node::Group(_, items, _) => items.iter().any(|item| has_value(item)),
    })
}

fn print(items: &[Item<'_>], out: &mut String) {
    let put = |word: &str, out: &mut String| {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    };
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            put(",", out);
        }
        for node in item {
            match node {
                Node::Word(word) => put(word, out),
                Node::Group(open, inner, close) => {
                    put(open, out);
                    print(inner, out);
                    put(close, out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_a_value_and_what_is_repeated_goes() {
        for (text, expected) in [
            ("Select name FROM customers WHERE id IN (7, 8, -9) -- x", "select name from customers where id in ( ? )"),
            ("INSERT INTO t (a, b) VALUES (1, 'x'), ($1, NULL);", "insert into t ( a , b ) values ( ? )"),
            ("INSERT INTO t VALUES (1, f(2)), (3, f(4)) RETURNING id", "insert into t values ( ? , f ( ? ) ) returning id"),
            ("INSERT INTO t VALUES (1, DEFAULT, a)", "insert into t values ( ? , a )"),
            ("SELECT a, b, a FROM t", "select a , b , a from t"),
            ("SELECT a - 1, -1, +2.5, a-$1", "select a - ? , ? , a - ?"),
            ("SELECT * FROM t WHERE a = - 5 AND b IS NULL AND c = NULL", "select * from t where a = ? and b is null and c = ?"),
            (
                "SELECT 1 WHERE a > NULL AND b <> false AND NOT c AND d IS NOT NULL",
                "select ? where a > ? and b <> ? and not c and d is not null",
            ),
            (
                "SELECT a IS DISTINCT FROM -1, substr(x FROM -1 FOR 3), CASE WHEN a THEN 1 END - 1",
                "select a is distinct from ? , substr ( x from ? for ? ) , case when a then ? end - ?",
            ),
            (
                "SELECT a FROM t WHERE b = ANY(ARRAY[1,2]) OR b = ANY('{}'::int[]) OR c = 'NaN'::float8",
                "select a from t where b = any ( ? ) or b = any ( ? ) or c = ?",
            ),
            ("SELECT a FROM t WHERE b IN ((1)+1,(2)+1,(3)+1)", "select a from t where b in ( ( ? ) + ? )"),
            ("SELECT a FROM t ORDER BY (id=1) DESC, (id=2) DESC", "select a from t order by ( id = ? ) desc"),
            ("SELECT \"Odd , ( name\" FROM \"T\"", "select \"Odd , ( name\" from \"T\""),
            ("SELECT E'it\\'s', $a$x$a$, U&'d!0061' UESCAPE '!', B'1', X'1F' /* x */", "select ? , ?"),
            ("SELECT doc ? 'a', doc->>'b' FROM t", "select doc ? ? , doc ->> ? from t"),
            (
                "UPDATE t SET a = true, b = DEFAULT WHERE c = ANY(ARRAY[1,2,3]::int[])",
                "update t set a = ? , b = ? where c = any ( ? )",
            ),
            ("DECLARE \"c_7f15\" CURSOR FOR SELECT 1", "declare ? cursor for select ?"),
            ("SELECT x FROM t LIMIT 10 OFFSET 5", "select x from t limit ? offset ?"),
            ("", ""),
            (";", ""),
            ("SELECT 1; SELECT 2", "select ? ; select ?"),
        ] {
            assert_eq!(form(text).expect("it is read"), expected, "{text}");
        }
    }

    #[test]
    fn what_sqlmap_disguises_has_the_form_of_what_it_disguises() {
        let plain = form("SELECT name FROM t WHERE id=1 UNION ALL SELECT 'a'").expect("it is read");
        for disguised in [
            "sElEcT/**/name/*x*/FROM\nt\tWHERE id=1 UnIoN aLl SELECT CHR",
            "SELECT name FROM t WHERE id=1 UNION/*!*/ALL SELECT $$a$$",
            "SELECT name FROM t WHERE id=1--x\nUNION ALL SELECT 'a'",
        ] {
            let form = form(&disguised.replace("CHR", "'a'")).expect("it is read");
            assert_eq!(form, plain, "{disguised}");
        }
    }

    proptest! {
        #[test]
        fn a_form_s_form_is_itself(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "select", "a", "\"B , c\"", ",", "(", ")", "1", "'x'", "$1", "-", "+", "=", "?", "null", "is", "in", "values", "[",
                    "]", "--x\n", "/*y*/", ";", "::int", "U&'x'", "uescape '!'", "default", ".5", "(1)+1", "desc", "array[1]", "::float", "true",
                ]),
                0..30,
            )
        ) {
            let text = parts.join(" ");
            if let Ok(once) = form(&text) {
                let twice = form(&once).expect("a form is read");
                prop_assert_eq!(&twice, &once, "{}", text);
                let words: Vec<&str> = words_of(&once).collect();
                prop_assert_eq!(words.join(" "), once);
            }
        }
    }
}
