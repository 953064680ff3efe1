//! Parsed SQL as a plain tree that can be searched, for `contains` of a `[[test]]`: places are dropped, columns keep only
//! their own name, `pg_catalog.` goes, and so does the cast of a constant, since the rewriter writes all of these out.
//!
//! pg_query's nodes have no generic children; their `Debug` text has, and prints every field.

use pg_query::NodeEnum;
use pg_query::protobuf::RawStmt;

/// A tree of parsed SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The node's kind, or a constant as it prints.
    head: String,
    parts: Vec<(String, Shape)>,
}

/// Fields that say where something stands, not what it is.
const PLACES: [&str; 8] =
    ["location", "stmt_location", "stmt_len", "rexpr_list_start", "rexpr_list_end", "list_start", "list_end", "xpr"];

impl Shape {
    /// # Errors
    /// The parser's words.
    pub fn of_statements(sql: &str) -> Result<Shape, String> {
        let tree = pg_query::parse(sql, 0).map_err(|e| e.to_string())?;
        Ok(read(&format!("{:?}", tree.protobuf.stmts)))
    }

    /// # Errors
    /// The parser's words.
    pub fn of_expression(text: &str) -> Result<Shape, String> {
        let tree = pg_query::parse(&format!("SELECT {text}"), 0).map_err(|e| e.to_string())?;
        let [RawStmt { stmt: Some(statement), stmt_location: _, stmt_len: _ }] = tree.protobuf.stmts.as_slice() else {
            return Err("not one expression".to_owned());
        };
        let Some(NodeEnum::SelectStmt(select)) = &statement.node else { return Err("not one expression".to_owned()) };
        match select.target_list.first().and_then(|n| n.node.as_ref()) {
            Some(NodeEnum::ResTarget(target)) => Ok(read(&format!("{:?}", target.val))),
            Some(_) | None => Err("not one expression".to_owned()),
        }
    }

    pub fn contains(&self, wanted: &Shape) -> bool {
        self == wanted || self.parts.iter().any(|(_, part)| part.contains(wanted))
    }
}

fn read(debug: &str) -> Shape {
    Reader { rest: debug }.value()
}

/// Reads what `#[derive(Debug)]` prints.
struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn value(&mut self) -> Shape {
        self.skip_blank();
        if self.rest.starts_with('"') {
            return Shape { head: self.string(), parts: Vec::new() };
        }
        let end =
            self.rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+'))).unwrap_or(self.rest.len());
        let head = self.take(end);
        self.skip_blank();
        let parts = match self.rest.chars().next() {
            Some('{') => self.fields('}'),
            Some('(') => self.fields(')'),
            Some('[') => self.fields(']'),
            Some(_) | None => Vec::new(),
        };
        normalise(head, parts)
    }

    fn fields(&mut self, close: char) -> Vec<(String, Shape)> {
        self.take(1);
        let mut parts = Vec::new();
        loop {
            self.skip_blank();
            if self.rest.is_empty() || self.rest.starts_with(close) {
                self.take(close.len_utf8().min(self.rest.len()));
                return parts;
            }
            let before = self.rest.len();
            let name = if close == '}' { self.name() } else { String::new() };
            let part = self.value();
            if !PLACES.contains(&name.as_str()) {
                parts.push((name, part));
            }
            self.skip_blank();
            if self.rest.starts_with(',') {
                self.take(1);
            }
            // Something that `Debug` does not print this way must not make a loop.
            if self.rest.len() == before {
                self.rest = "";
            }
        }
    }

    fn name(&mut self) -> String {
        let end = self.rest.find(':').unwrap_or(0);
        let name = self.take(end);
        self.take(usize::from(!self.rest.is_empty()));
        name
    }

    fn string(&mut self) -> String {
        let mut escaped = false;
        for (at, c) in self.rest.char_indices().skip(1) {
            match c {
                '"' if !escaped => return self.take(at + 1),
                '\\' => escaped = !escaped,
                _ => escaped = false,
            }
        }
        self.take(self.rest.len())
    }

    fn skip_blank(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, bytes: usize) -> String {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken.to_owned()
    }
}

fn normalise(head: String, mut parts: Vec<(String, Shape)>) -> Shape {
    match head.as_str() {
        // Wrappers with one thing in them.
        "Node" | "Some" if parts.len() == 1 => return parts.remove(0).1,
        // The variant; its struct, inside, was looked at already.
        "TypeCast" if matches!(parts.as_slice(), [(name, _)] if name.is_empty()) => return parts.remove(0).1,
        "ColumnRef" => {
            if let Some((_, fields)) = parts.iter_mut().find(|(name, _)| name == "fields") {
                let last = fields.parts.pop();
                fields.parts = last.into_iter().collect();
            }
        }
        "AExpr" | "FuncCall" | "TypeName" => {
            for (_, names) in parts.iter_mut().filter(|(name, _)| matches!(name.as_str(), "name" | "funcname" | "names")) {
                names.parts.retain(|(_, part)| !part.parts.iter().any(|(_, text)| text.head == "\"pg_catalog\""));
            }
        }
        "TypeCast" => {
            if let Some(at) = parts.iter().position(|(name, part)| name == "arg" && part.head == "AConst") {
                return parts.swap_remove(at).1;
            }
        }
        _ => {}
    }
    // `ColumnRef(ColumnRef { .. })`: the variant and its struct.
    if let [(name, part)] = parts.as_slice()
        && name.is_empty()
        && part.head == head
    {
        return parts.remove(0).1;
    }
    Shape { head, parts }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(sql: &str, expression: &str) -> bool {
        Shape::of_statements(sql).unwrap().contains(&Shape::of_expression(expression).unwrap())
    }

    #[test]
    fn expressions_are_found_however_the_rewriter_writes_them() {
        let sql = "SELECT a.id FROM public.accounts a WHERE (a.tenant_id OPERATOR(pg_catalog.=) '1'::bigint) \
                   AND ((a.region OPERATOR(pg_catalog.=) 'EU'::text)) AND pg_catalog.lower(a.x) = 'y'";
        assert!(holds(sql, "region = 'EU'"));
        assert!(holds(sql, "lower(x) = 'y'"));
        assert!(holds(sql, "accounts.tenant_id = '1'"));
        assert!(!holds(sql, "region = 'US'"));
        assert!(!holds(sql, "region <> 'EU'"));
        assert!(!holds(sql, "regions = 'EU'"));
        assert!(!holds(sql, "'EU' = region"));
    }

    #[test]
    fn strings_do_not_pass_for_structure() {
        assert!(!holds("SELECT 'ColumnRef { fields: [] }, \"x\" \\'", "x"));
        assert!(holds("SELECT 'quote\" brace} \\' WHERE a = 1", "a = 1"));
        assert!(!holds("SELECT 1 WHERE NOT a OR b", "a OR b"));
    }
}
