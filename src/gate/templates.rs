//! What is known of templates, of one epoch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use super::{Context, Protocol};
use crate::plan::Plan;
use crate::sql::template::{Repeated, Template};

/// Keys hold everything that a decision depends on but the epoch, which is the table's own: see [`write_key`].
#[derive(Default)]
pub(super) struct Templates {
    known: DashMap<Box<[u8]>, Known, ahash::RandomState>,
    /// By [`Budget`].
    bytes: [AtomicUsize; 2],
}

impl Templates {
    pub(super) fn get(&self, key: &[u8]) -> Option<Known> {
        self.known.get(key).map(|k| k.value().clone())
    }

    pub(super) fn remember(&self, key: &[u8], known: Known) {
        let size = known.size(key);
        let budget = Budget::of(size);
        let bytes = &self.bytes[budget as usize];
        if bytes.fetch_add(size, Ordering::Relaxed) > budget.bytes() {
            self.known.retain(|key, known| Budget::of(known.size(key)) != budget);
            bytes.store(size, Ordering::Relaxed);
        }
        self.known.insert(key.into(), known);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self, budget: Budget) -> usize {
        self.bytes[budget as usize].load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
pub(super) enum Known {
    Plan(Arc<Plan>),
    /// Some literals decide something: the plan is kept under a key that holds them.
    Refine(Arc<Keep>),
    /// What looked repeated is not, or literals decide something: the whole statement's own key is the one.
    Unfolded,
}

/// What templates may take. Those of one budget are forgotten, all at once, when they take more: generated statements, each
/// long and unlike the others, do not make the ordinary ones forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Budget {
    Ordinary,
    Large,
}

impl Budget {
    /// `size`: of one template, in bytes.
    fn of(size: usize) -> Budget {
        if size > 16 << 10 { Budget::Large } else { Budget::Ordinary }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Budget::Ordinary => 64 << 20,
            Budget::Large => 16 << 20,
        }
    }
}

impl Known {
    /// About how many bytes it takes, key included.
    fn size(&self, key: &[u8]) -> usize {
        let known = match self {
            Known::Plan(plan) => plan.size(),
            Known::Refine(_) | Known::Unfolded => 64,
        };
        known + key.len() + 64
    }
}

/// Literals that belong to the key.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Keep {
    pub(super) always: Vec<u16>,
    /// Patterns of LIKE: only where they hold a backslash, which may be a lone escape at the end.
    pub(super) with_backslash: Vec<u16>,
}

impl Keep {
    /// The literals to keep for this text.
    pub(super) fn of(&self, text: &str, statement: &Template) -> Vec<u16> {
        let has_backslash = |i: &&u16| {
            statement.literals.get(usize::from(**i)).is_some_and(|r| has_escape(&text[r.start as usize..r.end as usize]))
        };
        self.always.iter().chain(self.with_backslash.iter().filter(has_backslash)).copied().collect()
    }
}

/// Whether a string literal may hold a backslash: where it stands there, or where the literal is of a form (E'', U&'' with
/// UESCAPE, dollar quotes) that spells one otherwise.
fn has_escape(token: &str) -> bool {
    !token.starts_with('\'') || token.contains('\\')
}

/// Everything that a decision depends on besides the epoch.
pub(super) fn write_key(key: &mut Vec<u8>, context: &Context<'_>, text: &str, repeated: Option<&Repeated>) {
    key.clear();
    let part = |key: &mut Vec<u8>, bytes: &[u8]| {
        key.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        key.extend_from_slice(bytes);
    };
    part(key, text.as_bytes());
    // A list of two is not the beginning of one, and two rows are not all that there can be.
    match repeated {
        None => key.push(0),
        Some(Repeated::Lists(rests)) => {
            key.push(1);
            key.extend_from_slice(&(rests.len() as u32).to_le_bytes());
            rests.iter().for_each(|rest| key.extend_from_slice(&rest.to_le_bytes()));
        }
        Some(Repeated::Rows(rows)) => {
            key.push(2);
            [rows.width, rows.live].iter().for_each(|n| key.extend_from_slice(&n.to_le_bytes()));
        }
    }
    key.push(match context.protocol {
        Protocol::Simple => b'Q',
        Protocol::Extended => b'P',
    });
    part(key, context.principal.tenant_setting.as_deref().unwrap_or_default().as_bytes());
    key.extend_from_slice(&(context.principal.roles.len() as u32).to_le_bytes());
    for role in context.principal.roles.iter() {
        part(key, role.as_bytes());
    }
    for schema in context.search_path {
        part(key, schema.as_bytes());
    }
    key.push(0xff);
    for type_oid in context.parameter_types {
        key.extend_from_slice(&type_oid.to_le_bytes());
    }
}
