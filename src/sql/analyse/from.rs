//! FROM: relations, CTEs, sub-selects, functions, joins.

use std::collections::{HashMap, HashSet};

use pg_query::protobuf::{self as pg, Alias, FuncCall, JoinExpr, JoinType, RangeFunction, RangeSubselect, RangeVar};
use pg_query::{Node, NodeEnum};

use super::super::kinds::not_a_from_item;
use super::super::tree::{alias, as_string, each_child_mut, string};
use super::super::types::{Typed, common_type, oid, type_named};
use super::scope::{Item, RteColumn, RteId, RteKind, Target, Usage};
use super::{Analyser, Statement, head};
use crate::catalog::{Function, Relation};
use crate::error::sqlstate;
use crate::finding::Denial;

impl Analyser<'_> {
    /// Adds the items of a FROM list to the innermost scope.
    pub(super) fn items_of_from(&mut self, list: &mut [Node]) -> Result<(), Denial> {
        for node in list.iter_mut() {
            let mut items = self.item_of_from(node)?;
            self.check_names(&items)?;
            // Until the list is done, siblings are visible to LATERAL items only.
            items.iter_mut().for_each(|i| i.lateral_only = !crate::mutant!("names.siblings-visible"));
            self.scope().items.extend(items);
        }
        self.scope().items.iter_mut().for_each(|i| i.lateral_only = false);
        Ok(())
    }

    pub(super) fn scope(&mut self) -> &mut super::Scope {
        if self.scopes.is_empty() {
            self.scopes.push(super::Scope::default());
        }
        let last = self.scopes.len() - 1;
        &mut self.scopes[last]
    }

    fn check_names(&mut self, new: &[Item]) -> Result<(), Denial> {
        for (i, item) in new.iter().enumerate() {
            let Some(name) = item.name.as_ref().filter(|_| item.relation_visible) else { continue };
            let clash = |other: &Item| {
                other.relation_visible
                    && other.name.as_ref() == Some(name)
                    // The same relation name from two schemas is no clash where neither has an alias.
                    && !(other.relation.is_some() && item.relation.is_some() && other.relation != item.relation)
            };
            if self.scope().items.iter().any(clash) || new[..i].iter().any(clash) {
                return Err(Denial::invalid(
                    sqlstate::DUPLICATE_ALIAS,
                    format!("table name \"{name}\" specified more than once"),
                ));
            }
        }
        Ok(())
    }

    fn item_of_from(&mut self, item: &mut Node) -> Result<Vec<Item>, Denial> {
        let Some(kind) = &mut item.node else {
            return Err(Denial::unsupported("an empty FROM item cannot be secured"));
        };
        match kind {
            NodeEnum::RangeVar(r) => match self.view_named(r)? {
                Some(view) => {
                    let (sub_select, read) = self.read_view(view, r)?;
                    *item = sub_select;
                    Ok(vec![read])
                }
                None => Ok(vec![self.range_var(r)?]),
            },
            NodeEnum::RangeSubselect(s) => Ok(vec![self.sub_select(s)?]),
            NodeEnum::RangeFunction(f) => Ok(vec![self.range_function(f)?]),
            NodeEnum::RangeTableFunc(t) => Ok(vec![self.xml_table(t)?]),
            NodeEnum::JsonTable(t) => Ok(vec![self.json_table(t)?]),
            NodeEnum::JoinExpr(j) => self.join(j),
            NodeEnum::RangeTableSample(s) => {
                let pg::RangeTableSample { relation, method, args, repeatable, location: _ } = &mut **s;
                let name = method.last().and_then(as_string).unwrap_or_default();
                if !matches!(name, "system" | "bernoulli") {
                    return Err(Denial::unsupported(format!("TABLESAMPLE {name} cannot be secured")));
                }
                self.exprs(args)?;
                self.child(repeatable)?;
                match relation.as_deref_mut().and_then(|n| n.node.as_mut()) {
                    Some(NodeEnum::RangeVar(r)) => Ok(vec![self.range_var(r)?]),
                    Some(_) | None => Err(Denial::unsupported("this TABLESAMPLE cannot be secured")),
                }
            }
            not_a_from_item!() => {
                let name = format!("{kind:?}");
                let name = name.split(['(', ' ', '{']).next().unwrap_or_default();
                Err(Denial::unsupported(format!("{name} in FROM cannot be secured")))
            }
        }
    }

    fn range_var(&mut self, range: &mut RangeVar) -> Result<Item, Denial> {
        if let Some(cte) = self.cte_named(range)? {
            return self.cte_reference(range, cte);
        }
        self.relation(range, Usage::Select)
    }

    pub(super) fn cte_named(&mut self, range: &RangeVar) -> Result<Option<usize>, Denial> {
        if range.schemaname.is_empty() || crate::mutant!("names.cte-despite-schema") {
            return self.find_cte(&range.relname);
        }
        Ok(None)
    }

    fn cte_reference(&mut self, range: &mut RangeVar, cte: usize) -> Result<Item, Denial> {
        let visible = range.alias.as_ref().map_or_else(|| range.relname.clone(), |a| a.aliasname.clone());
        let renamed = alias_columns(range.alias.as_ref());
        let mut columns = self.ctes[cte].columns.clone();
        rename(&mut columns, &renamed, &visible)?;
        let names = tell_apart(&mut columns);
        let id = self.add_rte(&visible, RteKind::Cte, columns)?;
        let of_with = self.ctes[cte].of_plain_select && self.scopes.len() == self.ctes[cte].scope_depth + 1;
        if !of_with {
            self.rtes[id].starred = self.ctes[cte].starred;
        }
        range.relname = self.ctes[cte].printed.clone();
        range.alias = Some(Alias { aliasname: self.rtes[id].alias.clone(), colnames: strings(&renamed) });
        Ok(Item { columns: targets(id, names), ..self.item(id, visible, None) })
    }

    /// A relation in FROM, or the target of INSERT, UPDATE and DELETE (which never is a CTE).
    pub(super) fn relation(&mut self, range: &mut RangeVar, usage: Usage) -> Result<Item, Denial> {
        let RangeVar { catalogname, schemaname, relname, inh: _, relpersistence: _, alias: alias_node, location } = range;
        if !catalogname.is_empty() && *catalogname != self.context.catalog.snapshot().database {
            return Err(Denial::invalid(
                sqlstate::FEATURE_NOT_SUPPORTED,
                format!("cross-database references are not implemented: \"{catalogname}.{schemaname}.{relname}\""),
            ));
        }
        let relation = self.find_relation(schemaname, relname).map_err(|denial| denial.at_node(*location))?;
        let (relation_oid, schema, name) = (relation.oid, relation.schema.clone(), relation.name.clone());
        let mut columns = relation_columns(relation);
        let visible = alias_node.as_ref().map_or_else(|| name.clone(), |a| a.aliasname.clone());
        let renamed = alias_columns(alias_node.as_ref());
        if !crate::mutant!("names.column-aliases-ignored") {
            rename(&mut columns, &renamed, &visible)?;
        }
        let id = self.add_rte(&visible, RteKind::Relation { oid: relation_oid, usage }, columns)?;
        self.rtes[id].columns.iter_mut().for_each(|c| c.sources = vec![id]);
        let qualified =
            (alias_node.is_none() || crate::mutant!("names.schema-despite-alias")).then(|| (schema.clone(), name.clone()));
        catalogname.clear();
        *schemaname = schema;
        *relname = name;
        *alias_node = Some(Alias { aliasname: self.rtes[id].alias.clone(), colnames: strings(&renamed) });
        Ok(self.item(id, visible, qualified))
    }

    /// Whether a column is Bulkhead's own.
    pub(super) fn is_hidden(&self, id: RteId, column: usize) -> bool {
        match self.rtes[id].kind {
            RteKind::Relation { oid, usage: _ } => {
                let hidden = self.context.catalog.relation(oid).and_then(|r| r.columns.get(column)).is_some_and(|c| c.hidden);
                hidden && !crate::mutant!("names.hidden-columns-show")
            }
            RteKind::Version(target) => self.is_hidden(target, column),
            RteKind::Derived | RteKind::Function | RteKind::Cte | RteKind::Excluded | RteKind::Merged => false,
        }
    }

    /// `*` stands for a column, among others.
    pub(super) fn note_starred(&mut self, name: &str, target: Target) {
        let rte = &mut self.rtes[target.rte];
        rte.read = true;
        if matches!(rte.kind, RteKind::Derived | RteKind::Cte) && rte.columns[target.column].name != name {
            self.starred_apart.insert(target.rte);
        }
    }

    /// Has the columns of one name that `*` stands for printed under names of their own, by the alias of what they are columns of.
    ///
    /// # Errors
    /// It is named as a whole row too, whose fields have names.
    pub(super) fn name_apart(&self, mut statement: Statement) -> Result<Statement, Denial> {
        if let Some(id) = self.starred_apart.iter().find(|id| self.rtes[**id].whole_row) {
            let alias = &self.rtes[*id].alias;
            let message =
                format!("columns of one name in \"{alias}\", which is named as a whole row and by *, cannot be secured");
            return Err(Denial::unsupported(message));
        }
        match &mut statement {
            Statement::Query(query)
            | Statement::Declare { name: _, options: _, query }
            | Statement::CopyTo { query, options: _ }
            | Statement::Explain { options: _, query }
            | Statement::Prepare { name: _, query }
            | Statement::Execute { name: _, arguments: _, query }
                if !self.starred_apart.is_empty() =>
            {
                self.name_apart_in(query);
            }
            Statement::CreateTemporary(create) if !self.starred_apart.is_empty() => self.name_apart_in(&mut create.query),
            Statement::Query(_)
            | Statement::CreateTemporary(_)
            | Statement::Declare { .. }
            | Statement::CopyTo { .. }
            | Statement::Explain { .. }
            | Statement::Prepare { .. }
            | Statement::Execute { .. }
            | Statement::CopyFrom(_)
            | Statement::Utility(_) => {}
        }
        Ok(statement)
    }

    fn name_apart_in(&self, node: &mut Node) {
        let alias = match &mut node.node {
            Some(NodeEnum::RangeSubselect(sub)) => sub.alias.as_mut(),
            Some(NodeEnum::RangeVar(range)) => range.alias.as_mut(),
            Some(_) | None => None,
        };
        if let Some(alias) = alias
            && let Some(id) = self.by_alias.get(&alias.aliasname).filter(|id| self.starred_apart.contains(id))
        {
            alias.colnames = self.rtes[*id].columns.iter().map(|c| string(&c.name)).collect();
        }
        each_child_mut(node, &mut |child| self.name_apart_in(child));
    }

    /// The namespace item of an entry all of whose columns are visible but for the hidden one.
    pub(super) fn item(&self, id: RteId, name: String, relation: Option<(String, String)>) -> Item {
        Item {
            name: Some(name),
            relation,
            rte: Some(id),
            columns: self.rtes[id]
                .columns
                .iter()
                .enumerate()
                .filter(|(i, _)| !self.is_hidden(id, *i))
                .map(|(i, c)| (c.name.clone(), Target { rte: id, column: i }))
                .collect(),
            relation_visible: true,
            columns_visible: true,
            lateral_only: false,
            lateral_ok: true,
        }
    }

    fn sub_select(&mut self, sub: &mut RangeSubselect) -> Result<Item, Denial> {
        let RangeSubselect { lateral, subquery, alias: alias_node } = sub;
        if alias_node.is_none() && self.context.catalog.snapshot().server_version < 160_000 {
            return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, "subquery in FROM must have an alias"));
        }
        let Some(NodeEnum::SelectStmt(select)) = subquery.as_deref_mut().and_then(|n| n.node.as_mut()) else {
            return Err(Denial::unsupported("this sub-select cannot be secured"));
        };
        let saved = std::mem::replace(&mut self.scope().lateral_active, *lateral);
        let depth = self.scopes.len();
        let outputs = self.query(select, None)?;
        self.scopes[depth - 1].lateral_active = saved;
        let renamed = alias_columns(alias_node.as_ref());
        let visible = alias_node.as_ref().map(|a| a.aliasname.clone());
        let mut columns: Vec<RteColumn> =
            outputs.into_iter().map(|o| RteColumn { name: o.name, number: 0, typed: o.typed, sources: o.sources }).collect();
        rename(&mut columns, &renamed, visible.as_deref().unwrap_or("unnamed_subquery"))?;
        let names = tell_apart(&mut columns);
        let id = self.add_rte(visible.as_deref().unwrap_or("unnamed_subquery"), RteKind::Derived, columns)?;
        *alias_node = Some(Alias { aliasname: self.rtes[id].alias.clone(), colnames: strings(&renamed) });
        let mut item = Item { columns: targets(id, names), ..self.item(id, visible.clone().unwrap_or_default(), None) };
        if visible.is_none() {
            item.name = None;
            item.relation_visible = false;
        }
        Ok(item)
    }

    fn range_function(&mut self, function: &mut RangeFunction) -> Result<Item, Denial> {
        unnest_each(function);
        let RangeFunction { lateral: _, ordinality, is_rowsfrom: _, functions, alias: alias_node, coldeflist } = function;
        // Functions in FROM see their siblings without the word LATERAL.
        let saved = std::mem::replace(&mut self.scope().lateral_active, true);
        let depth = self.scopes.len();
        let visible = alias_node.as_ref().map(|a| a.aliasname.clone());
        let mut columns: Vec<RteColumn> = vec![];
        let mut first_name = None;
        let single = functions.len() == 1;
        for entry in functions.iter_mut() {
            let Some(NodeEnum::List(list)) = &mut entry.node else {
                return Err(Denial::unsupported("this function in FROM cannot be secured"));
            };
            let (call, definitions) = match list.items.as_mut_slice() {
                [call] => (call, vec![]),
                [call, definitions] => {
                    if let Some(NodeEnum::List(list)) = &mut definitions.node {
                        self.column_definitions(&mut list.items)?;
                    }
                    (call, definition_list(definitions))
                }
                [] | [_, _, _, ..] => return Err(Denial::unsupported("this function in FROM cannot be secured")),
            };
            let name = super::names::figure_column_name(call);
            self.expr(call)?;
            let definitions = if single && !coldeflist.is_empty() { coldeflist.clone() } else { definitions };
            let scalar_name = if single { visible.clone().unwrap_or_else(|| name.clone()) } else { name.clone() };
            columns.extend(self.function_columns(call, &definitions, &scalar_name)?);
            first_name.get_or_insert(name);
        }
        self.column_definitions(coldeflist)?;
        self.scopes[depth - 1].lateral_active = saved;
        if *ordinality {
            columns.push(RteColumn { name: "ordinality".to_owned(), number: 0, typed: Typed::of(oid::INT8), sources: vec![] });
        }
        let renamed = alias_columns(alias_node.as_ref());
        let visible = visible.or(first_name).unwrap_or_default();
        rename(&mut columns, &renamed, &visible)?;
        // Columns of one name are told apart where they are printed.
        let names: Vec<String> = columns.iter().map(|c| c.name.clone()).collect();
        let repeats = names.iter().enumerate().any(|(i, n)| names[..i].contains(n));
        if repeats && coldeflist.is_empty() {
            columns.iter_mut().enumerate().for_each(|(i, c)| c.name = format!("column{}", i + 1));
        }
        let id = self.add_rte(&visible, RteKind::Function, columns)?;
        let unique = self.rtes[id].alias.clone();
        // The alias names the column of a scalar function: where the alias had to change, the column keeps its name.
        let colnames = if (unique != visible || repeats) && coldeflist.is_empty() {
            self.rtes[id].columns.iter().map(|c| string(&c.name)).collect()
        } else {
            strings(&renamed)
        };
        *alias_node = Some(Alias { aliasname: unique, colnames });
        let mut item = self.item(id, visible, None);
        item.columns.iter_mut().zip(names).for_each(|(column, name)| column.0 = name);
        Ok(item)
    }

    fn column_definitions(&mut self, list: &mut [Node]) -> Result<(), Denial> {
        for definition in list {
            if let Some(NodeEnum::ColumnDef(d)) = &mut definition.node
                && let Some(t) = &mut d.type_name
            {
                self.type_name(t)?;
            }
        }
        Ok(())
    }

    /// The columns of a function in FROM (addRangeTableEntryForFunction).
    fn function_columns(&self, call: &Node, definitions: &[Node], scalar_name: &str) -> Result<Vec<RteColumn>, Denial> {
        let plain = |name: &str, typed: Typed| RteColumn { name: name.to_owned(), number: 0, typed, sources: vec![] };
        if !definitions.is_empty() {
            return Ok(definitions
                .iter()
                .filter_map(|d| match &d.node {
                    Some(NodeEnum::ColumnDef(c)) => Some(plain(&c.colname, Typed::UNKNOWN)),
                    Some(_) | None => None,
                })
                .collect());
        }
        let call = match &call.node {
            Some(NodeEnum::FuncCall(f)) => f,
            // CURRENT_DATE and the like, or a cast: one column.
            Some(_) | None => return Ok(vec![plain(scalar_name, Typed::UNKNOWN)]),
        };
        let name = call.funcname.last().and_then(as_string).unwrap_or_default();
        let count = call.args.len();
        let catalog = self.context.catalog;
        let given: Vec<u32> = call.args.iter().map(|a| super::super::types::type_of(a, self).oid).collect();
        let candidates: Vec<_> = catalog
            .functions_named(name)
            .filter(|f| f.variadic || (count <= f.arguments.len() && count + usize::from(f.defaults) >= f.arguments.len()))
            .filter(|f| f.variadic || given.iter().zip(&f.arguments).all(|(g, a)| self.may_pass(*g, *a)))
            .collect();
        let mut shapes: Vec<Vec<RteColumn>> = vec![];
        for f in &candidates {
            let shape = match f.outputs.as_slice() {
                [] => self.result_columns(f, call, scalar_name),
                [(single, type_oid)] if f.returns == *type_oid && !single.is_empty() => {
                    Some(vec![plain(single, Typed::of(*type_oid))])
                }
                outputs if f.returns == RECORD => Some(outputs.iter().map(|(n, t)| plain(n, Typed::of(*t))).collect()),
                [_, ..] => self.result_columns(f, call, scalar_name),
            };
            match shape {
                Some(shape) => shapes.push(shape),
                None => return Err(Denial::unsupported(format!("the columns of function {name} in FROM are not known"))),
            }
        }
        let Some(first) = shapes.first().cloned() else {
            return Err(Denial::unsupported(format!("function {name} in FROM cannot be secured")));
        };
        let same = |a: &[RteColumn], b: &[RteColumn]| a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.name == y.name);
        if !shapes.iter().all(|s| same(s, &first)) {
            return Err(Denial::unsupported(format!("the columns of function {name} in FROM are not known")));
        }
        let same_types = shapes.iter().all(|s| s.iter().zip(&first).all(|(a, b)| a.typed == b.typed));
        Ok(first.into_iter().map(|c| if same_types { c } else { RteColumn { typed: Typed::UNKNOWN, ..c } }).collect())
    }

    /// Whether an argument of one type may be passed for another; yes where it is not known.
    fn may_pass(&self, given: u32, wanted: u32) -> bool {
        let catalog = self.context.catalog;
        let (Some(g), Some(w)) = (catalog.type_(given), catalog.type_(wanted)) else { return true };
        let polymorphic_array = is_polymorphic_array(&w.name);
        match (g.category, w.kind) {
            (_, _) if given == wanted || given == oid::UNKNOWN => true,
            (category, 'p') if polymorphic_array => category == 'A' || g.name.ends_with("vector"),
            (category, 'p') if w.name.contains("multirange") => category == 'R' && g.kind == 'm',
            (_, 'p') => true,
            (_, _) => catalog.snapshot().casts.iter().any(|c| c.source == given && c.target == wanted && c.context == 'i'),
        }
    }

    /// Columns of a result type: those of a composite, else one. `None` where it is not known.
    fn result_columns(&self, f: &Function, call: &FuncCall, scalar_name: &str) -> Option<Vec<RteColumn>> {
        let catalog = self.context.catalog;
        let one = |typed: Typed| vec![RteColumn { name: scalar_name.to_owned(), number: 0, typed, sources: vec![] }];
        let returns = f.returns;
        let t = catalog.type_(returns)?;
        // unnest(anyarray) returns elements.
        let takes_array = f.arguments.first().and_then(|a| catalog.type_(*a)).is_some_and(|a| is_polymorphic_array(&a.name));
        match t.kind {
            'c' => catalog.relation(t.relation).map(relation_columns),
            'p' if returns == RECORD => None,
            'p' if returns == ANYELEMENT || returns == ANYCOMPATIBLE => {
                // jsonb_populate_record(NULL::t, ..): the type of its first argument.
                let first = call.args.first().and_then(|a| a.node.as_ref());
                match first {
                    Some(NodeEnum::TypeCast(c)) => {
                        let mut typed = c.type_name.as_ref().map_or(Typed::UNKNOWN, |t| type_named(t, catalog));
                        if takes_array {
                            typed = catalog.type_(typed.oid).map_or(Typed::UNKNOWN, |t| Typed::of(t.element));
                        }
                        match catalog.type_(typed.oid) {
                            Some(t) if t.kind == 'c' => catalog.relation(t.relation).map(relation_columns),
                            Some(_) => Some(one(typed)),
                            None => None,
                        }
                    }
                    // unnest(array): a composite element would have columns.
                    Some(_) | None => Some(one(Typed::UNKNOWN)),
                }
            }
            'p' => Some(one(Typed::UNKNOWN)),
            'b' | 'd' | 'e' | 'r' | 'm' => Some(one(Typed::of(returns))),
            _ => None, // tidy: not a syntax kind
        }
    }

    fn join(&mut self, join: &mut JoinExpr) -> Result<Vec<Item>, Denial> {
        let JoinExpr { jointype, is_natural, larg, rarg, using_clause, join_using_alias, quals, alias: join_alias, rtindex: _ } =
            join;
        match JoinType::try_from(*jointype) {
            Ok(JoinType::JoinInner | JoinType::JoinLeft | JoinType::JoinRight | JoinType::JoinFull) => {}
            Ok(
                JoinType::Undefined
                | JoinType::JoinSemi
                | JoinType::JoinAnti
                | JoinType::JoinRightSemi
                | JoinType::JoinRightAnti
                | JoinType::JoinUniqueOuter
                | JoinType::JoinUniqueInner,
            )
            | Err(_) => return Err(Denial::unsupported("this join cannot be secured")),
        }
        let (Some(left), Some(right)) = (larg, rarg) else {
            return Err(Denial::unsupported("this join cannot be secured"));
        };
        let mut left_items = self.item_of_from(left)?;
        self.spend(left_items.iter().map(|item| item.columns.len()).sum())?;
        // The left side is visible to LATERAL items of the right side.
        let mark = self.scope().items.len();
        let mut lateral = left_items.clone();
        let lateral_ok = *jointype == JoinType::JoinInner as i32 || *jointype == JoinType::JoinLeft as i32;
        for item in &mut lateral {
            item.lateral_only = true;
            item.lateral_ok = lateral_ok;
        }
        self.scope().items.extend(lateral);
        let mut right_items = self.item_of_from(right)?;
        self.scope().items.truncate(mark);
        self.check_sides(&left_items, &right_items)?;

        let left_columns = visible_columns(&left_items);
        let right_columns = visible_columns(&right_items);
        if *is_natural {
            *is_natural = false;
            *using_clause = common_names(&left_columns, &right_columns)?.iter().map(|n| string(n)).collect();
        }
        let using: Vec<String> = using_clause.iter().filter_map(as_string).map(str::to_owned).collect();
        let merged = self.merged_columns(&using, &left_columns, &right_columns)?;
        let mut columns: Vec<(String, Target)> = vec![];
        let mut extra = None;
        if let Some(merged) = merged {
            let wanted = join_using_alias.as_ref().map_or("j", |a| a.aliasname.as_str()).to_owned();
            let id = self.add_rte(&wanted, RteKind::Merged, merged)?;
            columns.extend(using.iter().enumerate().map(|(i, n)| (n.clone(), Target { rte: id, column: i })));
            if let Some(user) = join_using_alias {
                extra = Some(self.item(id, user.aliasname.clone(), None));
            }
            *join_using_alias = Some(alias(&self.rtes[id].alias));
        }
        columns.extend(left_columns.into_iter().filter(|(n, _)| !using.contains(n)));
        columns.extend(right_columns.into_iter().filter(|(n, _)| !using.contains(n) || crate::mutant!("names.using-not-merged")));

        if quals.is_some() {
            let both: Vec<Item> = left_items.iter().chain(&right_items).cloned().collect();
            let saved = std::mem::replace(&mut self.scope().items, both);
            let depth = self.scopes.len();
            self.child(quals)?;
            self.scopes[depth - 1].items = saved;
        } else if using.is_empty() && *jointype != JoinType::JoinInner as i32 {
            // NATURAL LEFT JOIN without common columns.
            return Err(Denial::unsupported("an outer join without a condition cannot be secured"));
        }
        let name = join_alias.take();
        let mut items = vec![];
        if let Some(a) = &name {
            let renamed: Vec<String> = a.colnames.iter().filter_map(as_string).map(str::to_owned).collect();
            if renamed.len() > columns.len() {
                return Err(too_many_columns(&a.aliasname, columns.len(), renamed.len()));
            }
            for (column, new) in columns.iter_mut().zip(renamed) {
                column.0 = new;
            }
        } else {
            for item in left_items.iter_mut().chain(&mut right_items) {
                item.columns_visible = crate::mutant!("names.join-columns-twice");
            }
            items.append(&mut left_items);
            items.append(&mut right_items);
        }
        items.extend(extra.map(|e| Item { columns_visible: false, ..e }));
        items.push(Item {
            relation_visible: name.is_some(),
            name: name.map(|a| a.aliasname),
            relation: None,
            rte: None,
            columns,
            columns_visible: true,
            lateral_only: false,
            lateral_ok: true,
        });
        Ok(items)
    }

    fn check_sides(&mut self, left: &[Item], right: &[Item]) -> Result<(), Denial> {
        for item in right {
            let Some(name) = item.name.as_ref().filter(|_| item.relation_visible) else { continue };
            let clash = left.iter().any(|l| {
                l.relation_visible
                    && l.name.as_ref() == Some(name)
                    && !(l.relation.is_some() && item.relation.is_some() && l.relation != item.relation)
            });
            if clash {
                return Err(Denial::invalid(
                    sqlstate::DUPLICATE_ALIAS,
                    format!("table name \"{name}\" specified more than once"),
                ));
            }
        }
        Ok(())
    }

    /// The columns of JOIN .. USING, each from both sides. `None` without USING.
    fn merged_columns(
        &mut self,
        using: &[String],
        left: &[(String, Target)],
        right: &[(String, Target)],
    ) -> Result<Option<Vec<RteColumn>>, Denial> {
        if using.is_empty() {
            return Ok(None);
        }
        let mut merged = vec![];
        for name in using {
            let one = |columns: &[(String, Target)], side: &str| -> Result<Target, Denial> {
                let mut found = columns.iter().filter(|(n, _)| n == name).map(|(_, t)| *t);
                match (found.next(), found.next()) {
                    (Some(target), None) => Ok(target),
                    (Some(_), Some(_)) => Err(Denial::invalid(
                        sqlstate::AMBIGUOUS_COLUMN,
                        format!("common column name \"{name}\" appears more than once in {side} table"),
                    )),
                    (None, _) => Err(Denial::invalid(
                        sqlstate::UNDEFINED_COLUMN,
                        format!("column \"{name}\" specified in USING clause does not exist in {side} table"),
                    )),
                }
            };
            let (l, r) = (one(left, "left")?, one(right, "right")?);
            // USING finds its columns by the printed names: an alias of the join itself must not stand between.
            for target in [l, r] {
                if self.rtes[target.rte].columns[target.column].name != *name {
                    return Err(Denial::unsupported("USING over renamed columns of a join cannot be secured"));
                }
                self.rtes[target.rte].read = true;
            }
            let (lc, rc) = (&self.rtes[l.rte].columns[l.column], &self.rtes[r.rte].columns[r.column]);
            let mut sources = lc.sources.clone();
            sources.extend(rc.sources.iter().filter(|s| !lc.sources.contains(s)));
            // Of an outer join it is an expression: the column, cast to the common type where it is read.
            let common = common_type([lc.typed, rc.typed].into_iter(), self.context.catalog);
            let told = lc.typed.is_known() && rc.typed.is_known() && common.is_known();
            let typed = if told || crate::mutant!("quiet.merged-columns") { common } else { Typed::COMPUTED };
            merged.push(RteColumn { name: name.clone(), number: 0, typed, sources });
        }
        Ok(Some(merged))
    }
}

/// `unnest(a, b)` stands for `ROWS FROM (unnest(a), unnest(b))` (transformRangeFunction), as long as its name is not qualified.
fn unnest_each(function: &mut RangeFunction) {
    let [entry] = function.functions.as_slice() else { return };
    let Some(NodeEnum::List(list)) = &entry.node else { return };
    let Some(NodeEnum::FuncCall(call)) = list.items.first().and_then(|n| n.node.as_ref()) else { return };
    let plain = FuncCall { funcname: vec![], args: vec![], location: 0, ..(**call).clone() }
        == FuncCall { funcformat: call.funcformat, ..FuncCall::default() };
    let is_unnest = matches!(call.funcname.as_slice(), [name] if as_string(name) == Some("unnest"));
    if !plain || !is_unnest || call.args.len() < 2 || !function.coldeflist.is_empty() {
        return;
    }
    let one = |arg: &Node| {
        let one =
            FuncCall { funcname: vec![string("pg_catalog"), string("unnest")], args: vec![arg.clone()], ..(**call).clone() };
        let items = vec![Node { node: Some(NodeEnum::FuncCall(Box::new(one))) }, Node { node: None }];
        Node { node: Some(NodeEnum::List(pg::List { items })) }
    };
    function.functions = call.args.iter().map(one).collect();
    function.is_rowsfrom = true;
}

fn is_polymorphic_array(name: &str) -> bool {
    matches!(name, "anyarray" | "anycompatiblearray")
}

const RECORD: u32 = 2249;
const ANYELEMENT: u32 = 2283;
const ANYCOMPATIBLE: u32 = 5077;

pub(super) fn relation_columns(relation: &Relation) -> Vec<RteColumn> {
    relation
        .columns
        .iter()
        .map(|c| RteColumn {
            name: c.name.clone(),
            number: c.number,
            typed: if c.computed { Typed::COMPUTED } else { Typed { oid: c.type_oid, typmod: c.typmod, collation: c.collation } },
            sources: vec![],
        })
        .collect()
}

fn visible_columns(items: &[Item]) -> Vec<(String, Target)> {
    items.iter().filter(|i| i.columns_visible).flat_map(|i| i.columns.iter().cloned()).collect()
}

fn common_names(left: &[(String, Target)], right: &[(String, Target)]) -> Result<Vec<String>, Denial> {
    let mut common: Vec<String> = vec![];
    for (name, _) in left {
        if right.iter().any(|(r, _)| r == name) && !common.contains(name) {
            common.push(name.clone());
        }
    }
    Ok(common)
}

pub(super) fn alias_columns(alias: Option<&Alias>) -> Vec<String> {
    alias.map_or_else(Vec::new, |a| a.colnames.iter().filter_map(as_string).map(str::to_owned).collect())
}

pub(super) fn strings(list: &[String]) -> Vec<Node> {
    list.iter().map(|s| string(s)).collect()
}

pub(super) fn rename(columns: &mut [RteColumn], names: &[String], table: &str) -> Result<(), Denial> {
    if names.len() > columns.len() {
        return Err(too_many_columns(table, columns.len(), names.len()));
    }
    for (column, name) in columns.iter_mut().zip(names) {
        column.name.clone_from(name);
    }
    Ok(())
}

/// Gives columns of one name names of their own, to be printed where `*` stands for them; nothing else can mean one of them.
/// Returns the names that they have.
fn tell_apart(columns: &mut [RteColumn]) -> Vec<String> {
    let names: Vec<String> = columns.iter().map(|c| c.name.clone()).collect();
    let mut taken: HashSet<String> = names.iter().cloned().collect();
    if taken.len() == names.len() {
        return names;
    }
    let mut seen = HashSet::new();
    // Those before the last that was taken are taken.
    let mut numbered: HashMap<&str, usize> = HashMap::new();
    for (column, name) in columns.iter_mut().zip(&names) {
        if !seen.insert(name) {
            let next = numbered.entry(head(name)).or_insert(2);
            let free = (*next..).map(|n| (n, format!("{}_{n}", head(name)))).find(|(_, free)| !taken.contains(free));
            (*next, column.name) = free.unwrap_or_default();
            taken.insert(column.name.clone());
        }
    }
    names
}

/// Visible names of all columns of an entry.
fn targets(rte: RteId, names: Vec<String>) -> Vec<(String, Target)> {
    names.into_iter().enumerate().map(|(column, name)| (name, Target { rte, column })).collect()
}

fn too_many_columns(table: &str, has: usize, named: usize) -> Denial {
    Denial::invalid(
        sqlstate::INVALID_COLUMN_REFERENCE,
        format!("table \"{table}\" has {has} columns available but {named} columns specified"),
    )
}

fn definition_list(node: &Node) -> Vec<Node> {
    match &node.node {
        Some(NodeEnum::List(l)) => l.items.clone(),
        Some(_) | None => vec![],
    }
}
