//! Expressions: column references, functions, types, sub-selects.

use pg_query::protobuf::{
    self as pg, AExpr, CaseExpr, CaseWhen, ColumnRef, FuncCall, NullTest, SubLink, SubLinkType, TypeCast, TypeName,
};
use pg_query::{Node, NodeEnum};

use super::super::kinds::not_an_expression;
use super::super::tree::{Child, as_string, boxed, column, names, node, qualified_column};
use super::super::types::{type_name, type_of};
use super::query::at_most_entries;
use super::scope::{Item, RteId, RteKind, Target};
use super::{Analyser, Argument, FunctionUse};
use crate::catalog::Catalog;
use crate::error::sqlstate;
use crate::finding::Denial;

/// What a column reference means.
enum Meaning {
    Column(Target),
    System(RteId, String),
    WholeRow(RteId),
}

/// Stands for the whole row of an entry, as a column of it, until the statement is printed: `alias.qz_row`.
pub const WHOLE_ROW: &str = "qz_row";

/// Columns that every table has (sysatt in heap.c).
const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "cmin", "xmax", "cmax", "tableoid"];

/// The literal `true`.
fn is_true(node: &Node) -> bool {
    matches!(&node.node, Some(NodeEnum::AConst(c)) if c.val == Some(pg::a_const::Val::Boolval(pg::Boolean { boolval: true })))
}

/// Functions whose string arguments name things: their values belong to the template's key.
const NAMING_FUNCTIONS: [&str; 8] = [
    "current_setting",
    "set_config",
    "nextval",
    "currval",
    "setval",
    "pg_get_serial_sequence",
    "pg_advisory_unlock_all",
    "to_regclass",
];

impl Analyser<'_> {
    pub(super) fn exprs(&mut self, list: &mut [Node]) -> Result<(), Denial> {
        list.iter_mut().try_for_each(|e| self.expr(e))
    }

    pub(super) fn child(&mut self, child: &mut Child) -> Result<(), Denial> {
        child.as_deref_mut().map_or(Ok(()), |e| self.expr(e))
    }

    /// Resolves an expression in place.
    pub(super) fn expr(&mut self, expression: &mut Node) -> Result<(), Denial> {
        let Some(kind) = &mut expression.node else {
            return Err(Denial::unsupported("an empty expression cannot be secured"));
        };
        match kind {
            NodeEnum::ColumnRef(c) => {
                let resolved = self.column_ref(c).map_err(|denial| denial.at_node(c.location))?;
                *expression = resolved;
                Ok(())
            }
            NodeEnum::ParamRef(p) => match u16::try_from(p.number) {
                Ok(number @ 1..=65_534) => {
                    self.parameters = self.parameters.max(number);
                    let index = usize::from(number) - 1;
                    if self.parameter_uses.len() <= index {
                        self.parameter_uses.resize(index + 1, 0);
                    }
                    self.parameter_uses[index] += 1;
                    Ok(())
                }
                Ok(0 | 65_535) | Err(_) => {
                    Err(Denial::invalid(sqlstate::UNDEFINED_PARAMETER, format!("there is no parameter ${}", p.number)))
                }
            },
            NodeEnum::AConst(_) | NodeEnum::SqlvalueFunction(_) | NodeEnum::SetToDefault(_) | NodeEnum::MergeSupportFunc(_) => {
                Ok(())
            }
            NodeEnum::AExpr(e) => self.operator_expr(e),
            NodeEnum::TypeCast(c) => {
                let TypeCast { arg, type_name, location: _ } = &mut **c;
                self.child(arg)?;
                self.cast_to(arg.as_deref(), type_name)
            }
            NodeEnum::CollateClause(c) => {
                let pg::CollateClause { arg, collname: _, location: _ } = &mut **c;
                self.child(arg)
            }
            NodeEnum::FuncCall(_) => self.function_call(expression),
            NodeEnum::AIndirection(_) => self.indirection(expression),
            NodeEnum::AArrayExpr(a) => {
                let pg::AArrayExpr { elements, list_start: _, list_end: _, location: _ } = a;
                self.exprs(elements)
            }
            NodeEnum::BoolExpr(b) => {
                let pg::BoolExpr { xpr: _, boolop: _, args, location: _ } = &mut **b;
                self.exprs(args)
            }
            NodeEnum::SubLink(s) => self.sub_link(s),
            NodeEnum::CaseExpr(c) => {
                let CaseExpr { xpr: _, casetype: _, casecollid: _, arg, args, defresult, location: _ } = &mut **c;
                if arg.is_some() {
                    self.unwritten_equality()?;
                }
                self.child(arg)?;
                self.exprs(args)?;
                self.child(defresult)
            }
            NodeEnum::CaseWhen(w) => {
                let CaseWhen { xpr: _, expr, result, location: _ } = &mut **w;
                self.child(expr)?;
                self.child(result)
            }
            NodeEnum::CoalesceExpr(c) => self.exprs(&mut c.args),
            NodeEnum::MinMaxExpr(m) => self.exprs(&mut m.args),
            NodeEnum::XmlExpr(x) => self.xml(x),
            NodeEnum::XmlSerialize(x) => {
                let pg::XmlSerialize { xmloption: _, expr, type_name, indent: _, location: _ } = &mut **x;
                self.child(expr)?;
                self.cast_to(None, type_name)
            }
            NodeEnum::JsonIsPredicate(p) => {
                let pg::JsonIsPredicate { expr, format: _, item_type: _, unique_keys: _, location: _ } = &mut **p;
                self.child(expr)
            }
            NodeEnum::JsonFuncExpr(f) => self.json_function(f),
            NodeEnum::NullTest(t) => {
                let NullTest { xpr: _, arg, nulltesttype: _, argisrow: _, location: _ } = &mut **t;
                self.child(arg)
            }
            NodeEnum::BooleanTest(t) => {
                let pg::BooleanTest { xpr: _, arg, booltesttype: _, location: _ } = &mut **t;
                self.child(arg)
            }
            NodeEnum::RowExpr(r) => {
                let pg::RowExpr { xpr: _, args, row_typeid: _, row_format: _, colnames: _, location: _ } = &mut **r;
                *args = self.expand_stars(std::mem::take(args))?;
                at_most_entries("ROW expressions", args.len())
            }
            NodeEnum::GroupingFunc(g) => self.exprs(&mut g.args),
            NodeEnum::NamedArgExpr(a) => {
                let pg::NamedArgExpr { xpr: _, arg, name: _, argnumber: _, location: _ } = &mut **a;
                self.child(arg)
            }
            NodeEnum::List(l) => self.exprs(&mut l.items),
            not_an_expression!() => Err(unsupported_node(kind)),
        }
    }

    /// A list of expressions in which `*` and `t.*` stand for columns: ROW(..) and VALUES.
    pub(super) fn expand_stars(&mut self, list: Vec<Node>) -> Result<Vec<Node>, Denial> {
        let mut expanded = Vec::with_capacity(list.len());
        for mut item in list {
            match &item.node {
                Some(NodeEnum::ColumnRef(c)) if is_star(c) => {
                    let columns = self.star(c).map_err(|denial| denial.at_node(c.location))?;
                    expanded.extend(columns.into_iter().map(|(_, target)| self.print_column(target)));
                }
                Some(_) | None => {
                    self.expr(&mut item)?;
                    expanded.push(item);
                }
            }
        }
        Ok(expanded)
    }

    /// The columns that `*` or `t.*` stands for, with their visible names.
    pub(super) fn star(&mut self, reference: &ColumnRef) -> Result<Vec<(String, Target)>, Denial> {
        let qualifier: Vec<&str> = reference.fields.iter().filter_map(as_string).collect();
        let columns = if qualifier.is_empty() {
            let Some(scope) = self.scopes.last() else {
                return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, "SELECT * with no tables specified is not valid"));
            };
            let columns: Vec<_> = scope.visible().filter(|i| i.columns_visible).flat_map(|i| self.starred(i)).collect();
            if columns.is_empty() && scope.items.is_empty() {
                return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, "SELECT * with no tables specified is not valid"));
            }
            columns
        } else {
            self.starred(self.find_item(&qualifier)?)
        };
        self.spend(columns.len())?;
        columns.iter().for_each(|(name, target)| self.note_starred(name, *target));
        Ok(columns)
    }

    /// The columns of an item that `*` stands for.
    fn starred(&self, item: &Item) -> Vec<(String, Target)> {
        item.columns.iter().filter(|(_, target)| target.column < self.rtes[target.rte].starred).cloned().collect()
    }

    /// `alias.column` of a resolved column.
    pub(super) fn print_column(&self, target: Target) -> Node {
        let rte = &self.rtes[target.rte];
        column(&[&rte.alias, &rte.columns[target.column].name])
    }

    /// The namespace item that `table` or `schema.table` names, innermost level first.
    fn find_item(&self, qualifier: &[&str]) -> Result<&Item, Denial> {
        let matches = |item: &&Item| match qualifier {
            [table] => item.relation_visible && item.name.as_deref() == Some(table),
            [schema, table] => item.relation_visible && item.relation.as_ref().is_some_and(|(s, t)| s == schema && t == table),
            [database, schema, table] => {
                *database == self.context.catalog.snapshot().database
                    && item.relation.as_ref().is_some_and(|(s, t)| s == schema && t == table)
            }
            [] | [_, _, _, _, ..] => false,
        };
        for scope in self.scopes.iter().rev().take(if crate::mutant!("names.own-level-only") { 1 } else { usize::MAX }) {
            let mut found = scope.visible().filter(matches);
            if let Some(item) = found.next() {
                return match found.next() {
                    None if item.lateral_only && !item.lateral_ok => Err(invalid_lateral(item)),
                    None => Ok(item),
                    Some(_) => Err(Denial::invalid(
                        sqlstate::DUPLICATE_ALIAS,
                        format!("table reference \"{}\" is ambiguous", qualifier.join(".")),
                    )),
                };
            }
        }
        Err(self.missing_entry(qualifier))
    }

    fn column_ref(&mut self, reference: &ColumnRef) -> Result<Node, Denial> {
        if is_star(reference) {
            // As an argument, `t.*` is the whole row (transformColumnRef).
            let qualifier: Vec<&str> = reference.fields.iter().filter_map(as_string).collect();
            if qualifier.is_empty() {
                return Err(Denial::unsupported("* outside of a target list cannot be secured"));
            }
            let rte = self.find_item(&qualifier)?.rte;
            return self.whole_row(rte);
        }
        let fields: Vec<&str> = reference.fields.iter().filter_map(as_string).collect();
        if fields.len() != reference.fields.len() || fields.contains(&WHOLE_ROW) {
            return Err(Denial::unsupported("this column reference cannot be secured"));
        }
        match self.meaning(&fields)? {
            Some(Meaning::Column(target)) => {
                let rte = &mut self.rtes[target.rte];
                rte.read = true;
                if self.scopes.len() == 1 {
                    rte.named.insert(rte.columns[target.column].name.clone());
                }
                Ok(self.print_column(target))
            }
            Some(Meaning::System(rte, name)) => {
                let rte = &mut self.rtes[rte];
                rte.read = true;
                let printed = column(&[&rte.alias, &name]);
                rte.system_columns.insert(name);
                Ok(printed)
            }
            Some(Meaning::WholeRow(rte)) => self.whole_row(Some(rte)),
            // `t.f` where f is no column: f(t).
            None => match fields.split_last() {
                Some((function, qualifier)) if !qualifier.is_empty() => {
                    let rte = self.find_item(qualifier)?.rte;
                    if self.context.catalog.functions_named(function).next().is_none() {
                        let denial = Denial::invalid(
                            sqlstate::UNDEFINED_COLUMN,
                            format!("column {}.{function} does not exist", qualifier.join(".")),
                        );
                        return Err(self.with_column_hint(denial, qualifier.last().copied(), function));
                    }
                    let mut call = function_node(function, vec![self.whole_row(rte)?]);
                    self.named_function(&mut call)?;
                    Ok(node(NodeEnum::FuncCall(Box::new(call))))
                }
                Some(_) | None => {
                    let name = fields.first().copied().unwrap_or_default();
                    let denial = Denial::invalid(sqlstate::UNDEFINED_COLUMN, format!("column \"{name}\" does not exist"));
                    Err(self.with_column_hint(denial, None, name))
                }
            },
        }
    }

    fn with_column_hint(&self, denial: Denial, table: Option<&str>, column: &str) -> Denial {
        match self.column_hint(table, column) {
            Some(hint) => denial.hint(hint),
            None => denial,
        }
    }

    fn whole_row(&mut self, rte: Option<RteId>) -> Result<Node, Denial> {
        let Some(id) = rte else {
            return Err(Denial::unsupported("a whole-row reference to a join cannot be secured"));
        };
        if (0..self.rtes[id].columns.len()).any(|column| self.is_hidden(id, column)) {
            return Err(Denial::unsupported("a temporary table as a whole row cannot be secured: name its columns"));
        }
        let rte = &mut self.rtes[id];
        match &rte.kind {
            RteKind::Relation { oid: _, usage: _ } => {}
            RteKind::Derived | RteKind::Function | RteKind::Cte | RteKind::Version(_) => {}
            RteKind::Excluded | RteKind::Merged => {
                return Err(Denial::unsupported("this whole-row reference cannot be secured"));
            }
        }
        rte.read = true;
        rte.whole_row = true;
        Ok(column(&[&rte.alias, WHOLE_ROW]))
    }

    /// `None`: a qualified name whose last part is no column of the (existing) entry, or a bare name that is nothing.
    fn meaning(&self, fields: &[&str]) -> Result<Option<Meaning>, Denial> {
        match fields {
            [name] => self
                .bare_column(name)
                .map(|found| found.or_else(|| self.find_item(&[name]).ok().and_then(|i| i.rte).map(Meaning::WholeRow))),
            [qualifier @ .., name] if qualifier.len() <= 3 => {
                let item = self.find_item(qualifier)?;
                Ok(self.column_of(item, name)?.or_else(|| self.system_column(item, name)))
            }
            [] | [..] => Err(Denial::invalid(
                sqlstate::SYNTAX_ERROR,
                format!("improper qualified name (too many dotted names): {}", fields.join(".")),
            )),
        }
    }

    /// A bare name, innermost level first; at one level it must be unique (colNameToVar).
    fn bare_column(&self, name: &str) -> Result<Option<Meaning>, Denial> {
        for level in (0..self.scopes.len()).rev() {
            let level = if crate::mutant!("names.outer-level-first") { self.scopes.len() - 1 - level } else { level };
            if let Some(found) = self.bare_column_at(level, name)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn bare_column_at(&self, level: usize, name: &str) -> Result<Option<Meaning>, Denial> {
        let mut result = None;
        for item in self.scopes[level].visible().filter(|i| i.columns_visible) {
            let found = self.column_of(item, name)?.or_else(|| self.system_column(item, name));
            if found.is_some() && result.is_some() && !crate::mutant!("names.ambiguous-takes-last") {
                return Err(ambiguous(name));
            }
            if found.is_some() && item.lateral_only && !item.lateral_ok && !crate::mutant!("names.lateral-of-right-join") {
                return Err(invalid_lateral(item));
            }
            result = result.or(found);
        }
        Ok(result)
    }

    /// Whether the innermost level has a column of that name (GROUP BY prefers it to an output column).
    pub(super) fn has_local_column(&self, name: &str) -> Result<bool, Denial> {
        match self.scopes.len() {
            0 => Ok(false),
            depth => Ok(self.bare_column_at(depth - 1, name)?.is_some()),
        }
    }

    fn column_of(&self, item: &Item, name: &str) -> Result<Option<Meaning>, Denial> {
        let mut found = item.columns.iter().filter(|(n, _)| n == name);
        match (found.next(), found.next()) {
            (None, _) => Ok(None),
            (Some((_, target)), None) => {
                // The printed name must be unique in the entry as well.
                let rte = &self.rtes[target.rte];
                let printed = &rte.columns[target.column].name;
                if rte.columns.iter().filter(|c| c.name == *printed).count() > 1 {
                    return Err(ambiguous(name));
                }
                Ok(Some(Meaning::Column(*target)))
            }
            (Some(_), Some(_)) => Err(ambiguous(name)),
        }
    }

    fn system_column(&self, item: &Item, name: &str) -> Option<Meaning> {
        let rte = item.rte?;
        let is_table = matches!(self.rtes[rte].kind, RteKind::Relation { oid: _, usage: _ });
        (is_table && SYSTEM_COLUMNS.contains(&name)).then(|| Meaning::System(rte, name.to_owned()))
    }

    fn operator_expr(&mut self, e: &mut AExpr) -> Result<(), Denial> {
        let AExpr { kind: _, name, lexpr, rexpr, rexpr_list_start: _, rexpr_list_end: _, location: _ } = e;
        self.operator(name)?;
        self.child(lexpr)?;
        self.child(rexpr)
    }

    /// Notes operators outside pg_catalog that the name may mean.
    pub(super) fn operator(&mut self, name: &[Node]) -> Result<(), Denial> {
        let parts: Vec<&str> = name.iter().filter_map(as_string).collect();
        let (schema, operator) = match parts.as_slice() {
            [operator] => (None, *operator),
            [schema, operator] => (Some(*schema), *operator),
            [] | [_, _, _, ..] => return Err(Denial::unsupported("this operator name cannot be secured")),
        };
        // Also in a view: what is printed is without a schema, and the session's path decides.
        let path: Vec<&str> = self.context.search_path.iter().map(|s| &**s).collect();
        let foreign: Vec<u32> = self
            .context
            .catalog
            .operators_named(operator)
            .filter(|o| o.schema != "pg_catalog" && schema.map_or(path.contains(&o.schema.as_str()), |s| s == o.schema))
            .map(|o| o.oid)
            .collect();
        self.foreign_operators.extend(foreign);
        Ok(())
    }

    /// IN and CASE x WHEN y call an operator that is not written: `=`, by the search_path.
    fn unwritten_equality(&mut self) -> Result<(), Denial> {
        if crate::mutant!("names.unwritten-equality") { Ok(()) } else { self.operator(&names(&["="])) }
    }

    fn function_call(&mut self, expression: &mut Node) -> Result<(), Denial> {
        let Some(NodeEnum::FuncCall(call)) = &mut expression.node else { return Ok(()) };
        let FuncCall {
            funcname,
            args,
            agg_order,
            agg_filter,
            over,
            agg_within_group: _,
            agg_star: _,
            agg_distinct: _,
            func_variadic: _,
            funcformat: _,
            location: _,
        } = &mut **call;
        self.exprs(args)?;
        for sort in agg_order.iter_mut() {
            self.sort_expr(sort)?;
        }
        self.child(agg_filter)?;
        if let Some(window) = over {
            self.window(window)?;
        }
        // `col(row)`: a column of the row unless a function of that name exists.
        if let ([name], [arg]) = (funcname.as_slice(), args.as_slice())
            && let Some(name) = as_string(name)
            && let Some(NodeEnum::ColumnRef(c)) = &arg.node
            && let Some((alias, WHOLE_ROW)) = qualified_column(c)
            && let Some(id) = self.by_alias.get(alias).copied()
            && self.context.catalog.functions_named(name).next().is_none()
            && let Some(index) = self.rtes[id].columns.iter().position(|c| c.name == name)
        {
            *expression = self.print_column(Target { rte: id, column: index });
            return Ok(());
        }
        let location = call.location;
        self.named_function(call).map_err(|denial| denial.at_node(location))
    }

    /// Finds what a function name may mean, qualifies it, and notes the use.
    fn named_function(&mut self, call: &mut FuncCall) -> Result<(), Denial> {
        let parts: Vec<&str> = call.funcname.iter().filter_map(as_string).collect();
        let (schema, name) = match parts.as_slice() {
            [name] => (None, (*name).to_owned()),
            [schema, name] => (Some((*schema).to_owned()), (*name).to_owned()),
            [] | [_, _, _, ..] => return Err(Denial::unsupported("a function name with a database cannot be secured")),
        };
        let path: Vec<&str> = self.path().collect();
        let visible = |s: &str| schema.as_ref().map_or_else(|| path.contains(&s), |wanted| wanted == s);
        let mut schemas: Vec<String> = vec![];
        let mut candidates = vec![];
        let count = call.args.len();
        let fits = |f: &&crate::catalog::Function| {
            let least = f.arguments.len().saturating_sub(usize::from(f.defaults) + usize::from(f.variadic));
            call.agg_star || call.agg_within_group || count >= least && (f.variadic || count <= f.arguments.len())
        };
        let visible_named = || self.context.catalog.functions_named(&name).filter(|f| visible(&f.schema));
        // PostgreSQL says best what does not fit; then every candidate counts.
        let any_fits = visible_named().any(|f| fits(&f));
        for f in visible_named().filter(|f| !any_fits || fits(f)) {
            candidates.push(f.oid);
            if !schemas.contains(&f.schema) {
                schemas.push(f.schema.clone());
            }
        }
        let named = call.args.iter().any(|a| matches!(&a.node, Some(NodeEnum::NamedArgExpr(_))));
        let all_known = || call.args.iter().all(|a| type_name(type_of(a, self).oid, self.context.catalog).is_some());
        if candidates.is_empty() || !any_fits && !named && all_known() {
            return Err(self.no_function(&parts.join("."), &call.args));
        }
        if name == "set_config"
            && let Some(local) = call.args.get_mut(2)
        {
            // What a pooled connection must not keep ends with the transaction. An application's own setting would be missed.
            let is_local = is_true(local);
            *local = super::super::tree::bool_constant(true);
            let own = call.args.first().and_then(super::utility::constant_text).filter(|s| self.context.is_admitted(s));
            if let Some(setting) = own.filter(|_| !is_local) {
                return Err(Denial::unsupported(format!("set_config of \"{setting}\" for the session cannot be secured"))
                    .hint("use SET, or is_local = true in a transaction"));
            }
        }
        let takes_sequence = matches!(name.as_str(), "nextval" | "currval") && schemas.as_slice() == ["pg_catalog"];
        let arguments = if takes_sequence {
            self.sequence_arguments(&mut call.args)?
        } else if NAMING_FUNCTIONS.contains(&name.as_str()) {
            self.argument_values(&call.args)
        } else {
            vec![]
        };
        if let [only] = schemas.as_slice() {
            call.funcname = names(&[only, &name]);
        }
        self.functions.push(FunctionUse { schemas, name, candidates, arguments });
        Ok(())
    }

    /// 42883, as PostgreSQL says it where the types of the arguments are known.
    fn no_function(&self, name: &str, args: &[Node]) -> Denial {
        let catalog = self.context.catalog;
        let types: Option<Vec<String>> = args.iter().map(|arg| type_name(type_of(arg, self).oid, catalog)).collect();
        let signature = types.map_or_else(String::new, |types| format!("({})", types.join(", ")));
        Denial::invalid(sqlstate::UNDEFINED_FUNCTION, format!("function {name}{signature} does not exist"))
            .hint("No function matches the given name and argument types. You might need to add explicit type casts.")
    }

    /// Values of arguments that are string literals, also through a cast (`'seq'::regclass`).
    fn argument_values(&mut self, args: &[Node]) -> Vec<Argument> {
        args.iter()
            .map(|arg| {
                let mut arg = arg;
                while let Some(NodeEnum::TypeCast(c)) = &arg.node
                    && let Some(inner) = &c.arg
                {
                    arg = inner;
                }
                match &arg.node {
                    Some(NodeEnum::AConst(c)) => match &c.val {
                        Some(pg::a_const::Val::Sval(s)) => Argument::Text(self.pin_text(&s.sval)),
                        Some(
                            pg::a_const::Val::Ival(_)
                            | pg::a_const::Val::Fval(_)
                            | pg::a_const::Val::Boolval(_)
                            | pg::a_const::Val::Bsval(_),
                        )
                        | None => Argument::Other,
                    },
                    Some(NodeEnum::ParamRef(p)) => u16::try_from(p.number).map_or(Argument::Other, Argument::Parameter),
                    Some(_) | None => Argument::Other,
                }
            })
            .collect()
    }

    /// `(row).field`, `array[i]`.
    fn indirection(&mut self, expression: &mut Node) -> Result<(), Denial> {
        let Some(NodeEnum::AIndirection(indirection)) = &mut expression.node else { return Ok(()) };
        let pg::AIndirection { arg, indirection: steps } = &mut **indirection;
        self.child(arg)?;
        for step in steps.iter_mut() {
            match &mut step.node {
                Some(NodeEnum::AIndices(i)) => {
                    let pg::AIndices { is_slice: _, lidx, uidx } = &mut **i;
                    self.child(lidx)?;
                    self.child(uidx)?;
                }
                Some(NodeEnum::String(_)) => {}
                Some(_) | None => return Err(Denial::unsupported("(row).* cannot be secured; name the fields")),
            }
        }
        // `(t).column`
        if let Some(NodeEnum::ColumnRef(c)) = arg.as_deref().and_then(|a| a.node.as_ref())
            && let Some((alias, WHOLE_ROW)) = qualified_column(c)
            && let Some(id) = self.by_alias.get(alias).copied()
            && let Some(field) = steps.first().and_then(as_string)
            && let Some(index) = self.rtes[id].columns.iter().position(|c| c.name == field)
        {
            let printed = self.print_column(Target { rte: id, column: index });
            steps.remove(0);
            if steps.is_empty() {
                *expression = printed;
            } else {
                *arg = boxed(printed);
            }
            return Ok(());
        }
        let base = arg.as_deref().map_or(0, |a| type_of(a, self).oid);
        self.fields(base, steps)
    }

    /// A name after a value is a field of its type, or else a call of the function of that name, whatever the type is:
    /// `('..'::text).ts_stat`. Only a field that is surely one may have the name of a function.
    fn fields(&self, mut base: u32, steps: &[Node]) -> Result<(), Denial> {
        let catalog = self.context.catalog;
        for step in steps {
            let Some(name) = as_string(step) else {
                base = 0;
                continue;
            };
            let composite = catalog.type_(base).filter(|t| t.kind == 'c').and_then(|t| catalog.relation(t.relation));
            base = match composite.and_then(|c| c.column(name)) {
                Some(field) => field.type_oid,
                None if callable(catalog, name) && !crate::mutant!("names.fields-that-call") => {
                    return Err(Denial::unsupported(format!("field \"{name}\" cannot be told from a function of that name")));
                }
                None => 0,
            };
        }
        Ok(())
    }

    /// The fields that `(row).*` stands for (ExpandRowReference).
    pub(super) fn fields_of_row(&mut self, row: &pg::AIndirection) -> Result<Vec<(String, Node)>, Denial> {
        let pg::AIndirection { arg, indirection } = row;
        let steps = &indirection[..indirection.len().saturating_sub(1)];
        let mut base = match (arg.as_deref(), steps) {
            (Some(arg), []) => arg.clone(),
            (Some(_), [_, ..]) => {
                node(NodeEnum::AIndirection(Box::new(pg::AIndirection { arg: arg.clone(), indirection: steps.to_vec() })))
            }
            (None, _) => return Err(Denial::unsupported("an empty expression cannot be secured")),
        };
        self.expr(&mut base)?;
        if let Some(NodeEnum::ColumnRef(c)) = &base.node
            && let Some((alias, WHOLE_ROW)) = qualified_column(c)
            && let Some(id) = self.by_alias.get(alias).copied()
        {
            let columns = &self.rtes[id].columns;
            let all = columns.iter().take(self.rtes[id].starred).enumerate();
            return Ok(all.map(|(column, c)| (c.name.clone(), self.print_column(Target { rte: id, column }))).collect());
        }
        let catalog = self.context.catalog;
        let composite = catalog.type_(type_of(&base, self).oid).filter(|t| t.kind == 'c');
        let Some(fields) = composite.and_then(|t| catalog.relation(t.relation)) else {
            return Err(Denial::unsupported("(row).* of a type that is not known cannot be secured; name the fields"));
        };
        let field = |name: &str| {
            let step = super::super::tree::string(name);
            node(NodeEnum::AIndirection(Box::new(pg::AIndirection { arg: boxed(base.clone()), indirection: vec![step] })))
        };
        Ok(fields.columns.iter().map(|f| (f.name.clone(), field(&f.name))).collect())
    }

    fn sub_link(&mut self, link: &mut SubLink) -> Result<(), Denial> {
        let SubLink { xpr: _, sub_link_type, sub_link_id: _, testexpr, oper_name, subselect, location: _ } = link;
        if *sub_link_type == SubLinkType::CteSublink as i32 {
            return Err(Denial::unsupported("this sub-select cannot be secured"));
        }
        if !oper_name.is_empty() {
            self.operator(oper_name)?;
        } else if testexpr.is_some() {
            self.unwritten_equality()?;
        }
        match subselect.as_deref_mut().and_then(|n| n.node.as_mut()) {
            Some(NodeEnum::SelectStmt(s)) => self.query(s, None)?,
            Some(_) | None => return Err(Denial::unsupported("this sub-select cannot be secured")),
        };
        self.child(testexpr)
    }

    fn xml(&mut self, x: &mut pg::XmlExpr) -> Result<(), Denial> {
        let pg::XmlExpr {
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
        } = x;
        for arg in named_args.iter_mut() {
            if let Some(NodeEnum::ResTarget(t)) = &mut arg.node {
                if t.name.is_empty()
                    && let Some(value) = &t.val
                {
                    t.name = super::names::figure_column_name(value);
                }
                self.child(&mut t.val)?;
            }
        }
        self.exprs(args)
    }

    /// A cast of an argument, or of a value that nothing is known of.
    fn cast_to(&mut self, arg: Option<&Node>, name: &mut Option<TypeName>) -> Result<(), Denial> {
        let Some(name) = name else { return Ok(()) };
        let wanted = self.type_name(name)?;
        self.note_cast(arg, wanted);
        Ok(())
    }

    /// Looks a type up and qualifies it: pg_type.oid, of an array that of its elements.
    pub(super) fn type_name(&mut self, name: &mut TypeName) -> Result<u32, Denial> {
        if name.pct_type || name.setof {
            return Err(Denial::unsupported("%TYPE and SETOF cannot be secured"));
        }
        for typmod in name.typmods.clone() {
            self.pin_constants(&typmod);
            let mut typmod = typmod;
            self.expr(&mut typmod)?;
        }
        let parts: Vec<&str> = name.names.iter().filter_map(as_string).collect();
        let catalog = self.context.catalog;
        let found = match parts.as_slice() {
            [only] => self.path().find_map(|s| catalog.type_named(s, only)),
            [schema, only] => catalog.type_named(schema, only),
            [] | [_, _, _, ..] => None,
        };
        match found {
            Some(t) => {
                name.names = names(&[&t.schema, &t.name]);
                self.types_named.push(t.oid);
                Ok(t.oid)
            }
            None => Err(Denial::invalid(sqlstate::UNDEFINED_OBJECT, format!("type \"{}\" does not exist", parts.join(".")))),
        }
    }

    pub(super) fn sort_expr(&mut self, sort: &mut Node) -> Result<(), Denial> {
        match &mut sort.node {
            Some(NodeEnum::SortBy(s)) => {
                let pg::SortBy { node, sortby_dir: _, sortby_nulls: _, use_op, location: _ } = &mut **s;
                if !use_op.is_empty() {
                    self.operator(use_op)?;
                }
                self.child(node)
            }
            Some(_) | None => Err(Denial::unsupported("this ORDER BY cannot be secured")),
        }
    }

    pub(super) fn window(&mut self, window: &mut pg::WindowDef) -> Result<(), Denial> {
        let pg::WindowDef {
            name: _,
            refname: _,
            partition_clause,
            order_clause,
            frame_options: _,
            start_offset,
            end_offset,
            location: _,
        } = window;
        self.exprs(partition_clause)?;
        for sort in order_clause.iter_mut() {
            self.sort_expr(sort)?;
        }
        self.child(start_offset)?;
        self.child(end_offset)
    }
}

pub(super) fn is_star(reference: &ColumnRef) -> bool {
    matches!(reference.fields.last().and_then(|f| f.node.as_ref()), Some(NodeEnum::AStar(_)))
}

fn invalid_lateral(item: &Item) -> Denial {
    let name = item.name.as_deref().unwrap_or("unnamed_join");
    let mut denial = Denial::invalid(
        sqlstate::INVALID_COLUMN_REFERENCE,
        format!("invalid reference to FROM-clause entry for table \"{name}\""),
    );
    denial.error.detail = Some("The combining JOIN type must be INNER or LEFT for a LATERAL reference.".into());
    denial
}

fn ambiguous(name: &str) -> Denial {
    Denial::invalid(sqlstate::AMBIGUOUS_COLUMN, format!("column reference \"{name}\" is ambiguous"))
}

/// Whether `x.name` could be a call: a function of that name that takes one argument.
fn callable(catalog: &Catalog, name: &str) -> bool {
    let least =
        |f: &crate::catalog::Function| f.arguments.len().saturating_sub(usize::from(f.defaults) + usize::from(f.variadic));
    catalog.functions_named(name).any(|f| !f.arguments.is_empty() && least(f) <= 1)
}

fn function_node(name: &str, args: Vec<Node>) -> FuncCall {
    FuncCall { funcname: names(&[name]), args, funcformat: pg::CoercionForm::CoerceExplicitCall as i32, ..FuncCall::default() }
}

/// 0A000 that names the kind of node.
fn unsupported_node(kind: &NodeEnum) -> Denial {
    let name = format!("{kind:?}");
    let name = name.split(['(', ' ', '{']).next().unwrap_or_default();
    Denial::unsupported(format!("{name} cannot be secured"))
}
