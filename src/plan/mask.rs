//! Masks: a masked column reads as its mask wherever the client's text names it, as if the relation were a view.
//!
//! First the client's references are marked ([`Rewriter::mark_masked`]), before anything of the policy's own is added: row
//! rules and tenant predicates see the value. Until the statement is printed a marked reference counts as a column of the
//! same type, which it may since every mask is quiet: built-in functions that raise for no value, not for NULL either.

use std::collections::BTreeSet;

use pg_query::protobuf::{self as pg, InsertStmt, OnConflictAction, TypeName};
use pg_query::{Node, NodeEnum};

use super::rewrite::Rewriter;
use crate::catalog::{Column, Relation};
use crate::finding::Denial;
use crate::policy::MaskedColumn;
use crate::policy::model::Mask;
use crate::sql::analyse::WHOLE_ROW;
use crate::sql::analyse::scope::{RteId, RteKind, Usage};
use crate::sql::tree::{
    as_string, case, cast, column, each_child_mut, int_constant, is_null, names, node, null, operator, qualified_column,
    text_constant, type_name, walk,
};
use crate::sql::types::oid;

/// Begins the name of a marked column; its number follows.
const MARK: &str = "qz_masked_";

/// The column that a marked reference stands for.
pub(super) fn marked(name: &str) -> Option<i16> {
    name.strip_prefix(MARK)?.parse().ok()
}

impl Rewriter<'_> {
    /// Marks the client's references to masked columns. A fenced relation is masked inside of its fence.
    pub(super) fn mark_masked(&self, tree: &mut Node) -> Result<(), Denial> {
        if !self.permit.has_masks() || crate::mutant!("mask.not-marked") {
            return Ok(());
        }
        // Nobody else's names may look like marks.
        let clash = self.analysis.rtes.iter().flat_map(|r| &r.columns).any(|c| c.name.starts_with(MARK));
        if clash {
            return Err(Denial::unsupported(format!("columns that begin with \"{MARK}\" are reserved")));
        }
        self.mark(tree);
        Ok(())
    }

    fn mark(&self, expression: &mut Node) {
        match &mut expression.node {
            Some(NodeEnum::ColumnRef(c)) => {
                let found = qualified_column(c).and_then(|(alias, name)| {
                    let (id, rte) = self.rte(alias)?;
                    let number = rte.columns.iter().find(|c| c.name == name)?.number;
                    let masked = !self.fences.contains(&id) && self.permit.masks(id).iter().any(|m| m.number == number);
                    masked.then(|| column(&[alias, &format!("{MARK}{number}")]))
                });
                if let Some(found) = found {
                    *expression = found;
                }
            }
            // An arbiter names an index and is not evaluated.
            Some(NodeEnum::InsertStmt(s)) if !crate::mutant!("mask.arbiter") => {
                let infer = s.on_conflict_clause.as_mut().and_then(|c| c.infer.take());
                each_child_mut(expression, &mut |child| self.mark(child));
                if let Some(NodeEnum::InsertStmt(s)) = &mut expression.node
                    && let Some(conflict) = &mut s.on_conflict_clause
                {
                    conflict.infer = infer;
                }
            }
            Some(_) | None => each_child_mut(expression, &mut |child| self.mark(child)),
        }
    }

    /// A masked column of a row that exists is never changed, and UPDATE does not read it into another: what was read and is
    /// written back would be the mask.
    pub(super) fn refuse_masked_writes(&self, tree: &Node) -> Result<(), Denial> {
        if !self.permit.has_masks() {
            return Ok(());
        }
        let mut result = Ok(());
        walk(tree, &mut |n| {
            let found = match &n.node {
                Some(NodeEnum::UpdateStmt(s)) => self.masked_update(s),
                Some(NodeEnum::InsertStmt(s)) => self.masked_insert(s),
                Some(NodeEnum::MergeStmt(s)) => self.masked_merge(s),
                Some(_) | None => Ok(()),
            };
            if result.is_ok() {
                result = found;
            }
        });
        result
    }

    fn target_masks(&self, relation: Option<&pg::RangeVar>) -> Option<(RteId, &[MaskedColumn])> {
        let alias = relation.and_then(|r| r.alias.as_ref()).map(|a| a.aliasname.as_str())?;
        let (id, _) = self.rte(alias)?;
        Some((id, self.permit.masks(id)))
    }

    fn is_masked(&self, id: RteId, name: &str) -> Option<&MaskedColumn> {
        let number = self.analysis.rtes[id].columns.iter().find(|c| c.name == name)?.number;
        self.permit.masks(id).iter().find(|m| m.number == number)
    }

    fn masked_update(&self, update: &pg::UpdateStmt) -> Result<(), Denial> {
        let pg::UpdateStmt { relation, target_list, where_clause: _, from_clause: _, returning_clause: _, with_clause: _ } =
            update;
        match self.target_masks(relation.as_ref()) {
            Some((id, masks)) => self.masked_set(id, masks, target_list),
            None => Ok(()),
        }
    }

    fn masked_merge(&self, merge: &pg::MergeStmt) -> Result<(), Denial> {
        let pg::MergeStmt {
            relation,
            source_relation: _,
            join_condition: _,
            merge_when_clauses,
            returning_clause: _,
            with_clause: _,
        } = merge;
        let Some((id, masks)) = self.target_masks(relation.as_ref()) else { return Ok(()) };
        for clause in merge_when_clauses {
            let Some(NodeEnum::MergeWhenClause(w)) = &clause.node else { continue };
            let pg::MergeWhenClause { match_kind: _, command_type, r#override: _, condition: _, target_list, values: _ } = &**w;
            if *command_type == pg::CmdType::CmdInsert as i32 {
                self.refuse_filled(id, target_list)?;
            } else {
                self.masked_set(id, masks, target_list)?;
            }
        }
        Ok(())
    }

    fn masked_set(&self, id: RteId, masks: &[MaskedColumn], target_list: &[Node]) -> Result<(), Denial> {
        if masks.is_empty() || crate::mutant!("mask.set-unchecked") {
            return Ok(());
        }
        self.refuse_assigned(id, target_list)?;
        let mut read = None;
        for entry in target_list {
            walk(entry, &mut |n| {
                let Some(NodeEnum::ColumnRef(c)) = &n.node else { return };
                let Some((alias, name)) = qualified_column(c) else { return };
                if self.rte(alias).is_some_and(|(found, _)| found == id) {
                    let number = marked(name);
                    let mask = masks.iter().find(|m| Some(m.number) == number);
                    read = read.or(if name == WHOLE_ROW { masks.first() } else { mask });
                }
            });
        }
        match read {
            Some(mask) => Err(Denial::policy(format!("permission denied for column {}", mask.name))
                .hint("the column is masked: SET would store the mask")),
            None => Ok(()),
        }
    }

    fn masked_insert(&self, insert: &InsertStmt) -> Result<(), Denial> {
        let InsertStmt { relation, cols, select_stmt: _, on_conflict_clause, returning_clause: _, with_clause: _, r#override: _ } =
            insert;
        let Some((id, _)) = self.target_masks(relation.as_ref()) else { return Ok(()) };
        self.refuse_filled(id, cols)?;
        match on_conflict_clause {
            Some(c) if c.action == OnConflictAction::OnconflictUpdate as i32 => self.refuse_assigned(id, &c.target_list),
            Some(_) | None => Ok(()),
        }
    }

    /// One who may insert values and read their pseudonyms could try them all.
    fn refuse_filled(&self, id: RteId, columns: &[Node]) -> Result<(), Denial> {
        let masked = |name| self.is_masked(id, name);
        columns.iter().filter_map(assigned).filter_map(masked).try_for_each(check_filled)
    }

    fn refuse_assigned(&self, id: RteId, list: &[Node]) -> Result<(), Denial> {
        if crate::mutant!("mask.assigned") {
            return Ok(());
        }
        match list.iter().filter_map(assigned).find_map(|name| self.is_masked(id, name)) {
            Some(mask) => Err(Denial::policy(format!("permission denied for column {}", mask.name))
                .hint("the column is masked: a value that was read from it and is written back would be the mask")),
            None => Ok(()),
        }
    }

    /// USING compares columns that it does not name an entry for: where one is masked, its relation is fenced.
    pub(super) fn fence_masked_keys(&mut self, using: &[Node], members: &BTreeSet<RteId>) {
        for name in using.iter().filter_map(as_string) {
            let masked = |id: &RteId| self.is_masked(*id, name).is_some() && !crate::mutant!("mask.using");
            let masked: Vec<RteId> = members.iter().copied().filter(masked).collect();
            self.wanted.extend(masked);
        }
    }

    /// Puts masks in the place of marked references.
    pub(super) fn print_masked(&self, expression: &mut Node) -> Result<(), Denial> {
        if let Some(NodeEnum::ColumnRef(c)) = &expression.node {
            if let Some((alias, name)) = qualified_column(c)
                && let Some(number) = marked(name)
            {
                *expression = self.masked_reference(alias, number)?;
            }
            return Ok(());
        }
        let mut result = Ok(());
        each_child_mut(expression, &mut |child| {
            if result.is_ok() {
                result = self.print_masked(child);
            }
        });
        result
    }

    fn masked_reference(&self, alias: &str, number: i16) -> Result<Node, Denial> {
        let unknown = || Denial::disagreement("a marked column of an unknown entry");
        let (id, rte) = self.rte(alias).ok_or_else(unknown)?;
        let base = self.base(id).ok_or_else(unknown)?;
        let mask = self.permit.masks(id).iter().find(|m| m.number == number).ok_or_else(unknown)?;
        let printed = |number: i16| rte.columns.iter().find(|c| c.number == number).map(|c| c.name.clone());
        let own = base.column_numbered(number).ok_or_else(unknown)?;
        self.masked(mask, own, alias, &printed)
    }

    /// The relation that an entry shows columns of.
    fn base(&self, id: RteId) -> Option<&Relation> {
        let of = |id: RteId| match self.analysis.rtes[id].kind {
            RteKind::Relation { oid, usage } => Some((oid, usage)),
            RteKind::Derived | RteKind::Function | RteKind::Cte | RteKind::Excluded | RteKind::Version(_) | RteKind::Merged => {
                None
            }
        };
        let oid = match self.analysis.rtes[id].kind {
            // All targets have the same masks, on columns of the same types.
            RteKind::Excluded => (0..self.analysis.rtes.len()).filter_map(of).find(|(_, u)| *u == Usage::Insert)?.0,
            RteKind::Version(target) => of(target)?.0,
            RteKind::Relation { oid: _, usage: _ } | RteKind::Derived | RteKind::Function | RteKind::Cte | RteKind::Merged => {
                of(id)?.0
            }
        };
        self.catalog.relation(oid)
    }

    /// A column of an entry under another alias, as its mask if it has one.
    pub(super) fn masked_or_plain(&self, id: RteId, own: &Column, alias: &str, base: &Relation) -> Result<Node, Denial> {
        let by_number = |number: i16| base.column_numbered(number).map(|c| c.name.clone());
        match self.permit.masks(id).iter().find(|m| m.number == own.number) {
            Some(mask) if !crate::mutant!("mask.fence-and-row") => self.masked(mask, own, alias, &by_number),
            Some(_) | None => Ok(column(&[alias, &own.name])),
        }
    }

    /// The whole row of a masked relation: `ROW(..)::schema.table`.
    pub(super) fn masked_row(&self, id: RteId, alias: &str) -> Result<Node, Denial> {
        let rte = &self.analysis.rtes[id];
        let Some(base) = self.base(id) else { return Err(Denial::disagreement("a whole row of an unknown relation")) };
        if base.columns.iter().zip(&rte.columns).any(|(b, c)| b.name != c.name) {
            return Err(Denial::unsupported("a whole-row reference to a masked table with renamed columns cannot be secured"));
        }
        let args = base.columns.iter().map(|c| self.masked_or_plain(id, c, alias, base)).collect::<Result<_, _>>()?;
        let row = node(NodeEnum::RowExpr(Box::new(pg::RowExpr {
            xpr: None,
            args,
            row_typeid: 0,
            row_format: pg::CoercionForm::CoerceExplicitCall as i32,
            colnames: vec![],
            location: 0,
        })));
        let row = cast(row, type_name(&[&base.schema, &base.name]));
        // Of what was inserted there is no old row, of what was deleted no new one.
        let may_be_missing = self.nullable.contains(&id) || matches!(rte.kind, RteKind::Version(_));
        if !may_be_missing || crate::mutant!("mask.null-extended-row") {
            return Ok(row);
        }
        // The row of a null-extended entry is NULL, not a row of NULLs.
        let of_type = cast(null(), type_name(&[&base.schema, &base.name]));
        Ok(case(vec![(is_null(column(&[alias, "tableoid"])), of_type)], Some(row)))
    }

    /// The mask of `alias.column`. `sql::verify` states each of them again, as text.
    fn masked(
        &self,
        mask: &MaskedColumn,
        own: &Column,
        alias: &str,
        printed: &dyn Fn(i16) -> Option<String>,
    ) -> Result<Node, Denial> {
        let name = |number: i16| printed(number).ok_or_else(|| Denial::disagreement("a masked column without a name"));
        let type_ = self.type_with_modifier(own)?;
        let value = column(&[alias, &name(mask.number)?]);
        let text = || cast(value.clone(), type_name(&["pg_catalog", "text"]));
        let typed = |value: Node| cast(value, type_.clone());
        let is_null = (is_null(value.clone()), typed(null()));
        Ok(match mask.mask {
            Mask::Null => case(vec![is_null], Some(typed(null()))),
            Mask::Redact => case(vec![is_null], Some(typed(constant("***")))),
            Mask::Last4 => {
                let long = operator(">=", call("length", vec![text()]), int_constant(8));
                let shown = join(constant("****"), call("right", vec![text(), int_constant(4)]));
                case(vec![is_null, (long, typed(shown))], Some(typed(constant("****"))))
            }
            Mask::Email => {
                let at = || call("strpos", vec![text(), constant("@")]);
                let reversed = call("split_part", vec![call("reverse", vec![text()]), constant("@"), int_constant(1)]);
                let hidden = join(constant("***@"), call("reverse", vec![reversed]));
                let shown = join(call("left", vec![text(), int_constant(1)]), hidden.clone());
                let several = operator(">", at(), int_constant(2));
                let some = operator(">", at(), int_constant(0));
                case(vec![is_null, (several, typed(shown)), (some, typed(hidden))], Some(typed(constant("***"))))
            }
            Mask::Hash => {
                let mut hashed = constant(&mask.key);
                if let Some(number) = mask.tenant_column {
                    let tenant = cast(column(&[alias, &name(number)?]), type_name(&["pg_catalog", "text"]));
                    hashed = join(join(hashed, constant(":")), tenant);
                }
                hashed = join(join(hashed, constant(":")), text());
                // Escaped, every text is a bytea.
                let backslash = || call("chr", vec![int_constant(92)]);
                let twice = call("repeat", vec![backslash(), int_constant(2)]);
                let bytes = cast(call("replace", vec![hashed, backslash(), twice]), type_name(&["pg_catalog", "bytea"]));
                let hex = call("encode", vec![call("sha256", vec![bytes]), constant("hex")]);
                case(vec![is_null], Some(typed(call("left", vec![hex, int_constant(32)]))))
            }
        })
    }

    /// The type of a column as a cast names it.
    fn type_with_modifier(&self, own: &Column) -> Result<TypeName, Denial> {
        let found = self.catalog.type_(own.type_oid).ok_or_else(|| Denial::disagreement("a masked column of an unknown type"))?;
        let modifiers = if own.typmod == -1 {
            vec![]
        } else {
            match own.type_oid {
                oid::VARCHAR | oid::BPCHAR => vec![own.typmod - 4],
                // numeric.c: precision in the upper half; an 11-bit scale with its sign.
                oid::NUMERIC => {
                    let packed = own.typmod - 4;
                    vec![(packed >> 16) & 0xffff, ((packed & 0x7ff) ^ 1024) - 1024]
                }
                oid::TIME | oid::TIMETZ | oid::TIMESTAMP | oid::TIMESTAMPTZ => vec![own.typmod],
                _ => return Err(Denial::unsupported(format!("a mask of {} with a modifier cannot be secured", found.name))), // tidy: not a syntax kind
            }
        };
        let typmods = modifiers.into_iter().map(int_constant).collect();
        Ok(TypeName { names: names(&[&found.schema, &found.name]), typmods, ..type_name(&[]) })
    }
}

/// A value for a masked column: not where it shows as a pseudonym, nor where nothing is stored.
pub(super) fn check_filled(mask: &MaskedColumn) -> Result<(), Denial> {
    let denied = || Denial::policy(format!("permission denied for column {}", mask.name));
    if mask.never_stored && !crate::mutant!("watch.what-is-never-stored-is-stored") {
        return Err(denied().hint("policy: nothing is stored in this column"));
    }
    if mask.mask == Mask::Hash {
        return Err(
            denied().hint("the column is masked by a hash: who could insert values could try which one a hash stands for")
        );
    }
    Ok(())
}

/// The column that an entry of a column list or of SET assigns to.
fn assigned(entry: &Node) -> Option<&str> {
    match &entry.node {
        Some(NodeEnum::ResTarget(t)) => Some(&t.name),
        Some(_) | None => None,
    }
}

fn constant(text: &str) -> Node {
    cast(text_constant(text), type_name(&["pg_catalog", "text"]))
}

fn join(left: Node, right: Node) -> Node {
    operator("||", left, right)
}

/// `pg_catalog.name(args)`
fn call(name: &str, args: Vec<Node>) -> Node {
    node(NodeEnum::FuncCall(Box::new(pg::FuncCall {
        funcname: names(&["pg_catalog", name]),
        args,
        agg_order: vec![],
        agg_filter: None,
        over: None,
        agg_within_group: false,
        agg_star: false,
        agg_distinct: false,
        func_variadic: false,
        funcformat: pg::CoercionForm::CoerceExplicitCall as i32,
        location: 0,
    })))
}
