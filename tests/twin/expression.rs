//! Expressions of a wanted type. Those over `Divisor`, `Digits`, `Pattern` and `Markup` raise on other tenants' rows.

use super::scope::{Generator, Kind};

const KINDS: [Kind; 11] = [
    Kind::Int,
    Kind::Int,
    Kind::Text,
    Kind::Text,
    Kind::Num,
    Kind::Bool,
    Kind::Date,
    Kind::Time,
    Kind::Json,
    Kind::Big,
    Kind::Mood,
];

impl Generator {
    pub fn any_kind(&mut self) -> Kind {
        *self.random.pick(&KINDS)
    }

    pub fn expression(&mut self, kind: Kind, depth: usize) -> String {
        if depth == 0 || self.random.percent(35) {
            return self.leaf(kind);
        }
        let d = depth - 1;
        if self.random.percent(14) {
            return self.common(kind, d);
        }
        match kind {
            Kind::Int | Kind::Divisor => self.int(d),
            Kind::Big => match self.random.below(4) {
                0 => format!("({}::bigint)", self.expression(Kind::Int, d)),
                1 => format!("({} + {})", self.expression(Kind::Big, d), self.expression(Kind::Int, d)),
                2 => format!("({})::bigint", self.leaf_or(Kind::Digits, "'7'")),
                _ => self.scalar_query(kind),
            },
            Kind::Small => self.leaf(kind),
            Kind::Num => match self.random.below(6) {
                0 => format!("({} + {})", self.expression(Kind::Num, d), self.expression(Kind::Num, d)),
                1 => format!("({} / {})", self.expression(Kind::Num, d), self.leaf_or(Kind::Divisor, "2")),
                2 => format!("round({}, 1)", self.expression(Kind::Num, d)),
                3 => format!("({}::numeric)", self.expression(Kind::Int, d)),
                4 => format!("({})::numeric(10,2)", self.leaf_or(Kind::Digits, "'3'")),
                _ => self.scalar_query(kind),
            },
            Kind::Text | Kind::Varchar => self.text(d),
            Kind::Bool => self.condition(depth),
            Kind::Date => match self.random.below(3) {
                0 => format!("({} + {})", self.leaf(Kind::Date), self.literal(Kind::Int)),
                1 => format!("({}::date)", self.leaf(Kind::Time)),
                _ => self.scalar_query(kind),
            },
            Kind::Time => match self.random.below(3) {
                0 => format!("({} + interval '1 hour')", self.leaf(Kind::Time)),
                1 => format!("date_trunc('day', {})", self.leaf(Kind::Time)),
                _ => format!("({}::timestamptz)", self.leaf(Kind::Date)),
            },
            Kind::Json => match self.random.below(4) {
                0 => format!("jsonb_build_object('k', {})", self.expression(Kind::Int, d)),
                1 => format!("to_jsonb({})", self.expression(Kind::Int, d)),
                2 => format!("({} -> 'k')", self.leaf(Kind::Json)),
                _ => self.scalar_query(kind),
            },
            Kind::Ints => match self.random.below(4) {
                0 => format!("ARRAY[{}, {}]", self.expression(Kind::Int, d), self.expression(Kind::Int, d)),
                1 => format!("array_append({}, {})", self.leaf(Kind::Ints), self.expression(Kind::Int, d)),
                2 => format!("({} || {})", self.leaf(Kind::Ints), self.leaf(Kind::Int)),
                _ => {
                    let query = self.one_column(Kind::Int);
                    format!("ARRAY({query} ORDER BY 1)")
                }
            },
            Kind::Uuid | Kind::Texts | Kind::Mood | Kind::Digits | Kind::Pattern | Kind::Markup => self.leaf(kind),
        }
    }

    /// CASE, COALESCE, NULLIF, GREATEST: of every type that can be compared.
    fn common(&mut self, kind: Kind, d: usize) -> String {
        let name = kind.name();
        match self.random.below(4) {
            0 => {
                let (when, then, other) = (self.condition(d), self.expression(kind, d), self.expression(kind, d));
                format!("CASE WHEN {when} THEN {then} ELSE {other} END")
            }
            1 => format!("COALESCE({}, {})", self.expression(kind, d), self.expression(kind, d)),
            2 => format!("NULLIF({}, {}::{name})", self.expression(kind, d), self.leaf(kind)),
            _ => format!("GREATEST({}, {}::{name})", self.expression(kind, d), self.leaf(kind)),
        }
    }

    fn int(&mut self, d: usize) -> String {
        match self.random.below(13) {
            0 => format!("({} + {})", self.expression(Kind::Int, d), self.expression(Kind::Int, d)),
            1 => format!("({} - {})", self.expression(Kind::Int, d), self.leaf(Kind::Int)),
            2 => format!("({} / {})", self.expression(Kind::Int, d), self.leaf_or(Kind::Divisor, "3")),
            3 => format!("({} % {})", self.expression(Kind::Int, d), self.leaf_or(Kind::Divisor, "3")),
            4 | 5 => format!("{}::int", self.leaf_or(Kind::Digits, "'12'")),
            6 => format!("length({})", self.expression(Kind::Text, d)),
            7 => format!("abs({})", self.expression(Kind::Int, d)),
            8 => format!("extract(day FROM {})::int", self.leaf(Kind::Date)),
            9 => format!("cardinality({})", self.leaf(Kind::Ints)),
            10 => format!("({})[1]", self.leaf(Kind::Ints)),
            11 => format!("({} ->> 'k')::int", self.leaf(Kind::Json)),
            _ => self.scalar_query(Kind::Int),
        }
    }

    fn text(&mut self, d: usize) -> String {
        match self.random.below(14) {
            0 => format!("lower({})", self.expression(Kind::Text, d)),
            1 => format!("({} || {})", self.expression(Kind::Text, d), self.expression(Kind::Text, d)),
            2 => format!("substr({}, {}, abs({}))", self.expression(Kind::Text, d), self.leaf(Kind::Int), self.leaf(Kind::Int)),
            3 => format!("substr({}, 1, {})", self.leaf(Kind::Text), self.leaf_or(Kind::Divisor, "2")),
            4 => format!("left({}, 2)", self.expression(Kind::Text, d)),
            5 => format!("({}::text)", self.expression(Kind::Int, d)),
            6 => format!("replace({}, 'n', {})", self.expression(Kind::Text, d), self.literal(Kind::Text)),
            7 => format!("({}::text)", self.leaf(Kind::Mood)),
            8 => format!("({} ->> 'k')", self.leaf(Kind::Json)),
            9 => format!("regexp_replace({}, {}, 'z')", self.leaf(Kind::Text), self.leaf_or(Kind::Pattern, "'n'")),
            10 => format!("xmlparse(document {})::text", self.leaf_or(Kind::Markup, "'<q/>'")),
            11 => format!("concat({}, '-', {})", self.leaf(Kind::Text), self.leaf(Kind::Int)),
            12 => self.whole_row(),
            _ => self.scalar_query(Kind::Text),
        }
    }

    /// The text, or the JSON, of a whole row in reach.
    fn whole_row(&mut self) -> String {
        let entries: Vec<String> =
            self.levels.last().into_iter().flatten().filter(|e| e.table).map(|e| e.alias.clone()).collect();
        // A column of the same name would be meant instead.
        let columns: Vec<String> = self.levels.iter().flatten().flat_map(|e| e.columns.iter().map(|c| c.name.clone())).collect();
        let entries: Vec<String> = entries.into_iter().filter(|e| !columns.contains(e)).collect();
        if entries.is_empty() {
            return self.leaf(Kind::Text);
        }
        let alias = self.random.pick(&entries).clone();
        if self.random.percent(50) { format!("({alias})::text") } else { format!("to_json({alias})::text") }
    }

    pub fn condition(&mut self, depth: usize) -> String {
        let d = depth.saturating_sub(1);
        match self.random.below(if depth == 0 { 8 } else { 22 }) {
            0 | 1 => {
                let kind = self.any_kind();
                let operator = if kind == Kind::Bool { "=" } else { *self.random.pick(&["=", "<", ">=", "<>", "="]) };
                format!("{} {operator} {}", self.column_or_leaf(kind), self.leaf(kind))
            }
            2 => format!("{} = {}", self.column_or_leaf(Kind::Int), self.leaf(Kind::Int)),
            3 => {
                let kind = self.any_kind();
                format!("{} IS {}NULL", self.column_or_leaf(kind), if self.random.percent(60) { "NOT " } else { "" })
            }
            4 => format!("{} ~ {}", self.leaf(Kind::Text), self.leaf_or(Kind::Pattern, "'^n'")),
            5 => format!("{} LIKE {}", self.column_or_leaf(Kind::Text), self.random.pick(&["'n%'", "'%1%'", "'name _'"])),
            6 => format!("{}::int > {}", self.leaf_or(Kind::Digits, "'5'"), self.literal(Kind::Int)),
            7 => format!(
                "{} IN ({}, {}, {})",
                self.column_or_leaf(Kind::Int),
                self.literal(Kind::Int),
                self.literal(Kind::Int),
                self.leaf(Kind::Int)
            ),
            8 => format!("({} AND {})", self.condition(d), self.condition(d)),
            9 => format!("({} OR {})", self.condition(d), self.condition(d)),
            10 => format!("NOT ({})", self.condition(d)),
            11 => {
                let kind = self.any_kind();
                format!("{} = {}", self.expression(kind, d), self.expression(kind, d))
            }
            12 => {
                format!("{} / {} > {}", self.expression(Kind::Int, d), self.leaf_or(Kind::Divisor, "1"), self.literal(Kind::Int))
            }
            13 => format!("xmlparse(document {}) IS NOT NULL", self.leaf_or(Kind::Markup, "'<q/>'")),
            14 => {
                let kind = self.any_kind();
                format!("{} IS DISTINCT FROM {}", self.expression(kind, d), self.leaf(kind))
            }
            15 => format!(
                "{} BETWEEN {} AND {}",
                self.expression(Kind::Int, d),
                self.literal(Kind::Int),
                self.expression(Kind::Int, d)
            ),
            16 => format!("{} = ANY ({})", self.leaf(Kind::Int), self.expression(Kind::Ints, d)),
            17 => format!("{} {} {}", self.leaf(Kind::Json), self.random.pick(&["@>", "=", "<@"]), self.leaf(Kind::Json)),
            18 => format!(
                "({}, {}) = ({}, {})",
                self.leaf(Kind::Int),
                self.leaf(Kind::Text),
                self.leaf(Kind::Int),
                self.leaf(Kind::Text)
            ),
            _ => self.query_condition(d),
        }
    }

    /// EXISTS, IN, ANY and their like.
    fn query_condition(&mut self, d: usize) -> String {
        if self.budget == 0 {
            return self.condition(0);
        }
        let not = if self.random.percent(25) { "NOT " } else { "" };
        match self.random.below(5) {
            0 | 1 => {
                let (query, _) = self.subquery(None);
                format!("{not}EXISTS ({query})")
            }
            2 | 3 => {
                let kind = self.any_kind();
                let left = self.expression(kind, d);
                let query = self.one_column(kind);
                format!("{left} {not}IN ({query})")
            }
            _ => {
                let left = self.expression(Kind::Int, d);
                let query = self.one_column(Kind::Int);
                format!("{left} {} ({query})", self.random.pick(&["= ANY", "> ALL", "<> ALL", "< SOME"]))
            }
        }
    }

    /// `(SELECT max(..) FROM ..)`: one row, whatever there is.
    fn scalar_query(&mut self, kind: Kind) -> String {
        let aggregate = match kind {
            Kind::Int | Kind::Divisor | Kind::Big | Kind::Num | Kind::Date | Kind::Time => *self.random.pick(&["max", "min"]),
            Kind::Text | Kind::Varchar => "max",
            _ => return self.leaf(kind),
        };
        if self.budget == 0 {
            return self.leaf(kind);
        }
        self.budget -= 1;
        self.levels.push(Vec::new());
        let from = self.from(1);
        let inner = self.by_itself(|g| g.expression(kind, 1));
        let filter = if self.random.percent(60) { format!(" WHERE {}", self.condition(1)) } else { String::new() };
        self.levels.pop();
        format!("(SELECT {aggregate}({inner}) FROM {from}{filter})")
    }

    /// A column that serves, or a literal.
    pub fn leaf(&mut self, kind: Kind) -> String {
        if self.random.percent(18) { self.literal(kind) } else { self.column_or_leaf(kind) }
    }

    fn column_or_leaf(&mut self, kind: Kind) -> String {
        let columns = self.columns_of(kind);
        if columns.is_empty() { self.literal(kind) } else { self.random.pick(&columns).0.clone() }
    }

    /// A column of a kind that has no literal, or else this text.
    fn leaf_or(&mut self, kind: Kind, otherwise: &str) -> String {
        let columns = self.columns_of(kind);
        if columns.is_empty() { otherwise.to_owned() } else { self.random.pick(&columns).0.clone() }
    }

    pub fn literal(&mut self, kind: Kind) -> String {
        if self.random.percent(2) {
            return format!("NULL::{}", kind.name());
        }
        let (value, plain) = match kind {
            Kind::Int | Kind::Divisor => (format!("{}", 1 + self.random.below(12)), true),
            Kind::Big => (format!("{}", 1 + self.random.below(9000)), false),
            Kind::Small => (format!("{}", 20 + self.random.below(10)), false),
            Kind::Num => (format!("{}.50", self.random.below(60)), true),
            Kind::Text | Kind::Varchar => {
                ((*self.random.pick(&["n3", "name 2", "open", "it''s", "k1", "u1@one.example", "", "ü"])).to_owned(), false)
            }
            Kind::Bool => return (*self.random.pick(&["true", "false"])).to_owned(),
            Kind::Date => (format!("2000-01-0{}", 1 + self.random.below(9)), false),
            Kind::Time => (format!("2026-01-{:02} 00:00:00+00", 10 + self.random.below(15)), false),
            Kind::Json => (format!("{{\"k\": {}}}", self.random.below(5)), false),
            Kind::Uuid => (format!("00000000-0000-0000-0000-00000000000{}", self.random.below(9)), false),
            Kind::Ints => ("{3,1}".to_owned(), false),
            Kind::Texts => ("{t1,u}".to_owned(), false),
            Kind::Mood => ((*self.random.pick(&["sad", "ok", "happy"])).to_owned(), false),
            Kind::Digits => ("42".to_owned(), false),
            Kind::Pattern => ("^n".to_owned(), false),
            Kind::Markup => ("<q/>".to_owned(), false),
        };
        if let Some(parameters) = &mut self.parameters
            && parameters.len() < 8
        {
            parameters.push(value.replace("''", "'"));
            return format!("${}::{}", parameters.len(), kind.name());
        }
        if plain { value } else { format!("'{value}'::{}", kind.name()) }
    }
}
