//! PREPARE and EXECUTE as SQL.

use pg_query::protobuf as pg;
use pg_query::{Node, NodeEnum};

use super::super::tree::{boxed, node, walk};
use super::super::types::type_named;
use super::{Analyser, Analysis, Context, Refusal, Statement, analyse_here};
use crate::error::sqlstate;
use crate::finding::Denial;

/// `PREPARE name (types) AS query`: the query is read as a Parse message of it would be, with these types.
pub(super) fn prepare(prepare: pg::PrepareStmt, context: &Context<'_>) -> Result<Analysis, Refusal> {
    let pg::PrepareStmt { name, argtypes, query } = prepare;
    if !context.parameter_types.is_empty() {
        // They are those of the message that holds the PREPARE, which has none.
        return Err(Refusal::of(Denial::unsupported("PREPARE with declared parameters cannot be secured")));
    }
    let mut types_of = Analyser::new(context);
    let types = match argtypes.into_iter().map(|t| types_of.declared_type(t)).collect::<Result<Vec<u32>, Denial>>() {
        Ok(types) => types,
        Err(denial) => return Err(Refusal { denial, pinned: types_of.pinned }),
    };
    let Context { catalog, search_path, parameter_types: _, tenant_setting, views, settings } = *context;
    let inner = Context { catalog, search_path, parameter_types: &types, tenant_setting, views, settings };
    let query = query.map(|q| *q).unwrap_or_default();
    if !matches!(
        &query.node,
        Some(
            NodeEnum::SelectStmt(_)
                | NodeEnum::InsertStmt(_)
                | NodeEnum::UpdateStmt(_)
                | NodeEnum::DeleteStmt(_)
                | NodeEnum::MergeStmt(_)
        )
    ) {
        return Err(Refusal::of(Denial::unsupported(
            "PREPARE of something else than SELECT, INSERT, UPDATE, DELETE or MERGE cannot be secured",
        )));
    }
    let mut analysis = match analyse_here(query, &inner) {
        Ok(analysis) => analysis,
        Err(mut refusal) => {
            refusal.pinned.append(&mut types_of.pinned);
            return Err(refusal);
        }
    };
    analysis.pinned.append(&mut types_of.pinned);
    match analysis.statement {
        Statement::Query(query) => Ok(Analysis { statement: Statement::Prepare { name, query }, ..analysis }),
        Statement::Declare { .. }
        | Statement::CopyTo { .. }
        | Statement::CopyFrom(_)
        | Statement::Explain { .. }
        | Statement::Prepare { .. }
        | Statement::Execute { .. }
        | Statement::CreateTemporary(_)
        | Statement::Utility(_) => Err(Refusal {
            denial: Denial::unsupported("PREPARE of a statement that changes the session cannot be secured"),
            pinned: analysis.pinned,
        }),
    }
}

impl Analyser<'_> {
    /// The OID of a type that PREPARE declares; its modifier means nothing there.
    fn declared_type(&mut self, mut declared: Node) -> Result<u32, Denial> {
        let Some(NodeEnum::TypeName(name)) = &mut declared.node else {
            return Err(Denial::unsupported("this parameter type cannot be secured"));
        };
        self.type_name(name)?;
        name.typmods.clear();
        match type_named(name, self.context.catalog).oid {
            0 => Err(Denial::unsupported("this parameter type cannot be secured")),
            found => Ok(found),
        }
    }

    /// The arguments become the target list of a SELECT without FROM, and are judged as that.
    pub(super) fn execute(&mut self, execute: &mut pg::ExecuteStmt) -> Result<Statement, Denial> {
        let pg::ExecuteStmt { name, params } = execute;
        let arguments = params.len();
        let target_list = std::mem::take(params)
            .into_iter()
            .map(|p| pg::ResTarget { name: String::new(), indirection: vec![], val: boxed(p), location: -1 })
            .map(|t| node(NodeEnum::ResTarget(Box::new(t))))
            .collect();
        let mut select = pg::SelectStmt {
            target_list,
            limit_option: pg::LimitOption::Default as i32,
            op: pg::SetOperation::SetopNone as i32,
            ..Default::default()
        };
        if arguments > 0 {
            self.query(&mut select, None)?;
        }
        let query = node(NodeEnum::SelectStmt(Box::new(select)));
        let mut sub_select = false;
        walk(&query, &mut |n| sub_select |= matches!(&n.node, Some(NodeEnum::SubLink(_))));
        if sub_select {
            return Err(Denial::unsupported("cannot use subquery in EXECUTE parameter"));
        }
        if self.parameters > 0 {
            // As PostgreSQL, whatever the message binds.
            let message = format!("there is no parameter ${}", self.parameters);
            return Err(Denial::invalid(sqlstate::UNDEFINED_PARAMETER, message));
        }
        Ok(Statement::Execute { name: name.clone(), arguments, query })
    }
}
