//! From an accepted socket to an authenticated client: negotiation, SCRAM, startup parameters.
//! INVARIANT (AUTHENTICATED): [`establish`] is the one maker of an [`Established`], and the serve loops take nothing else.

use std::sync::{Arc, PoisonError};

use bytes::Buf;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::cancel::Registration;
use super::declared::{self, Declared, admit_purpose};
use super::recorded::seconds;
use super::settings::{self, Settings, Tracker};
use super::shared::{Database, Login, Place, Shared};
use super::socket::{Client, Socket};
use super::tenant;
use crate::audit::record::Record;
use crate::audit::{Trail, Who, without_quotes};
use crate::config::UserAccess;
use crate::error::{Severity, SqlError, sqlstate};
use crate::event::Event;
use crate::finding::Watch;
use crate::gate::{Context, Protocol};
use crate::plan::{Action, Declaration, Emulation, TenantValue};
use crate::principal::{Access, Principal};
use crate::rules;
use crate::wire::startup::{FirstPacket, Startup};
use crate::wire::{backend as reply, frame, frontend, scram, startup};

/// A client that has proved who it is.
#[derive(Debug)]
pub struct Established {
    pub client: Client,
    pub principal: Principal,
    pub login: Arc<Login>,
    pub database: Arc<Database>,
    pub settings: Tracker,
    pub registration: Registration,
    /// Among the user's clients, and the database's.
    pub places: (Place, Place),
    /// Its records in the audit log.
    pub trail: Trail,
    /// application_name of the startup message.
    pub application: Option<Box<str>>,
    /// What it reads for.
    pub purpose: Option<Box<str>>,
}

/// Why no session begins.
#[derive(Debug)]
pub enum Ended {
    /// A cancel request was served, or the client left: nothing to say.
    Quietly,
    /// The client is told.
    Refused(Box<Client>, SqlError),
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        tracing::debug!(%error, "client left during startup");
        Ended::Quietly
    }
}

/// Takes a socket through startup. The caller sets the one deadline, from accept to here.
///
/// # Errors
/// No session begins; the caller tells the client why.
pub async fn establish(socket: TcpStream, shared: &Arc<Shared>) -> Result<Established, Ended> {
    let (mut client, startup) = negotiate(Client::new(socket), shared).await?;
    match admit(&mut client, &startup, shared).await {
        Ok(Admitted { principal, login, database, settings, places, purpose }) => {
            let registration = shared.cancels.register(startup.takes_long_cancel_keys());
            let trail = Trail::begin(
                shared.log.as_ref(),
                &Who {
                    user: &principal.user,
                    database: &database.name,
                    roles: &principal.roles,
                    client: &client.socket.peer(),
                    application: startup.get("application_name"),
                    is_encrypted: client.socket.is_tls(),
                    is_unrestricted: principal.is_unrestricted(),
                },
            );
            let application = startup.get("application_name").map(Into::into);
            Ok(Established { client, principal, login, database, settings, registration, places, trail, application, purpose })
        }
        Err(Failure::Gone) => Err(Ended::Quietly),
        Err(Failure::Refused(error)) => {
            if let Some(log) = &shared.log {
                // No longer than a name may be: nobody has proved anything yet.
                let user = startup.get("user").map(|user| &user[..user.floor_char_boundary(63)]);
                let record = Record::new("login_refused").maybe("user", user).text("client", &client.socket.peer());
                let message = without_quotes(error.sqlstate.0, &error.message);
                log.note_refused_login(record.text("sqlstate", error.sqlstate.0).text("message", message));
            }
            Err(Ended::Refused(Box::new(client), error))
        }
    }
}

/// Reads until the startup message. SSLRequest and GSSENCRequest are answered at most once each.
async fn negotiate(mut client: Client, shared: &Shared) -> Result<(Client, Startup), Ended> {
    let (mut ssl_asked, mut gss_asked) = (false, false);
    loop {
        let packet = match startup::parse(&client.inbox) {
            Ok(Some((packet, length))) => {
                client.inbox.advance(length);
                packet
            }
            Ok(None) => {
                if client.fill().await? == 0 {
                    return Err(Ended::Quietly);
                }
                continue;
            }
            Err(error) => return Err(Ended::Refused(Box::new(client), error)),
        };
        match packet {
            FirstPacket::Cancel(request) => {
                shared.cancels.cancel(request.process_id, &request.key).await;
                return Err(Ended::Quietly);
            }
            FirstPacket::Ssl if !ssl_asked && !client.socket.is_tls() => {
                ssl_asked = true;
                client = answer_ssl(client, shared).await?;
            }
            FirstPacket::GssEnc if !gss_asked => {
                gss_asked = true;
                client.outbox.extend_from_slice(b"N");
                client.flush().await?;
            }
            FirstPacket::Ssl | FirstPacket::GssEnc => {
                let error = SqlError::fatal(sqlstate::PROTOCOL_VIOLATION, "encryption was negotiated already");
                return Err(Ended::Refused(Box::new(client), error));
            }
            FirstPacket::Startup(startup) => return Ok((client, startup)),
        }
    }
}

async fn answer_ssl(mut client: Client, shared: &Shared) -> Result<Client, Ended> {
    let Some(config) = shared.tls.load_full() else {
        client.outbox.extend_from_slice(b"N");
        client.flush().await?;
        return Ok(client);
    };
    // Bytes that came before the handshake came in plain text, whoever sent them (CVE-2021-3935).
    if !client.inbox.is_empty() {
        tracing::warn!("unencrypted data after an SSL request");
        return Err(Ended::Quietly);
    }
    client.outbox.extend_from_slice(b"S");
    client.flush().await?;
    let Client { socket, inbox, outbox } = client;
    let socket = match socket {
        Socket::Plain(stream) => Socket::Tls(Box::new(TlsAcceptor::from(config).accept(stream).await?)),
        tls @ Socket::Tls(_) => tls,
    };
    Ok(Client { socket, inbox, outbox })
}

/// Why a client is not admitted.
enum Failure {
    Gone,
    Refused(SqlError),
}

impl From<std::io::Error> for Failure {
    fn from(_: std::io::Error) -> Self {
        Failure::Gone
    }
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        Failure::Refused(SqlError { severity: Severity::Fatal, ..error })
    }
}

struct Admitted {
    principal: Principal,
    login: Arc<Login>,
    database: Arc<Database>,
    settings: Tracker,
    places: (Place, Place),
    purpose: Option<Box<str>>,
}

async fn admit(client: &mut Client, startup: &Startup, shared: &Shared) -> Result<Admitted, Failure> {
    if shared.tls_required && !client.socket.is_tls() {
        return Err(SqlError::fatal(sqlstate::INVALID_AUTHORIZATION, "connections without TLS are not allowed").into());
    }
    let user = startup.get("user").filter(|u| !u.is_empty());
    let user =
        user.ok_or(SqlError::fatal(sqlstate::INVALID_AUTHORIZATION, "no PostgreSQL user name specified in startup packet"))?;
    let replication = startup.get("replication").unwrap_or("off");
    if !matches!(replication.to_ascii_lowercase().as_str(), "off" | "false" | "no" | "0" | "f" | "n" | "of") {
        return Err(SqlError::fatal(sqlstate::FEATURE_NOT_SUPPORTED, "replication connections are not supported").into());
    }
    if startup.needs_negotiation() {
        reply::put_negotiate(&mut client.outbox, startup.agreed_minor(), &startup.protocol_options);
    }
    let name = startup.get("database").filter(|d| !d.is_empty()).unwrap_or(user);
    let login = match authenticate(client, user, shared).await {
        Ok(login) if !is_shut_out(&login, name, client, startup, shared) => login,
        // Who guesses does not learn that it has guessed well.
        Ok(_) => return Err(wrong_password(user).into()),
        Err(failure) => {
            if let (Failure::Refused(error), Some(login)) = (&failure, shared.logins.get(user))
                && error.sqlstate == sqlstate::INVALID_PASSWORD
            {
                note_failed_login(login, name, client, startup, shared);
            }
            return Err(failure);
        }
    };
    if login.lately.is_shut(seconds) {
        return Err(
            SqlError::fatal(sqlstate::INVALID_AUTHORIZATION, format!("role \"{user}\" is not permitted to log in")).into()
        );
    }
    let database = open(&login, name, shared)?;
    let full = |what: &str, name: &str| {
        SqlError::fatal(sqlstate::TOO_MANY_CONNECTIONS, format!("too many connections for {what} \"{name}\""))
    };
    let places =
        (login.places.take().ok_or_else(|| full("role", user))?, database.places.take().ok_or_else(|| full("database", name))?);
    let mut principal = principal(&login, &database);
    let mut purpose = None;
    let settings = if principal.is_unrestricted() {
        settings::from_pairs(wishes(startup)?)
    } else {
        review_wishes(wishes(startup)?, &mut principal, &mut purpose, &login, &database)?
    };
    Ok(Admitted { principal, login, database, settings: Tracker::new(settings), places, purpose })
}

/// SCRAM-SHA-256. A user that does not exist goes through the same exchange and fails with the same words.
async fn authenticate(client: &mut Client, user: &str, shared: &Shared) -> Result<Arc<Login>, Failure> {
    let login = shared.logins.get(user);
    let verifier = shared.logins.verifier(login.map(AsRef::as_ref));
    reply::put_authentication_scram(&mut client.outbox);
    client.flush().await?;
    let body = authentication_message(client).await?;
    let initial = frontend::sasl_initial(&body)?;
    if initial.mechanism != scram::MECHANISM {
        return Err(
            SqlError::fatal(sqlstate::PROTOCOL_VIOLATION, "client selected an invalid SASL authentication mechanism").into()
        );
    }
    let first = initial.data.ok_or(SqlError::fatal(sqlstate::PROTOCOL_VIOLATION, "malformed SCRAM message"))?;
    let (exchange, answer) = scram::Server::start(user, verifier, &shared.mock_secret, frontend::sasl_response(first)?)?;
    reply::put_authentication(&mut client.outbox, &reply::Authentication::SaslContinue(answer.as_bytes()));
    client.flush().await?;
    let body = authentication_message(client).await?;
    let proof = exchange.finish(frontend::sasl_response(&body)?)?;
    reply::put_authentication(&mut client.outbox, &reply::Authentication::SaslFinal(proof.as_bytes()));
    reply::put_authentication(&mut client.outbox, &reply::Authentication::Ok);
    match login {
        Some(login) => Ok(login.clone()),
        // `finish` refuses whom it does not know; this keeps it so whatever it does.
        None => Err(wrong_password(user).into()),
    }
}

fn wrong_password(user: &str) -> SqlError {
    SqlError::fatal(sqlstate::INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""))
}

/// What the rule `logins` does for a login and the database that is asked for.
fn mode_of_logins(login: &Login, database: &str, startup: &Startup, shared: &Shared) -> Watch {
    let Some(database) = shared.databases.get(database) else { return Watch::Off };
    let roles: Vec<Box<str>> = login.user.roles.iter().map(|role| Box::from(role.as_str())).collect();
    let modes = database.gate.threat_modes(&roles, startup.get("application_name"));
    rules::named(rules::threat::logins::RULE.name).map_or(Watch::Off, |rule| modes.of_rule(rule))
}

/// Whether too many have tried from there, who do not know the password.
fn is_shut_out(login: &Login, database: &str, client: &Client, startup: &Startup, shared: &Shared) -> bool {
    let Some(address) = client.socket.address() else { return false };
    let mut attempts = login.attempts.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(attempts) = attempts.as_deref_mut() else { return false };
    if attempts.are_too_many(address, seconds()) && mode_of_logins(login, database, startup, shared) == Watch::Enforce {
        return true;
    }
    attempts.forget(address);
    false
}

fn note_failed_login(login: &Login, database: &str, client: &Client, startup: &Startup, shared: &Shared) {
    let Some(address) = client.socket.address() else { return };
    let mut attempts = login.attempts.lock().unwrap_or_else(PoisonError::into_inner);
    if !attempts.get_or_insert_default().note_failed(address, seconds()) {
        return;
    }
    let (rule, mode) = (rules::threat::logins::RULE.name, mode_of_logins(login, database, startup, shared));
    if mode == Watch::Off {
        return;
    }
    shared.events.emit(Event::ThreatFound { rule, mode });
    if let Some(log) = &shared.log {
        let record = Record::new("threat").text("user", &login.user.name).text("client", &client.socket.peer());
        log.note_refused_login(record.text("rule", rule).text("mode", mode.as_str()));
    }
}

async fn authentication_message(client: &mut Client) -> Result<bytes::BytesMut, Failure> {
    loop {
        match frame::take(&mut client.inbox, frame::CAP_AUTHENTICATION)? {
            Some(frame) if frame.tag == b'p' => return Ok(frame.body),
            Some(frame) if frame.tag == b'X' => return Err(Failure::Gone),
            Some(frame) => {
                let message = format!("expected SASL response, got message type {}", frame.tag);
                return Err(SqlError::fatal(sqlstate::PROTOCOL_VIOLATION, message).into());
            }
            None if client.fill().await? == 0 => return Err(Failure::Gone),
            None => {}
        }
    }
}

fn open(login: &Login, name: &str, shared: &Shared) -> Result<Arc<Database>, SqlError> {
    let database = shared
        .databases
        .get(name)
        .ok_or_else(|| SqlError::fatal(sqlstate::INVALID_CATALOG_NAME, format!("database \"{name}\" does not exist")))?;
    if !login.user.databases.is_empty() && !login.user.databases.iter().any(|d| d == name) {
        let error = SqlError::fatal(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied for database \"{name}\""));
        return Err(error.with_detail("User does not have CONNECT privilege."));
    }
    Ok(database.clone())
}

fn principal(login: &Login, database: &Database) -> Principal {
    let access = match &login.user.access {
        UserAccess::Fixed(tenant) => Access::Fixed(tenant.clone()),
        UserAccess::Shared { tenants, .. } => Access::Shared { tenants: tenants.clone(), chosen: None },
        UserAccess::Unrestricted { .. } => Access::Unrestricted,
    };
    let tenant_setting = match &login.user.access {
        UserAccess::Shared { setting, .. } => setting.as_deref().map(Into::into),
        UserAccess::Fixed(_) | UserAccess::Unrestricted { .. } => None,
    };
    Principal {
        tenant_setting,
        user: login.user.name.as_str().into(),
        database: database.name.clone(),
        roles: login.user.roles.iter().map(|r| Box::from(r.as_str())).collect(),
        access,
    }
}

/// The settings that a startup message asks for, in the order in which PostgreSQL applies them.
fn wishes(startup: &Startup) -> Result<Vec<(String, String)>, SqlError> {
    let mut wishes = match startup.get("options") {
        Some(options) => startup::parse_options(options)?,
        None => Vec::new(),
    };
    for (name, value) in &startup.parameters {
        if !matches!(name.as_str(), "user" | "database" | "options" | "replication") {
            wishes.push((name.clone(), value.clone()));
        }
    }
    for (name, value) in &wishes {
        if name.eq_ignore_ascii_case("client_encoding") && !is_utf8(value) {
            let message = format!("client_encoding \"{value}\" is not supported: only UTF8 is");
            return Err(SqlError::fatal(sqlstate::FEATURE_NOT_SUPPORTED, message));
        }
    }
    wishes.retain(|(name, _)| !name.eq_ignore_ascii_case("client_encoding"));
    Ok(wishes)
}

fn is_utf8(encoding: &str) -> bool {
    let plain: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
    matches!(plain.to_ascii_lowercase().as_str(), "utf8" | "unicode" | "auto" | "")
}

/// Each wish of a tenant's client is judged as the SET statement that it stands for.
fn review_wishes(
    wishes: Vec<(String, String)>,
    principal: &mut Principal,
    purpose: &mut Option<Box<str>>,
    login: &Login,
    database: &Database,
) -> Result<Settings, SqlError> {
    // PostgreSQL reads a setting that it has never heard of as NULL, and as empty once some session has used it: whoever may
    // read one finds it used, so that nobody learns what others did on the same backend.
    let own = database.gate.settings_for(&principal.roles);
    let mut settings = Tracker::new(settings::from_pairs(own.into_iter().map(|name| (name, String::new()))));
    for (name, value) in wishes {
        let mut sql = String::new();
        settings::write_set(&name, &settings::startup_values(&name, &value), &mut sql);
        let context = Context { principal, search_path: &[], protocol: Protocol::Simple, parameter_types: &[] };
        let approved = database.gate.review(&sql, &context).map_err(|denial| *denial.error)?;
        for one in &approved {
            match one.plan.action() {
                Action::Set { name, values, local: _ } => settings.set(name, values.as_deref(), false),
                Action::ChooseTenant { value: TenantValue::Text(value), .. } => choose(principal, login, value)?,
                Action::Emulate(Emulation::Declare { what: Declaration::Purpose, value: Some(value) }) => {
                    *purpose = Some(admit_purpose(&login.user, value)?);
                    let declared = Declared { purpose: purpose.clone(), glass_until: None };
                    principal.roles = declared::roles(&login.user, &declared).into();
                }
                Action::Forward
                | Action::Transaction(_)
                | Action::Configure { .. }
                | Action::Reset { .. }
                | Action::ChooseTenant { .. }
                | Action::Emulate(_)
                | Action::Prepare(_)
                | Action::Execute { .. }
                | Action::Empty => {
                    let message = format!("parameter \"{name}\" cannot be set at startup");
                    return Err(SqlError::fatal(sqlstate::FEATURE_NOT_SUPPORTED, message));
                }
            }
        }
    }
    Ok(settings.effective().clone())
}

fn choose(principal: &mut Principal, login: &Login, value: &str) -> Result<(), SqlError> {
    let tenant = tenant::admit(&principal.access, login.token_key(), value)?;
    match &mut principal.access {
        Access::Shared { tenants: _, chosen } => *chosen = Some(tenant),
        Access::Fixed(_) | Access::Unrestricted => {}
    }
    Ok(())
}
