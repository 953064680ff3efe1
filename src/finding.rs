//! What review finds: why a statement is refused, and remarks that `explain` shows.

use std::borrow::Cow;
use std::fmt;

use crate::error::{SqlError, SqlState, sqlstate};

/// Why a statement is refused; the label of metrics and of the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// PostgreSQL would not accept it either: syntax, unknown names.
    Invalid,
    /// A policy denies it: relation, function, setting, write outside the tenant.
    Policy,
    /// Valid SQL that cannot be secured (yet).
    Unsupported,
    /// The two parsers, or the output check, disagree: an attack or a bug.
    Disagreement,
    /// A cap on bytes, depth or time.
    Limit,
    /// No tenant was chosen, or one that the login may not have.
    Tenant,
    /// A threat rule has found something, and a policy says that it is refused.
    Threat,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Invalid => "invalid",
            Reason::Policy => "policy",
            Reason::Unsupported => "unsupported",
            Reason::Disagreement => "disagreement",
            Reason::Limit => "limit",
            Reason::Tenant => "tenant",
            Reason::Threat => "threat",
        }
    }
}

/// How the audit log tells values of columns of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    pub class: Box<str>,
    pub how: Telling,
    /// How long they can be read; `None`: as long as the records are there.
    pub days: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// As pseudonyms: HMAC-SHA256.
    Hmac,
    /// AES-256-GCM
    Encrypt,
}

/// What is done about what a rule finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Watch {
    Off,
    /// It is counted, and recorded.
    #[default]
    Shadow,
    /// The statement is refused.
    Enforce,
}

impl Watch {
    pub const WORDS: [&'static str; 3] = ["off", "shadow", "enforce"];

    pub fn as_str(self) -> &'static str {
        match self {
            Watch::Off => "off",
            Watch::Shadow => "shadow",
            Watch::Enforce => "enforce",
        }
    }

    pub fn of_word(word: &str) -> Option<Watch> {
        match word {
            "off" => Some(Watch::Off),
            "shadow" => Some(Watch::Shadow),
            "enforce" => Some(Watch::Enforce),
            _ => None,
        }
    }
}

/// Whether a text can be looked for in answers: none of its length is there by chance, and it is spelt alike in every format.
pub fn is_canary_text(text: &str) -> bool {
    text.len() >= 12 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@'))
}

/// What comes of it, where a rule enforces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// The statement is refused.
    #[default]
    Deny,
    /// It runs, and all records of the session say from then on which rule it was.
    Tag,
    /// It runs, and this login's statements are slow for a minute: one a second in each session.
    Throttle,
    /// The statement is refused, and the session ends.
    EndSession,
    /// The statement is refused, and so is all that this login asks for 15 minutes.
    Quarantine,
}

impl Action {
    pub const WORDS: [&'static str; 5] = ["deny", "tag", "throttle", "end-session", "quarantine"];
    const ALL: [Action; 5] = [Action::Deny, Action::Tag, Action::Throttle, Action::EndSession, Action::Quarantine];

    pub fn as_str(self) -> &'static str {
        match self {
            Action::Deny => "deny",
            Action::Tag => "tag",
            Action::Throttle => "throttle",
            Action::EndSession => "end-session",
            Action::Quarantine => "quarantine",
        }
    }

    /// Whether the statement does not run.
    pub fn refuses(self) -> bool {
        match self {
            Action::Tag | Action::Throttle => false,
            Action::Deny | Action::EndSession | Action::Quarantine => true,
        }
    }

    pub fn of_word(word: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.as_str() == word)
    }
}

/// The decision not to run a statement, with what the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub reason: Reason,
    /// Boxed: the way of a permitted statement must not carry its size.
    pub error: Box<SqlError>,
}

impl Denial {
    pub fn new(reason: Reason, error: SqlError) -> Self {
        Denial { reason, error: Box::new(error) }
    }

    /// 42501: a policy denies it.
    pub fn policy(message: impl Into<Cow<'static, str>>) -> Self {
        Denial::new(Reason::Policy, SqlError::new(sqlstate::INSUFFICIENT_PRIVILEGE, message))
    }

    /// 0A000: valid SQL that cannot be secured; `message` names the construct.
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Denial::new(Reason::Unsupported, SqlError::new(sqlstate::FEATURE_NOT_SUPPORTED, message))
    }

    /// An error that PostgreSQL itself would raise.
    pub fn invalid(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Denial::new(Reason::Invalid, SqlError::new(sqlstate, message))
    }

    /// 0A000 because two readings of the statement differ. `what` is for the log; the client learns only that it was refused.
    pub fn disagreement(what: impl fmt::Display) -> Self {
        tracing::warn!(%what, "two readings of a statement disagree");
        Denial::new(
            Reason::Disagreement,
            SqlError::new(sqlstate::FEATURE_NOT_SUPPORTED, format!("statement cannot be secured: {what}")),
        )
    }

    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.error.hint = Some(hint.into());
        self
    }

    /// As [`at`](Self::at), of a syntax node: `location` is a byte offset, negative where it is not known. Whoever knows the
    /// client's text counts its characters.
    pub fn at_node(self, location: i32) -> Self {
        self.at(u32::try_from(location).ok().and_then(|l| l.checked_add(1)))
    }

    /// `position`: 1-based, in characters of the client's text.
    pub fn at(mut self, position: Option<u32>) -> Self {
        if self.error.position.is_none() {
            self.error.position = position;
        }
        self
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)
    }
}

impl std::error::Error for Denial {}
