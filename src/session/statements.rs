//! A client's prepared statements and portals. What is prepared upstream is named by its content, so that all clients and
//! all tenants share it; the client's names are known here only.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::backend::connection::Settings;
use crate::cache::WrittenRows;
use crate::finding::Denial;
use crate::plan::{Action, CopyIn, Literals, Plan, Prepare, Upstream};
use crate::principal::Tenant;

/// A reviewed statement.
#[derive(Debug)]
pub struct Statement {
    /// The client's text: literals point into it.
    pub source: Box<str>,
    pub literals: Literals,
    pub plan: Arc<Plan>,
    /// The types that the client declared.
    pub declared: Box<[u32]>,
    /// The search_path that the review knew.
    pub under: Under,
    /// The tenant whose value stands in the text upstream, where it must.
    tenant: Option<Tenant>,
    /// What is sent upstream; `None` where nothing is.
    pub upstream: Option<Upstream>,
    /// Types of the client's parameters as the server found them.
    found: OnceLock<Box<[u32]>>,
    pub origin: Origin,
}

/// What a statement means by its names and its constants.
#[derive(Clone, Debug)]
pub struct Under {
    pub search_path: Arc<[Box<str>]>,
    /// Those of whom it was reviewed for.
    pub roles: Arc<[Box<str>]>,
    /// Of which [`Settings::read_by`] counts.
    pub settings: Settings,
}

/// What made a statement.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Parse: `source` is its text.
    Parse,
    /// PREPARE: `source` is the whole command, `plan` that of the query in it.
    Prepare,
    /// Parse of an EXECUTE of that statement.
    Execute(Arc<Statement>),
}

impl Statement {
    /// # Errors
    /// More types are declared than the statement has parameters: the tenant's would stand in their place.
    pub fn new(
        source: &str,
        literals: Literals,
        plan: Arc<Plan>,
        declared: &[u32],
        under: Under,
        tenant: Option<&Tenant>,
    ) -> Result<Self, Denial> {
        let tenant = tenant.filter(|_| plan.inlines_tenant()).cloned();
        if plan.inlines_tenant() && tenant.is_none() && plan.needs_tenant() {
            return Err(plan.no_tenant());
        }
        let upstream = if is_forwarded(plan.action()) && !matches!(plan.action(), Action::Prepare(_)) {
            Some(Upstream::of(&plan, source, &literals, declared, tenant.as_ref(), under.settings.read_by())?)
        } else {
            None
        };
        let declared = declared.into();
        let (found, origin) = (OnceLock::new(), Origin::Parse);
        Ok(Statement { source: source.into(), literals, plan, declared, under, tenant, upstream, found, origin })
    }

    /// The statement that a PREPARE makes. `source`: the command.
    ///
    /// # Errors
    /// As [`Statement::new`].
    pub fn prepared(source: &str, literals: Literals, prepare: &Prepare, under: Under) -> Result<Self, Denial> {
        // No tenant: nothing that can be prepared has one in its text.
        let made = Statement::new(source, literals, prepare.plan.clone(), &prepare.types, under, None)?;
        Ok(Statement { origin: Origin::Prepare, ..made })
    }

    /// The statement that a Parse of an EXECUTE makes. `sql`: what is sent for it, with this tenant in it.
    pub fn executing(
        source: &str,
        literals: Literals,
        plan: Arc<Plan>,
        under: Under,
        tenant: Option<&Tenant>,
        target: Arc<Statement>,
        sql: Bytes,
    ) -> Self {
        let read_by = under.settings.read_by().to_vec();
        Statement {
            source: source.into(),
            literals,
            plan,
            declared: Box::default(),
            under,
            tenant: tenant.cloned(),
            upstream: Some(Upstream::new(sql, &[], &read_by)),
            found: OnceLock::new(),
            origin: Origin::Execute(target),
        }
    }

    /// What it executes, if it is an EXECUTE.
    pub fn target(&self) -> Option<&Arc<Statement>> {
        match &self.origin {
            Origin::Execute(target) => Some(target),
            Origin::Parse | Origin::Prepare => None,
        }
    }

    /// What has a plan upstream that may grow old: of an EXECUTE, what it executes.
    pub fn planned(&self) -> Option<&Upstream> {
        self.target().map_or(self.upstream.as_ref(), |target| target.upstream.as_ref())
    }

    /// How many parameters it has, declared ones that stand nowhere included.
    pub fn parameters(&self) -> usize {
        usize::from(self.plan.parameters()).max(self.declared.len())
    }

    /// Whether the rows that come back are not the client's.
    pub fn hides_rows(&self) -> bool {
        self.target().map_or(&self.plan, |target| &target.plan).hides_rows()
    }

    /// Whether the text upstream serves this tenant.
    pub fn serves(&self, tenant: Option<&Tenant>) -> bool {
        !self.plan.inlines_tenant() && self.target().is_none() || self.tenant.as_ref() == tenant
    }

    /// The type of the client's parameter at `index`, from 0; 0 where it is not known.
    pub fn parameter_type(&self, index: usize) -> u32 {
        let declared = self.declared.get(index).copied().unwrap_or(0);
        if declared != 0 {
            return declared;
        }
        self.found.get().and_then(|types| types.get(index)).copied().unwrap_or(0)
    }

    /// Notes what ParameterDescription says, the tenant's parameter included or not.
    pub fn note_types(&self, types: &[u32]) {
        // A second description says the same.
        let _ = self.found.set(types.into());
    }
}

/// Whether the server takes part in the statement (and the proxy does not answer it itself).
pub fn is_forwarded(action: &Action) -> bool {
    match action {
        Action::Forward
        | Action::Transaction(_)
        | Action::Set { .. }
        | Action::Configure { .. }
        | Action::Reset { .. }
        | Action::Prepare(_)
        | Action::Execute { .. } => true,
        Action::ChooseTenant { .. } | Action::Emulate(_) | Action::Empty => false,
    }
}

/// What a portal was bound with, for those that the proxy answers itself: it chooses a tenant by parameters.
#[derive(Clone, Debug, Default)]
pub struct LocalValues {
    pub tenant: Option<Box<str>>,
    /// Until the end of the transaction.
    pub local: bool,
}

/// A portal.
#[derive(Clone, Debug)]
pub struct Portal {
    pub statement: Arc<Statement>,
    pub values: LocalValues,
    /// What it does with data, if it is a COPY FROM STDIN.
    pub copy: Option<CopyIn>,
    /// What it changes, as far as its values tell.
    pub rows: WrittenRows,
    /// A field of its record that tells its values.
    pub told: Box<[u8]>,
}

/// The client's names.
#[derive(Debug, Default)]
pub struct Names {
    unnamed: Option<Arc<Statement>>,
    named: HashMap<Box<str>, Arc<Statement>>,
    /// Bytes of the sources of `named`.
    bytes: usize,
    unnamed_portal: Option<Portal>,
    named_portals: HashMap<Box<str>, Portal>,
}

impl Names {
    pub fn get(&self, name: &str) -> Option<&Arc<Statement>> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    pub fn insert(&mut self, name: &str, statement: Arc<Statement>) {
        if name.is_empty() {
            self.unnamed = Some(statement);
        } else {
            self.bytes += statement.source.len();
            if let Some(old) = self.named.insert(name.into(), statement) {
                self.bytes -= old.source.len();
            }
        }
    }

    /// Close, DEALLOCATE. Whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        if name.is_empty() {
            return self.unnamed.take().is_some();
        }
        let old = self.named.remove(name);
        self.bytes -= old.as_ref().map_or(0, |s| s.source.len());
        old.is_some()
    }

    /// Takes a name back whose Parse failed, unless it names something else by now.
    pub fn retract(&mut self, name: &str, statement: &Arc<Statement>) {
        if self.get(name).is_some_and(|s| Arc::ptr_eq(s, statement)) && !crate::mutant!("session.failed-statements-stay") {
            self.remove(name);
        }
    }

    /// DEALLOCATE ALL: the unnamed statement stays.
    pub fn deallocate_all(&mut self) {
        self.named.clear();
        self.bytes = 0;
    }

    /// Bytes of text of the named statements.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.named.len()
    }

    pub fn portal(&self, name: &str) -> Option<&Portal> {
        if name.is_empty() { self.unnamed_portal.as_ref() } else { self.named_portals.get(name) }
    }

    pub fn bind(&mut self, name: &str, portal: Portal) {
        if name.is_empty() {
            self.unnamed_portal = Some(portal);
        } else {
            self.named_portals.insert(name.into(), portal);
        }
    }

    pub fn close_portal(&mut self, name: &str) -> Option<Portal> {
        if name.is_empty() { self.unnamed_portal.take() } else { self.named_portals.remove(name) }
    }

    /// The transaction ended: its portals are gone.
    pub fn drop_portals(&mut self) {
        self.unnamed_portal = None;
        if !self.named_portals.is_empty() {
            self.named_portals.clear();
        }
    }
}
