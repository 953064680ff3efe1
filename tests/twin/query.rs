//! SELECT in its forms.

use super::scope::{Column, Entry, Generator, Kind, TABLES, VIEWS, With};

/// A generated query: its text, its columns, and whether its ORDER BY is total.
pub struct Query {
    pub sql: String,
    pub columns: Vec<Column>,
    pub total: bool,
}

impl Generator {
    /// A query at the top of a statement.
    pub fn query(&mut self) -> Query {
        let withs = self.withs.len();
        let with = if self.random.percent(30) { self.with() } else { String::new() };
        let mut query = match self.random.below(20) {
            0 => self.values(),
            1..=4 => self.set_operation(),
            _ => self.select(None, true),
        };
        self.withs.truncate(withs);
        query.sql = format!("{with}{}", query.sql);
        query
    }

    /// A subquery of columns of these kinds, or of any.
    pub fn subquery(&mut self, kinds: Option<&[Kind]>) -> (String, Vec<Column>) {
        self.budget = self.budget.saturating_sub(1);
        if kinds.is_none() && self.random.percent(10) {
            let query = self.set_operation();
            return (query.sql, query.columns);
        }
        let query = self.select(kinds, false);
        (query.sql, query.columns)
    }

    pub fn one_column(&mut self, kind: Kind) -> String {
        self.budget = self.budget.saturating_sub(1);
        self.levels.push(Vec::new());
        let from = self.from(1);
        let value = self.expression(kind, 1);
        let filter = if self.random.percent(70) { format!(" WHERE {}", self.condition(1)) } else { String::new() };
        self.levels.pop();
        format!("SELECT {value} FROM {from}{filter}")
    }

    fn with(&mut self) -> String {
        let mut items = Vec::new();
        let mut names: Vec<String> = Vec::new();
        let recursive = self.random.percent(25);
        for _ in 0..1 + self.random.below(2) {
            // Names of tables shadow them, but not inside the query itself.
            let name = (*self.random.pick(&["w1", "w2", "sale", "customer", "item", "event"])).to_owned();
            if names.contains(&name) {
                continue;
            }
            if recursive {
                items.push(self.recursive(&name));
            } else {
                let (sql, columns) = self.subquery(None);
                let columns = unique(columns);
                let Some(columns) = columns else { continue };
                let how = *self.random.pick(&["", "", "MATERIALIZED ", "NOT MATERIALIZED "]);
                items.push(format!("{name} AS {how}({sql})"));
                self.withs.push(With { name: name.clone(), columns });
            }
            names.push(name);
        }
        match (items.is_empty(), recursive) {
            (true, _) => String::new(),
            (false, true) => format!("WITH RECURSIVE {} ", items.join(", ")),
            (false, false) => format!("WITH {} ", items.join(", ")),
        }
    }

    /// A recursion of at most three steps.
    fn recursive(&mut self, name: &str) -> String {
        let columns = vec![Column { name: "d".into(), kind: Kind::Int }, Column { name: "v".into(), kind: Kind::Int }];
        self.levels.push(Vec::new());
        let from = self.base_of_public("q");
        let start = format!("SELECT 0, {} FROM {from} WHERE {}", self.expression(Kind::Int, 1), self.condition(1));
        self.levels.pop();
        let me = Entry { alias: "r".into(), columns: columns.clone(), table: false };
        self.levels.push(vec![me]);
        let from = self.base_of_public("q");
        let step = format!(
            "SELECT r.d + 1, {} FROM {name} r JOIN {from} ON {} = r.v WHERE r.d < 2",
            self.expression(Kind::Int, 1),
            self.leaf(Kind::Int)
        );
        self.levels.pop();
        self.withs.push(With { name: name.to_owned(), columns });
        format!("{name}(d, v) AS ({start} UNION {step})")
    }

    fn values(&mut self) -> Query {
        let (a, b) = (self.expression(Kind::Int, 2), self.expression(Kind::Text, 2));
        let (c, d) = (self.expression(Kind::Int, 1), self.expression(Kind::Text, 1));
        let columns =
            vec![Column { name: "column1".into(), kind: Kind::Int }, Column { name: "column2".into(), kind: Kind::Text }];
        Query { sql: format!("VALUES ({a}, {b}), ({c}, {d})"), columns, total: true }
    }

    fn set_operation(&mut self) -> Query {
        let kinds: Vec<Kind> = (0..1 + self.random.below(3)).map(|_| self.any_kind()).collect();
        let left = self.select(Some(&kinds), false);
        let right = self.select(Some(&kinds), false);
        let operator = *self.random.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL", "INTERSECT ALL"]);
        let mut sql = format!("({}) {operator} ({})", left.sql, right.sql);
        if self.random.percent(20) {
            let third = self.select(Some(&kinds), false);
            sql = format!("{sql} UNION ALL ({})", third.sql);
        }
        let total = self.random.percent(40);
        if total {
            sql += &self.total_order(kinds.len());
        }
        // The arms are of one SQL type, but what is known of their values may differ.
        let columns = left.columns.into_iter().zip(kinds).map(|(c, kind)| Column { name: c.name, kind }).collect();
        Query { sql, columns, total }
    }

    /// ORDER BY every column, perhaps with LIMIT.
    fn total_order(&mut self, columns: usize) -> String {
        let keys: Vec<String> = (1..=columns)
            .map(|i| format!("{i}{}", self.random.pick(&["", "", " DESC", " NULLS FIRST", " DESC NULLS LAST"])))
            .collect();
        let limit = match self.random.below(5) {
            0 => format!(" LIMIT {}", 1 + self.random.below(6)),
            1 => format!(" OFFSET {}", self.random.below(3)),
            2 => format!(" LIMIT {} OFFSET {}", 1 + self.random.below(6), self.random.below(3)),
            3 => format!(" FETCH FIRST {} ROWS ONLY", 1 + self.random.below(6)),
            _ => String::new(),
        };
        format!(" ORDER BY {}{limit}", keys.join(", "))
    }

    pub fn select(&mut self, kinds: Option<&[Kind]>, outermost: bool) -> Query {
        self.levels.push(Vec::new());
        let breadth = 1 + self.random.below(if self.budget > 0 { 3 } else { 1 });
        let from = self.from(breadth);
        let filter = if self.random.percent(70) { format!(" WHERE {}", self.condition(2)) } else { String::new() };
        let query = match self.random.below(10) {
            0 | 1 => self.grouped(kinds, &from, &filter),
            2 if kinds.is_none() && outermost => self.star(&from, &filter),
            _ => self.plain(kinds, outermost, &from, &filter),
        };
        self.levels.pop();
        query
    }

    fn star(&mut self, from: &str, filter: &str) -> Query {
        let entries: Vec<String> = self.levels.last().into_iter().flatten().map(|e| e.alias.clone()).collect();
        let what = if self.random.percent(40) { format!("{}.*", self.random.pick(&entries)) } else { "*".to_owned() };
        let lock = self.lock();
        Query { sql: format!("SELECT {what} FROM {from}{filter}{lock}"), columns: Vec::new(), total: false }
    }

    /// A row lock, where every entry is a table.
    fn lock(&mut self) -> String {
        let entries = self.levels.last().cloned().unwrap_or_default();
        if !self.random.percent(25) || entries.iter().any(|e| !e.table) || (entries.len() > 1 && self.random.percent(80)) {
            return String::new();
        }
        let how = *self.random.pick(&["FOR UPDATE", "FOR SHARE", "FOR NO KEY UPDATE", "FOR KEY SHARE"]);
        let of = if self.random.percent(40) { format!(" OF {}", self.random.pick(&entries).alias) } else { String::new() };
        format!(" {how}{of}{}", self.random.pick(&["", "", " NOWAIT", " SKIP LOCKED"]))
    }

    fn plain(&mut self, kinds: Option<&[Kind]>, outermost: bool, from: &str, filter: &str) -> Query {
        let kinds: Vec<Kind> = match kinds {
            Some(kinds) => kinds.to_vec(),
            None => (0..1 + self.random.below(4)).map(|_| self.any_kind()).collect(),
        };
        let names = self.names(kinds.len());
        let mut items = Vec::new();
        let mut columns = Vec::new();
        for (kind, name) in kinds.iter().zip(names) {
            let (value, known) = self.target(*kind);
            // Without a name the column gets the one that PostgreSQL makes up.
            let bare = outermost && self.random.percent(50);
            items.push(if bare { value } else { format!("{value} AS {name}") });
            columns.push(Column { name, kind: known });
        }
        let (distinct, total) = match self.random.below(10) {
            0 => ("DISTINCT ".to_owned(), self.random.percent(50)),
            1 if !items[0].starts_with(|c: char| c.is_ascii_digit() || "$'(N".contains(c)) => {
                // The key is an output column: with all of them in ORDER BY, which row is first is determined.
                let key = items[0].rsplit_once(" AS ").map_or(items[0].clone(), |(e, _)| e.to_owned());
                (format!("DISTINCT ON ({key}) "), true)
            }
            _ => (String::new(), self.random.percent(30)),
        };
        let order = if !total {
            if distinct.is_empty() && outermost && !items.iter().any(|i| i.contains("OVER (")) {
                self.lock()
            } else {
                String::new()
            }
        } else if distinct.starts_with("DISTINCT ON") {
            format!(" ORDER BY {}", (1..=items.len()).map(|i| i.to_string()).collect::<Vec<_>>().join(", "))
        } else {
            self.total_order(items.len())
        };
        Query { sql: format!("SELECT {distinct}{} FROM {from}{filter}{order}", items.join(", ")), columns, total }
    }

    /// A value for a target list, with what is known of it: bare columns keep what is known of theirs.
    fn target(&mut self, kind: Kind) -> (String, Kind) {
        if self.random.percent(12) {
            return (self.window(kind), kind);
        }
        let columns = self.columns_of(kind);
        if !columns.is_empty() && self.random.percent(45) {
            return self.random.pick(&columns).clone();
        }
        (self.expression(kind, 2), kind)
    }

    /// Window functions that give the same for rows that are equal in the order.
    fn window(&mut self, kind: Kind) -> String {
        let over = {
            let mut over = Vec::new();
            if self.random.percent(60) {
                let key = self.any_kind();
                over.push(format!("PARTITION BY {}", self.expression(key, 1)));
            }
            if self.random.percent(60) {
                let key = self.any_kind();
                over.push(format!("ORDER BY {}", self.expression(key, 1)));
            }
            over.join(" ")
        };
        match kind {
            Kind::Int => format!("(count(*) OVER ({over}))::int"),
            Kind::Big => format!("{} OVER ({over})", self.random.pick(&["rank()", "dense_rank()", "count(*)"])),
            Kind::Num | Kind::Text | Kind::Date | Kind::Time => format!("max({}) OVER ({over})", self.expression(kind, 1)),
            _ => self.expression(kind, 1),
        }
    }

    fn grouped(&mut self, kinds: Option<&[Kind]>, from: &str, filter: &str) -> Query {
        // Keys: columns, or expressions that the target list repeats.
        let whole = self.levels.last().cloned().unwrap_or_default();
        let mut keys: Vec<(String, Kind)> = Vec::new();
        for _ in 0..1 + self.random.below(2) {
            let kind = *self.random.pick(&[Kind::Int, Kind::Text, Kind::Mood, Kind::Num, Kind::Int]);
            let key = if self.random.percent(70) { self.columns_of_level(kind) } else { Some(self.expression(kind, 1)) };
            let key =
                key.filter(|k| !k.starts_with(|c: char| c.is_ascii_digit() || c == '$' || c == '\'') && !k.contains("(SELECT"));
            keys.extend(key.map(|k| (k, kind)));
        }
        let kinds: Vec<Kind> = kinds.map_or_else(|| vec![Kind::Int, Kind::Big, Kind::Num], <[Kind]>::to_vec);
        let names = self.names(kinds.len());
        let mut items = Vec::new();
        let mut columns = Vec::new();
        for (kind, name) in kinds.iter().zip(names) {
            let key = keys.iter().find(|(_, k)| k.serves(*kind)).map(|(k, _)| k.clone());
            let value = match key {
                Some(key) if self.random.percent(60) => key,
                _ => self.aggregate(*kind),
            };
            items.push(format!("{value} AS {name}"));
            columns.push(Column { name, kind: *kind });
        }
        let having = if self.random.percent(35) {
            format!(" HAVING {} > {}", self.aggregate(Kind::Int), self.literal(Kind::Int))
        } else {
            String::new()
        };
        if let Some(level) = self.levels.last_mut() {
            level.clone_from(&whole);
        }
        let list = keys.iter().map(|(k, _)| k.clone()).collect::<Vec<_>>().join(", ");
        // Of a constant among the keys of grouping sets, below a set operation, PostgreSQL 15 shows the value or NULL as the plan has it.
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let names_column = |key: &str| key.split(word).any(|w| whole.iter().any(|e| e.columns.iter().any(|c| c.name == w)));
        let vary = keys.iter().all(|(key, _)| names_column(key));
        let (group, has_sets) = match (keys.is_empty(), self.random.below(6)) {
            (true, _) => (String::new(), false),
            (false, 0) if vary => (format!(" GROUP BY ROLLUP ({list})"), true),
            (false, 1) if vary => (format!(" GROUP BY GROUPING SETS (({list}), ())"), true),
            (false, 2) if vary => (format!(" GROUP BY CUBE ({list})"), true),
            (false, _) => (format!(" GROUP BY {list}"), false),
        };
        let sorted = self.random.percent(30);
        let order = if sorted { self.total_order(items.len()) } else { String::new() };
        // A key that a condition makes constant (`n = 3`) it does not sort, though grouping sets have made it NULL in some rows.
        let total = sorted && !has_sets;
        Query { sql: format!("SELECT {} FROM {from}{filter}{group}{having}{order}", items.join(", ")), columns, total }
    }

    /// A column of the innermost level.
    fn columns_of_level(&mut self, kind: Kind) -> Option<String> {
        let level = self.levels.last()?;
        let found: Vec<String> = level
            .iter()
            .flat_map(|e| e.columns.iter().filter(|c| c.kind.serves(kind)).map(|c| format!("{}.{}", e.alias, c.name)))
            .collect();
        if found.is_empty() { None } else { Some(self.random.pick(&found).clone()) }
    }

    /// An aggregate over columns of outer queries alone would belong to those: mostly it sees its own level only.
    fn aggregate(&mut self, kind: Kind) -> String {
        self.by_itself(|g| g.aggregate_of(kind))
    }

    /// Generates something that sees the innermost level only.
    pub fn by_itself(&mut self, what: impl FnOnce(&mut Generator) -> String) -> String {
        if self.random.percent(3) {
            return what(self);
        }
        let mut outer = std::mem::take(&mut self.levels);
        self.levels.extend(outer.pop());
        let text = what(self);
        outer.append(&mut self.levels);
        self.levels = outer;
        text
    }

    fn aggregate_of(&mut self, kind: Kind) -> String {
        let filter = if self.random.percent(20) { format!(" FILTER (WHERE {})", self.condition(1)) } else { String::new() };
        match kind {
            Kind::Int | Kind::Divisor => match self.random.below(3) {
                0 => format!("count(*){filter}::int"),
                1 => format!("max({}){filter}", self.expression(Kind::Int, 1)),
                _ => format!("count(DISTINCT {}){filter}::int", self.expression(Kind::Text, 1)),
            },
            Kind::Big => format!("sum({}){filter}", self.expression(Kind::Int, 1)),
            Kind::Num => format!("sum({}){filter}", self.expression(Kind::Num, 1)),
            Kind::Text | Kind::Varchar => {
                let value = self.expression(Kind::Text, 1);
                format!("string_agg({value}, ',' ORDER BY {value}){filter}")
            }
            Kind::Bool => format!("bool_or({}){filter}", self.condition(1)),
            Kind::Json => {
                let value = self.expression(Kind::Int, 1);
                format!("jsonb_agg({value} ORDER BY {value}){filter}")
            }
            Kind::Ints => {
                let value = self.expression(Kind::Int, 1);
                format!("array_agg({value} ORDER BY {value}){filter}")
            }
            Kind::Date | Kind::Time | Kind::Mood => format!("max({}){filter}", self.expression(kind, 1)),
            Kind::Small | Kind::Uuid | Kind::Texts | Kind::Digits | Kind::Pattern | Kind::Markup => {
                format!("NULL::{}", kind.name())
            }
        }
    }

    /// The text of FROM with up to `breadth` entries; they are added to the innermost level.
    pub fn from(&mut self, breadth: usize) -> String {
        let mut used = Vec::new();
        let mut sql = self.entry(&mut used, false);
        for _ in 1..breadth {
            if self.random.percent(15) {
                let next = self.entry(&mut used, true);
                sql = format!("{sql}, {next}");
            } else if self.random.percent(20) && !sql.contains(", ") {
                // The tree leans to the right: a join in parentheses.
                let outside = self.levels.pop().unwrap_or_default();
                self.levels.push(Vec::new());
                let left = self.entry(&mut used, false);
                let inner = self.join(left, &mut used);
                let inside = std::mem::take(self.levels.last_mut().expect("a level"));
                let level = self.levels.last_mut().expect("a level");
                level.extend(outside);
                level.extend(inside);
                let kind = *self.random.pick(&["LEFT JOIN", "JOIN", "RIGHT JOIN"]);
                sql = format!("{sql} {kind} ({inner}) ON {}", self.condition(1));
            } else if sql.contains(", ") {
                // After a comma, ON would not see what stands before it.
                let next = self.entry(&mut used, true);
                sql = format!("{sql} CROSS JOIN {next}");
            } else {
                sql = self.join(sql, &mut used);
            }
        }
        sql
    }

    fn join(&mut self, left: String, used: &mut Vec<String>) -> String {
        let before = self.levels.last().cloned().unwrap_or_default();
        let kind =
            *self.random.pick(&["JOIN", "JOIN", "INNER JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN"]);
        let may_see = matches!(kind, "JOIN" | "INNER JOIN" | "LEFT JOIN" | "CROSS JOIN");
        let right = self.entry(used, may_see);
        if kind == "CROSS JOIN" {
            return format!("{left} {kind} {right}");
        }
        let level = self.levels.last().cloned().unwrap_or_default();
        let added = level.last().cloned().expect("the entry just added");
        let shared = shared_columns(&before, &added);
        if !shared.is_empty() && self.random.percent(25) {
            if before.len() == 1 && self.random.percent(25) && natural(&before[0], &added) {
                return format!("{left} NATURAL {kind} {right}");
            }
            return format!("{left} {kind} {right} USING ({})", self.random.pick(&shared));
        }
        let condition = if kind == "FULL JOIN" {
            self.equality(&before, &added)
        } else if self.random.percent(50) {
            format!("{} AND {}", self.equality(&before, &added), self.condition(1))
        } else if self.random.percent(60) {
            self.equality(&before, &added)
        } else {
            self.condition(1)
        };
        format!("{left} {kind} {right} ON {condition}")
    }

    /// A join condition that hashes.
    fn equality(&mut self, left: &[Entry], right: &Entry) -> String {
        let ints = |entries: &[Entry]| -> Vec<String> {
            let of = |e: &Entry| {
                e.columns
                    .iter()
                    .filter(|c| c.kind.serves(Kind::Int))
                    .map(|c| format!("{}.{}", e.alias, c.name))
                    .collect::<Vec<_>>()
            };
            entries.iter().flat_map(of).collect()
        };
        let (left, right) = (ints(left), ints(std::slice::from_ref(right)));
        if left.is_empty() || right.is_empty() {
            return "true".to_owned();
        }
        format!("{} = {}", self.random.pick(&left), self.random.pick(&right))
    }

    /// One entry of FROM; `lateral`: it may see those before it.
    pub fn entry(&mut self, used: &mut Vec<String>, lateral: bool) -> String {
        match self.random.below(12) {
            0 | 1 if self.budget > 0 => self.derived(used, lateral),
            2 => self.rows(used, lateral),
            3 | 4 if !self.withs.is_empty() => {
                let with = self.withs[self.random.below(self.withs.len())].clone();
                // The last of that name is meant.
                let with = self.withs.iter().rfind(|w| w.name == with.name).cloned().unwrap_or(with);
                let alias = self.alias(used);
                self.add(Entry { alias: alias.clone(), columns: with.columns, table: false });
                format!("{} AS {alias}", with.name)
            }
            _ => self.base(used),
        }
    }

    fn add(&mut self, entry: Entry) {
        self.levels.last_mut().expect("a level").push(entry);
    }

    fn base(&mut self, used: &mut Vec<String>) -> String {
        if self.random.percent(12) {
            let view = self.random.pick(&VIEWS);
            let alias = self.alias(used);
            self.add(Entry { alias: alias.clone(), columns: view.columns(), table: false });
            return format!("{} {alias}", view.name);
        }
        let table = self.random.pick(&TABLES);
        let mut columns = table.columns();
        let shadowed = self.withs.iter().any(|w| w.name == table.name);
        let name = match self.random.below(10) {
            0 | 1 => format!("public.{}", table.name),
            2 if !shadowed && table.name != "event" => format!("ONLY {}", table.name),
            3 if !shadowed => table.name.to_uppercase(),
            4 if !shadowed => format!("\"{}\"", table.name),
            5 if table.name == "event" => (*self.random.pick(&["event_early", "public.event_late", "event_rest"])).to_owned(),
            _ if shadowed => format!("public.{}", table.name),
            _ => table.name.to_owned(),
        };
        if self.random.percent(15) && !name.contains('_') && !used.contains(&table.name.to_owned()) {
            used.push(table.name.to_owned());
            self.add(Entry { alias: table.name.to_owned(), columns, table: true });
            return name;
        }
        let alias = self.alias(used);
        if self.random.percent(10) {
            // Renamed columns: some get the names of others.
            let n = 1 + self.random.below(columns.len().min(4));
            let names = self.names(n);
            let kept: Vec<String> = columns[n..].iter().map(|c| c.name.clone()).collect();
            if names.iter().all(|n| !kept.contains(n)) {
                for (column, name) in columns.iter_mut().zip(&names) {
                    column.name.clone_from(name);
                }
                self.add(Entry { alias: alias.clone(), columns, table: true });
                return format!("{name} AS {alias}({})", names.join(", "));
            }
        }
        self.add(Entry { alias: alias.clone(), columns, table: true });
        format!("{name} {}{alias}", self.random.pick(&["", "AS "]))
    }

    /// A table under this alias, which no WITH query shadows.
    pub fn base_of_public(&mut self, alias: &str) -> String {
        let table = self.random.pick(&TABLES);
        self.add(Entry { alias: alias.to_owned(), columns: table.columns(), table: true });
        format!("public.{} {alias}", table.name)
    }

    fn derived(&mut self, used: &mut Vec<String>, lateral: bool) -> String {
        let lateral = lateral && self.random.percent(50);
        // Without LATERAL, what stands beside it is out of sight.
        let beside = if lateral { None } else { self.levels.pop() };
        let (sql, columns) = self.subquery(None);
        self.levels.extend(beside);
        let alias = self.alias(used);
        let word = if lateral { "LATERAL " } else { "" };
        let mut columns = columns;
        if columns.is_empty() || self.random.percent(20) {
            let names = self.names(columns.len());
            for (column, name) in columns.iter_mut().zip(&names) {
                column.name.clone_from(name);
            }
            self.add(Entry { alias: alias.clone(), columns, table: false });
            let list = if names.is_empty() { String::new() } else { format!("({})", names.join(", ")) };
            return format!("{word}({sql}) AS {alias}{list}");
        }
        self.add(Entry { alias: alias.clone(), columns, table: false });
        format!("{word}({sql}) {alias}")
    }

    /// VALUES and functions.
    fn rows(&mut self, used: &mut Vec<String>, lateral: bool) -> String {
        let beside = if lateral { None } else { self.levels.pop() };
        let (sql, kind) = match self.random.below(4) {
            0 => (format!("(VALUES ({}), ({}))", self.expression(Kind::Int, 1), self.literal(Kind::Int)), Kind::Int),
            1 => (format!("generate_series(1, least(4, {}))", self.expression(Kind::Int, 1)), Kind::Int),
            2 => (format!("unnest({})", self.expression(Kind::Ints, 1)), Kind::Int),
            _ => (format!("{}(VALUES ({}))", if lateral { "LATERAL " } else { "" }, self.expression(Kind::Text, 1)), Kind::Text),
        };
        self.levels.extend(beside);
        let alias = self.alias(used);
        let name = self.names(1).remove(0);
        let sql = if sql.starts_with("(VALUES") && lateral { format!("LATERAL {sql}") } else { sql };
        self.add(Entry { alias: alias.clone(), columns: vec![Column { name: name.clone(), kind }], table: false });
        format!("{sql} AS {alias}({name})")
    }
}

/// Columns of one name and type on both sides, once on each.
fn shared_columns(left: &[Entry], right: &Entry) -> Vec<String> {
    let once = |name: &str| left.iter().flat_map(|e| &e.columns).filter(|c| c.name == name).count() == 1;
    let all = left.iter().flat_map(|e| &e.columns);
    let same = all.filter(|c| right.columns.iter().any(|r| r.name == c.name && r.kind.name() == c.kind.name()));
    same.filter(|c| once(&c.name)).map(|c| c.name.clone()).collect()
}

/// Do all columns of equal names have equal types?
fn natural(left: &Entry, right: &Entry) -> bool {
    left.columns.iter().all(|c| right.columns.iter().all(|r| r.name != c.name || r.kind.name() == c.kind.name()))
}

/// The columns, if their names differ.
fn unique(columns: Vec<Column>) -> Option<Vec<Column>> {
    let names: std::collections::HashSet<&str> = columns.iter().map(|c| c.name.as_str()).collect();
    let differ = names.len() == columns.len() && !columns.is_empty();
    differ.then_some(columns)
}
