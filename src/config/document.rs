//! TOML read with its spans, so that each problem points at what was written. Serde would stop at the first one.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, did_you_mean};

/// A key that a table may have; the tables of keys are also the reference that `check --reference` prints.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    /// How a value looks.
    pub example: &'static str,
    pub doc: &'static str,
}

/// A key that works.
pub const fn key(name: &'static str, example: &'static str, doc: &'static str) -> Key {
    Key { name, example, doc }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Located<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// One TOML text and the problems found in it so far.
#[derive(Debug)]
pub struct Document {
    name: String,
    text: Arc<str>,
    /// What problems quote: the text with secrets blanked, byte for byte as long.
    quoted: RefCell<Arc<str>>,
    problems: RefCell<Vec<Problem>>,
}

impl Document {
    pub fn new(name: impl Into<String>, text: impl Into<Arc<str>>) -> Self {
        let text: Arc<str> = text.into();
        Document { name: name.into(), quoted: RefCell::new(Arc::clone(&text)), text, problems: RefCell::default() }
    }

    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The tree, or nothing where the text is no TOML (the problems then say where).
    pub fn parse(&self) -> Option<Spanned<DeTable<'_>>> {
        let (tree, errors) = DeTable::parse_recoverable(&self.text);
        for error in &errors {
            let span = self.visible(error.span().unwrap_or(0..0));
            let problem = Problem::new(format!("not valid TOML: {}", error.message()));
            self.report(problem, span, "here");
        }
        errors.is_empty().then_some(tree)
    }

    /// An empty span, as at the end of a line, would show no caret: it takes the character before it.
    fn visible(&self, span: Range<usize>) -> Range<usize> {
        if !span.is_empty() {
            return span;
        }
        let before = self.text.get(..span.start).and_then(|t| t.chars().next_back()).filter(|c| *c != '\n');
        span.start - before.map_or(0, char::len_utf8)..span.end
    }

    /// From now on problems quote `quoted` instead of the text; it must be as long, byte for byte.
    pub fn quote_as(&self, quoted: String) {
        if quoted.len() == self.text.len() {
            *self.quoted.borrow_mut() = quoted.into();
        }
    }

    pub fn report(&self, problem: Problem, span: Range<usize>, label: impl Into<String>) {
        let problem = problem.at(&self.name, &self.quoted.borrow(), span, label);
        self.problems.borrow_mut().push(problem);
    }

    /// Everything reported, in the order of the text.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(Problem::offset);
        problems
    }

    /// Looks at a table, called `what` in messages, that may have only `keys`; reports the others.
    pub fn table<'a>(&'a self, tree: &'a DeTable<'a>, span: Range<usize>, what: &'a str, keys: &'static [Key]) -> Table<'a> {
        for name in tree.keys() {
            match keys.iter().find(|k| k.name == name.get_ref()) {
                Some(_) => {}
                None => self.report_unknown(name, what, keys),
            }
        }
        Table { document: self, tree, span, what }
    }

    fn report_unknown(&self, name: &Spanned<std::borrow::Cow<'_, str>>, what: &str, keys: &[Key]) {
        let problem = Problem::new(format!("unknown key `{}` in {what}", name.get_ref()));
        let problem = match did_you_mean(name.get_ref(), keys.iter().map(|k| k.name)) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem.help(format!("{what} may have: {}", keys.iter().map(|k| k.name).collect::<Vec<_>>().join(", "))),
        };
        self.report(problem, name.span(), "not known");
    }
}

/// One table of a [`Document`]. Readers return `None` for what is absent, and for what has the wrong type after reporting it.
#[derive(Clone, Debug)]
pub struct Table<'a> {
    document: &'a Document,
    tree: &'a DeTable<'a>,
    /// Its header, or the whole of an inline table.
    pub span: Range<usize>,
    pub what: &'a str,
}

impl<'a> Table<'a> {
    pub fn has(&self, key: &str) -> bool {
        self.tree.contains_key(key)
    }

    pub fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.tree.get(key)
    }

    /// The span of a key's value, or of the table where the key is absent.
    pub fn span_of(&self, key: &str) -> Range<usize> {
        self.tree.get(key).map_or_else(|| self.span.clone(), Spanned::span)
    }

    pub fn report(&self, problem: Problem, span: Range<usize>, label: impl Into<String>) {
        self.document.report(problem, span, label);
    }

    pub fn text(&self, key: &str) -> Option<Located<String>> {
        let value = self.tree.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Located { value: text.to_string(), span: value.span() }),
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                self.wrong_type(key, "a string in quotes", value);
                None
            }
        }
    }

    /// As [`Table::text`]; reports its absence, and an empty string.
    pub fn required_text(&self, key: &str) -> Option<Located<String>> {
        if !self.has(key) {
            self.report(Problem::new(format!("{} has no `{key}`", self.what)), self.span.clone(), format!("`{key}` is missing"));
            return None;
        }
        let text = self.text(key)?;
        if text.value.is_empty() {
            self.report(Problem::new(format!("`{key}` in {} is empty", self.what)), text.span, "empty");
            return None;
        }
        Some(text)
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        let value = self.tree.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type(key, "true or false", value);
        }
        flag
    }

    /// A whole number of `range`.
    pub fn integer(&self, key: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let value = self.tree.get(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, "a whole number", value);
            return None;
        };
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(n) if range.contains(&n) => Some(n),
            Ok(_) | Err(_) => {
                let problem = Problem::new(format!("`{key}` is out of range"));
                self.report(problem, value.span(), format!("from {} to {}", range.start(), range.end()));
                None
            }
        }
    }

    pub fn texts(&self, key: &str) -> Option<Vec<Located<String>>> {
        let value = self.tree.get(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, "a list of strings", value);
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push(Located { value: text.to_owned(), span: item.span() }),
                None => self.wrong_type(key, "strings in quotes", item),
            }
        }
        Some(texts)
    }

    /// The tables of `[[key]]`, each called `what`.
    pub fn tables(&self, key: &str, what: &'a str, keys: &'static [Key]) -> Vec<Table<'a>> {
        let Some(value) = self.tree.get(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, &format!("a list of tables, written {what}"), value);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(tree) => tables.push(self.document.table(tree, item.span(), what, keys)),
                DeValue::String(_)
                | DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_) => self.wrong_type(key, "tables", item),
            }
        }
        tables
    }

    /// The table of `[key]` or `key = { .. }`, called `what`.
    pub fn table(&self, key: &str, what: &'a str, keys: &'static [Key]) -> Option<Table<'a>> {
        let value = self.tree.get(key)?;
        match value.get_ref().as_table() {
            Some(tree) => Some(self.document.table(tree, value.span(), what, keys)),
            None => {
                self.wrong_type(key, "a table", value);
                None
            }
        }
    }

    pub fn wrong_type(&self, key: &str, expected: &str, found: &Spanned<DeValue<'_>>) {
        let problem = Problem::new(format!("`{key}` in {} must be {expected}", self.what));
        self.report(problem, found.span(), format!("this is {}", kind_of(found.get_ref())));
    }
}

/// `an integer`, `a string`, ...
pub fn kind_of(value: &DeValue<'_>) -> String {
    let kind = value.type_str();
    format!("{} {kind}", if kind.starts_with(['a', 'i']) { "an" } else { "a" })
}
