//! Where `check`, `explain` and `test` get a catalog: a file from `check --dump-catalog`, or a live database.

use std::path::Path;

use crate::backend;
use crate::catalog::Snapshot;
use crate::config::{Config, Database, Upstream, upstream};

/// Reads a file that `check --dump-catalog` wrote.
pub fn from_file(path: &Path) -> Result<Snapshot, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read the catalog {}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{} is not a catalog that `check --dump-catalog` wrote: {e}", path.display()))
}

/// The server of a URL.
pub fn server(url: &str) -> Result<Upstream, String> {
    upstream::parse(url, "postgres").map_err(|e| format!("the URL of --database is not understood: {e}"))
}

/// Asks a server.
pub fn from_server(upstream: &Upstream) -> Result<Snapshot, String> {
    let snapshot = super::block_on(backend::catalog::load(upstream))?;
    snapshot.map_err(|e| format!("cannot read the catalog of {}:{}/{}: {e}", upstream.host, upstream.port, upstream.database))
}

/// The `[[database]]` that is meant: by name, or the only one.
pub fn choose<'a>(config: &'a Config, name: Option<&str>) -> Result<Option<&'a Database>, String> {
    let names = || config.databases.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, config.databases.as_slice()) {
        (Some(name), all) => match all.iter().find(|d| d.name == name) {
            Some(database) => Ok(Some(database)),
            None => Err(format!("there is no [[database]] named `{name}`; configured are: {}", names())),
        },
        (None, []) => Ok(None),
        (None, [only]) => Ok(Some(only)),
        (None, _several) => Err(format!("which database? --database D, one of: {}", names())),
    }
}

/// The catalog of a file if there is one, else of the database.
pub fn obtain(file: Option<&Path>, database: Option<&Database>) -> Result<Snapshot, String> {
    match (file, database) {
        (Some(path), _) => from_file(path),
        (None, Some(database)) => from_server(&database.upstream),
        (None, None) => {
            Err("no catalog: configure a [[database]], or give --catalog FILE (from check --dump-catalog)".to_owned())
        }
    }
}
