//! Makes the server fail at an exact place in a stream of messages, so that a statement that the proxy refuses has the
//! effect of one that failed: what was sent before it is undone, what comes after it is skipped.
//!
//! The poison is an Execute of a portal that cannot exist: its name is random for each process.

use std::sync::OnceLock;

use bytes::BytesMut;
use rand::Rng;

use crate::wire::backend::ErrorFields;
use crate::wire::frontend;

fn portal() -> &'static str {
    static PORTAL: OnceLock<String> = OnceLock::new();
    PORTAL.get_or_init(|| format!("bulkhead_refused_{:032x}", rand::rng().random::<u128>()))
}

/// Appends the poison.
pub fn put(out: &mut BytesMut) {
    frontend::put_execute(out, portal(), 0);
}

/// Appends a CopyFail that is told from a client's: the COPY fails at this place, for a reason that the proxy has.
pub fn put_copy_fail(out: &mut BytesMut) {
    frontend::put_copy_fail(out, portal());
}

/// Whether an ErrorResponse is the poison's.
pub fn is_poison(body: &[u8]) -> bool {
    let fields = ErrorFields::new(body);
    let message = fields.get(b'M').unwrap_or_default();
    let name = portal().as_bytes();
    message.windows(name.len()).any(|w| w == name)
}
