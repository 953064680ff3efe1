//! INSERT, UPDATE, DELETE, also inside WITH; MERGE.

use super::scope::{Column, Entry, Generator, Kind, TABLES, Table};

/// Columns that an UPDATE may set freely: (table, column).
const SETTABLE: [(&str, &[&str]); 5] = [
    ("customer", &["name", "email", "age", "balance", "active", "born", "joined", "profile", "tags", "mood", "score"]),
    ("sale", &["qty", "price", "note", "at", "state", "weights", "num"]),
    ("event", &["kind", "payload", "n"]),
    ("remark", &["body", "stars", "customer_id"]),
    ("memo", &["body", "n"]),
];

impl Generator {
    /// A statement that writes: its text and the table it writes to.
    pub fn write(&mut self) -> (String, &'static str) {
        let table = self.tenant_table();
        let withs = self.withs.len();
        let (sql, name) = match self.random.below(12) {
            0..=3 => (self.insert(table), table.name),
            4..=6 => (self.update(table), table.name),
            7 | 8 => (self.delete(table), table.name),
            9 | 10 => (self.merge(table), table.name),
            _ => (self.write_in_with(table), table.name),
        };
        self.withs.truncate(withs);
        (sql, name)
    }

    fn tenant_table(&mut self) -> &'static Table {
        // The last one is shared.
        &TABLES[self.random.below(TABLES.len() - 1)]
    }

    fn write_in_with(&mut self, table: &'static Table) -> String {
        let inner = match self.random.below(3) {
            0 => self.delete_bare(table),
            1 => self.update_bare(table),
            _ => self.insert_bare(table),
        };
        let column = Column { name: "v".into(), kind: Kind::Int };
        let returned = table.columns.iter().find(|(_, k)| *k == Kind::Int).map_or("1", |(n, _)| *n);
        let whole = format!("{inner} RETURNING {returned} AS v");
        if self.random.percent(20) {
            return format!("WITH d AS ({inner}) SELECT 1 AS one");
        }
        self.levels.push(vec![Entry { alias: "d".into(), columns: vec![column], table: false }]);
        let from = self.base_of_public("q");
        let value = self.expression(Kind::Int, 1);
        let sql = format!("WITH d AS ({whole}) SELECT {value} AS x FROM d LEFT JOIN {from} ON {} = d.v", self.leaf(Kind::Int));
        self.levels.pop();
        sql
    }

    fn insert(&mut self, table: &'static Table) -> String {
        let insert = self.insert_bare(table);
        let conflict = self.conflict(table);
        // Where nothing else can conflict, the rows that come back are determined.
        let returning = self.returning(table, table.name);
        format!("{insert}{conflict}{returning}")
    }

    fn insert_bare(&mut self, table: &'static Table) -> String {
        if self.random.percent(3) {
            return format!("INSERT INTO {} DEFAULT VALUES", table.name);
        }
        let required: &[&str] = match table.name {
            "customer" => &["id", "name"],
            "event" => &["id", "at"],
            "remark" => &["remark_id"],
            _ => &["id"],
        };
        let mut columns: Vec<(&str, Kind)> = table.columns.iter().filter(|(n, _)| required.contains(n)).copied().collect();
        let optional: Vec<(&str, Kind)> = settable(table).iter().filter(|(n, _)| !required.contains(n)).copied().collect();
        for _ in 0..self.random.below(3) {
            let column = *self.random.pick(&optional);
            if !columns.iter().any(|(n, _)| *n == column.0) && column.0 != "email" {
                columns.push(column);
            }
        }
        if self.random.percent(15) {
            let tenant = table.columns.iter().find(|(n, _)| *n == "tenant_id").expect("a tenant table");
            columns.insert(self.random.below(columns.len()), *tenant);
        }
        let names = columns.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
        let source = if self.random.percent(30) { self.select_source(&columns) } else { self.values_source(&columns) };
        format!("INSERT INTO {}{} ({names}) {source}", self.random.pick(&["", "public."]), table.name)
    }

    fn values_source(&mut self, columns: &[(&str, Kind)]) -> String {
        let rows: Vec<String> = (0..1 + self.random.below(3))
            .map(|row| {
                let values: Vec<String> = columns.iter().map(|(name, kind)| self.value_for(name, *kind, row)).collect();
                format!("({})", values.join(", "))
            })
            .collect();
        format!("VALUES {}", rows.join(", "))
    }

    /// A value that fits the column; keys are new, or sometimes the caller's own.
    fn value_for(&mut self, name: &str, kind: Kind, row: usize) -> String {
        match name {
            "tenant_id" if kind == Kind::Text => "'1'".to_owned(),
            "tenant_id" => (*self.random.pick(&["1", "1", "DEFAULT"])).to_owned(),
            "id" | "remark_id" => {
                let old = self.random.percent(20);
                if old { format!("{}", 1 + self.random.below(5)) } else { format!("{}", 100 + 10 * self.random.below(20) + row) }
            }
            "customer_id" => (*self.random.pick(&["1", "2", "NULL"])).to_owned(),
            "qty" => format!("COALESCE({}, 1)", self.expression(kind, 1)),
            "name" | "state" => format!("left(COALESCE({}, 'x'), 8)", self.expression(Kind::Text, 1)),
            "visible" | "active" => "true".to_owned(),
            _ => self.expression(kind, 1),
        }
    }

    fn select_source(&mut self, columns: &[(&str, Kind)]) -> String {
        let source = self.random.pick(&TABLES);
        let key = if source.name == "remark" { "remark_id" } else { "id" };
        self.levels.push(vec![Entry { alias: "f".into(), columns: source.columns(), table: true }]);
        let values: Vec<String> = columns
            .iter()
            .map(|(name, kind)| match *name {
                "id" | "remark_id" => format!("f.{key} + 200"),
                "tenant_id" if *kind == Kind::Text => "'1'".to_owned(),
                "tenant_id" => "1".to_owned(),
                "at" => "timestamptz '2026-01-16 00:00:00+00'".to_owned(),
                name => self.value_for(name, *kind, 0),
            })
            .collect();
        let filter = if self.random.percent(60) { format!(" WHERE {}", self.condition(1)) } else { String::new() };
        self.levels.pop();
        format!("SELECT {} FROM public.{} f{filter}", values.join(", "), source.name)
    }

    fn conflict(&mut self, table: &'static Table) -> String {
        let key = match table.name {
            "event" => "tenant_id, id, at",
            "remark" => "tenant_id, remark_id",
            _ => "tenant_id, id",
        };
        match self.random.below(10) {
            0 => format!(" ON CONFLICT ({key}) DO NOTHING"),
            1 => " ON CONFLICT DO NOTHING".to_owned(),
            2 | 3 => {
                let (name, kind) = self.settable_column(table);
                let own = Entry { alias: table.name.into(), columns: table.columns(), table: false };
                let new = Entry { alias: "excluded".into(), columns: table.columns(), table: false };
                self.levels.push(vec![own, new]);
                let value = self.value_for(name, kind, 0);
                let filter = if self.random.percent(40) { format!(" WHERE {}", self.condition(1)) } else { String::new() };
                self.levels.pop();
                format!(" ON CONFLICT ({key}) DO UPDATE SET {name} = {value}{filter}")
            }
            _ => String::new(),
        }
    }

    fn settable_column(&mut self, table: &'static Table) -> (&'static str, Kind) {
        let columns: Vec<(&'static str, Kind)> =
            settable(table).into_iter().filter(|(n, _)| *n != "email" && *n != "customer_id").collect();
        *self.random.pick(&columns)
    }

    fn returning(&mut self, table: &'static Table, alias: &str) -> String {
        match self.random.below(6) {
            // Which of several rows that FROM or USING join to one of the target is taken, nobody can say (UPDATE, "Notes").
            0 => format!(" RETURNING {alias}.*"),
            1 => {
                self.levels.push(vec![Entry { alias: alias.into(), columns: table.columns(), table: true }]);
                let kind = self.any_kind();
                let list = format!("{} AS one, {}", self.expression(kind, 1), self.leaf(Kind::Int));
                self.levels.pop();
                format!(" RETURNING {list}")
            }
            _ => String::new(),
        }
    }

    fn update(&mut self, table: &'static Table) -> String {
        let update = self.update_bare(table);
        // The alias is at a fixed place.
        let alias = if update.contains(" AS u SET") { "u" } else { table.name };
        let returning = self.returning(table, alias);
        format!("{update}{returning}")
    }

    fn update_bare(&mut self, table: &'static Table) -> String {
        let aliased = self.random.percent(50);
        let alias = if aliased { "u" } else { table.name };
        self.levels.push(vec![Entry { alias: alias.into(), columns: table.columns(), table: true }]);
        let mut names: Vec<&str> = Vec::new();
        let mut sets = Vec::new();
        for _ in 0..1 + self.random.below(2) {
            let (name, kind) = self.settable_column(table);
            if !names.contains(&name) {
                names.push(name);
                sets.push((name, self.value_for(name, kind, 0)));
            }
        }
        let list = if sets.len() == 2 && self.random.percent(25) {
            format!("({}, {}) = ROW ({}, {})", sets[0].0, sets[1].0, sets[0].1, sets[1].1)
        } else {
            sets.iter().map(|(n, v)| format!("{n} = {v}")).collect::<Vec<_>>().join(", ")
        };
        let from = if self.random.percent(35) {
            let mut used = vec![alias.to_owned()];
            let from = self.entry(&mut used, false);
            format!(" FROM {from}")
        } else {
            String::new()
        };
        let filter = self.condition(2);
        self.levels.pop();
        let head = if aliased { format!("{} AS u", table.name) } else { table.name.to_owned() };
        let only = if table.name != "event" && self.random.percent(8) { "ONLY " } else { "" };
        format!("UPDATE {only}{head} SET {list}{from} WHERE {filter}")
    }

    /// A row of the target is matched by one of the source at most, so that the order does not matter.
    fn merge(&mut self, table: &'static Table) -> String {
        let key = if table.name == "remark" { "remark_id" } else { "id" };
        let target = Entry { alias: "m".into(), columns: table.columns(), table: true };
        let (from, key_of_source, source) = if self.random.percent(50) {
            let list = (1..4 + self.random.below(4)).map(|n| format!("({}, 'v{n}')", n * (1 + self.random.below(2)) + 1));
            let mut list: Vec<String> = list.collect();
            list.sort();
            list.dedup_by(|a, b| a.split(',').next() == b.split(',').next());
            let columns = vec![Column { name: "k".into(), kind: Kind::Int }, Column { name: "t".into(), kind: Kind::Text }];
            (format!("(VALUES {}) AS s(k, t)", list.join(", ")), "k", Entry { alias: "s".into(), columns, table: false })
        } else {
            let source = self.random.pick(&TABLES);
            let key = if source.name == "remark" { "remark_id" } else { "id" };
            (format!("public.{} s", source.name), key, Entry { alias: "s".into(), columns: source.columns(), table: true })
        };
        self.levels.push(vec![target, source.clone()]);
        let more = if self.random.percent(40) { format!(" AND {}", self.condition(1)) } else { String::new() };
        let mut whens = Vec::new();
        if table.name != "customer" && self.random.percent(40) {
            whens.push(format!("WHEN MATCHED AND {} THEN DELETE", self.condition(1)));
        }
        if table.name != "memo" && self.random.percent(60) {
            let (name, kind) = self.settable_column(table);
            let value = self.value_for(name, kind, 0);
            whens.push(format!("WHEN MATCHED THEN UPDATE SET {name} = {value}"));
        } else if self.random.percent(30) {
            whens.push("WHEN MATCHED THEN DO NOTHING".to_owned());
        }
        self.levels.pop();
        if table.name != "memo" && self.random.percent(60) || whens.is_empty() {
            whens.push(self.merge_insert(table, key_of_source, source));
        }
        let only = if table.name != "event" && self.random.percent(8) { "ONLY " } else { "" };
        format!("MERGE INTO {only}{} AS m USING {from} ON m.{key} = s.{key_of_source}{more} {}", table.name, whens.join(" "))
    }

    fn merge_insert(&mut self, table: &'static Table, key: &str, source: Entry) -> String {
        self.levels.push(vec![source]);
        let filter = if self.random.percent(40) { format!(" AND {}", self.condition(1)) } else { String::new() };
        let optional = self.settable_column(table);
        self.levels.pop();
        if table.name == "memo" {
            return format!("WHEN NOT MATCHED{filter} THEN DO NOTHING");
        }
        let mut columns: Vec<(&str, String)> = match table.name {
            "customer" => vec![("id", format!("s.{key} + 300")), ("name", "'new'".to_owned())],
            "event" => vec![("id", format!("s.{key} + 300")), ("at", "timestamptz '2026-01-16 00:00:00+00'".to_owned())],
            "remark" => vec![("remark_id", format!("s.{key} + 300"))],
            _ => vec![("id", format!("s.{key} + 300"))],
        };
        if !columns.iter().any(|(n, _)| *n == optional.0) {
            let value = self.value_for(optional.0, optional.1, 0);
            columns.push((optional.0, value));
        }
        if self.random.percent(25) {
            let tenant = if table.name == "remark" { "'1'" } else { *self.random.pick(&["1", "DEFAULT"]) };
            columns.push(("tenant_id", tenant.to_owned()));
        }
        let names = columns.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
        let values = columns.into_iter().map(|(_, v)| v).collect::<Vec<_>>().join(", ");
        format!("WHEN NOT MATCHED{filter} THEN INSERT ({names}) VALUES ({values})")
    }

    fn delete(&mut self, table: &'static Table) -> String {
        let delete = self.delete_bare(table);
        let alias = if delete.contains(" AS u") { "u" } else { table.name };
        let returning = self.returning(table, alias);
        format!("{delete}{returning}")
    }

    fn delete_bare(&mut self, table: &'static Table) -> String {
        let aliased = self.random.percent(40);
        let alias = if aliased { "u" } else { table.name };
        self.levels.push(vec![Entry { alias: alias.into(), columns: table.columns(), table: true }]);
        let using = if self.random.percent(35) {
            let mut used = vec![alias.to_owned()];
            let using = self.entry(&mut used, false);
            format!(" USING {using}")
        } else {
            String::new()
        };
        // One row: which of several is still referenced would depend on the order.
        let one =
            if table.name == "customer" { format!("{alias}.id = {} AND ", 1 + self.random.below(8)) } else { String::new() };
        let filter = if one.is_empty() && using.is_empty() && self.random.percent(10) {
            String::new()
        } else {
            format!(" WHERE {one}{}", self.condition(2))
        };
        self.levels.pop();
        let head = if aliased { format!("{} AS u", table.name) } else { table.name.to_owned() };
        format!("DELETE FROM {head}{using}{filter}")
    }
}

fn settable(table: &'static Table) -> Vec<(&'static str, Kind)> {
    let names = SETTABLE.iter().find(|(t, _)| *t == table.name).map_or(&[][..], |(_, n)| *n);
    table.columns.iter().filter(|(n, _)| names.contains(n)).copied().collect()
}
