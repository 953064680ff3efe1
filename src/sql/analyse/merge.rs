//! MERGE.

use pg_query::protobuf::{CmdType, MergeMatchKind, MergeStmt, MergeWhenClause, OverridingKind};
use pg_query::{Node, NodeEnum};

use super::Analyser;
use super::dml::target_of;
use super::scope::{Item, MergeActions, Output, RteId, Scope, Usage};
use crate::error::sqlstate;
use crate::finding::Denial;

/// The first server that has WHEN NOT MATCHED BY SOURCE, RETURNING and MERGE in WITH.
const VERSION_17: u32 = 170_000;

impl Analyser<'_> {
    pub(super) fn merge_in_with(&mut self, merge: &mut MergeStmt) -> Result<Vec<Output>, Denial> {
        if self.context.catalog.snapshot().server_version < VERSION_17 {
            return Err(Denial::invalid(sqlstate::FEATURE_NOT_SUPPORTED, "MERGE not supported in WITH query"));
        }
        self.merge(merge)
    }

    /// The order of transformMergeStmt.
    pub(super) fn merge(&mut self, merge: &mut MergeStmt) -> Result<Vec<Output>, Denial> {
        let MergeStmt { relation, source_relation, join_condition, merge_when_clauses, returning_clause, with_clause } = merge;
        let frame = self.with_clause(with_clause)?;
        let clauses = merge_when_clauses.iter_mut().map(when_clause).collect::<Result<Vec<_>, Denial>>()?;
        let actions = actions_of(&clauses)?;
        self.check_version(&clauses, returning_clause.is_some())?;
        let (Some(relation), Some(source)) = (relation, source_relation) else { return Err(unsupported()) };
        let target_item = self.relation(relation, Usage::Merge(actions))?;
        let target = target_of(&target_item)?;
        self.scopes.push(Scope::default());
        self.items_of_from(std::slice::from_mut(&mut **source))?;
        let sources = self.items_here();
        let clash = |i: &Item| i.relation_visible && i.name == target_item.name;
        if sources.iter().any(clash) {
            let name = target_item.name.clone().unwrap_or_default();
            let mut denial = Denial::invalid(sqlstate::DUPLICATE_ALIAS, format!("name \"{name}\" specified more than once"));
            denial.error.detail = Some("The name is used both as MERGE target table and data source.".into());
            return Err(denial);
        }
        // `*` of RETURNING has the source first.
        let both: Vec<Item> = sources.iter().cloned().chain([target_item.clone()]).collect();
        self.see(both.clone());
        self.child(join_condition)?;
        let outputs = self.returning(returning_clause, target)?;
        for clause in clauses {
            match kind_of(clause)? {
                MatchKind::Matched => self.see(both.clone()),
                MatchKind::BySource => self.see(hide(&both, |i| i.rte != Some(target))),
                MatchKind::ByTarget => self.see(hide(&both, |i| i.rte == Some(target))),
            }
            self.action(clause, target)?;
        }
        self.scopes.pop();
        self.end_with(with_clause, frame)?;
        Ok(outputs)
    }

    fn items_here(&self) -> Vec<Item> {
        self.scopes.last().map(|s| s.items.clone()).unwrap_or_default()
    }

    /// What the innermost scope sees from here on.
    fn see(&mut self, items: Vec<Item>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.items = items;
        }
    }

    fn check_version(&self, clauses: &[&mut MergeWhenClause], returns: bool) -> Result<(), Denial> {
        if self.context.catalog.snapshot().server_version >= VERSION_17 {
            return Ok(());
        }
        let by_source = |c: &&mut MergeWhenClause| c.match_kind == MergeMatchKind::MergeWhenNotMatchedBySource as i32;
        let word = if clauses.iter().any(by_source) {
            "BY"
        } else if returns {
            "RETURNING"
        } else {
            return Ok(());
        };
        Err(Denial::invalid(sqlstate::SYNTAX_ERROR, format!("syntax error at or near \"{word}\"")))
    }

    fn action(&mut self, clause: &mut MergeWhenClause, target: RteId) -> Result<(), Denial> {
        let MergeWhenClause { match_kind: _, command_type, r#override, condition, target_list, values } = clause;
        self.child(condition)?;
        match CmdType::try_from(*command_type) {
            Ok(CmdType::CmdInsert) => {
                match OverridingKind::try_from(*r#override) {
                    Ok(
                        OverridingKind::OverridingNotSet
                        | OverridingKind::OverridingUserValue
                        | OverridingKind::OverridingSystemValue,
                    ) => {}
                    Ok(OverridingKind::Undefined) | Err(_) => return Err(unsupported()),
                }
                *values = self.expand_stars(std::mem::take(values))?;
                let supplied = (!values.is_empty()).then_some(values.len());
                self.insert_columns(target_list, target, supplied)
            }
            Ok(CmdType::CmdUpdate) => self.assignments(target_list, target),
            Ok(CmdType::CmdDelete | CmdType::CmdNothing) => Ok(()),
            Ok(CmdType::Undefined | CmdType::CmdUnknown | CmdType::CmdSelect | CmdType::CmdMerge | CmdType::CmdUtility)
            | Err(_) => Err(unsupported()),
        }
    }
}

/// Some items are there, but may not be named (setNamespaceVisibilityForRTE).
fn hide(items: &[Item], hidden: impl Fn(&Item) -> bool) -> Vec<Item> {
    let one = |i: &Item| match hidden(i) {
        true => Item { relation_visible: false, columns_visible: false, ..i.clone() },
        false => i.clone(),
    };
    items.iter().map(one).collect()
}

fn unsupported() -> Denial {
    Denial::unsupported("this MERGE cannot be secured")
}

fn when_clause(node: &mut Node) -> Result<&mut MergeWhenClause, Denial> {
    match &mut node.node {
        Some(NodeEnum::MergeWhenClause(clause)) => Ok(clause),
        Some(_) | None => Err(unsupported()),
    }
}

/// Which rows a WHEN clause is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MatchKind {
    Matched,
    /// NOT MATCHED BY SOURCE: rows of the target.
    BySource,
    /// NOT MATCHED: rows of the source.
    ByTarget,
}

fn kind_of(clause: &MergeWhenClause) -> Result<MatchKind, Denial> {
    match MergeMatchKind::try_from(clause.match_kind) {
        Ok(MergeMatchKind::MergeWhenMatched) => Ok(MatchKind::Matched),
        Ok(MergeMatchKind::MergeWhenNotMatchedBySource) => Ok(MatchKind::BySource),
        Ok(MergeMatchKind::MergeWhenNotMatchedByTarget) => Ok(MatchKind::ByTarget),
        Ok(MergeMatchKind::Undefined) | Err(_) => Err(unsupported()),
    }
}

/// What the clauses do. A clause behind one of its kind that has no condition is an error, which must be found here: what is
/// sent may have one.
fn actions_of(clauses: &[&mut MergeWhenClause]) -> Result<MergeActions, Denial> {
    let mut actions = MergeActions::default();
    let mut closed: Vec<MatchKind> = vec![];
    for clause in clauses {
        let kind = kind_of(clause)?;
        if closed.contains(&kind) {
            let message = "unreachable WHEN clause specified after unconditional WHEN clause";
            return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, message));
        }
        if clause.condition.is_none() {
            closed.push(kind);
        }
        let command = clause.command_type;
        actions.insert |= command == CmdType::CmdInsert as i32;
        actions.update |= command == CmdType::CmdUpdate as i32;
        actions.delete |= command == CmdType::CmdDelete as i32;
    }
    Ok(actions)
}
