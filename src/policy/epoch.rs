//! Policies bound to a catalog: the version of everything that decisions depend on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pg_query::{Node, NodeEnum};

use super::functions::{self, Verdict};
use super::load::PolicyProblem;
use super::masks::{self, ColumnMask, Masks};
use super::model::{Allow, ColumnPolicy, DefaultRule, Mode, Place, PolicyModel, RuleAction, Scope, SqlText, TablePolicy};
use crate::catalog::{Catalog, Relation};
use crate::finding::Recording;
use crate::id::PolicyEpoch;
use crate::sql::analyse::{self, Statement};
use crate::sql::template::TenantType;
use crate::sql::tree::{bool_constant, each_column, or, qualified_column};
use crate::sql::types::oid;

/// The alias that stands for the governed relation in a bound rule.
pub const ROW: &str = "qzrow";

/// Everything a decision depends on.
#[derive(Debug)]
pub struct PolicySet {
    pub epoch: PolicyEpoch,
    relations: HashMap<u32, RelationPolicy>,
    masks: Masks,
    allows: Vec<Allow>,
    views: HashSet<u32>,
    cache_ttls: HashMap<u32, Duration>,
    /// Statements about these wait for their records: what is one [`family`](Catalog::family) is named by its root.
    waiting: HashSet<u32>,
    /// What kind of data columns hold, by relation.
    classes: HashMap<u32, Vec<(String, String)>>,
    /// Columns whose values the audit log tells, by relation.
    recordings: HashMap<u32, Vec<(String, Arc<Recording>)>>,
}

#[derive(Clone, Debug)]
pub enum RelationPolicy {
    Tenant(TenantPolicy),
    Shared,
    /// Read through its definition.
    View,
    Denied,
}

#[derive(Clone, Debug)]
pub struct TenantPolicy {
    pub column: String,
    pub type_: TenantType,
    rules: Vec<BoundRule>,
    default: DefaultRule,
}

#[derive(Clone, Debug)]
struct BoundRule {
    roles: Vec<String>,
    actions: Vec<RuleAction>,
    mode: Mode,
    using: Option<Node>,
    check: Option<Node>,
}

impl PolicySet {
    /// Binds the tables and rules of `model` (those of one database) to its catalog. `owner_views`: views may be governed as
    /// tables are, though their own conditions run on the rows of all tenants.
    ///
    /// # Errors
    /// Every problem, not only the first.
    pub fn bind(
        model: &PolicyModel,
        catalog: &Catalog,
        epoch: PolicyEpoch,
        owner_views: bool,
    ) -> Result<PolicySet, Vec<PolicyProblem>> {
        let mut set = PolicySet {
            epoch,
            relations: HashMap::new(),
            masks: Masks::default(),
            allows: vec![],
            views: HashSet::new(),
            cache_ttls: HashMap::new(),
            waiting: HashSet::new(),
            classes: HashMap::new(),
            recordings: HashMap::new(),
        };
        let mut problems = vec![];
        for table in &model.tables {
            match bind_table(table, catalog, owner_views) {
                Ok((relation, policy)) => {
                    set.relations.insert(relation, policy);
                }
                Err(mut found) => problems.append(&mut found),
            }
        }
        for table in &model.tables {
            problems.extend(set.contradiction(table, catalog).map(|message| at(message, &table.place)));
        }
        let found = |table: &TablePolicy| catalog.relation_named(&table.schema, &table.name);
        for (table, relation) in model.tables.iter().filter_map(|t| found(t).map(|r| (t, r))) {
            let classes = table.columns.iter().filter_map(|c| Some((c.name.clone(), c.class.clone()?)));
            set.classes.entry(relation.oid).or_default().extend(classes);
            let recorded = |c: &ColumnPolicy| Some((c.name.clone(), model.class_of(table, c)?.recorded.clone()?));
            let recorded: Vec<_> = table.columns.iter().filter_map(recorded).collect();
            // One that has a mask is told of by that.
            let is_lost = |c: &&ColumnPolicy| c.mask.is_none() && relation.column(&c.name).is_none();
            for column in table.columns.iter().filter(is_lost).filter(|c| recorded.iter().any(|(name, _)| *name == c.name)) {
                let message = format!("table {}.{} has no column {}", table.schema, table.name, column.name);
                problems.push(at(message, &column.place));
            }
            if !recorded.is_empty() {
                set.recordings.insert(relation.oid, recorded);
            }
            set.cache_ttls.extend(table.cache_ttl.map(|ttl| (relation.oid, ttl)));
            set.waiting.extend(table.waits_for_records.then(|| root(relation.oid, catalog)));
            let tenant_column = match &table.scope {
                Scope::Tenant { column } => Some(column.as_str()),
                Scope::Shared | Scope::View | Scope::Denied => None,
            };
            problems.extend(set.masks.bind(table, tenant_column, relation, catalog).err().into_iter().flatten());
        }
        let readable = |oid: u32| match set.relations.get(&oid) {
            Some(RelationPolicy::Tenant(_) | RelationPolicy::Shared) => true,
            Some(RelationPolicy::View | RelationPolicy::Denied) | None => false,
        };
        for (table, relation) in model.tables.iter().filter_map(|t| found(t).map(|r| (t, r))) {
            problems.extend(set.masks.check_parents(table, relation, &readable, catalog).err().into_iter().flatten());
        }
        let views = set.relations.iter().filter(|(_, policy)| matches!(policy, RelationPolicy::View));
        set.views = views.map(|(oid, _)| *oid).collect();
        set.allows.clone_from(&model.allows);
        if problems.is_empty() { Ok(set) } else { Err(problems) }
    }

    /// A table is read through what it inherits from as well, under that one's policy: two entries must not say that its rows
    /// are a tenant's and everybody's.
    fn contradiction(&self, table: &TablePolicy, catalog: &Catalog) -> Option<String> {
        let relation = catalog.relation_named(&table.schema, &table.name)?;
        let own = self.relations.get(&relation.oid)?;
        let mut seen: HashSet<u32> = HashSet::new();
        let mut ancestors = relation.parents.clone();
        while let Some(parent) = ancestors.pop().and_then(|oid| catalog.relation(oid)) {
            // Inheritance has no cycles; one ancestor may be reached twice.
            if !seen.insert(parent.oid) {
                continue;
            }
            ancestors.extend(&parent.parents);
            let agrees = match (self.relations.get(&parent.oid), own) {
                (None | Some(RelationPolicy::Denied | RelationPolicy::View), _) | (_, RelationPolicy::View) => true,
                (Some(RelationPolicy::Shared), own) => matches!(own, RelationPolicy::Shared),
                (Some(RelationPolicy::Tenant(_)), RelationPolicy::Denied) => true,
                (Some(RelationPolicy::Tenant(a)), RelationPolicy::Tenant(b)) => a.column == b.column,
                (Some(RelationPolicy::Tenant(_)), RelationPolicy::Shared) => false,
            };
            if !agrees {
                return Some(format!(
                    "{}.{} inherits from {}.{}, through which its rows are read under another policy: both need one scope and one tenant column",
                    table.schema, table.name, parent.schema, parent.name
                ));
            }
        }
        None
    }

    /// The policy of a relation: its own, or that of what it is a partition or child of.
    pub fn policy_of(&self, relation: &Relation, catalog: &Catalog) -> Option<&RelationPolicy> {
        if let Some(own) = self.relations.get(&relation.oid) {
            return Some(own);
        }
        let mut found: Option<&RelationPolicy> = None;
        for parent in relation.parents.iter().filter_map(|p| catalog.relation(*p)) {
            let inherited = self.policy_of(parent, catalog)?;
            match (found, inherited) {
                (None, policy) => found = Some(policy),
                // Children of several governed tables: only where all agree on being governed by the same column.
                (Some(RelationPolicy::Tenant(a)), RelationPolicy::Tenant(b))
                    if a.column == b.column && a.default == b.default && a.rules.is_empty() && b.rules.is_empty() => {}
                (Some(_), _) => return None,
            }
        }
        found
    }

    /// How long answers made of a relation's rows may be given, where it, or what it is a partition or child of, says it.
    pub fn cache_ttl(&self, relation: &Relation, catalog: &Catalog) -> Option<Duration> {
        let parents = relation.parents.iter().filter_map(|p| catalog.relation(*p)).map(|p| self.cache_ttl(p, catalog));
        parents.chain([self.cache_ttls.get(&relation.oid).copied()]).flatten().min()
    }

    /// Whether a statement about a relation waits for its record: behind a view any table may be.
    pub fn waits_for_records(&self, relation: &Relation, catalog: &Catalog) -> bool {
        let is_view = matches!(self.policy_of(relation, catalog), Some(RelationPolicy::View));
        self.waiting.contains(&root(relation.oid, catalog)) || is_view && !self.waiting.is_empty()
    }

    /// The masks of a relation for these roles, of whatever it is a partition or child of besides.
    pub fn masks_of(&self, relation: &Relation, catalog: &Catalog, roles: &[Box<str>]) -> Vec<&ColumnMask> {
        self.masks.of(relation, catalog, roles)
    }

    /// The columns of a relation that a policy says the kind of, its own, or of what it is a partition or child of.
    pub fn classes_of<'s>(&'s self, relation: &Relation, catalog: &Catalog) -> Vec<(&'s str, &'s str)> {
        if self.classes.is_empty() {
            return vec![];
        }
        let relations = std::iter::once(relation).chain(masks::ancestors(relation, catalog));
        let found = relations.filter_map(|r| self.classes.get(&r.oid)).flatten();
        found.map(|(column, class)| (column.as_str(), class.as_str())).collect()
    }

    /// The columns of a relation whose values the audit log tells.
    pub fn recordings_of<'s>(&'s self, relation: &Relation, catalog: &Catalog) -> Vec<(&'s str, &'s Arc<Recording>)> {
        if self.recordings.is_empty() {
            return vec![];
        }
        let relations = std::iter::once(relation).chain(masks::ancestors(relation, catalog));
        let found = relations.filter_map(|r| self.recordings.get(&r.oid)).flatten();
        found.map(|(column, recording)| (column.as_str(), recording)).collect()
    }

    /// All of them, by relation.
    pub fn recordings<'s>(&'s self, catalog: &'s Catalog) -> impl Iterator<Item = (&'s Relation, &'s str, &'s Arc<Recording>)> {
        let relations = self.recordings.iter().filter_map(|(oid, columns)| Some((catalog.relation(*oid)?, columns)));
        relations.flat_map(|(relation, columns)| columns.iter().map(move |(column, how)| (relation, column.as_str(), how)))
    }

    /// Whether any column is masked for these roles.
    pub fn has_masks_for(&self, roles: &[Box<str>]) -> bool {
        self.masks.any_for(roles)
    }

    pub fn admits_function(&self, schema: &str, name: &str, roles: &[Box<str>]) -> bool {
        self.allows.iter().filter(|a| applies_to(&a.roles, roles)).flat_map(|a| &a.functions).any(|f| match f.split_once('.') {
            Some((s, n)) => s == schema && n == name,
            None => f == name,
        })
    }

    /// Whether tenants may use a sequence: one that fills, or belongs to, a column of a table of theirs, or one of no table, for
    /// which the database's own grants decide.
    pub fn admits_sequence(&self, sequence: u32, catalog: &Catalog) -> bool {
        let mut uses = catalog.uses_of_sequence(sequence).peekable();
        let of_tenants = |table: &Relation| matches!(self.policy_of(table, catalog), Some(RelationPolicy::Tenant(_)));
        uses.peek().is_none() || uses.any(|u| catalog.relation(u.relation).is_some_and(of_tenants))
    }

    /// The views (pg_class.oid) that are read through their definitions.
    pub fn views(&self) -> &HashSet<u32> {
        &self.views
    }

    /// Settings of the application's own that these roles may read and set.
    pub fn settings_for(&self, roles: &[Box<str>]) -> Vec<&str> {
        self.allows.iter().filter(|a| applies_to(&a.roles, roles)).flat_map(|a| &a.settings).map(String::as_str).collect()
    }

    /// Every governed or shared relation, for messages.
    pub fn relations(&self) -> impl Iterator<Item = (u32, &RelationPolicy)> {
        self.relations.iter().map(|(oid, policy)| (*oid, policy))
    }
}

fn applies_to(wanted: &[String], roles: &[Box<str>]) -> bool {
    wanted.is_empty() || wanted.iter().any(|w| roles.iter().any(|r| **r == **w))
}

impl TenantPolicy {
    /// What rows must satisfy besides belonging to the tenant; `None`: nothing.
    pub fn using(&self, action: RuleAction, roles: &[Box<str>]) -> Option<Node> {
        self.combine(action, roles, |rule| rule.using.clone())
    }

    /// What new rows must satisfy: `with_check`, which defaults to `using`.
    pub fn check(&self, action: RuleAction, roles: &[Box<str>]) -> Option<Node> {
        self.combine(action, roles, |rule| rule.check.clone().or_else(|| rule.using.clone()))
    }

    fn combine(&self, action: RuleAction, roles: &[Box<str>], part: impl Fn(&BoundRule) -> Option<Node>) -> Option<Node> {
        let mine: Vec<&BoundRule> =
            self.rules.iter().filter(|r| r.actions.contains(&action) && applies_to(&r.roles, roles)).collect();
        let permissive: Vec<Option<Node>> = mine.iter().filter(|r| r.mode == Mode::Permissive).map(|r| part(r)).collect();
        let mut all: Vec<Node> = vec![];
        if permissive.is_empty() {
            if self.default == DefaultRule::Deny {
                return Some(bool_constant(false));
            }
        } else if permissive.iter().all(Option::is_some) {
            // One without a condition admits everything.
            all.extend(or(permissive.into_iter().flatten().collect()));
        }
        all.extend(mine.iter().filter(|r| r.mode == Mode::Restrictive).filter_map(|r| part(r)));
        crate::sql::tree::and(all)
    }
}

/// What names the family of a relation.
fn root(oid: u32, catalog: &Catalog) -> u32 {
    catalog.family(oid).map_or(oid, |family| family.root)
}

fn at(message: String, place: &Place) -> PolicyProblem {
    let text: std::sync::Arc<str> = place.source.text.as_str().into();
    PolicyProblem::new(message).at(&place.source.path.display().to_string(), &text, place.span.clone(), "here")
}

fn bind_table(table: &TablePolicy, catalog: &Catalog, owner_views: bool) -> Result<(u32, RelationPolicy), Vec<PolicyProblem>> {
    let problem = |message: String| vec![at(message, &table.place)];
    let Some(relation) = catalog.relation_named(&table.schema, &table.name) else {
        return Err(problem(format!("table {}.{} does not exist in the database", table.schema, table.name)));
    };
    let name = format!("{}.{}", table.schema, table.name);
    match (relation.kind, &table.scope) {
        (_, Scope::Denied) | ('v', Scope::View) => {}
        (_, Scope::View) => return Err(problem(format!("{name} is not a view"))),
        // What a view's own conditions do with rows of others is not known. A materialised view holds rows.
        ('r' | 'p' | 'm', Scope::Tenant { column: _ } | Scope::Shared) => {}
        ('v', Scope::Tenant { column: _ } | Scope::Shared) if owner_views => {}
        ('v', Scope::Tenant { column: _ } | Scope::Shared) => {
            let message = format!("{name} is a view, whose own conditions would run on the rows of all tenants");
            let help = "write scope = \"view\" and an entry for each table that it reads; level = \"standard\" lets it through as a table";
            return Err(vec![at(message, &table.place).help(help)]);
        }
        (_, Scope::Tenant { column: _ } | Scope::Shared) => {
            return Err(problem(format!("{name} is not a table or view: it cannot be governed")));
        }
    }
    let column_name = match &table.scope {
        Scope::Shared => return Ok((relation.oid, RelationPolicy::Shared)),
        Scope::View => return Ok((relation.oid, RelationPolicy::View)),
        Scope::Denied => return Ok((relation.oid, RelationPolicy::Denied)),
        Scope::Tenant { column } => column,
    };
    let Some(column) = relation.column(column_name) else {
        return Err(problem(format!("table {}.{} has no column {column_name}", table.schema, table.name)));
    };
    let type_ = match column.type_oid {
        oid::INT2 => TenantType::Int2,
        oid::INT4 => TenantType::Int4,
        oid::INT8 => TenantType::Int8,
        oid::TEXT | oid::VARCHAR => TenantType::Text,
        oid::UUID => TenantType::Uuid,
        _ => {
            return Err(problem(format!(
                "column {column_name} has a type that cannot tell tenants apart: use smallint, integer, bigint, text, varchar or uuid"
            )));
        } // tidy: not a syntax kind
    };
    if column.collation != 0 && catalog.collation(column.collation).is_some_and(|c| !c.deterministic) {
        return Err(problem(format!(
            "column {column_name} has a nondeterministic collation: two tenants could compare as equal"
        )));
    }
    if catalog.is_virtual(relation.oid, column.number) {
        return Err(problem(format!("column {column_name} is computed when it is read, which may fail on rows of others")));
    }
    let mut problems = vec![];
    let mut rules = vec![];
    for rule in &table.rules {
        let mut bind = |sql: &Option<SqlText>| match sql {
            None => None,
            Some(sql) => match bind_expression(sql, relation, catalog) {
                Ok(node) => Some(node),
                Err(problem) => {
                    problems.push(*problem);
                    None
                }
            },
        };
        let (using, check) = (bind(&rule.using), bind(&rule.with_check));
        rules.push(BoundRule { roles: rule.roles.clone(), actions: rule.actions.clone(), mode: rule.mode, using, check });
    }
    if problems.is_empty() {
        Ok((
            relation.oid,
            RelationPolicy::Tenant(TenantPolicy { column: column_name.clone(), type_, rules, default: table.default }),
        ))
    } else {
        Err(problems)
    }
}

/// Resolves an expression over the relation's own columns. The text of the query around it is the proxy's own.
fn bind_expression(sql: &SqlText, relation: &Relation, catalog: &Catalog) -> Result<Node, Box<PolicyProblem>> {
    let problem = |message: String| Box::new(at(message, &sql.place));
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    // The newline ends a comment at the end of the expression.
    let text = format!("SELECT 1 FROM {}.{} {ROW} WHERE ({}\n)", quote(&relation.schema), quote(&relation.name), sql.text);
    let tree = crate::sql::parse::parse(&text).map_err(|d| problem(d.error.message.to_string()))?;
    let [statement] = tree.stmts.as_slice() else { return Err(problem("not an expression".to_owned())) };
    let node = statement.stmt.as_deref().cloned().ok_or_else(|| problem("not an expression".to_owned()))?;
    if let Some(NodeEnum::SelectStmt(s)) = &node.node
        && (s.from_clause.len() != 1 || s.target_list.len() != 1 || !s.group_clause.is_empty() || !s.sort_clause.is_empty())
    {
        return Err(problem("not an expression".to_owned()));
    }
    let path: [Box<str>; 1] = ["public".into()];
    let context = analyse::Context {
        catalog,
        search_path: &path,
        parameter_types: &[],
        tenant_setting: None,
        views: &HashSet::new(),
        settings: &[],
    };
    let analysis = analyse::analyse(node, &context).map_err(|r| problem(r.denial.error.message.to_string()))?;
    if analysis.rtes.len() != 1 || analysis.parameters > 0 {
        return Err(problem("a rule may read the columns of its own table only".to_owned()));
    }
    for call in &analysis.functions {
        let candidates: Vec<_> = catalog.functions_named(&call.name).filter(|f| call.candidates.contains(&f.oid)).collect();
        let pure = candidates.iter().all(|f| f.kind == 'f' && f.volatility != 'v' && !f.returns_set);
        if !pure || functions::judge(call, &candidates, &|_, _| false, &[]) != Verdict::Allowed {
            return Err(problem(format!("function {} cannot be used in a rule", call.name)));
        }
    }
    let mut computed = false;
    if let Statement::Query(query) = &analysis.statement {
        each_column(query, &mut |c| {
            let number = qualified_column(c).and_then(|(_, name)| relation.column(name)).map(|c| c.number);
            computed |= number.is_some_and(|n| catalog.is_virtual(relation.oid, n));
        });
    }
    if computed {
        return Err(problem("a rule may not read a column that is computed when it is read".to_owned()));
    }
    match analysis.statement {
        Statement::Query(Node { node: Some(NodeEnum::SelectStmt(s)) }) => {
            s.where_clause.map(|w| *w).ok_or_else(|| problem("not an expression".to_owned()))
        }
        Statement::Query(_)
        | Statement::CopyTo { query: _, options: _ }
        | Statement::CopyFrom(_)
        | Statement::Declare { name: _, options: _, query: _ }
        | Statement::Explain { options: _, query: _ }
        | Statement::Prepare { name: _, query: _ }
        | Statement::Execute { name: _, arguments: _, query: _ }
        | Statement::CreateTemporary(_)
        | Statement::Utility(_) => Err(problem("not an expression".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Column, Snapshot};

    fn relation(oid: u32, name: &str, kind: char, parents: &[u32]) -> Relation {
        let column = |(number, name): (i16, &str)| Column {
            number,
            name: name.to_owned(),
            type_oid: oid::INT4,
            typmod: -1,
            not_null: true,
            has_default: false,
            generated: false,
            computed: false,
            hidden: false,
            identity: None,
            collation: 0,
        };
        Relation {
            oid,
            schema: "public".to_owned(),
            name: name.to_owned(),
            kind,
            columns: [(1, "id"), (2, "owner")].into_iter().map(column).collect(),
            parents: parents.to_vec(),
            is_partition: false,
            unique_keys: vec![],
            row_security: false,
        }
    }

    /// `[(table, its scope and tenant column)]`: the problems.
    fn bind(tables: &[(&str, &str)]) -> Vec<String> {
        let relations = vec![
            relation(1, "top", 'r', &[]),
            relation(2, "middle", 'r', &[1]),
            relation(3, "bottom", 'r', &[2]),
            relation(4, "seen", 'v', &[]),
            relation(5, "kept", 'm', &[]),
        ];
        let catalog = Catalog::new(Snapshot { relations, ..Snapshot::default() });
        let text: String = tables
            .iter()
            .map(|(name, scope)| match *scope {
                "shared" | "view" | "denied" => format!("[[table]]\nname = \"{name}\"\nscope = \"{scope}\"\n"),
                column => format!("[[table]]\nname = \"{name}\"\nscope = \"tenant\"\ntenant_column = \"{column}\"\n"),
            })
            .collect();
        let model = super::super::load::read(vec![("p.toml".into(), text)], &["shop".to_owned()]);
        let model = model.unwrap_or_else(|p| panic!("{}", p.render(false)));
        match PolicySet::bind(&model, &catalog, PolicyEpoch(1), false) {
            Ok(_) => vec![],
            Err(problems) => problems.iter().map(|p| format!("{p:?}")).collect(),
        }
    }

    #[test]
    fn a_child_says_what_its_ancestors_say() {
        for good in [
            &[("top", "shared"), ("bottom", "shared")],
            &[("top", "id"), ("bottom", "id")],
            &[("top", "id"), ("bottom", "denied")],
            &[("top", "denied"), ("bottom", "id")],
            &[("top", "denied"), ("middle", "shared")],
            &[("kept", "id"), ("bottom", "shared")],
        ] {
            assert_eq!(bind(good), Vec::<String>::new(), "{good:?}");
        }
        for bad in [
            &[("top", "shared"), ("bottom", "id")],
            &[("top", "shared"), ("middle", "denied")],
            &[("top", "id"), ("bottom", "shared")],
            &[("top", "id"), ("bottom", "owner")],
        ] {
            let problems = bind(bad);
            assert!(problems.iter().any(|p| p.contains("public.top")), "{bad:?}: {problems:?}");
        }
        assert!(bind(&[("seen", "shared")]).concat().contains("is a view"), "a view is no table");
        assert!(bind(&[("top", "view")]).concat().contains("not a view"));
        assert_eq!(bind(&[("seen", "view")]), Vec::<String>::new());
    }
}
