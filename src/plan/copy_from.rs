//! `COPY table FROM STDIN`: the columns are spelled out, the tenant's is the last, and the options are gone, since the server is
//! sent rows in one form, whatever the client sends (see [`crate::sql::copy`]).

use std::sync::Arc;

use pg_query::protobuf::{CopyStmt, DefElem, DefElemAction, RangeVar};
use pg_query::{Node, NodeEnum};

use super::mask::check_filled;
use crate::finding::Denial;
use crate::policy::Permit;
use crate::sql::analyse::{Analysis, CopyFrom};
use crate::sql::copy::{Dialect, Target, TenantField};
use crate::sql::tree::{bool_constant, boxed, names, node, relation, string};

/// What becomes of the data, and the statement to send.
///
/// # Errors
/// 42501 where the roles may insert nothing; 0A000 where a rule would have to look at the rows.
pub(super) fn copy_from(copy: &CopyFrom, analysis: &Analysis, permit: &Permit) -> Result<(Arc<Target>, Node), Denial> {
    let CopyFrom { rte, columns, dialect } = copy;
    let filter = permit.rows(*rte).ok_or_else(|| Denial::disagreement("a write to an ungoverned relation"))?;
    match &filter.check {
        None => {}
        Some(check) if *check == bool_constant(false) => {
            return Err(Denial::policy(format!("permission denied for table {}", filter.table)));
        }
        Some(_) => {
            let message = format!("COPY FROM cannot be secured where a rule checks the new rows of \"{}\"", filter.table);
            return Err(Denial::unsupported(message).hint("use INSERT"));
        }
    }
    let numbered = |name: &String| analysis.rtes[*rte].columns.iter().find(|c| c.name == *name).map(|c| c.number);
    let numbers: Vec<i16> = columns.iter().filter_map(numbered).collect();
    permit.masks(*rte).iter().filter(|m| numbers.contains(&m.number)).try_for_each(check_filled)?;
    let tenant = analysis.rtes[*rte].columns.iter().find(|c| c.number == filter.tenant_column);
    let tenant_column = tenant.map(|c| c.name.clone()).ok_or_else(|| Denial::disagreement("no tenant column in a COPY"))?;
    let target = Target {
        table: filter.table.clone(),
        columns: columns.clone(),
        tenant: columns.iter().position(|c| *c == tenant_column).map_or(TenantField::Added, TenantField::Supplied),
        tenant_column,
        tenant_type: filter.type_,
        dialect: dialect.clone(),
    };
    let options = match dialect {
        Dialect::Text { .. } | Dialect::Csv(_) => vec![],
        Dialect::Binary => vec![option("format", "binary")],
    };
    let statement = CopyStmt {
        relation: Some(RangeVar { alias: None, ..relation(&filter.schema, &filter.table, "", true) }),
        attlist: names(&target.sent_columns()),
        is_from: true,
        options,
        ..Default::default()
    };
    Ok((Arc::new(target), node(NodeEnum::CopyStmt(Box::new(statement)))))
}

fn option(name: &str, value: &str) -> Node {
    let element = DefElem {
        defname: name.to_owned(),
        arg: boxed(string(value)),
        defaction: DefElemAction::DefelemUnspec as i32,
        ..Default::default()
    };
    node(NodeEnum::DefElem(Box::new(element)))
}
