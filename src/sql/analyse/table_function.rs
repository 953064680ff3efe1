//! XMLTABLE and JSON_TABLE. As functions in FROM they are evaluated above what filters the items before them, and nothing is
//! pushed into them.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    Alias, JsonArgument, JsonBehavior, JsonFuncExpr, JsonOutput, JsonTable, JsonTableColumn, JsonTableColumnType,
    JsonTablePathSpec, JsonValueExpr, RangeTableFunc, RangeTableFuncCol, ResTarget, TypeName,
};

use super::super::types::{Typed, oid, type_named};
use super::Analyser;
use super::from::{alias_columns, rename, strings};
use super::scope::{Item, RteColumn, RteKind};
use crate::finding::Denial;

impl Analyser<'_> {
    /// Both see the items before them without the word LATERAL.
    fn lateral<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Denial>) -> Result<T, Denial> {
        let saved = std::mem::replace(&mut self.scope().lateral_active, true);
        let depth = self.scopes.len();
        let result = read(self)?;
        self.scopes[depth - 1].lateral_active = saved;
        Ok(result)
    }

    pub(super) fn xml_table(&mut self, table: &mut RangeTableFunc) -> Result<Item, Denial> {
        let RangeTableFunc { lateral: _, docexpr, rowexpr, namespaces, columns, alias, location: _ } = table;
        let found = self.lateral(|a| {
            a.child(rowexpr)?;
            a.child(docexpr)?;
            let found = columns.iter_mut().map(|c| a.xml_column(&mut c.node)).collect::<Result<Vec<_>, Denial>>()?;
            for namespace in namespaces {
                let Some(NodeEnum::ResTarget(namespace)) = &mut namespace.node else { return Err(unsupported("XMLTABLE")) };
                let ResTarget { name: _, indirection: _, val, location: _ } = &mut **namespace;
                a.child(val)?;
            }
            Ok(found)
        })?;
        self.table_function(alias, "xmltable", found)
    }

    fn xml_column(&mut self, column: &mut Option<NodeEnum>) -> Result<RteColumn, Denial> {
        let Some(NodeEnum::RangeTableFuncCol(column)) = column else { return Err(unsupported("XMLTABLE")) };
        let RangeTableFuncCol { colname, type_name, for_ordinality, is_not_null: _, colexpr, coldefexpr, location: _ } =
            &mut **column;
        let typed = if *for_ordinality { Typed::of(oid::INT4) } else { self.named_type(type_name)? };
        self.child(colexpr)?;
        self.child(coldefexpr)?;
        Ok(RteColumn { name: colname.clone(), number: 0, typed, sources: vec![] })
    }

    pub(super) fn json_table(&mut self, table: &mut JsonTable) -> Result<Item, Denial> {
        let JsonTable { context_item, pathspec, passing, columns, on_error, alias, lateral: _, location: _ } = table;
        let found = self.lateral(|a| {
            a.json_value(context_item)?;
            a.json_path(pathspec)?;
            a.json_arguments(passing)?;
            let mut found = vec![];
            a.json_columns(columns, &mut found)?;
            a.json_behaviour(on_error)?;
            Ok(found)
        })?;
        self.table_function(alias, "json_table", found)
    }

    /// JSON_EXISTS, JSON_VALUE, JSON_QUERY.
    pub(super) fn json_function(&mut self, function: &mut JsonFuncExpr) -> Result<(), Denial> {
        let JsonFuncExpr {
            op: _,
            column_name: _,
            context_item,
            pathspec,
            passing,
            output,
            on_empty,
            on_error,
            wrapper: _,
            quotes: _,
            location: _,
        } = function;
        self.json_value(context_item)?;
        self.child(pathspec)?;
        self.json_arguments(passing)?;
        if let Some(JsonOutput { type_name: Some(name), returning: _ }) = output {
            self.type_name(name)?;
        }
        self.json_behaviour(on_empty)?;
        self.json_behaviour(on_error)
    }

    fn json_arguments(&mut self, passing: &mut [pg_query::Node]) -> Result<(), Denial> {
        for argument in passing {
            let Some(NodeEnum::JsonArgument(argument)) = &mut argument.node else { return Err(unsupported("PASSING")) };
            let JsonArgument { val, name: _ } = &mut **argument;
            self.json_value(val)?;
        }
        Ok(())
    }

    fn json_value(&mut self, value: &mut Option<Box<JsonValueExpr>>) -> Result<(), Denial> {
        let Some(value) = value else { return Ok(()) };
        let JsonValueExpr { raw_expr, formatted_expr, format: _ } = &mut **value;
        self.child(raw_expr)?;
        self.child(formatted_expr)
    }

    fn json_path(&mut self, path: &mut Option<Box<JsonTablePathSpec>>) -> Result<(), Denial> {
        let Some(path) = path else { return Ok(()) };
        let JsonTablePathSpec { string, name: _, name_location: _, location: _ } = &mut **path;
        self.child(string)
    }

    fn json_behaviour(&mut self, behaviour: &mut Option<Box<JsonBehavior>>) -> Result<(), Denial> {
        let Some(behaviour) = behaviour else { return Ok(()) };
        let JsonBehavior { btype: _, expr, coerce: _, location: _ } = &mut **behaviour;
        self.child(expr)
    }

    /// Those of NESTED come behind all others (transformJsonTableColumns).
    fn json_columns(&mut self, columns: &mut [pg_query::Node], found: &mut Vec<RteColumn>) -> Result<(), Denial> {
        let mut nested = vec![];
        for column in columns {
            let Some(NodeEnum::JsonTableColumn(column)) = &mut column.node else { return Err(unsupported("JSON_TABLE")) };
            let JsonTableColumn {
                coltype,
                name,
                type_name,
                pathspec,
                format: _,
                wrapper: _,
                quotes: _,
                columns,
                on_empty,
                on_error,
                location: _,
            } = &mut **column;
            self.json_path(pathspec)?;
            self.json_behaviour(on_empty)?;
            self.json_behaviour(on_error)?;
            let typed = match JsonTableColumnType::try_from(*coltype) {
                Ok(JsonTableColumnType::JtcForOrdinality) => Typed::of(oid::INT4),
                Ok(JsonTableColumnType::JtcRegular | JsonTableColumnType::JtcExists | JsonTableColumnType::JtcFormatted) => {
                    self.named_type(type_name)?
                }
                Ok(JsonTableColumnType::JtcNested) => {
                    nested.push(columns);
                    continue;
                }
                Ok(JsonTableColumnType::Undefined) | Err(_) => return Err(unsupported("JSON_TABLE")),
            };
            found.push(RteColumn { name: name.clone(), number: 0, typed, sources: vec![] });
        }
        nested.into_iter().try_for_each(|columns| self.json_columns(columns, found))
    }

    fn named_type(&mut self, name: &mut Option<TypeName>) -> Result<Typed, Denial> {
        let Some(name) = name else { return Ok(Typed::UNKNOWN) };
        self.type_name(name)?;
        Ok(type_named(name, self.context.catalog))
    }

    fn table_function(&mut self, alias: &mut Option<Alias>, usual: &str, mut columns: Vec<RteColumn>) -> Result<Item, Denial> {
        let renamed = alias_columns(alias.as_ref());
        let visible = alias.as_ref().map_or_else(|| usual.to_owned(), |a| a.aliasname.clone());
        rename(&mut columns, &renamed, &visible)?;
        let id = self.add_rte(&visible, RteKind::Function, columns)?;
        *alias = Some(Alias { aliasname: self.rtes[id].alias.clone(), colnames: strings(&renamed) });
        Ok(self.item(id, visible, None))
    }
}

fn unsupported(what: &str) -> Denial {
    Denial::unsupported(format!("this {what} cannot be secured"))
}
