//! EXPLAIN without ANALYZE: its options. ExplainQuery of explain.c.

use pg_query::protobuf as pg;
use pg_query::{Node, NodeEnum};

use super::super::sentinel;
use super::{Analyser, Statement};
use crate::error::sqlstate;
use crate::finding::Denial;

/// What EXPLAIN is to show, of what it may show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExplainOptions {
    pub verbose: bool,
    /// Estimates; `None` where nothing is said of them.
    pub costs: Option<bool>,
    /// `json`, ..; `None` is text.
    pub format: Option<&'static str>,
    pub generic_plan: bool,
}

/// Options that run the statement, or tell of the server and not of the plan.
const REFUSED: [&str; 8] = ["analyze", "buffers", "memory", "serialize", "settings", "summary", "timing", "wal"];

/// The first major version that has GENERIC_PLAN, as `server_version_num`.
const GENERIC_PLAN_SINCE: u32 = 160_000;

impl Analyser<'_> {
    pub(super) fn explain(&mut self, explain: &mut pg::ExplainStmt) -> Result<Statement, Denial> {
        let pg::ExplainStmt { query, options } = explain;
        let options = self.explain_options(options)?;
        let mut query = query.take().map(|q| *q).unwrap_or_default();
        match &mut query.node {
            Some(NodeEnum::SelectStmt(s)) => {
                self.query(s, None)?;
            }
            Some(NodeEnum::InsertStmt(s)) => {
                self.insert(s)?;
            }
            Some(NodeEnum::UpdateStmt(s)) => {
                self.update(s)?;
            }
            Some(NodeEnum::DeleteStmt(s)) => {
                self.delete(s)?;
            }
            Some(NodeEnum::MergeStmt(s)) => {
                self.merge(s)?;
            }
            Some(_) | None => {
                let message = "EXPLAIN of something else than SELECT, INSERT, UPDATE, DELETE or MERGE cannot be secured";
                return Err(Denial::unsupported(message));
            }
        }
        Ok(Statement::Explain { options, query })
    }

    /// Options are grammar: a literal among them belongs to the template's key.
    fn explain_options(&mut self, list: &[Node]) -> Result<ExplainOptions, Denial> {
        // All of them before the first that may be refused for its stand-in.
        for option in list {
            if let Some(NodeEnum::DefElem(d)) = &option.node {
                self.pin_option(d.arg.as_deref());
            }
        }
        let mut options = ExplainOptions::default();
        for option in list {
            let Some(NodeEnum::DefElem(d)) = &option.node else {
                return Err(Denial::unsupported("this EXPLAIN option cannot be secured"));
            };
            let pg::DefElem { defnamespace: _, defname, arg, defaction: _, location, arg_location: _ } = &**d;
            let name = defname.as_str();
            if name == "format" {
                options.format = format(arg.as_deref(), *location)?;
                continue;
            }
            let known = matches!(name, "verbose" | "costs") || REFUSED.contains(&name);
            let known = known || name == "generic_plan" && self.context.catalog.snapshot().server_version >= GENERIC_PLAN_SINCE;
            if !known {
                let message = format!("unrecognized EXPLAIN option \"{name}\"");
                return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, message).at_node(*location));
            }
            let value = boolean(name, arg.as_deref())?;
            match name {
                "verbose" => options.verbose = value,
                "costs" => options.costs = Some(value),
                "generic_plan" => options.generic_plan = value,
                _ if !value => {} // tidy: not a syntax kind
                refused => return Err(refusal(refused)),
            }
        }
        Ok(options)
    }

    /// A stand-in among the options is no AConst.
    fn pin_option(&mut self, arg: Option<&Node>) {
        let index = match arg.and_then(|a| a.node.as_ref()) {
            Some(NodeEnum::String(s)) => sentinel::index_of_string(&s.sval),
            Some(NodeEnum::Integer(i)) => sentinel::index_of_integer(i.ival),
            Some(NodeEnum::Float(f)) => sentinel::index_of_number(f.fval.trim_start_matches('-')),
            Some(_) | None => None,
        };
        self.pinned.extend(index);
    }
}

fn refusal(option: &str) -> Denial {
    let hint = match option {
        "analyze" => "it runs the statement, and counts rows of all tenants",
        "buffers" => "pages hold rows of all tenants",
        _ => "it tells of the server, not of the plan", // tidy: not a syntax kind
    };
    Denial::policy(format!("EXPLAIN {} is not permitted", option.to_ascii_uppercase())).hint(hint)
}

/// `defGetBoolean`
fn boolean(name: &str, arg: Option<&Node>) -> Result<bool, Denial> {
    let invalid = || Denial::invalid(sqlstate::SYNTAX_ERROR, format!("{name} requires a Boolean value"));
    let Some(arg) = arg else { return Ok(true) };
    let text = match &arg.node {
        Some(NodeEnum::Integer(i)) => i.ival.to_string(),
        Some(NodeEnum::String(s)) => s.sval.to_ascii_lowercase(),
        Some(NodeEnum::Boolean(b)) => b.boolval.to_string(),
        Some(_) | None => return Err(invalid()),
    };
    match text.as_str() {
        "1" | "true" | "on" => Ok(true),
        "0" | "false" | "off" => Ok(false),
        _ => Err(invalid()), // tidy: not a syntax kind
    }
}

fn format(arg: Option<&Node>, location: i32) -> Result<Option<&'static str>, Denial> {
    let text = arg.and_then(super::super::tree::as_string).unwrap_or_default();
    match text {
        "text" => Ok(None),
        "xml" => Ok(Some("xml")),
        "json" => Ok(Some("json")),
        "yaml" => Ok(Some("yaml")),
        // tidy: not a syntax kind
        other => {
            let message = format!("unrecognized value for EXPLAIN option \"format\": \"{other}\"");
            Err(Denial::invalid(sqlstate::INVALID_PARAMETER_VALUE, message).at_node(location))
        }
    }
}
