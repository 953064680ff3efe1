//! MERGE. It filters nothing: what fails ON is inserted, or is a row that is not matched by source.

use pg_query::NodeEnum;
use pg_query::protobuf::{CmdType, MergeMatchKind, MergeStmt, MergeWhenClause, OverridingKind};

use super::guard::{Use, shapes};
use super::statement::Target;
use super::*;

impl Verifier<'_> {
    pub(super) fn merge(&mut self, merge: &MergeStmt) -> Result<(), Denial> {
        let MergeStmt { relation, source_relation, join_condition, merge_when_clauses, returning_clause, with_clause } = merge;
        self.with(with_clause.as_ref(), |v| {
            let target = v.target(relation.as_ref(), Use::Merge)?;
            v.levels.push(Level::default());
            let on = v.add_site(join_condition.as_deref())?;
            v.source(source_relation.as_deref().ok_or_else(|| refused("MERGE without a source"))?, &[])?;
            let sources = v.level()?.aliases.clone();
            v.register(&target.alias, target.entry.clone())?;
            v.level()?.filtered.push((target.alias.clone(), vec![on]));
            v.check_filtered()?;
            v.condition(join_condition.as_deref())?;
            for clause in merge_when_clauses {
                let NodeEnum::MergeWhenClause(clause) = inner(clause)? else { return Err(refused("a WHEN that is none")) };
                v.when(clause, &target, &sources)?;
            }
            v.level()?.aliases = sources.iter().chain([&target.alias]).cloned().collect();
            v.level()?.passed = true;
            v.returning(returning_clause.as_ref(), &target)?;
            v.levels.pop();
            Ok(())
        })
    }

    fn when(&mut self, clause: &MergeWhenClause, target: &Target, sources: &[String]) -> Result<(), Denial> {
        let MergeWhenClause { match_kind, command_type, r#override, condition, target_list, values } = clause;
        let condition = condition.as_deref();
        let kind = MergeMatchKind::try_from(*match_kind);
        let mut visible = sources.to_vec();
        match kind {
            Ok(MergeMatchKind::MergeWhenMatched) => visible.push(target.alias.clone()),
            Ok(MergeMatchKind::MergeWhenNotMatchedByTarget) => {}
            Ok(MergeMatchKind::MergeWhenNotMatchedBySource) => {
                visible = vec![target.alias.clone()];
                let found = shapes(condition);
                if !target.entry.required().iter().all(|shape| found.contains(shape)) {
                    return Err(refused("WHEN NOT MATCHED BY SOURCE without the policy"));
                }
            }
            Ok(MergeMatchKind::Undefined) | Err(_) => return Err(refused("a WHEN of an unknown kind")),
        }
        // Only what is matched has passed ON.
        let level = self.level()?;
        level.aliases = visible;
        level.passed = kind != Ok(MergeMatchKind::MergeWhenNotMatchedBySource);
        self.condition(condition)?;
        self.level()?.passed = true;
        let of_source = kind == Ok(MergeMatchKind::MergeWhenNotMatchedByTarget);
        let command = CmdType::try_from(*command_type);
        if matches!(command, Ok(CmdType::CmdInsert)) != (of_source && command != Ok(CmdType::CmdNothing)) {
            return Err(refused("an action that does not go with its WHEN"));
        }
        self.check_rules(target, command)?;
        match command {
            Ok(CmdType::CmdInsert) => {
                if *r#override == OverridingKind::Undefined as i32 {
                    return Err(refused("OVERRIDING of an unknown kind"));
                }
                let position = self.tenant_position(target_list, target)?;
                if values.len() != target_list.len() {
                    return Err(refused("INSERT with more columns or values"));
                }
                self.check_tenant_value(values.get(position), target)?;
                values.iter().try_for_each(|value| self.value(value))
            }
            Ok(CmdType::CmdUpdate) if values.is_empty() => self.assignments(target_list, target),
            Ok(CmdType::CmdDelete | CmdType::CmdNothing) if values.is_empty() && target_list.is_empty() => Ok(()),
            Ok(
                CmdType::CmdUpdate
                | CmdType::CmdDelete
                | CmdType::CmdNothing
                | CmdType::Undefined
                | CmdType::CmdUnknown
                | CmdType::CmdSelect
                | CmdType::CmdMerge
                | CmdType::CmdUtility,
            )
            | Err(_) => Err(refused("an action that is none")),
        }
    }

    /// ON holds the rules for reading. No place holds other ones: where they ask for more, the action may not stand.
    fn check_rules(&self, target: &Target, command: Result<CmdType, impl Sized>) -> Result<(), Denial> {
        let Entry::Governed { oid, .. } = &target.entry else { return Err(refused("a target that is not governed")) };
        let governed = self.expected.relations.governed.get(oid).ok_or_else(|| refused("a target that is not governed"))?;
        let insert = governed.insert_check.is_empty();
        let update = governed.read.is_empty() && governed.update.is_empty() && governed.update_check.is_empty();
        let delete = governed.delete.iter().all(|p| governed.read.contains(p));
        let unmet = match command {
            Ok(CmdType::CmdInsert) => !insert,
            Ok(CmdType::CmdUpdate) => !update,
            Ok(CmdType::CmdDelete) => !delete,
            Ok(
                CmdType::CmdNothing
                | CmdType::Undefined
                | CmdType::CmdUnknown
                | CmdType::CmdSelect
                | CmdType::CmdMerge
                | CmdType::CmdUtility,
            )
            | Err(_) => false,
        };
        if unmet { Err(refused("an action of MERGE that its rules do not allow unchecked")) } else { Ok(()) }
    }
}
