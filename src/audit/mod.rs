//! The audit log. Not built yet but for its receipts, which every statement needs already: an absent log is a null log.

/// Proof that the log took (or, where there is none, waived) the record of one statement.
#[derive(Debug)]
pub struct Receipt {
    /// Number of the record; 0 in the null log.
    pub sequence: u64,
}

/// Where records go.
#[derive(Debug, Default)]
pub enum Log {
    /// No `[audit]` section: receipts without records.
    #[default]
    Null,
}

impl Log {
    /// Records the intent to run a statement.
    pub fn intend(&self) -> Receipt {
        match self {
            Log::Null => Receipt { sequence: 0 },
        }
    }
}
