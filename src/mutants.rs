//! Switches that break the program on purpose, so that the tests can be measured: `tests/mutants.rs` turns on one at a time and
//! requires that a test fails. They exist in a build with `--cfg mutants` only (`make mutants`); in every other build each
//! is the constant `false`, and nothing reads the environment.

/// Whether the mutation of that name is on: `if crate::mutant!("area.what-is-wrong") { .. }`. One line, at the spot that
/// decides.
#[macro_export]
macro_rules! mutant {
    ($name:literal) => {
        $crate::mutants::is_on($name)
    };
}

#[cfg(not(mutants))]
#[inline(always)]
pub const fn is_on(_name: &str) -> bool {
    false
}

#[cfg(mutants)]
pub use switches::{is_on, switch};

#[cfg(mutants)]
mod switches {
    use std::sync::{LazyLock, PoisonError, RwLock};

    /// What is on: at first, what the environment names, for programs that are run with one mutation.
    static ON: LazyLock<RwLock<Vec<String>>> = LazyLock::new(|| {
        let named = std::env::var("BULKHEAD_MUTANT").unwrap_or_default();
        RwLock::new(named.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect())
    });

    pub fn is_on(name: &str) -> bool {
        ON.read().unwrap_or_else(PoisonError::into_inner).iter().any(|n| n == name)
    }

    /// Turns these on and all others off.
    pub fn switch(names: &[&str]) {
        *ON.write().unwrap_or_else(PoisonError::into_inner) = names.iter().map(|n| (*n).to_owned()).collect();
    }
}
