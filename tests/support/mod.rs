//! What the integration tests share: servers that live as long as a test, a wire client that keeps every byte, and the
//! comparison of two answers.
#![allow(dead_code)] // each test binary uses its part

pub mod answer;
pub mod cases;
pub mod cluster;
pub mod compare;
pub mod newer;
pub mod proxy;
pub mod random;
pub mod redis;
pub mod relay;
pub mod subject;
pub mod wire;

use std::path::PathBuf;

/// A file of this repository, by its path from the root.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Was the run asked to rewrite expectations (`UPDATE=1`)?
pub fn update_wanted() -> bool {
    std::env::var_os("UPDATE").is_some_and(|v| v == "1")
}
