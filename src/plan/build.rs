//! From a permit to a plan: rewrite, print, cut into segments. INVARIANT (PERMIT): the one maker of tenants' plans.

use pg_query::protobuf::{CopyStmt, DeclareCursorStmt, ParseResult, RawStmt};
use pg_query::{Node, NodeEnum};

use super::classed;
use super::commands;
use super::copy_from::copy_from;
use super::rewrite::{Rewritten, rewrite};
use super::sequences::advanced;
use super::{
    Action, Effect, Emulation, Lasts, Lookup, Obligation, Plan, Reads, Segment, TenantForm, TenantValue, TransactionCommand,
    Uncached, Writes, cached,
};
use crate::catalog::Catalog;
use crate::finding::Denial;
use crate::policy::expected::Vocabulary;
use crate::policy::{LastValue, Permit, PolicySet};
use crate::sql::analyse::utility::{ConfigLocal, ConfigValue, TransactionKind, Utility};
use crate::sql::analyse::{Analysis, Statement};
use crate::sql::parse::{self, Printed};
use crate::sql::template;
use crate::sql::verify::{self, Kind};

/// A plan, and the text it was cut from: with stand-ins for literals and the tenant.
#[derive(Debug)]
pub struct Built {
    pub plan: Plan,
    /// Empty where nothing is sent.
    pub printed: String,
}

/// What the output check needs besides the text.
pub struct Check<'a> {
    pub relations: &'a verify::Relations,
    pub policies: &'a PolicySet,
    pub roles: &'a [Box<str>],
    pub search_path: &'a [Box<str>],
    /// EXPLAIN may show estimates, which come from the rows of all tenants.
    pub estimates: bool,
}

/// Makes the plan of a permitted statement. `live`: how many literals of the template have stand-ins in the text. What reads
/// or writes rows passes the output check first, which knows policies and catalog and nothing of what was decided here.
///
/// # Errors
/// 0A000 for what cannot be secured; a disagreement where the printed text does not read as it was meant.
pub fn build(permit: &Permit, analysis: &Analysis, catalog: &Catalog, live: u16, check: &Check<'_>) -> Result<Built, Denial> {
    let mut plan = Plan {
        parameters: analysis.parameters,
        needs_tenant: permit.touches_data(),
        obligations: obligations(permit),
        writes: Writes::Everything,
        ..Plan::nothing(permit.epoch())
    };
    plan.touched = super::touched::touched(analysis, permit, check.policies, catalog);
    plan.waits_for_record = super::touched::waits_for_record(analysis, check.policies, catalog);
    let query = super::touched::query_of(&analysis.statement);
    plan.classed = query.map(|query| classed::values(query, analysis, check.policies, catalog)).unwrap_or_default();
    let tree = match &analysis.statement {
        Statement::Query(query) | Statement::Prepare { name: _, query } => {
            let Rewritten { tree, hides_rows } = rewrite(query, analysis, permit, catalog)?;
            plan.hides_rows = hides_rows;
            (plan.command, plan.effect) = command(&tree);
            plan.advances = advanced(query, analysis, catalog);
            Some(tree)
        }
        Statement::CopyTo { query, options } => {
            let Rewritten { tree, hides_rows } = rewrite(query, analysis, permit, catalog)?;
            if hides_rows {
                return Err(Denial::unsupported("COPY of a data-modifying statement needs RETURNING"));
            }
            (_, plan.effect) = command(&tree);
            plan.command = "COPY";
            plan.inlines_tenant = true;
            let copy = CopyStmt { query: Some(Box::new(tree)), options: options.clone(), ..Default::default() };
            Some(Node { node: Some(NodeEnum::CopyStmt(Box::new(copy))) })
        }
        Statement::CopyFrom(copy) => {
            let (target, tree) = copy_from(copy, analysis, permit)?;
            plan.command = "COPY";
            plan.effect = Effect::Write;
            plan.copy_in = Some(target);
            Some(tree)
        }
        Statement::Declare { name, options, query } => {
            let Rewritten { tree, hides_rows: _ } = rewrite(query, analysis, permit, catalog)?;
            (plan.command, plan.inlines_tenant) = ("DECLARE", true);
            // A held cursor lives on its backend.
            plan.effect = if options & CURSOR_OPT_HOLD != 0 { Effect::Pins } else { Effect::Read };
            let declare = DeclareCursorStmt { portalname: name.clone(), options: *options, query: Some(Box::new(tree)) };
            Some(Node { node: Some(NodeEnum::DeclareCursorStmt(Box::new(declare))) })
        }
        Statement::Explain { options, query } => {
            if permit.hashes_a_column() {
                return Err(Denial::unsupported(
                    "EXPLAIN cannot be secured where a column is masked by a hash: it would show the key",
                ));
            }
            let Rewritten { tree, hides_rows: _ } = rewrite(query, analysis, permit, catalog)?;
            (plan.command, plan.effect) = ("EXPLAIN", Effect::Read);
            // GENERIC_PLAN takes no values of parameters.
            plan.inlines_tenant = true;
            Some(commands::explain(options, check.estimates, tree)?)
        }
        Statement::Execute { name, arguments, query } => {
            let Rewritten { tree, hides_rows: _ } = rewrite(query, analysis, permit, catalog)?;
            plan.command = "EXECUTE";
            plan.action = Action::Execute { name: name.as_str().into(), arguments: *arguments };
            Some(commands::without_names(tree))
        }
        Statement::CreateTemporary(create) => {
            Some(commands::create_temporary(create, rewrite(&create.query, analysis, permit, catalog)?.tree, &mut plan)?)
        }
        Statement::Utility(utility) => act(utility, &mut plan),
    };
    plan.writes = writes(&analysis.statement, tree.as_ref(), catalog, check.policies);
    let Some(tree) = tree else { return Ok(Built { plan, printed: String::new() }) };
    plan.reads = match plan.classed.is_empty() {
        true => reads(&analysis.statement, &tree, &plan, catalog, check.policies),
        // An answer that is given again has no values to tell.
        false => Reads::Unknown(Uncached::Recorded),
    };
    let printed = print(tree)?;
    if let Some(kind) = kind_of_statement(&analysis.statement, check)? {
        check_output(&printed, kind, permit, catalog, check)?;
    }
    let (printed, tree) = (printed.text(), printed.shallow_tree());
    plan.segments = template::cut(sent(&plan.action, printed)?, live)?;
    let present = |s: &Segment| matches!(s, Segment::Text(text) if cached::names_the_present(text.as_bytes()));
    if matches!(plan.reads, Reads::Families { .. }) && plan.segments.iter().any(present) {
        plan.reads = Reads::Unknown(Uncached::Present);
    }
    if let (Statement::Query(_), Some(tree)) = (&analysis.statement, tree) {
        plan.lookup = Lookup::of(tree, &plan, catalog).map(Box::new);
    }
    if let Statement::Prepare { name, query: _ } = &analysis.statement {
        plan = commands::prepare(name, &analysis.parameter_types, plan);
    }
    Ok(Built { plan, printed: printed.to_owned() })
}

/// What of the printed statement is sent.
fn sent<'p>(action: &Action, printed: &'p str) -> Result<&'p str, Denial> {
    match action {
        Action::Execute { name: _, arguments: _ } => commands::arguments_of(printed),
        Action::Forward
        | Action::Transaction(_)
        | Action::Set { .. }
        | Action::Configure { .. }
        | Action::Reset { .. }
        | Action::ChooseTenant { .. }
        | Action::Emulate(_)
        | Action::Prepare(_)
        | Action::Empty => Ok(printed),
    }
}

/// Of what its answer is made: of the rewritten statement, whose masks and policies may call functions too.
fn reads(statement: &Statement, tree: &Node, plan: &Plan, catalog: &Catalog, policies: &PolicySet) -> Reads {
    match statement {
        Statement::Query(_) | Statement::Prepare { name: _, query: _ }
            if plan.obligations.is_empty() && plan.advances.is_empty() =>
        {
            cached::reads(tree, catalog, policies)
        }
        Statement::Query(_) | Statement::Prepare { name: _, query: _ } => Reads::Unknown(Uncached::Function),
        Statement::Execute { name: _, arguments: _, query: _ }
        | Statement::CopyTo { query: _, options: _ }
        | Statement::Declare { name: _, options: _, query: _ }
        | Statement::Explain { options: _, query: _ }
        | Statement::CreateTemporary(_)
        | Statement::CopyFrom(_)
        | Statement::Utility(_) => Reads::Unknown(Uncached::Command),
    }
}

/// What it may change: of the rewritten statement, whose masks and policies may call functions too.
fn writes(statement: &Statement, tree: Option<&Node>, catalog: &Catalog, policies: &PolicySet) -> Writes {
    match statement {
        Statement::Query(_)
        | Statement::Prepare { name: _, query: _ }
        | Statement::Execute { name: _, arguments: _, query: _ }
        | Statement::CopyTo { query: _, options: _ }
        | Statement::Declare { name: _, options: _, query: _ }
        | Statement::Explain { options: _, query: _ } => {
            tree.map_or(Writes::Everything, |tree| cached::writes(tree, catalog, Some(policies)))
        }
        Statement::CopyFrom(_) => match tree.and_then(|t| t.node.as_ref()) {
            Some(NodeEnum::CopyStmt(copy)) => cached::writes_of_copy(copy.relation.as_ref(), catalog),
            Some(_) | None => Writes::Everything,
        },
        // A temporary table's rows are nobody else's, but event triggers may write anywhere.
        Statement::CreateTemporary(_) | Statement::Utility(Utility::Temporary { node: _, command: _, pins: _ })
            if catalog.snapshot().event_triggers && !crate::mutant!("cache.event-triggers-write-nothing") =>
        {
            Writes::Everything
        }
        Statement::CreateTemporary(_) => tree.map_or(Writes::Everything, |tree| cached::writes(tree, catalog, Some(policies))),
        // They change the session; what a cursor runs was told by its DECLARE.
        Statement::Utility(_) => Writes::Nothing,
    }
}

fn obligations(permit: &Permit) -> Vec<Obligation> {
    let settings = permit.setting_parameters().iter().map(|n| Obligation::ReadableSetting { parameter: *n });
    let last_values = permit.last_values().iter().map(|value| match value {
        LastValue::Of { sequence, name } => Obligation::OwnSequence { sequence: *sequence, name: name.as_str().into() },
        LastValue::Any => Obligation::OwnLastValue,
    });
    settings.chain(last_values).collect()
}

/// What the output check must find; `None`: no rows, printed as it was parsed.
fn kind_of_statement(statement: &Statement, check: &Check<'_>) -> Result<Option<Kind>, Denial> {
    match statement {
        Statement::Query(query) | Statement::Prepare { name: _, query } | Statement::Execute { name: _, arguments: _, query } => {
            kind_of(query).map(Some)
        }
        Statement::Explain { options: _, query: _ } => Ok(Some(Kind::Explain { estimates: check.estimates })),
        Statement::CopyTo { query: _, options: _ } => Ok(Some(Kind::CopyTo)),
        Statement::CopyFrom(_) => Ok(Some(Kind::CopyFrom)),
        Statement::Declare { name: _, options: _, query: _ } => Ok(Some(Kind::DeclareCursor)),
        Statement::CreateTemporary(_) => Ok(Some(Kind::CreateTemporary)),
        Statement::Utility(_) => Ok(None),
    }
}

fn kind_of(query: &Node) -> Result<Kind, Denial> {
    match &query.node {
        Some(NodeEnum::SelectStmt(_)) => Ok(Kind::Select),
        Some(NodeEnum::InsertStmt(_)) => Ok(Kind::Insert),
        Some(NodeEnum::UpdateStmt(_)) => Ok(Kind::Update),
        Some(NodeEnum::DeleteStmt(_)) => Ok(Kind::Delete),
        Some(NodeEnum::MergeStmt(_)) => Ok(Kind::Merge),
        Some(_) | None => Err(Denial::disagreement("a query of an unknown kind")),
    }
}

fn check_output(printed: &Printed, kind: Kind, permit: &Permit, catalog: &Catalog, check: &Check<'_>) -> Result<(), Denial> {
    if crate::mutant!("no-output-check") {
        return Ok(());
    }
    let Check { relations, policies, roles, search_path, estimates: _ } = *check;
    let names = Vocabulary {
        catalog,
        policies,
        roles,
        search_path,
        setting_parameters: permit.setting_parameters(),
        last_values: permit.last_values(),
    };
    verify::verify(printed, catalog, &verify::Expected { kind, relations, names: &names, marker: super::sentinel::prefix() })
}

/// `CURSOR_OPT_HOLD` of parsenodes.h.
const CURSOR_OPT_HOLD: i32 = 0x20;

pub(super) fn print(statement: Node) -> Result<Printed, Denial> {
    let raw = RawStmt { stmt: Some(Box::new(statement)), stmt_location: 0, stmt_len: 0 };
    parse::print(&ParseResult { version: 0, stmts: vec![raw] })
}

fn command(tree: &Node) -> (&'static str, Effect) {
    match &tree.node {
        Some(NodeEnum::InsertStmt(_)) => ("INSERT", Effect::Write),
        Some(NodeEnum::UpdateStmt(_)) => ("UPDATE", Effect::Write),
        Some(NodeEnum::DeleteStmt(_)) => ("DELETE", Effect::Write),
        Some(NodeEnum::MergeStmt(_)) => ("MERGE", Effect::Write),
        Some(_) | None => {
            // WITH may write, and a function may: only the cache cares, and it looks closer.
            let mut writes = false;
            crate::sql::tree::walk(tree, &mut |n| {
                writes |= matches!(
                    &n.node,
                    Some(NodeEnum::InsertStmt(_) | NodeEnum::UpdateStmt(_) | NodeEnum::DeleteStmt(_) | NodeEnum::MergeStmt(_))
                );
            });
            ("SELECT", if writes { Effect::Write } else { Effect::Read })
        }
    }
}

/// The action of a statement without rows, and what is sent for it.
fn act(utility: &Utility, plan: &mut Plan) -> Option<Node> {
    let emulate = |e| (Action::Emulate(e), None);
    let (action, node) = match utility {
        Utility::Transaction { kind, node } => {
            plan.command = transaction_word(kind);
            let command = match kind {
                TransactionKind::Begin(isolation) => TransactionCommand::Begin(*isolation),
                TransactionKind::Commit { chain } => TransactionCommand::Commit { chain: *chain },
                TransactionKind::Rollback { chain } => TransactionCommand::Rollback { chain: *chain },
                TransactionKind::Savepoint(name) => TransactionCommand::Savepoint(name.as_str().into()),
                TransactionKind::Release(name) => TransactionCommand::Release(name.as_str().into()),
                TransactionKind::RollbackTo(name) => TransactionCommand::RollbackTo(name.as_str().into()),
            };
            (Action::Transaction(command), Some(node))
        }
        // They end with the transaction, however they are set: nothing that a session carries on.
        Utility::Set { name, node, values: _, local: _ } | Utility::Reset { name, node } if is_of_transaction(name) => {
            (Action::Forward, Some(node))
        }
        Utility::Set { name, values, local, node } => {
            let values = values.as_ref().map(|v| v.iter().map(|s| s.as_str().into()).collect());
            (Action::Set { name: name.as_str().into(), values, local: *local }, Some(node))
        }
        Utility::Configure { name, parameter, local, node } => {
            (Action::Configure { name: name.as_str().into(), parameter: *parameter, local: *local }, Some(node))
        }
        Utility::Reset { name, node } => (Action::Reset { name: name.as_str().into() }, Some(node)),
        Utility::Show { name: _, node } => (Action::Forward, Some(node)),
        Utility::Close { name: _, node } | Utility::Fetch { node } | Utility::SetConstraints { node } => {
            (Action::Forward, Some(node))
        }
        Utility::ShowTenant => {
            (Action::ChooseTenant { value: TenantValue::Unset, lasts: Lasts::Session, form: TenantForm::Show }, None)
        }
        Utility::ChooseTenant { value, local } => {
            let value = value.as_ref().map_or(TenantValue::Unset, |v| TenantValue::Text(v.as_str().into()));
            let lasts = if *local { Lasts::Transaction } else { Lasts::Session };
            (Action::ChooseTenant { value, lasts, form: TenantForm::Set }, None)
        }
        Utility::ConfigureTenant { value, local } => {
            let value = match value {
                ConfigValue::Text(text) => TenantValue::Text(text.as_str().into()),
                ConfigValue::Parameter(n) => TenantValue::Parameter(*n),
            };
            let lasts = match local {
                ConfigLocal::Is(true) => Lasts::Transaction,
                ConfigLocal::Is(false) => Lasts::Session,
                ConfigLocal::Parameter(n) => Lasts::Parameter(*n),
            };
            (Action::ChooseTenant { value, lasts, form: TenantForm::SetConfig }, None)
        }
        Utility::AdvisoryUnlockAll => emulate(Emulation::AdvisoryUnlockAll),
        Utility::Declare { what, value } => emulate(Emulation::Declare { what: *what, value: value.as_deref().map(Into::into) }),
        Utility::ResetAll => emulate(Emulation::ResetAll),
        Utility::DiscardAll => emulate(Emulation::DiscardAll),
        Utility::Discard(what) => emulate(Emulation::Discard((*what).into())),
        Utility::DeallocateAll => emulate(Emulation::DeallocateAll),
        Utility::Deallocate(name) => emulate(Emulation::Deallocate(name.as_str().into())),
        Utility::CloseAll => emulate(Emulation::CloseAll),
        Utility::Unlisten => emulate(Emulation::Unlisten),
        Utility::Temporary { node, command, pins } => {
            plan.command = command;
            plan.effect = if *pins { Effect::Pins } else { Effect::Write };
            // So that nobody is held to no tenant.
            plan.needs_tenant = *pins;
            (Action::Forward, Some(node))
        }
    };
    if plan.command.is_empty() {
        plan.command = match utility {
            Utility::Reset { name: _, node: _ }
            | Utility::ResetAll
            | Utility::Declare { what: _, value: None }
            | Utility::ChooseTenant { value: None, local: _ } => "RESET",
            Utility::Show { name: _, node: _ } | Utility::ShowTenant => "SHOW",
            Utility::Transaction { kind: _, node: _ } => "BEGIN",
            Utility::DiscardAll | Utility::Discard(_) => "DISCARD",
            Utility::ConfigureTenant { value: _, local: _ }
            | Utility::Configure { name: _, parameter: _, local: _, node: _ }
            | Utility::AdvisoryUnlockAll => "SELECT",
            Utility::DeallocateAll | Utility::Deallocate(_) => "DEALLOCATE",
            Utility::CloseAll | Utility::Close { name: _, node: _ } => "CLOSE",
            Utility::Unlisten => "UNLISTEN",
            Utility::Fetch { node: _ } => "FETCH",
            Utility::Temporary { node: _, command, pins: _ } => command,
            Utility::SetConstraints { node: _ } => "SET",
            Utility::Set { name: _, values: _, local: _, node: _ }
            | Utility::Declare { what: _, value: Some(_) }
            | Utility::ChooseTenant { value: Some(_), local: _ } => "SET",
        };
    }
    plan.action = action;
    node.cloned()
}

/// SET TRANSACTION, and the settings that it sets.
fn is_of_transaction(name: &str) -> bool {
    matches!(name, "transaction" | "transaction_isolation" | "transaction_read_only" | "transaction_deferrable")
}

fn transaction_word(kind: &TransactionKind) -> &'static str {
    match kind {
        TransactionKind::Begin(_) => "BEGIN",
        TransactionKind::Commit { chain: _ } => "COMMIT",
        TransactionKind::Rollback { chain: _ } | TransactionKind::RollbackTo(_) => "ROLLBACK",
        TransactionKind::Savepoint(_) => "SAVEPOINT",
        TransactionKind::Release(_) => "RELEASE",
    }
}

/// The text of a plan, for explanations: `literal` gives the client's tokens, of which there are `literals`, `tenant` the slot's
/// value.
pub fn text_of(
    plan: &Plan,
    literals: usize,
    literal: &dyn Fn(u16) -> String,
    tenant: &dyn Fn(super::TenantType) -> String,
) -> String {
    let mut out = String::new();
    plan.each_segment(literals, |segment| match segment {
        Segment::Text(text) => out += text,
        Segment::Literal(i) => out += &literal(*i),
        Segment::Tenant(t) => out += &tenant(*t),
    });
    out
}
