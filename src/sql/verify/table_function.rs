//! XMLTABLE and JSON_TABLE: expressions, paths that are constants, columns with types.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    JsonArgument, JsonBehavior, JsonFuncExpr, JsonOutput, JsonTable, JsonTableColumn, JsonTableColumnType, JsonTablePathSpec,
    JsonValueExpr, RangeTableFunc, RangeTableFuncCol, ResTarget,
};

use super::*;

impl Verifier<'_> {
    pub(super) fn xml_table(&mut self, table: &RangeTableFunc) -> Result<(), Denial> {
        let RangeTableFunc { lateral: _, docexpr, rowexpr, namespaces, columns, alias, location: _ } = table;
        self.optional(docexpr.as_deref())?;
        self.optional(rowexpr.as_deref())?;
        for namespace in namespaces {
            let NodeEnum::ResTarget(namespace) = inner(namespace)? else { return Err(refused("a namespace that is none")) };
            let ResTarget { name: _, indirection, val, location: _ } = namespace.as_ref();
            self.steps(indirection)?;
            self.optional(val.as_deref())?;
        }
        for column in columns {
            let NodeEnum::RangeTableFuncCol(column) = inner(column)? else { return Err(refused("a column that is none")) };
            let RangeTableFuncCol { colname: _, type_name, for_ordinality, is_not_null: _, colexpr, coldefexpr, location: _ } =
                column.as_ref();
            if !for_ordinality {
                self.type_name(type_name.as_ref())?;
            }
            self.optional(colexpr.as_deref())?;
            self.optional(coldefexpr.as_deref())?;
        }
        self.register_other(alias.as_ref(), Whole::Row)
    }

    pub(super) fn json_table(&mut self, table: &JsonTable) -> Result<(), Denial> {
        let JsonTable { context_item, pathspec, passing, columns, on_error, alias, lateral: _, location: _ } = table;
        self.json_value(context_item.as_deref())?;
        self.json_path(pathspec.as_deref())?;
        self.json_arguments(passing)?;
        self.json_columns(columns)?;
        self.json_behaviour(on_error.as_deref())?;
        self.register_other(alias.as_ref(), Whole::Row)
    }

    /// JSON_EXISTS, JSON_VALUE, JSON_QUERY.
    pub(super) fn json_function(&mut self, function: &JsonFuncExpr) -> Result<(), Denial> {
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
        self.json_value(context_item.as_deref())?;
        self.needed(pathspec.as_deref())?;
        self.json_arguments(passing)?;
        if let Some(JsonOutput { type_name, returning: _ }) = output {
            self.type_name(type_name.as_ref())?;
        }
        self.json_behaviour(on_empty.as_deref())?;
        self.json_behaviour(on_error.as_deref())
    }

    fn json_arguments(&mut self, passing: &[Node]) -> Result<(), Denial> {
        for argument in passing {
            let NodeEnum::JsonArgument(argument) = inner(argument)? else { return Err(refused("an argument that is none")) };
            let JsonArgument { val, name: _ } = argument.as_ref();
            self.json_value(val.as_deref())?;
        }
        Ok(())
    }

    fn json_value(&mut self, value: Option<&JsonValueExpr>) -> Result<(), Denial> {
        let Some(JsonValueExpr { raw_expr, formatted_expr, format: _ }) = value else { return Err(refused("no JSON")) };
        self.optional(raw_expr.as_deref())?;
        self.optional(formatted_expr.as_deref())
    }

    fn json_path(&mut self, path: Option<&JsonTablePathSpec>) -> Result<(), Denial> {
        let Some(JsonTablePathSpec { string, name: _, name_location: _, location: _ }) = path else { return Ok(()) };
        match string.as_deref().map(inner).transpose()? {
            Some(NodeEnum::AConst(_)) => Ok(()),
            Some(_) | None => Err(refused("a path that is no constant")),
        }
    }

    fn json_behaviour(&mut self, behaviour: Option<&JsonBehavior>) -> Result<(), Denial> {
        let Some(JsonBehavior { btype: _, expr, coerce: _, location: _ }) = behaviour else { return Ok(()) };
        self.optional(expr.as_deref())
    }

    fn json_columns(&mut self, columns: &[Node]) -> Result<(), Denial> {
        for column in columns {
            let NodeEnum::JsonTableColumn(column) = inner(column)? else { return Err(refused("a column that is none")) };
            let JsonTableColumn {
                coltype,
                name: _,
                type_name,
                pathspec,
                format: _,
                wrapper: _,
                quotes: _,
                columns,
                on_empty,
                on_error,
                location: _,
            } = column.as_ref();
            let kind = JsonTableColumnType::try_from(*coltype);
            if !matches!(kind, Ok(JsonTableColumnType::JtcForOrdinality | JsonTableColumnType::JtcNested)) {
                self.type_name(type_name.as_ref())?;
            }
            self.json_path(pathspec.as_deref())?;
            self.json_columns(columns)?;
            self.json_behaviour(on_empty.as_deref())?;
            self.json_behaviour(on_error.as_deref())?;
        }
        Ok(())
    }
}
