//! What the text that is sent must be, for the output check. Derived from policies and catalog alone: nothing here knows
//! what was decided about a statement, or how it was rewritten.

use super::catalogs::{self, Rows};
use super::decide::LastValue;
use super::epoch::{PolicySet, ROW, RelationPolicy, TenantPolicy};
use super::functions;
use super::masks::ColumnMask;
use super::model::{self, RuleAction};
use crate::catalog::{Catalog, Function, Operator, Relation};
use crate::sql::analyse::utility::is_readable;
use crate::sql::analyse::{self, FunctionUse};
use crate::sql::parse;
use crate::sql::verify::{Argument, Governed, Mask, Names, Predicate, Relations, Shows, Single, System};
use pg_query::NodeEnum;
use pg_query::protobuf::Node;

/// What these roles may read and write, and the conditions of it. Holds for one epoch.
pub fn relations(policies: &PolicySet, catalog: &Catalog, roles: &[Box<str>]) -> Relations {
    let mut relations = Relations::default();
    for relation in &catalog.snapshot().relations {
        if matches!(relation.schema.as_str(), "pg_catalog" | "information_schema") {
            if let Some(system) = catalogs::rule(&relation.schema, &relation.name).and_then(|rule| {
                let rows = match rule.rows {
                    Rows::All => vec![],
                    Rows::OwnDatabase(column) => own_row(column, "current_database")?,
                    Rows::OwnRole(column) => own_row(column, "current_user")?,
                };
                let is_settings = relation.schema == "pg_catalog" && relation.name == "pg_settings";
                let single = Single { column: "name", admits: is_readable, hidden: catalogs::ONE_SETTING.masked };
                Some(System { hidden: rule.masked, rows, single: is_settings.then_some(single) })
            }) {
                relations.system.insert(relation.oid, system);
            }
            continue;
        }
        match policies.policy_of(relation, catalog) {
            Some(RelationPolicy::Tenant(policy)) => {
                relations.governed.insert(relation.oid, governed(policy, roles));
            }
            Some(RelationPolicy::Shared) => {
                relations.shared.insert(relation.oid);
            }
            Some(RelationPolicy::View | RelationPolicy::Denied) | None => continue,
        }
        let masks: Vec<Mask> = policies.masks_of(relation, catalog, roles).into_iter().map(mask).collect();
        if !masks.is_empty() {
            relations.masks.insert(relation.oid, masks);
        }
    }
    relations
}

fn mask(mask: &ColumnMask) -> Mask {
    let shows = match mask.mask {
        model::Mask::Null => Shows::Nothing,
        model::Mask::Redact => Shows::Stars,
        model::Mask::Last4 => Shows::LastFour,
        model::Mask::Email => Shows::Email,
        model::Mask::Hash => Shows::Pseudonym { key: mask.key.to_string(), tenant_column: mask.tenant_column.clone() },
    };
    Mask { column: mask.column.clone(), shows }
}

fn governed(policy: &TenantPolicy, roles: &[Box<str>]) -> Governed {
    let predicates = |condition: Option<Node>| condition.map_or_else(Vec::new, |c| Predicate::conjuncts(&c, ROW));
    Governed {
        tenant_column: policy.column.clone(),
        tenant_type: policy.type_,
        read: predicates(policy.using(RuleAction::Select, roles)),
        update: predicates(policy.using(RuleAction::Update, roles)),
        delete: predicates(policy.using(RuleAction::Delete, roles)),
        insert_check: predicates(policy.check(RuleAction::Insert, roles)),
        update_check: predicates(policy.check(RuleAction::Update, roles)),
    }
}

/// `column = function()`; `None`, which forbids the relation, if that is no expression.
fn own_row(column: &str, function: &str) -> Option<Vec<Predicate>> {
    let text = format!("SELECT 1 WHERE {ROW}.{column} OPERATOR(pg_catalog.=) pg_catalog.{function}()");
    let tree = parse::parse(&text).ok()?;
    match tree.stmts.first()?.stmt.as_ref()?.node.as_ref()? {
        NodeEnum::SelectStmt(select) => Some(Predicate::conjuncts(select.where_clause.as_deref()?, ROW)),
        other_statement => {
            let _ = other_statement;
            None
        }
    }
}

/// What a statement of these roles may name besides relations.
#[derive(Debug)]
pub struct Vocabulary<'a> {
    pub catalog: &'a Catalog,
    pub policies: &'a PolicySet,
    pub roles: &'a [Box<str>],
    pub search_path: &'a [Box<str>],
    /// Parameters whose values the session checks to name settings that may be read.
    pub setting_parameters: &'a [u16],
    /// Last values of sequences that the session checks to be the client's own.
    pub last_values: &'a [LastValue],
}

impl Vocabulary<'_> {
    /// Whether a name with this schema, or with none, may mean something in that one.
    fn reaches(&self, named: &str, schema: &str) -> bool {
        match named {
            "" => schema == "pg_catalog" || self.search_path.iter().any(|s| **s == *schema),
            named => named == schema,
        }
    }

    /// `nextval('schema.name')` of a sequence that tenants may use; of `currval` and `lastval` the session must know.
    fn allows_sequence(&self, function: &str, argument: Option<&Argument<'_>>) -> bool {
        let admitted = self.policies.admits_function("pg_catalog", function, self.roles);
        let is_named = |relation: &&Relation, text: &str| {
            let plain =
                |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            let quoted = |name: &str| if plain(name) { name.to_owned() } else { format!("\"{name}\"") };
            relation.kind == 'S' && text == format!("{}.{}", quoted(&relation.schema), quoted(&relation.name))
        };
        let sequence = match argument {
            Some(Argument::Text(text)) => self.catalog.snapshot().relations.iter().find(|r| is_named(r, text)),
            Some(Argument::Parameter(_) | Argument::True | Argument::Other) | None => None,
        };
        let may_use = sequence.is_some_and(|s| self.policies.admits_sequence(s.oid, self.catalog));
        let is_own = |s: &Relation| {
            self.last_values.iter().any(|v| matches!(v, LastValue::Of { sequence, name: _ } if *sequence == s.oid))
        };
        match function {
            "nextval" => may_use,
            "currval" => admitted || may_use && sequence.is_some_and(is_own),
            "lastval" => admitted || self.last_values.contains(&LastValue::Any),
            _ => false, // tidy: not a syntax kind
        }
    }

    /// Whether every operator that the name may mean is allowed.
    fn allows_operators(&self, schema: &str, name: &str) -> bool {
        let allowed = |o: &Operator| o.schema == "pg_catalog" || functions::trusts_operator(o.extension.as_deref());
        let mut candidates = self.catalog.operators_named(name).filter(|o| self.reaches(schema, &o.schema)).peekable();
        candidates.peek().is_some() && candidates.all(allowed)
    }
}

impl Names for Vocabulary<'_> {
    fn allows_function(&self, schema: &str, name: &str, arguments: Option<usize>) -> bool {
        let reached: Vec<_> = self.catalog.functions_named(name).filter(|f| self.reaches(schema, &f.schema)).collect();
        let fits = |f: &Function| {
            let least = f.arguments.len().saturating_sub(usize::from(f.defaults) + usize::from(f.variadic));
            arguments.is_none_or(|count| count >= least && (f.variadic || count <= f.arguments.len()))
        };
        // PostgreSQL raises where none fits; then every one counts.
        let none_fits = !reached.iter().any(|f| fits(f));
        let mut candidates = reached.iter().filter(|f| none_fits || fits(f));
        !reached.is_empty()
            && candidates.all(|f| self.policies.admits_function(&f.schema, &f.name, self.roles) || functions::is_allowed(f))
    }

    fn allows_arguments(&self, name: &str, arguments: &[Argument<'_>]) -> bool {
        if matches!(name, "nextval" | "currval" | "lastval") {
            return self.allows_sequence(name, arguments.first());
        }
        let own = arguments.iter().enumerate().map(|(at, argument)| match argument {
            Argument::Text(text) => analyse::Argument::Text((*text).to_owned()),
            Argument::Parameter(number) => match u16::try_from(*number) {
                // The first names what is read.
                Ok(number) if at > 0 || self.setting_parameters.contains(&number) => analyse::Argument::Parameter(number),
                Ok(_) | Err(_) => analyse::Argument::Other,
            },
            Argument::True | Argument::Other => analyse::Argument::Other,
        });
        let call = FunctionUse { schemas: vec![], name: name.to_owned(), candidates: vec![], arguments: own.collect() };
        // What a pooled connection must not keep ends with the transaction.
        let stays = name == "set_config" && arguments.get(2) != Some(&Argument::True);
        functions::arguments_allowed(&call, &self.policies.settings_for(self.roles)) && !stays
    }

    fn allows_operator(&self, schema: &str, name: &str) -> bool {
        // BETWEEN and its like stand for comparisons.
        let between = name == "BETWEEN" || name.starts_with("BETWEEN ") || name.starts_with("NOT BETWEEN");
        if between {
            return ["<", "<=", ">", ">="].iter().all(|comparison| self.allows_operators("", comparison));
        }
        self.allows_operators(schema, name)
    }

    fn allows_type(&self, schema: &str, name: &str) -> bool {
        self.catalog.type_named(schema, name).is_some()
    }

    fn allows_collation(&self, schema: &str, name: &str) -> bool {
        self.catalog.snapshot().collations.iter().any(|c| c.name == name && self.reaches(schema, &c.schema))
    }
}
