//! The extended protocol of a tenant's session.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;

use super::enforced::{Session, Step, in_failed_transaction};
use super::expect::{Expected, ParseFor, Sent};
use super::own::{column, no_statement, reason_of};
use super::simple::awaits_context;
use super::statements::{LocalValues, Origin, Portal, Statement, Under, is_forwarded};
use crate::cache::WrittenRows;
use crate::error::{SqlError, sqlstate};
use crate::event::{Command, Verdict};
use crate::finding::{Denial, Reason};
use crate::gate::Protocol;
use crate::plan::{Action, Effect, Emulation, Lasts, Parameter, Parameters, TenantValue, TransactionCommand, Values};
use crate::wire::backend::{self as reply, TransactionStatus};
use crate::wire::frontend::{self as request, Bind, Execute, Format, Formats, Parse, Target};

/// Prepared statements that a client may have at once: what it holds costs memory.
pub(super) const MAX_NAMED: usize = 10_000;
/// And how many bytes of text they may have in all.
pub(super) const MAX_NAMED_BYTES: usize = 64 << 20;

impl Session<'_> {
    /// Waits for what the message depends on. `false`: something failed meanwhile, and the message is skipped.
    async fn settled(&mut self, tag: u8) -> Step<bool> {
        let stale = self.status == TransactionStatus::Failed && self.batch.sent;
        if stale || self.queue.iter().any(awaits_context) {
            return self.settle(tag).await;
        }
        Ok(true)
    }

    fn refuse(&mut self, error: SqlError) {
        self.deny(Denial::new(reason_of(&error), error), Protocol::Extended);
    }

    pub async fn parse(&mut self, parse: &Parse<'_>) -> Step {
        if !self.settled(b'P').await? {
            return Ok(());
        }
        let statement = match self.prepare(parse) {
            Ok(statement) => statement,
            Err(denial) => {
                self.deny(denial, Protocol::Extended);
                return Ok(());
            }
        };
        if self.is_out_of_place(&statement) {
            self.refuse(in_failed_transaction());
            return Ok(());
        }
        if statement.upstream.is_none() {
            self.names.insert(parse.name, statement.clone());
            self.answer_parse(statement, parse.name);
            return Ok(());
        }
        if let Err(denial) = self.lease().await? {
            self.deny(denial, Protocol::Extended);
            return Ok(());
        }
        self.names.insert(parse.name, statement.clone());
        self.batch.sent = true;
        if self.ensure_prepared(&statement, ParseFor::Client(parse.name.into())) {
            self.answer_parse(statement, parse.name);
        }
        Ok(())
    }

    /// ParseComplete where no Parse was sent on.
    fn answer_parse(&mut self, statement: Arc<Statement>, name: &str) {
        if self.queue.is_empty() {
            reply::put_parse_complete(&mut self.client.outbox);
        } else {
            self.queue.push_back(Expected::Known { statement, name: name.into() });
        }
    }

    /// Reviews a Parse. An unnamed statement that is the one before it again is not reviewed twice in one epoch.
    pub fn prepare(&mut self, parse: &Parse<'_>) -> Result<Arc<Statement>, Denial> {
        if parse.name.is_empty()
            && let Some(last) = self.names.get("").cloned()
            && *last.source == *parse.text
            && *last.declared == *parse.types
            && self.is_current(&last)
        {
            return Ok(last);
        }
        if parse.name.is_empty() {
            // Gone even where the new one is refused.
            self.names.remove("");
            return self.review_one(parse.text, &parse.types);
        }
        let statement = self.review_one(parse.text, &parse.types)?;
        // As PostgreSQL: what is wrong with the statement itself is found first, then the state of the transaction.
        if self.is_out_of_place(&statement) {
            return Err(Denial::new(Reason::Invalid, in_failed_transaction()));
        }
        self.check_new_name(parse.name, parse.text.len())?;
        Ok(statement)
    }

    fn review_one(&mut self, text: &str, types: &[u32]) -> Result<Arc<Statement>, Denial> {
        let reviewed = self.review(text, Protocol::Extended, types);
        if reviewed.is_err() {
            self.note_refused(text);
        }
        let mut approved = reviewed?;
        if approved.len() > 1 {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, message));
        }
        let one = approved.pop().ok_or_else(|| Denial::unsupported("empty statement"))?;
        if self.reset_to_base(&one).is_some() {
            return Err(Denial::unsupported("RESET of a startup parameter by the extended protocol"));
        }
        if let Action::Execute { name, arguments } = one.plan.action() {
            return self.executing(text, &one, name, *arguments);
        }
        let under = self.under();
        Ok(Arc::new(Statement::new(text, one.literals, one.plan, types, under, self.principal.tenant())?))
    }

    /// A statement whose review has grown old (EPOCH), made anew.
    pub fn review_again(&mut self, old: &Statement) -> Result<Arc<Statement>, Denial> {
        match &old.origin {
            Origin::Parse | Origin::Execute(_) => self.review_one(&old.source, &old.declared),
            Origin::Prepare => {
                let approved = self.review(&old.source, Protocol::Extended, &[])?;
                match approved.as_slice() {
                    [one] if let Action::Prepare(prepare) = one.plan.action() => self.prepared_by(&old.source, one, prepare),
                    _ => Err(Denial::disagreement("a PREPARE that is none any more")), // tidy: not a syntax kind
                }
            }
        }
    }

    /// EPOCH: whether a review of this statement now would say the same.
    pub fn is_current(&mut self, statement: &Statement) -> bool {
        let same_target = match (statement.target(), statement.plan.action()) {
            (Some(target), Action::Execute { name, .. }) => self.names.get(name).is_some_and(|now| Arc::ptr_eq(now, target)),
            (_, _) => true,
        };
        let epoch = self.database.gate.epoch();
        same_target
            && statement.target().is_none_or(|target| target.plan.epoch() == epoch)
            && statement.plan.epoch() == epoch
            && (self.means_the_same(statement) || crate::mutant!("session.plans-for-any-search-path"))
            && statement.serves(self.principal.tenant())
    }

    /// Whether names and constants mean what they meant when it was reviewed.
    fn means_the_same(&mut self, statement: &Statement) -> bool {
        let path = self.search_path();
        let Under { search_path, settings, roles } = &statement.under;
        let same_roles = Arc::ptr_eq(roles, &self.principal.roles)
            || *roles == self.principal.roles
            || crate::mutant!("watch.decided-for-other-roles");
        same_roles
            && (Arc::ptr_eq(search_path, &path) || *search_path == path)
            && settings.read_by() == self.settings.effective().read_by()
    }

    /// In a failed transaction only its end may be prepared and bound.
    fn is_out_of_place(&self, statement: &Statement) -> bool {
        let ends = match statement.plan.action() {
            Action::Transaction(command) => match command {
                TransactionCommand::Commit { .. } | TransactionCommand::Rollback { .. } | TransactionCommand::RollbackTo(_) => {
                    true
                }
                TransactionCommand::Begin(_) | TransactionCommand::Savepoint(_) | TransactionCommand::Release(_) => false,
            },
            Action::Empty => true,
            Action::Forward
            | Action::Set { .. }
            | Action::Configure { .. }
            | Action::Reset { .. }
            | Action::ChooseTenant { .. }
            | Action::Emulate(_)
            | Action::Prepare(_)
            | Action::Execute { .. } => false,
        };
        self.status == TransactionStatus::Failed && !self.batch.sent && !ends
    }

    /// Sends Parse where the backend does not have the statement. `true`: it has it, or will have it by then, and no Parse
    /// was sent.
    pub fn ensure_prepared(&mut self, statement: &Arc<Statement>, by: ParseFor) -> bool {
        if let Some(target) = statement.target() {
            self.ensure_prepared(target, ParseFor::Proxy);
        }
        let (Some(upstream), Some(lease)) = (&statement.upstream, &mut self.lease) else { return true };
        if lease.prepared.touch(upstream.id) || self.parsing.contains(&upstream.id) {
            return true;
        }
        if let Some(i) = self.doomed.iter().position(|id| *id == upstream.id) {
            // Evicted, but not closed yet: it stays.
            self.doomed.swap_remove(i);
            self.note_prepared(upstream.id);
            return true;
        }
        let text = &upstream.text;
        request::put_parse_with(&mut lease.outbox, &upstream.name, |out| out.put_slice(text), &upstream.types);
        self.parsing.push(upstream.id);
        self.queue.push_back(Expected::Parse { statement: statement.clone(), by });
        false
    }

    pub async fn bind(&mut self, bind: &Bind<'_>) -> Step {
        if !self.settled(b'B').await? {
            return Ok(());
        }
        let statement = match self.statement_to_bind(bind) {
            Ok(statement) => statement,
            Err(denial) => {
                self.deny(denial, Protocol::Extended);
                return Ok(());
            }
        };
        let Action::Configure { name, parameter, local } = statement.plan.action() else {
            return self.bind_statement(statement, bind).await;
        };
        let inlined = match self.configured(name, *parameter, *local, bind) {
            Ok(inlined) => inlined,
            Err(denial) => {
                self.deny(denial, Protocol::Extended);
                return Ok(());
            }
        };
        let (formats, values, result_formats) = (Formats::new(), SmallVec::new(), bind.result_formats.clone());
        self.bind_statement(inlined, &Bind { portal: bind.portal, statement: "", formats, values, result_formats }).await
    }

    /// The SET that a Bind of `SELECT set_config(name, $n, local)` is.
    fn configured(&mut self, name: &str, parameter: u16, local: bool, bind: &Bind<'_>) -> Result<Arc<Statement>, Denial> {
        let value = bind.values.get(usize::from(parameter) - 1).copied().flatten();
        let value = value.and_then(|value| std::str::from_utf8(value).ok());
        let value = value.ok_or_else(|| Denial::unsupported(format!("set_config of \"{name}\" needs a text")))?;
        let mut text = String::new();
        super::settings::write_set_config(name, value, local, &mut text);
        let statement = self.review_one(&text, &[])?;
        let is_set = matches!(statement.plan.action(), Action::Set { .. });
        let refused = || Denial::policy(format!("parameter \"{name}\" cannot be set so")).hint("use SET");
        is_set.then_some(statement).ok_or_else(refused)
    }

    async fn bind_statement(&mut self, statement: Arc<Statement>, bind: &Bind<'_>) -> Step {
        let Some(upstream) = &statement.upstream else {
            match bound_values(&statement, bind) {
                Ok(values) => {
                    self.names.bind(
                        bind.portal,
                        Portal { statement, values, copy: None, rows: WrittenRows::default(), told: Box::default() },
                    );
                    self.answer(reply::put_bind_complete);
                }
                Err(error) => self.refuse(error),
            }
            return Ok(());
        };
        // A backend first: what is bound borrows the principal, which waiting must not.
        if let Err(denial) = self.lease().await? {
            self.deny(denial, Protocol::Extended);
            return Ok(());
        }
        let parameters = parameters_of(bind, &statement);
        let (plan, source, literals) = (&statement.plan, &statement.source, &statement.literals);
        let told = match statement.target() {
            Some(target) => self.told_of_execute(target, source),
            None => self.told(plan, &Values { source, literals, parameters: Parameters::Bound(&parameters) }),
        };
        let told = match told {
            Ok(told) => told,
            Err(denial) => {
                self.deny(denial, Protocol::Extended);
                return Ok(());
            }
        };
        let (tenant, copy, rows) =
            match plan.bind(source, literals, Parameters::Bound(&parameters), &self.principal, &self.own_sequences) {
                Ok(bound) => {
                    let rows = WrittenRows::of(plan.writes(), &bound.values());
                    (bound.tenant_parameter().map(SmallVec::<[u8; 32]>::from_slice), bound.copy_in(), rows)
                }
                Err(denial) => {
                    self.deny(denial, Protocol::Extended);
                    return Ok(());
                }
            };
        self.ensure_prepared(&statement, ParseFor::Proxy);
        let Some(lease) = &mut self.lease else { return Ok(()) };
        if let Err(error) = request::put_bind(&mut lease.outbox, bind.portal, &upstream.name, bind, tenant.as_deref()) {
            self.refuse(error);
            return Ok(());
        }
        self.queue.push_back(Expected::Bind { id: upstream.id });
        self.batch.sent = true;
        let values = LocalValues::default();
        self.names.bind(bind.portal, Portal { statement: statement.clone(), values, copy, rows, told: told.into() });
        Ok(())
    }

    /// The statement that a Bind names, reviewed again where its review has grown old (EPOCH).
    pub fn statement_to_bind(&mut self, bind: &Bind<'_>) -> Result<Arc<Statement>, Denial> {
        let known = self.names.get(bind.statement).cloned();
        let mut statement = known.ok_or_else(|| Denial::new(Reason::Invalid, no_statement(bind.statement)))?;
        if !self.is_current(&statement) {
            statement = self.review_again(&statement)?;
            self.names.insert(bind.statement, statement.clone());
        }
        let wanted = statement.parameters();
        if bind.values.len() != wanted {
            let message = format!(
                "bind message supplies {} parameters, but prepared statement \"{}\" requires {wanted}",
                bind.values.len(),
                bind.statement
            );
            return Err(Denial::invalid(sqlstate::PROTOCOL_VIOLATION, message));
        }
        if self.is_out_of_place(&statement) {
            return Err(Denial::new(Reason::Invalid, in_failed_transaction()));
        }
        Ok(statement)
    }

    pub async fn describe(&mut self, target: Target<'_>) -> Step {
        if !self.settled(b'D').await? {
            return Ok(());
        }
        let (statement, portal) = match target {
            Target::Statement(name) => match self.names.get(name) {
                Some(statement) => (statement.clone(), None),
                None => {
                    self.refuse(no_statement(name));
                    return Ok(());
                }
            },
            Target::Portal(name) => match self.names.portal(name) {
                Some(portal) => (portal.statement.clone(), Some(name)),
                None => {
                    self.describe_cursor(name);
                    return Ok(());
                }
            },
        };
        let Some(upstream) = &statement.upstream else {
            self.describe_own(&statement, portal.is_some());
            return Ok(());
        };
        if let Err(denial) = self.lease().await? {
            self.deny(denial, Protocol::Extended);
            return Ok(());
        }
        if portal.is_none() {
            self.ensure_prepared(&statement, ParseFor::Proxy);
        }
        let Some(lease) = &mut self.lease else { return Ok(()) };
        match portal {
            Some(name) => {
                request::put_describe(&mut lease.outbox, Target::Portal(name));
                self.queue.push_back(Expected::DescribePortal { hides_rows: statement.hides_rows() });
            }
            None => {
                request::put_describe(&mut lease.outbox, Target::Statement(&upstream.name));
                self.queue.push_back(Expected::DescribeStatement { statement: statement.clone() });
            }
        }
        self.batch.sent = true;
        Ok(())
    }

    /// A portal that no Bind made: a cursor of this session's DECLARE, if it is there. Its query was reviewed then.
    fn describe_cursor(&mut self, name: &str) {
        let Some(lease) = self.lease.as_mut().filter(|_| !name.is_empty()) else {
            self.refuse(no_portal(name));
            return;
        };
        request::put_describe(&mut lease.outbox, Target::Portal(name));
        self.queue.push_back(Expected::DescribePortal { hides_rows: false });
        self.batch.sent = true;
    }

    fn describe_own(&mut self, statement: &Statement, portal: bool) {
        let field = column(statement.plan.action());
        let types: SmallVec<[u32; 4]> = (0..usize::from(statement.plan.parameters()))
            .map(|i| match (statement.parameter_type(i), statement.plan.action()) {
                (0, Action::ChooseTenant { lasts: Lasts::Parameter(n), .. }) if usize::from(*n) == i + 1 => BOOL,
                (0, _) => TEXT,
                (known, _) => known,
            })
            .collect();
        self.answer(|out| {
            if !portal {
                reply::put_parameter_description(out, &types);
            }
            match field {
                Some(field) => reply::put_row_description(out, &[field]),
                None => reply::put_no_data(out),
            }
        });
    }

    pub async fn execute(&mut self, execute: Execute<'_>) -> Step {
        let Some(portal) = self.names.portal(execute.portal).cloned() else {
            self.refuse(no_portal(execute.portal));
            return Ok(());
        };
        let statement = portal.statement;
        if let Action::Prepare(prepare) = statement.plan.action() {
            return self.execute_prepare(&statement, prepare).await;
        }
        if !is_forwarded(statement.plan.action()) {
            return self.execute_own(&statement, &portal.values).await;
        }
        if let Err(denial) = self.check_hold(statement.plan.effect() == Effect::Pins) {
            self.deny(denial, Protocol::Extended);
            return Ok(());
        }
        // The portal was made on this backend in this transaction.
        if self.lease.is_none() {
            self.refuse(no_portal(execute.portal));
            return Ok(());
        }
        let executed = statement.target().map_or(&statement.plan, |target| &target.plan);
        let audit = match self.open_recorded(executed, Protocol::Extended, portal.told.into()).await {
            Ok(audit) => audit,
            Err(denial) => {
                self.deny(denial, Protocol::Extended);
                return Ok(());
            }
        };
        self.statements += 1;
        self.pin(statement.plan.effect() == Effect::Pins);
        let sent = Sent { audit, hides_rows: statement.hides_rows(), ..Sent::of(&statement.plan, self.statements, portal.copy) };
        self.intend(&statement.plan, &portal.rows);
        if let Some(target) = statement.target() {
            self.intend(&target.plan, &WrittenRows::default());
        }
        // Rows that are not shown must all come, or there would be no command tag.
        let max_rows = if sent.hides_rows { 0 } else { execute.max_rows };
        let Some(lease) = &mut self.lease else { return Ok(()) };
        request::put_execute(&mut lease.outbox, execute.portal, max_rows);
        self.own_sequences.advance(&statement.target().unwrap_or(&statement).plan);
        self.tell(Command::of_word(statement.plan.command()), Protocol::Extended, Verdict::Permitted);
        self.queue.push_back(Expected::Execute { sent, statement });
        self.batch.sent = true;
        Ok(())
    }

    /// What the proxy does itself depends on all that came before it.
    async fn execute_own(&mut self, statement: &Statement, values: &LocalValues) -> Step {
        if !self.settle(b'E').await? {
            return Ok(());
        }
        if self.status == TransactionStatus::InTransaction {
            if let Err(error) = self.check_reset(statement.plan.action()) {
                self.refuse(error);
                return Ok(());
            }
            if self.emulate_in_block(statement) {
                return Ok(());
            }
        }
        let mut answer = BytesMut::new();
        match self.run_own(&statement.plan, values, Protocol::Extended, &mut answer) {
            Ok(()) => {
                self.tell(Command::of_word(statement.plan.command()), Protocol::Extended, Verdict::Permitted);
                self.answer(|out| out.unsplit(answer));
            }
            Err(error) => self.refuse(error),
        }
        Ok(())
    }

    /// RESET ALL and CLOSE ALL inside a transaction: the server does them, in a query of the proxy's own, which inside a block ends
    /// nothing. All before it is answered. `false`: it is neither.
    fn emulate_in_block(&mut self, statement: &Statement) -> bool {
        let (sql, tag) = match statement.plan.action() {
            Action::Emulate(Emulation::ResetAll) => (self.settings.reset_all_text(), "RESET"),
            Action::Emulate(Emulation::CloseAll) => ("CLOSE ALL".to_owned(), "CLOSE CURSOR ALL"),
            _ => return false, // tidy: not a syntax kind
        };
        let Some(lease) = &mut self.lease else { return false };
        request::put_query(&mut lease.outbox, &sql);
        lease.expect_ready();
        self.queue.push_back(Expected::Prelude { wanted: lease.settings.clone(), in_block: true });
        if tag == "RESET" {
            self.settings.reset_all();
            self.set_tenant(None, false);
        }
        self.statements += 1;
        self.batch.sent = true;
        self.tell(Command::of_word(statement.plan.command()), Protocol::Extended, Verdict::Permitted);
        self.answer(|out| reply::put_command_complete(out, tag));
        true
    }

    pub async fn close(&mut self, target: Target<'_>) -> Step {
        match target {
            Target::Statement(name) => {
                // Where something before it fails, it is skipped, and the statement stays.
                if self.names.get(name).is_some() && !self.settle(b'C').await? {
                    return Ok(());
                }
                self.names.remove(name);
            }
            Target::Portal(name) => {
                // One that no Bind made may be a cursor of DECLARE.
                let known = self.names.close_portal(name);
                let forwarded = known.map_or(!name.is_empty(), |p| p.statement.upstream.is_some());
                if let Some(lease) = self.lease.as_mut().filter(|_| forwarded) {
                    request::put_close(&mut lease.outbox, target);
                    self.queue.push_back(Expected::ClosePortal);
                    self.batch.sent = true;
                    return Ok(());
                }
            }
        }
        self.answer(reply::put_close_complete);
        Ok(())
    }
}

/// The values of the parameters that choose a tenant.
fn bound_values(statement: &Statement, bind: &Bind<'_>) -> Result<LocalValues, SqlError> {
    let mut values = LocalValues::default();
    let Action::ChooseTenant { value, lasts, form: _ } = statement.plan.action() else { return Ok(values) };
    let index = |n: &u16| usize::from(*n).saturating_sub(1);
    if let TenantValue::Parameter(n) = value {
        // Of type text, whose binary format is its text.
        let value = bind.values.get(index(n)).copied().flatten();
        values.tenant = value.map(|bytes| crate::wire::cursor::utf8(bytes).map(Box::from)).transpose()?;
    }
    if let Lasts::Parameter(n) = lasts {
        // NULL is false, as for set_config.
        values.local = match bind.values.get(index(n)).copied().flatten() {
            None => false,
            Some(bytes) => boolean(bytes, bind.format(index(n)))?,
        };
    }
    Ok(values)
}

/// A boolean's value; of the texts that `boolin` takes, those that drivers send.
fn boolean(bytes: &[u8], format: Format) -> Result<bool, SqlError> {
    let invalid = |code, message: String| Err(SqlError::new(code, message));
    match (format, bytes) {
        (Format::Binary, [byte]) => Ok(*byte != 0),
        (Format::Binary, _) => invalid(sqlstate::PROTOCOL_VIOLATION, "incorrect binary data format in bind parameter".to_owned()),
        (Format::Text, _) => match bytes.to_ascii_lowercase().as_slice() {
            b"t" | b"true" | b"on" | b"yes" | b"y" | b"1" => Ok(true),
            b"f" | b"false" | b"off" | b"no" | b"n" | b"0" => Ok(false),
            other => {
                let shown = String::from_utf8_lossy(other);
                invalid(sqlstate::INVALID_PARAMETER_VALUE, format!("invalid input syntax for type boolean: \"{shown}\""))
            }
        },
    }
}

/// pg_type.oid of what the proxy itself takes as parameters.
const BOOL: u32 = 16;
const TEXT: u32 = 25;

/// 34000, as PostgreSQL says it.
fn no_portal(name: &str) -> SqlError {
    SqlError::new(sqlstate::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
}

/// The values that are bound.
pub fn parameters_of<'a>(bind: &Bind<'a>, statement: &Statement) -> SmallVec<[Parameter<'a>; 8]> {
    let parameter = |(i, value): (usize, &Option<&'a [u8]>)| Parameter {
        value: *value,
        binary: bind.format(i) == Format::Binary,
        type_oid: statement.parameter_type(i),
    };
    bind.values.iter().enumerate().map(parameter).collect()
}
