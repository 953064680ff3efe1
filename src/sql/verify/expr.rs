//! Expressions: every node, every field.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    AArrayExpr, AConst, AExpr, AExprKind, AIndices, AIndirection, BoolExpr, BooleanTest, CaseExpr, CaseWhen, CoalesceExpr,
    CoercionForm, CollateClause, ColumnRef, FuncCall, GroupingFunc, GroupingSet, IndexElem, JsonIsPredicate, List,
    MergeSupportFunc, MinMaxExpr, NamedArgExpr, NullTest, ParamRef, ResTarget, RowExpr, SortBy, SqlValueFunction, SubLink,
    TypeCast, TypeName, WindowDef, XmlExpr, XmlSerialize, a_const,
};

use super::from::{check_catalog_column, check_not_hidden};
use super::guard::{behind_tenant, conjuncts, injected_rules, null_extended_or, slot_type};
use super::masks::Finds;
use super::nodes::other_expressions;
use super::writes::copied_operand;
use super::*;
use crate::sql::shape;

/// Columns that every table has and no catalog lists.
const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"];

impl Verifier<'_> {
    pub(super) fn all(&mut self, nodes: &[Node]) -> Result<(), Denial> {
        nodes.iter().try_for_each(|node| self.expr(node))
    }

    pub(super) fn optional(&mut self, node: Option<&Node>) -> Result<(), Denial> {
        node.map_or(Ok(()), |node| self.expr(node))
    }

    /// WHERE or ON: the injected conjuncts are known already, once each; the others are the client's.
    pub(super) fn condition(&mut self, condition: Option<&Node>) -> Result<(), Denial> {
        let Some(condition) = condition else { return Ok(()) };
        let mut injected: HashSet<String> = self.entries.values().flat_map(Entry::injected).cloned().collect();
        for conjunct in conjuncts(condition) {
            if injected.remove(&shape::shape(conjunct)) {
                continue;
            }
            match behind_tenant(conjunct) {
                Some(_) if crate::mutant!("check.behind-the-tenant") => {}
                Some((tenant, rules)) if injected_rules(&injected, tenant, rules) => {}
                Some(_) | None => match null_extended_or(conjunct) {
                    Some((test, policy)) => {
                        self.expr(test)?;
                        self.condition(Some(policy))?;
                    }
                    None => self.expr(conjunct)?,
                },
            }
        }
        Ok(())
    }

    /// An expression, or DEFAULT.
    pub(super) fn value(&mut self, node: &Node) -> Result<(), Denial> {
        if matches!(inner(node)?, NodeEnum::SetToDefault(_)) { Ok(()) } else { self.expr(node) }
    }

    /// The row of a row assignment.
    pub(super) fn values_of_row(&mut self, row: &RowExpr) -> Result<(), Denial> {
        operands::row(row).iter().try_for_each(|value| self.value(value))
    }

    pub(super) fn expr(&mut self, node: &Node) -> Result<(), Denial> {
        if slot_type(node).is_some() || self.is_mask(node) {
            return Ok(());
        }
        match inner(node)? {
            NodeEnum::AConst(AConst { isnull: _, location: _, val: _ }) => Ok(()),
            NodeEnum::ParamRef(ParamRef { number: _, location: _ }) => Ok(()),
            NodeEnum::SqlvalueFunction(f) => {
                let SqlValueFunction { xpr: _, op: _, r#type: _, typmod: _, location: _ } = f.as_ref();
                Ok(())
            }
            NodeEnum::ColumnRef(column) => self.column(column),
            NodeEnum::AExpr(expr) => self.operator(expr),
            NodeEnum::TypeCast(cast) => {
                let TypeCast { arg, type_name, location: _ } = cast.as_ref();
                self.type_name(type_name.as_ref())?;
                self.needed(arg.as_deref())
            }
            NodeEnum::CollateClause(collate) => {
                let CollateClause { arg, collname, location: _ } = collate.as_ref();
                let (schema, name) = qualified(collname)?;
                if !self.expected.names.allows_collation(schema, name) && !crate::mutant!("check.collations") {
                    return Err(refused(format!("collation {name}")));
                }
                self.needed(arg.as_deref())
            }
            NodeEnum::FuncCall(call) => self.call(call),
            NodeEnum::AIndirection(indirection) => self.indirection(indirection),
            NodeEnum::AArrayExpr(AArrayExpr { elements, list_start: _, list_end: _, location: _ }) => self.all(elements),
            NodeEnum::SubLink(link) => self.sub_link(link),
            NodeEnum::CaseExpr(case) => self.case(case),
            NodeEnum::RowExpr(row) => self.all(operands::row(row)),
            NodeEnum::CoalesceExpr(coalesce) => self.all(operands::coalesce(coalesce)),
            NodeEnum::MinMaxExpr(minmax) => self.all(operands::minmax(minmax)),
            NodeEnum::BoolExpr(expr) => self.all(operands::boolean(expr)),
            NodeEnum::NullTest(test) => self.needed(operands::null_test(test)),
            NodeEnum::BooleanTest(test) => self.needed(operands::boolean_test(test)),
            NodeEnum::NamedArgExpr(named) => self.needed(operands::named(named)),
            NodeEnum::GroupingFunc(grouping) => {
                operands::grouping(grouping).iter().try_for_each(|key| self.key(key, Finds::InputFirst))
            }
            NodeEnum::XmlExpr(xml) => self.xml(xml),
            NodeEnum::XmlSerialize(xml) => {
                let XmlSerialize { xmloption: _, expr, type_name, indent: _, location: _ } = xml.as_ref();
                self.type_name(type_name.as_ref())?;
                self.needed(expr.as_deref())
            }
            NodeEnum::JsonIsPredicate(p) => {
                let JsonIsPredicate { expr, format: _, item_type: _, unique_keys: _, location: _ } = p.as_ref();
                self.needed(expr.as_deref())
            }
            NodeEnum::JsonFuncExpr(f) => self.json_function(f),
            NodeEnum::MergeSupportFunc(f) => {
                let MergeSupportFunc { xpr: _, msftype: _, msfcollid: _, location: _ } = f.as_ref();
                Ok(())
            }
            other_expressions!() => Err(refused(format!("{} in an expression", kind_name(inner(node)?)))),
        }
    }

    pub(super) fn needed(&mut self, node: Option<&Node>) -> Result<(), Denial> {
        self.expr(node.ok_or_else(|| refused("an operand is missing"))?)
    }

    fn column(&mut self, column: &ColumnRef) -> Result<(), Denial> {
        let ColumnRef { fields, location: _ } = column;
        let is_star = |node: &Node| matches!(node.node, Some(NodeEnum::AStar(_)));
        match fields.as_slice() {
            [alias, star] if is_star(star) => self.whole_row(strings(std::slice::from_ref(alias))?[0]),
            [name] if !is_star(name) => {
                let name = strings(std::slice::from_ref(name))?[0];
                match self.columns {
                    Columns::Bare => Ok(()),
                    Columns::Qualified => {
                        self.bare_name(name)?;
                        self.whole_row(name)
                    }
                }
            }
            [alias, column] => match strings(&[alias.clone(), column.clone()])?.as_slice() {
                [alias, column] => self.qualified_column(alias, column),
                [] | [_] | [_, _, ..] => Err(refused("a column name")),
            },
            [] | [_] | [_, _, _, ..] => Err(refused("a column name of many parts")),
        }
    }

    /// `alias.*` in an expression, or a bare alias.
    fn whole_row(&mut self, alias: &str) -> Result<(), Denial> {
        if alias == "excluded" && self.is_visible(alias) {
            return self.unmasked_row(alias, Some(&self.excluded));
        }
        self.read.insert(alias.to_owned());
        let entry = self.resolve(alias)?;
        self.unmasked_row(alias, entry.named())?;
        match entry {
            Entry::System { hidden, required: _, columns: _ }
                if !hidden.is_empty() && !crate::mutant!("check.whole-system-rows") =>
            {
                Err(refused("a whole row of a system catalog that hides columns"))
            }
            Entry::System { .. } | Entry::Governed { .. } | Entry::Shared { columns: _ } | Entry::Other(_) => Ok(()),
        }
    }

    fn unmasked_row(&self, alias: &str, columns: Option<&Named>) -> Result<(), Denial> {
        match columns {
            Some(columns) if !columns.masked.is_empty() && !crate::mutant!("check.masked-row") => {
                Err(refused(format!("the whole row of \"{alias}\", which has masks")))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn qualified_column(&mut self, alias: &str, column: &str) -> Result<(), Denial> {
        if alias == "excluded" && self.is_visible(alias) {
            if self.excluded.is_masked(column) && !crate::mutant!("check.masked-excluded") {
                return Err(refused(format!("the masked column \"{column}\" as it is")));
            }
            return Ok(());
        }
        self.read.insert(alias.to_owned());
        let entry = self.resolve(alias)?;
        match self.columns {
            // What an arbiter names is not evaluated: it finds an index.
            Columns::Bare => check_catalog_column(entry, column)?,
            Columns::Qualified => check_not_hidden(entry, column)?,
        }
        match entry.named().map(|n| &n.names) {
            Some(columns) if columns.iter().any(|c| c == column) || SYSTEM_COLUMNS.contains(&column) => Ok(()),
            Some(_) => Err(refused(format!("\"{alias}\" has no column \"{column}\""))),
            None => self.attribute(column, if let Entry::Other(whole) = entry { *whole } else { Whole::Value }),
        }
    }

    /// `value.name` calls the function `name(value)` where the value has no such field, whatever its type is.
    fn attribute(&self, name: &str, value: Whole) -> Result<(), Denial> {
        let takes = |first: u32| match value {
            Whole::Row => self.catalog.type_(first).is_none_or(|t| matches!(t.kind, 'c' | 'p')),
            Whole::Value => true,
        };
        let takes_one = |f: &&crate::catalog::Function| {
            let required = f.arguments.len().saturating_sub(usize::from(f.defaults) + usize::from(f.variadic));
            required <= 1 && f.arguments.first().is_some_and(|first| takes(*first))
        };
        let names = self.expected.names;
        let off_list = |f: &crate::catalog::Function| {
            !names.allows_function(&f.schema, &f.name, Some(1)) || !names.allows_arguments(&f.name, &[Argument::Other])
        };
        if self.catalog.functions_named(name).filter(takes_one).any(off_list) && !crate::mutant!("check.attributes-that-call") {
            return Err(refused(format!("attribute \"{name}\", which may call a function")));
        }
        Ok(())
    }

    /// A name that PostgreSQL may find in any entry in scope.
    fn bare_name(&self, name: &str) -> Result<(), Denial> {
        for alias in self.levels.iter().flat_map(|level| &level.aliases) {
            if let Some(entry) = self.entries.get(alias) {
                check_catalog_column(entry, name)?;
            }
        }
        Ok(())
    }

    /// A key of ORDER BY, GROUP BY or DISTINCT ON: an expression, or the name of an output column.
    pub(super) fn key(&mut self, node: &Node, finds: Finds) -> Result<(), Denial> {
        if let NodeEnum::SortBy(sort) = inner(node)? {
            let SortBy { node, sortby_dir: _, sortby_nulls: _, use_op, location: _ } = sort.as_ref();
            if !use_op.is_empty() {
                self.operator_name(use_op)?;
            }
            self.key(node.as_deref().ok_or_else(|| refused("an empty key"))?, finds)
        } else if let NodeEnum::GroupingSet(GroupingSet { kind: _, content, location: _ }) = inner(node)? {
            content.iter().try_for_each(|key| self.key(key, finds))
        } else if let NodeEnum::RowExpr(row) = inner(node)?
            && finds == Finds::InputFirst
            && row.row_format == CoercionForm::CoerceImplicitCast as i32
        {
            // `(a, b)` in GROUP BY: two keys.
            let RowExpr { xpr: _, args, row_typeid: _, row_format: _, colnames: _, location: _ } = &**row;
            args.iter().try_for_each(|key| self.key(key, finds))
        } else if let NodeEnum::ColumnRef(ColumnRef { fields, location: _ }) = inner(node)?
            && fields.len() == 1
        {
            let name = strings(fields)?[0];
            self.bare_name(name)?;
            self.check_bare_mask(name, finds)
        } else {
            self.expr(node)
        }
    }

    fn operator(&mut self, expr: &AExpr) -> Result<(), Denial> {
        let AExpr { kind, name, lexpr, rexpr, rexpr_list_start: _, rexpr_list_end: _, location: _ } = expr;
        if !AExprKind::try_from(*kind).is_ok_and(|k| k != AExprKind::Undefined) {
            return Err(refused("an operator of an unknown kind"));
        }
        self.operator_name(name)?;
        for operand in [lexpr, rexpr].into_iter().flatten() {
            // The right side of IN and BETWEEN is a list.
            if let NodeEnum::List(List { items }) = inner(operand)? {
                self.all(items)?;
            } else {
                self.expr(operand)?;
            }
        }
        Ok(())
    }

    fn operator_name(&self, name: &[Node]) -> Result<(), Denial> {
        let (schema, name) = qualified(name)?;
        if self.expected.names.allows_operator(schema, name) || crate::mutant!("check.operators") {
            Ok(())
        } else {
            Err(refused(format!("operator {name}")))
        }
    }

    fn call(&mut self, call: &FuncCall) -> Result<(), Denial> {
        let FuncCall {
            funcname,
            args,
            agg_order,
            agg_filter,
            over,
            agg_within_group,
            agg_star,
            agg_distinct: _,
            func_variadic: _,
            funcformat: _,
            location: _,
        } = call;
        let (schema, name) = qualified(funcname)?;
        let count = (!agg_star && !agg_within_group).then_some(args.len());
        if !self.expected.names.allows_function(schema, name, count) && !crate::mutant!("check.functions") {
            return Err(refused(format!("function {name}")));
        }
        let values: Vec<Argument<'_>> = args.iter().map(argument).collect();
        if !self.expected.names.allows_arguments(name, &values) && !crate::mutant!("check.arguments") {
            return Err(refused(format!("arguments of function {name}")));
        }
        self.all(args)?;
        for sort in agg_order {
            self.sort_expression(sort)?;
        }
        self.optional(agg_filter.as_deref())?;
        over.as_deref().map_or(Ok(()), |window| self.window(window))
    }

    /// ORDER BY inside a call or a window: expressions only.
    fn sort_expression(&mut self, sort: &Node) -> Result<(), Denial> {
        let NodeEnum::SortBy(sort) = inner(sort)? else { return Err(refused("a sort key that is none")) };
        let SortBy { node, sortby_dir: _, sortby_nulls: _, use_op, location: _ } = sort.as_ref();
        if !use_op.is_empty() {
            self.operator_name(use_op)?;
        }
        self.needed(node.as_deref())
    }

    pub(super) fn windows(&mut self, windows: &[Node]) -> Result<(), Denial> {
        windows.iter().try_for_each(|window| {
            let NodeEnum::WindowDef(window) = inner(window)? else { return Err(refused("a window that is none")) };
            self.window(window)
        })
    }

    fn window(&mut self, window: &WindowDef) -> Result<(), Denial> {
        let WindowDef {
            name: _,
            refname: _,
            partition_clause,
            order_clause,
            frame_options: _,
            start_offset,
            end_offset,
            location: _,
        } = window;
        self.all(partition_clause)?;
        order_clause.iter().try_for_each(|sort| self.sort_expression(sort))?;
        self.optional(start_offset.as_deref())?;
        self.optional(end_offset.as_deref())
    }

    fn indirection(&mut self, indirection: &AIndirection) -> Result<(), Denial> {
        let AIndirection { arg, indirection } = indirection;
        let arg = arg.as_deref().ok_or_else(|| refused("an operand is missing"))?;
        self.expr(arg)?;
        self.steps(indirection)
    }

    /// `.field` and `[subscript]`.
    pub(super) fn steps(&mut self, steps: &[Node]) -> Result<(), Denial> {
        for step in steps {
            if let NodeEnum::AIndices(indices) = inner(step)? {
                let AIndices { is_slice: _, lidx, uidx } = indices.as_ref();
                self.optional(lidx.as_deref())?;
                self.optional(uidx.as_deref())?;
            } else if let NodeEnum::String(field) = inner(step)? {
                self.attribute(&field.sval, Whole::Value)?;
            } else {
                return Err(refused(format!("{} of a composite value", kind_name(inner(step)?))));
            }
        }
        Ok(())
    }

    fn sub_link(&mut self, link: &SubLink) -> Result<(), Denial> {
        let SubLink { xpr: _, sub_link_type: _, sub_link_id: _, testexpr, oper_name, subselect, location: _ } = link;
        self.optional(testexpr.as_deref())?;
        match (oper_name.as_slice(), testexpr) {
            // IN: the operator that is not written.
            ([], Some(_)) => self.operator_name(&[super::guard::name("=")])?,
            ([], _) => {}
            (written, _) => self.operator_name(written)?,
        }
        match subselect.as_deref().map(inner).transpose()? {
            Some(NodeEnum::SelectStmt(select)) => self.select(select),
            Some(_) | None => Err(refused("a subquery that is no query")),
        }
    }

    fn case(&mut self, case: &CaseExpr) -> Result<(), Denial> {
        if self.checked.contains(&std::ptr::from_ref(case)) {
            return self.optional(copied_operand(case));
        }
        self.check_guard(case)?;
        let CaseExpr { xpr: _, casetype: _, casecollid: _, arg, args, defresult, location: _ } = case;
        if arg.is_some() {
            self.operator_name(&[super::guard::name("=")])?;
        }
        self.optional(arg.as_deref())?;
        for when in args {
            let NodeEnum::CaseWhen(when) = inner(when)? else { return Err(refused("CASE without WHEN")) };
            let CaseWhen { xpr: _, expr, result, location: _ } = when.as_ref();
            self.condition(expr.as_deref())?;
            self.needed(result.as_deref())?;
        }
        self.optional(defresult.as_deref())
    }

    fn xml(&mut self, xml: &XmlExpr) -> Result<(), Denial> {
        let XmlExpr {
            xpr: _,
            op: _,
            name: _,
            named_args,
            arg_names: _,
            args,
            xmloption: _,
            indent: _,
            r#type: _,
            typmod: _,
            location: _,
        } = xml;
        for named in named_args {
            let NodeEnum::ResTarget(named) = inner(named)? else { return Err(refused("an XML argument that is none")) };
            let ResTarget { name: _, indirection, val, location: _ } = named.as_ref();
            self.steps(indirection)?;
            self.needed(val.as_deref())?;
        }
        self.all(args)
    }

    pub(super) fn type_name(&self, type_name: Option<&TypeName>) -> Result<(), Denial> {
        let type_name = type_name.ok_or_else(|| refused("a type is missing"))?;
        let TypeName { names, type_oid: _, setof, pct_type, typmods, typemod: _, array_bounds: _, location: _ } = type_name;
        let (schema, name) = qualified(names)?;
        if (*setof || *pct_type || !self.expected.names.allows_type(schema, name)) && !crate::mutant!("check.types") {
            return Err(refused(format!("type {name}")));
        }
        let constant = |node: &Node| matches!(node.node, Some(NodeEnum::AConst(_)));
        if typmods.iter().all(constant) { Ok(()) } else { Err(refused("a type modifier that is no constant")) }
    }

    /// The columns or expressions of a unique index, whose columns are named without an alias.
    pub(super) fn arbiter(&mut self, elements: &[Node], filter: Option<&Node>) -> Result<(), Denial> {
        self.columns = Columns::Bare;
        for element in elements {
            let NodeEnum::IndexElem(element) = inner(element)? else { return Err(refused("an arbiter that is none")) };
            let IndexElem { name: _, expr, indexcolname: _, collation, opclass, opclassopts, ordering: _, nulls_ordering: _ } =
                element.as_ref();
            if !collation.is_empty() || !opclass.is_empty() || !opclassopts.is_empty() {
                return Err(refused("an arbiter with a collation or an operator class"));
            }
            self.optional(expr.as_deref())?;
        }
        self.optional(filter)?;
        self.columns = Columns::Qualified;
        Ok(())
    }
}

/// The value of an argument, through casts.
fn argument(node: &Node) -> Argument<'_> {
    match node.node.as_ref() {
        Some(NodeEnum::TypeCast(cast)) => cast.arg.as_deref().map_or(Argument::Other, argument),
        Some(NodeEnum::ParamRef(ParamRef { number, location: _ })) => Argument::Parameter(*number),
        Some(NodeEnum::AConst(AConst { isnull: _, location: _, val })) => match val {
            Some(a_const::Val::Sval(s)) => Argument::Text(&s.sval),
            Some(a_const::Val::Boolval(b)) if b.boolval => Argument::True,
            Some(a_const::Val::Boolval(_) | a_const::Val::Ival(_) | a_const::Val::Fval(_) | a_const::Val::Bsval(_)) | None => {
                Argument::Other
            }
        },
        Some(_) | None => Argument::Other,
    }
}

mod operands {
    //! The operands of nodes that hold nothing else; every field is named, so that a new one stops the build.
    use super::*;

    pub fn row(row: &RowExpr) -> &[Node] {
        let RowExpr { xpr: _, args, row_typeid: _, row_format: _, colnames: _, location: _ } = row;
        args
    }

    pub fn coalesce(coalesce: &CoalesceExpr) -> &[Node] {
        let CoalesceExpr { xpr: _, coalescetype: _, coalescecollid: _, args, location: _ } = coalesce;
        args
    }

    pub fn minmax(minmax: &MinMaxExpr) -> &[Node] {
        let MinMaxExpr { xpr: _, minmaxtype: _, minmaxcollid: _, inputcollid: _, op: _, args, location: _ } = minmax;
        args
    }

    pub fn boolean(expr: &BoolExpr) -> &[Node] {
        let BoolExpr { xpr: _, boolop: _, args, location: _ } = expr;
        args
    }

    pub fn null_test(test: &NullTest) -> Option<&Node> {
        let NullTest { xpr: _, arg, nulltesttype: _, argisrow: _, location: _ } = test;
        arg.as_deref()
    }

    pub fn boolean_test(test: &BooleanTest) -> Option<&Node> {
        let BooleanTest { xpr: _, arg, booltesttype: _, location: _ } = test;
        arg.as_deref()
    }

    pub fn named(named: &NamedArgExpr) -> Option<&Node> {
        let NamedArgExpr { xpr: _, arg, name: _, argnumber: _, location: _ } = named;
        arg.as_deref()
    }

    pub fn grouping(grouping: &GroupingFunc) -> &[Node] {
        let GroupingFunc { xpr: _, args, refs: _, agglevelsup: _, location: _ } = grouping;
        args
    }
}
