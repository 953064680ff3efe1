//! `review()`: the one place that orders template > analyse > decide > plan.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use pg_query::protobuf::{AExprKind, ParseResult, a_const};
use pg_query::{Node, NodeEnum};
use smallvec::SmallVec;

use crate::catalog::Catalog;
use crate::config::Level;
use crate::error::SqlError;
use crate::event::{Event, Events};
use crate::finding::{Denial, Reason};
use crate::id::PolicyEpoch;
use crate::plan::{self, Action, Built, Literals, Plan, TenantType};
use crate::policy::limits::{Change, RowLimit, may_change};
use crate::policy::masks::without_keys;
use crate::policy::model::{LimitPolicy, PolicyModel, WindowPolicy};
use crate::policy::temporary;
use crate::policy::{PolicyProblem, PolicySet, decide, expected};
use crate::principal::Principal;
use crate::rules::learned::Learned;
use crate::rules::threat::canary_row::CanaryRows;
use crate::rules::{Modes, Signs};
use crate::sql::analyse::{self, Analysis, Refusal};
use crate::sql::parse::Printed;
use crate::sql::template::{self, Folded, Repeated, Scratch, Template, lists};
use crate::sql::tree::quoted_name;
use crate::sql::verify::Relations;
use crate::sql::{form, parse, second};
use crate::worker;

mod templates;
pub mod threats;
use templates::{Keep, Known, Templates, write_key};
use threats::Threats;
pub use threats::check_rules;

/// How the text came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Query: any number of statements, no parameters.
    Simple,
    /// Parse: one statement.
    Extended,
}

/// What a review depends on besides the text.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub principal: &'a Principal,
    /// The session's search_path, as schema names in order (`"$user"` resolved).
    pub search_path: &'a [Box<str>],
    pub protocol: Protocol,
    /// The types that a Parse message declares; 0 for those it leaves open.
    pub parameter_types: &'a [u32],
}

/// One statement that may run.
#[derive(Clone, Debug)]
pub struct Approved {
    pub plan: Arc<Plan>,
    /// Into the text that was reviewed.
    pub literals: Literals,
    /// The statement in that text.
    pub source: Range<u32>,
}

impl Approved {
    /// What stands in a simple query's statement. `text`: as it was reviewed.
    pub fn values<'a>(&'a self, text: &'a str) -> plan::Values<'a> {
        plan::Values { source: text, literals: &self.literals, parameters: plan::Parameters::None }
    }
}

/// Decides about statements of one database. Cheap for known templates; shared by all sessions.
pub struct Gate {
    level: Level,
    database: String,
    events: Events,
    epochs: AtomicU64,
    state: ArcSwap<State>,
}

/// Everything that belongs to one epoch.
struct State {
    level: Level,
    policies: PolicySet,
    catalog: Arc<Catalog>,
    templates: Templates,
    threats: Threats,
    limits: Vec<LimitPolicy>,
    windows: Vec<WindowPolicy>,
    /// How many levels the definitions of listed views can add to a statement.
    levels_of_views: u32,
    /// What the output check expects, by roles.
    expected: DashMap<Box<[Box<str>]>, Arc<Relations>>,
}

/// Whether a statement's template was in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Known,
    Made,
}

/// What is longer (bytes) may take a millisecond or more when it is seen for the first time.
const SHORT_TEXT: usize = 1 << 10;
/// What is longer takes a thousand times its length in memory while it is made, and waits for others that do.
const LONG_TEXT: usize = 64 << 10;
static LONG: Mutex<()> = Mutex::new(());

/// What review decides about one statement, for `explain` and `test`.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub sql: String,
    /// The final SQL, with the tenant's value in it.
    pub outcome: Result<String, Denial>,
    /// Why it is refused to whom was asked about, who has chosen no tenant, though the statement itself may run.
    pub lacks_tenant: Option<Denial>,
    /// `schema.table`, and its scope and predicate in words.
    pub relations: Vec<(String, String)>,
    pub remarks: Vec<String>,
    /// Or why not.
    pub cacheable: Result<(), String>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("database", &self.database).field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}

thread_local! {
    /// Reused from text to text: a known template is found without an allocation.
    static SCRATCH: RefCell<(Scratch, Vec<u8>)> = RefCell::default();
}

impl Gate {
    /// Binds the policies to a catalog.
    ///
    /// # Errors
    /// Everything in the policies that the catalog contradicts.
    pub fn new(level: Level, catalog: Arc<Catalog>, policies: &PolicyModel) -> Result<Gate, Vec<PolicyProblem>> {
        let database = catalog.snapshot().database.clone();
        let state = State::new(level, policies, catalog, PolicyEpoch(1))?;
        Ok(Gate { level, database, events: Events::default(), epochs: AtomicU64::new(1), state: ArcSwap::from_pointee(state) })
    }

    /// The same, telling which templates it knows.
    pub fn observed(self, events: Events) -> Gate {
        Gate { events, ..self }
    }

    /// Replaces policies and catalog as one new epoch; templates of the old one are forgotten. A problem leaves the old epoch
    /// in force. `accept`: whether there may be tenants of these types.
    ///
    /// # Errors
    /// As [`Gate::new`], or what `accept` says.
    pub fn reload(
        &self,
        catalog: Arc<Catalog>,
        policies: &PolicyModel,
        accept: impl FnOnce(&[TenantType]) -> Result<(), String>,
    ) -> Result<PolicyEpoch, Vec<PolicyProblem>> {
        let epoch = PolicyEpoch(self.epochs.fetch_add(1, Ordering::Relaxed) + 1);
        let state = State::new(self.level, policies, catalog, epoch)?;
        accept(&state.tenant_types()).map_err(|problem| vec![PolicyProblem::new(problem)])?;
        self.state.store(Arc::new(state));
        Ok(epoch)
    }

    /// The epoch that new plans are made in. A plan of another epoch must be reviewed again before it is used.
    pub fn epoch(&self) -> PolicyEpoch {
        self.state.load().policies.epoch
    }

    /// The catalog of the present epoch.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.state.load().catalog.clone()
    }

    /// The types that tenants are told apart by, in the present epoch.
    pub fn tenant_types(&self) -> Vec<TenantType> {
        self.state.load().tenant_types()
    }

    /// A type by its OID, as SQL names it whatever the search_path; `None` where it is not known.
    pub fn type_name(&self, oid: u32) -> Option<String> {
        self.state.load().type_name(oid)
    }

    /// What threat rules do for these roles and this application.
    pub fn threat_modes(&self, roles: &[Box<str>], application: Option<&str>) -> Modes {
        self.state.load().threats.modes(roles, application)
    }

    /// What these roles, and this application, are known to say; none: nothing was learned of them.
    pub fn learned(&self, roles: &[Box<str>], application: Option<&str>) -> SmallVec<[Arc<Learned>; 1]> {
        self.state.load().threats.learned(roles, application)
    }

    /// Whether a text names a table that nobody has a reason to name, as far as it can be read.
    pub fn names_canary(&self, text: &str) -> bool {
        let state = self.state.load();
        state.threats.has_canaries()
            && !parse::is_deep(text)
            && parse::parse(text).is_ok_and(|tree| state.threats.names_canary(&tree))
    }

    /// What threat rules make of a statement that was approved.
    pub fn judge(&self, approved: &Approved, context: &Context<'_>, application: Option<&str>) -> threats::Judged {
        let is_simple = context.protocol == Protocol::Simple;
        self.state.load().threats.judge(&approved.plan, &context.principal.roles, application, is_simple)
    }

    /// What answers must not have; `None`: there is nothing.
    pub fn canary_rows(&self) -> Option<Arc<CanaryRows>> {
        self.state.load().threats.canary_rows()
    }

    /// How many rows are given to these roles.
    pub fn row_limit(&self, roles: &[Box<str>]) -> RowLimit {
        RowLimit::of(&self.state.load().limits, roles)
    }

    /// Whether an unrestricted user may change definitions now.
    pub fn may_change(&self, user: &str, has_ticket: bool) -> Change {
        may_change(&self.state.load().windows, user, has_ticket, SystemTime::now())
    }

    /// Whether any column is masked for these roles.
    pub fn masks_for(&self, roles: &[Box<str>]) -> bool {
        self.state.load().policies.has_masks_for(roles)
    }

    /// What the change of a row changes: see [`plan::ChangedRow::of`].
    pub fn changed<'v>(&self, relation: u32, value: &dyn Fn(&str) -> Option<&'v [u8]>) -> Option<plan::ChangedRow> {
        let state = self.state.load();
        plan::ChangedRow::of(relation, &state.catalog, &state.policies, value)
    }

    /// Settings of the application's own that these roles may read and set.
    pub fn settings_for(&self, roles: &[Box<str>]) -> Vec<String> {
        self.state.load().policies.settings_for(roles).into_iter().map(str::to_owned).collect()
    }

    /// Whether a text of an unrestricted user cannot write, as far as the present catalog tells.
    pub fn only_reads(&self, text: &str) -> bool {
        let catalog = self.catalog();
        !parse::is_deep(text) && parse::parse(text).is_ok_and(|tree| plan::cached::only_reads(&tree, &catalog))
    }

    pub fn level(&self) -> Level {
        self.level
    }

    /// Reviews a query string. Permitted whole, statement by statement in order, or refused whole (VERDICT).
    ///
    /// # Errors
    /// What the client is told; nothing was sent.
    pub fn review(&self, text: &str, context: &Context<'_>) -> Result<SmallVec<[Approved; 1]>, Denial> {
        SCRATCH.with_borrow_mut(|(scratch, key)| self.review_with(text, context, scratch, key))
    }

    /// Not inlined: benches/instructions.py counts it by its name.
    #[inline(never)]
    fn review_with(
        &self,
        text: &str,
        context: &Context<'_>,
        scratch: &mut Scratch,
        key: &mut Vec<u8>,
    ) -> Result<SmallVec<[Approved; 1]>, Denial> {
        let state = self.state.load();
        template::read(text, scratch)?;
        scratch.fold(text);
        let mut approved = SmallVec::new();
        for statement in scratch.statements() {
            let mut found = Found::Known;
            let one = state.approve(text, scratch, statement, context, key, &mut found);
            self.events.emit(match found {
                Found::Known => Event::TemplateHit,
                Found::Made => Event::TemplateMissed,
            });
            approved.push(one?);
        }
        if approved.is_empty() {
            approved.push(Approved { plan: Arc::new(state.empty_plan()), literals: Literals::new(), source: 0..0 });
        }
        Ok(approved)
    }

    /// What would become of each statement of the text.
    pub fn explain(&self, sql: &str, context: &Context<'_>, application: Option<&str>) -> Vec<Explanation> {
        let state = self.state.load();
        let mut scratch = Scratch::default();
        let mut key = vec![];
        if let Err(denial) = template::read(sql, &mut scratch) {
            return vec![Explanation {
                sql: sql.to_owned(),
                outcome: Err(denial),
                lacks_tenant: None,
                relations: vec![],
                remarks: vec![],
                cacheable: Err("it is refused".to_owned()),
            }];
        }
        scratch.fold(sql);
        scratch.statements().iter().map(|s| state.explain(sql, &scratch, s, context, application, &mut key)).collect()
    }
}

impl State {
    fn tenant_types(&self) -> Vec<TenantType> {
        use crate::policy::epoch::RelationPolicy;
        let mut types: Vec<TenantType> = vec![];
        for (_, policy) in self.policies.relations() {
            match policy {
                RelationPolicy::Tenant(t) if !types.contains(&t.type_) => types.push(t.type_),
                RelationPolicy::Tenant(_) | RelationPolicy::Shared | RelationPolicy::View | RelationPolicy::Denied => {}
            }
        }
        types
    }

    fn new(level: Level, policies: &PolicyModel, catalog: Arc<Catalog>, epoch: PolicyEpoch) -> Result<State, Vec<PolicyProblem>> {
        let threats = Threats::of(policies);
        let (limits, windows) = (policies.limits.clone(), policies.windows.clone());
        let (catalog, policies) = temporary::declare(policies, catalog)?;
        let policies = PolicySet::bind(&policies, &catalog, epoch, level == Level::Standard)?;
        Ok(State {
            level,
            levels_of_views: analyse::levels_of_views(policies.views(), &catalog),
            policies,
            catalog,
            templates: Templates::default(),
            threats,
            limits,
            windows,
            expected: DashMap::new(),
        })
    }

    fn empty_plan(&self) -> Plan {
        Plan { action: Action::Empty, ..Plan::nothing(self.policies.epoch) }
    }

    fn approve(
        &self,
        text: &str,
        scratch: &Scratch,
        statement: &Template,
        context: &Context<'_>,
        key: &mut Vec<u8>,
        found: &mut Found,
    ) -> Result<Approved, Denial> {
        let source = statement.source.clone();
        if let Some(folded) = &statement.folded
            && let Some(plan) = self.plan_of_repeated(text, scratch, statement, folded, context, key, found)
        {
            return Ok(Approved { plan, literals: folded.literals.clone(), source });
        }
        let plan = self.plan(text, scratch, statement, context, key, found)?;
        Ok(Approved { plan, literals: statement.literals.clone(), source })
    }

    /// The plan of a statement whatever the lengths of its lists, or the number of its rows. `None`: it has none of its own.
    #[expect(clippy::too_many_arguments, reason = "as plan(), and what is folded")]
    fn plan_of_repeated(
        &self,
        text: &str,
        scratch: &Scratch,
        statement: &Template,
        folded: &Folded,
        context: &Context<'_>,
        key: &mut Vec<u8>,
        found: &mut Found,
    ) -> Option<Arc<Plan>> {
        let folded_key = scratch.folded_key(folded);
        write_key(key, context, folded_key, Some(&folded.repeated));
        match self.templates.get(key) {
            Some(Known::Plan(plan)) => return Some(plan),
            Some(Known::Unfolded | Known::Refine(_)) => return None,
            None => *found = Found::Made,
        }
        let live = match &folded.repeated {
            Repeated::Lists(_) => folded.literals.len() as u16,
            Repeated::Rows(rows) => rows.live,
        };
        let plan = match self.make(folded_key, live, context, Pass::First) {
            Made::Plan(built) => self.repeat(text, statement, folded, context, *built),
            Made::Refine(_) => None,
            // What is refused is refused as it was written.
            Made::Denied(_) => return None,
        };
        let plan = plan.map(Arc::new);
        self.templates.remember(key, plan.clone().map_or(Known::Unfolded, Known::Plan));
        plan
    }

    /// From the plan of a folded statement, that of all lengths.
    fn repeat(&self, text: &str, statement: &Template, folded: &Folded, context: &Context<'_>, built: Built) -> Option<Plan> {
        match &folded.repeated {
            Repeated::Lists(rests) => are_lists(&built.printed, rests).then_some(built.plan),
            Repeated::Rows(rows) => {
                let three = statement.with_three_rows(text)?;
                match self.make(&three, rows.live + rows.width, context, Pass::First) {
                    Made::Plan(three) => plan::of_any_number(built, *three, *rows),
                    Made::Refine(_) | Made::Denied(_) => None,
                }
            }
        }
    }

    /// The plan of one statement: known, or made now.
    fn plan(
        &self,
        text: &str,
        scratch: &Scratch,
        statement: &Template,
        context: &Context<'_>,
        key: &mut Vec<u8>,
        found: &mut Found,
    ) -> Result<Arc<Plan>, Denial> {
        write_key(key, context, scratch.key(statement), None);
        let keep = match self.templates.get(key) {
            Some(Known::Plan(plan)) => return Ok(plan),
            Some(Known::Refine(keep)) => keep,
            Some(Known::Unfolded) | None => {
                *found = Found::Made;
                match self.make(scratch.key(statement), statement.literals.len() as u16, context, Pass::First) {
                    Made::Plan(built) => {
                        let plan = Arc::new(built.plan);
                        self.templates.remember(key, Known::Plan(plan.clone()));
                        return Ok(plan);
                    }
                    Made::Refine(keep) => {
                        let keep = Arc::new(keep);
                        self.templates.remember(key, Known::Refine(keep.clone()));
                        keep
                    }
                    Made::Denied(denial) => return Err(self.locate(denial, text, statement, context)),
                }
            }
        };
        let refined = template::refine(text, scratch, statement, &keep.of(text, statement))?;
        write_key(key, context, &refined.key, None);
        // Told apart from the unrefined key of the same text.
        key.push(1);
        if let Some(Known::Plan(plan)) = self.templates.get(key) {
            return Ok(plan);
        }
        *found = Found::Made;
        match self.make(&refined.key, refined.live, context, Pass::Refined) {
            Made::Plan(built) => {
                let plan = Arc::new(built.plan);
                self.templates.remember(key, Known::Plan(plan.clone()));
                Ok(plan)
            }
            Made::Refine(_) => Err(Denial::unsupported("the literals of this statement cannot be told from its structure")),
            Made::Denied(denial) => Err(self.locate(denial, text, statement, context)),
        }
    }

    /// Whether reading it needs a large stack.
    fn is_deep(&self, text: &str) -> bool {
        parse::is_deep_with(text, self.levels_of_views)
    }

    /// Makes the plan of a key, or tells which literals must be part of it.
    fn make(&self, key: &str, live: u16, context: &Context<'_>, pass: Pass) -> Made {
        let make = || {
            let _alone = (key.len() > LONG_TEXT).then(|| LONG.lock().unwrap_or_else(PoisonError::into_inner));
            if self.is_deep(key) {
                parse::on_large_stack(|| self.make_here(key, live, context, pass)).unwrap_or_else(Made::Denied)
            } else {
                self.make_here(key, live, context, pass)
            }
        };
        let outcome = if key.len() > SHORT_TEXT { worker::aside(make) } else { make() };
        match outcome {
            // A stand-in may be what was refused: `float(53)` is grammar.
            Made::Denied(denial) if live > 0 && pass == Pass::First && denial.reason == Reason::Invalid => {
                Made::Refine(Keep { always: (0..live).collect(), with_backslash: vec![] })
            }
            other @ (Made::Plan(_) | Made::Refine(_) | Made::Denied(_)) => other,
        }
    }

    #[inline(never)] // as review_with
    fn make_here(&self, key: &str, live: u16, context: &Context<'_>, pass: Pass) -> Made {
        let tree = match parse::parse(key) {
            Ok(tree) => tree,
            Err(denial) => return Made::Denied(denial),
        };
        let analysis = self.analyse(&tree, context);
        if pass == Pass::First && live > 0 {
            let always = match &analysis {
                Ok(analysis) => analysis.pinned.iter().copied().collect(),
                Err(refusal) => refusal.pinned.iter().copied().collect::<Vec<_>>(),
            };
            let with_backslash = like_patterns(&tree);
            if !always.is_empty() || !with_backslash.is_empty() {
                return Made::Refine(Keep { always, with_backslash });
            }
        }
        match analysis {
            Ok(analysis) if !analysis.pinned.is_empty() => Made::Refine(Keep::default()),
            // What is refused anyway, or read again with more literals in place, needs no second reading.
            Ok(analysis) => match second::read(key, &tree).and_then(|_| self.finish(&analysis, live, context)) {
                Ok(mut built) => {
                    let form = form::form(key).unwrap_or_else(|_| {
                        if crate::mutant!("watch.no-form-is-nobodys") { String::new() } else { form::NONE.to_owned() }
                    });
                    built.plan.note_signs(Signs::of(&tree).and(self.threats.signs_of(&tree)), &form);
                    Made::Plan(Box::new(built))
                }
                Err(denial) => Made::Denied(denial),
            },
            Err(refusal) => Made::Denied(refusal.denial),
        }
    }

    fn analyse(&self, tree: &ParseResult, context: &Context<'_>) -> Result<Analysis, Refusal> {
        let [raw] = tree.stmts.as_slice() else {
            return Err(Refusal::of(Denial::disagreement("not one statement")));
        };
        let Some(node) = raw.stmt.as_deref().cloned() else {
            return Err(Refusal::of(Denial::disagreement("an empty statement")));
        };
        refuse_slots(tree).map_err(Refusal::of)?;
        let settings = self.policies.settings_for(&context.principal.roles);
        let context = analyse::Context {
            settings: &settings,
            catalog: &self.catalog,
            search_path: context.search_path,
            parameter_types: context.parameter_types,
            tenant_setting: context.principal.tenant_setting.as_deref(),
            views: self.policies.views(),
        };
        analyse::analyse(node, &context)
    }

    /// Puts the position of an error where the client's text has it: the key's differs. A refused statement costs another
    /// parse for this, at most.
    fn locate(&self, denial: Denial, text: &str, statement: &Template, context: &Context<'_>) -> Denial {
        let without = |denial: Denial| Denial { error: Box::new(SqlError { position: None, ..*denial.error }), ..denial };
        if denial.reason != Reason::Invalid {
            return without(denial);
        }
        let start = statement.source.start as usize;
        let source = &text[start..statement.source.end as usize];
        let again = || match parse::parse(source) {
            Ok(tree) => match self.analyse(&tree, context) {
                // Analysis counts bytes of the text that it was given.
                Err(Refusal { denial: own, pinned: _ }) if own.error.sqlstate == denial.error.sqlstate => {
                    let byte = own.error.position.and_then(|p| usize::try_from(p).ok());
                    let position = byte.and_then(|b| parse::character(text, start + b.saturating_sub(1)));
                    Denial { error: Box::new(SqlError { position, ..*own.error }), ..own }
                }
                Err(_) | Ok(_) => without(denial.clone()),
            },
            Err(own) => {
                let offset = parse::character(text, start).unwrap_or(1) - 1;
                let position = own.error.position.map(|p| p + offset);
                Denial { error: Box::new(SqlError { position, ..*own.error }), ..own }
            }
        };
        if self.is_deep(source) { parse::on_large_stack(again).unwrap_or_else(|failed| failed) } else { again() }
    }

    fn finish(&self, analysis: &Analysis, live: u16, context: &Context<'_>) -> Result<Built, Denial> {
        let permit = decide(analysis, &self.policies, &self.catalog, &context.principal.roles)?;
        let roles = &context.principal.roles;
        let relations = self.expected(roles);
        let check = plan::Check {
            relations: &relations,
            policies: &self.policies,
            roles,
            search_path: context.search_path,
            estimates: self.level == Level::Standard,
        };
        plan::build(&permit, analysis, &self.catalog, live, &check)
    }

    /// A type as SQL names it whatever the search_path.
    fn type_name(&self, oid: u32) -> Option<String> {
        self.catalog.type_(oid).map(|t| format!("{}.{}", quoted_name(&t.schema), quoted_name(&t.name)))
    }

    /// What the output check expects for these roles.
    fn expected(&self, roles: &[Box<str>]) -> Arc<Relations> {
        if let Some(known) = self.expected.get(roles) {
            return known.value().clone();
        }
        let made = Arc::new(expected::relations(&self.policies, &self.catalog, roles));
        self.expected.insert(roles.into(), made.clone());
        made
    }

    fn explain(
        &self,
        text: &str,
        scratch: &Scratch,
        statement: &Template,
        context: &Context<'_>,
        application: Option<&str>,
        key: &mut Vec<u8>,
    ) -> Explanation {
        let source = &text[statement.source.start as usize..statement.source.end as usize];
        let mut lacks_tenant = None;
        let mut cacheable = Err("it is refused".to_owned());
        let mut judged = None;
        let outcome = self.approve(text, scratch, statement, context, key, &mut Found::Known).map(
            |Approved { plan, literals, source: _ }| {
                cacheable = match plan.reads() {
                    plan::Reads::Families { .. } => Ok(()),
                    plan::Reads::Unknown(why) => Err(why.reason().to_owned()),
                };
                let is_simple = context.protocol == Protocol::Simple;
                judged = Some(self.threats.judge(&plan, &context.principal.roles, application, is_simple));
                lacks_tenant = (plan.needs_tenant() && context.principal.tenant().is_none()).then(|| plan.no_tenant());
                let literal = |i: u16| {
                    let range = &literals[usize::from(i)];
                    text[range.start as usize..range.end as usize].to_owned()
                };
                let tenant = |t: TenantType| match context.principal.tenant() {
                    Some(tenant) => plan::tenant::constant(t, tenant),
                    None => format!("<tenant>::{}", t.sql()),
                };
                let text = |plan: &Plan| without_keys(&plan::text_of(plan, literals.len(), &literal, &tenant));
                let sent = match plan.action() {
                    Action::Prepare(plan::Prepare { name, types, plan }) => {
                        let types: Vec<_> = types.iter().filter_map(|oid| self.type_name(*oid)).collect();
                        let types = if types.is_empty() { String::new() } else { format!(" ({})", types.join(", ")) };
                        format!("PREPARE {}{types} AS {}", quoted_name(name), text(plan))
                    }
                    Action::Execute { name, arguments: 0 } => format!("EXECUTE {}", quoted_name(name)),
                    Action::Execute { name, arguments: _ } => format!("EXECUTE {}({})", quoted_name(name), text(&plan)),
                    Action::Forward
                    | Action::Transaction(_)
                    | Action::Set { .. }
                    | Action::Configure { .. }
                    | Action::Reset { .. }
                    | Action::ChooseTenant { .. }
                    | Action::Emulate(_)
                    | Action::Empty => text(&plan),
                };
                if sent.is_empty() {
                    "(nothing: answered by Bulkhead)".to_owned()
                } else {
                    sent.replace(plan::sentinel::prefix(), "bulkhead:")
                }
            },
        );
        let analysis = parse::parse(source).ok().and_then(|tree| self.analyse(&tree, context).ok());
        let relations = analysis.map(|a| self.describe(&a, &context.principal.roles)).unwrap_or_default();
        let form = || parse::parse(source).map(|tree| Signs::of(&tree).and(self.threats.signs_of(&tree))).unwrap_or_default();
        let (remarks, denial) = match judged {
            Some(judged) => (judged.remarks, judged.denial),
            None => (form().rules().map(|(_, rule)| format!("threat rule {}: {}", rule.name, rule.found)).collect(), None),
        };
        let outcome = denial.map_or(outcome, Err);
        Explanation { sql: source.to_owned(), outcome, lacks_tenant, relations, remarks, cacheable }
    }

    fn describe(&self, analysis: &Analysis, roles: &[Box<str>]) -> Vec<(String, String)> {
        use crate::policy::epoch::RelationPolicy;
        use crate::sql::analyse::scope::RteKind;
        let mut described: Vec<(String, String)> = vec![];
        for rte in &analysis.rtes {
            let RteKind::Relation { oid, usage: _ } = rte.kind else { continue };
            let Some(relation) = self.catalog.relation(oid) else { continue };
            let name = format!("{}.{}", relation.schema, relation.name);
            let mut scope = match self.policies.policy_of(relation, &self.catalog) {
                Some(RelationPolicy::Tenant(policy)) => format!("tenant, by {}", policy.column),
                Some(RelationPolicy::Shared) => "shared, read-only".to_owned(),
                Some(RelationPolicy::View) => "view, by its definition".to_owned(),
                Some(RelationPolicy::Denied) => "denied".to_owned(),
                None if matches!(relation.schema.as_str(), "pg_catalog" | "information_schema") => "catalog".to_owned(),
                None => "denied: no policy lists it".to_owned(),
            };
            for mask in self.policies.masks_of(relation, &self.catalog, roles) {
                scope += &format!("; {} is masked ({})", mask.column, mask.mask.as_str());
            }
            if !described.iter().any(|(n, _)| *n == name) {
                described.push((name, scope));
            }
        }
        described
    }
}

enum Made {
    Plan(Box<Built>),
    Refine(Keep),
    Denied(Denial),
}

/// Whether the literals that decide something are still to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    First,
    /// They stand in the key already.
    Refined,
}

/// Whether what is sent has these literals as the rest of a list, and as nothing else.
fn are_lists(printed: &str, rests: &[u16]) -> bool {
    let read = Printed::read(printed.to_owned()).and_then(|p| p.with_tree(|tree| Ok(lists::only_in_lists(tree, rests))));
    read.unwrap_or(false) || crate::mutant!("names.any-rest-is-a-list")
}

/// The statements, or the queries and arguments in those that hold some, which a walk does not enter by itself.
fn queries(tree: &ParseResult) -> Vec<&Node> {
    let mut found = vec![];
    for statement in tree.stmts.iter().filter_map(|s| s.stmt.as_deref()) {
        if let Some(NodeEnum::ExplainStmt(s)) = &statement.node {
            found.extend(s.query.as_deref());
        } else if let Some(NodeEnum::PrepareStmt(s)) = &statement.node {
            found.extend(s.query.as_deref());
        } else if let Some(NodeEnum::DeclareCursorStmt(s)) = &statement.node {
            found.extend(s.query.as_deref());
        } else if let Some(NodeEnum::CopyStmt(s)) = &statement.node {
            found.extend(s.query.as_deref());
        } else if let Some(NodeEnum::CreateTableAsStmt(s)) = &statement.node {
            found.extend(s.query.as_deref());
        } else if let Some(NodeEnum::ExecuteStmt(s)) = &statement.node {
            found.extend(&s.params);
        } else {
            found.push(statement);
        }
    }
    found
}

/// The tenant's slot is the rewriter's to write: a client's text that holds one is refused, however it is spelt.
fn refuse_slots(tree: &ParseResult) -> Result<(), Denial> {
    let mut forged = false;
    for statement in queries(tree) {
        crate::sql::tree::walk(statement, &mut |n| {
            let text = match &n.node {
                Some(NodeEnum::AConst(c)) => match &c.val {
                    Some(a_const::Val::Sval(s)) => Some(&s.sval),
                    Some(a_const::Val::Ival(_) | a_const::Val::Fval(_) | a_const::Val::Boolval(_) | a_const::Val::Bsval(_))
                    | None => None,
                },
                Some(NodeEnum::String(s)) => Some(&s.sval),
                Some(_) | None => None,
            };
            forged |= text.is_some_and(|t| crate::sql::sentinel::looks_like_slot(t));
        });
    }
    if forged { Err(Denial::unsupported("strings that begin with \"qzslot\" are reserved")) } else { Ok(()) }
}

/// Stand-ins that are the pattern of a LIKE or ILIKE.
fn like_patterns(tree: &ParseResult) -> Vec<u16> {
    let mut found = vec![];
    for statement in queries(tree) {
        crate::sql::tree::walk(statement, &mut |n| {
            if let Some(NodeEnum::AExpr(e)) = &n.node
                && (e.kind == AExprKind::AexprLike as i32 || e.kind == AExprKind::AexprIlike as i32)
                && let Some(NodeEnum::AConst(c)) = e.rexpr.as_deref().and_then(|r| r.node.as_ref())
            {
                found.extend(crate::sql::sentinel::index_of_const(c).map(|(i, _)| i));
            }
        });
    }
    found
}

#[cfg(test)]
mod tests;
