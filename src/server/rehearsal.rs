//! What a start would trip over and no file says: files that cannot be read, directories that cannot be written, ports that are one.

use std::io;
use std::path::Path;

use crate::backend::stream::Dialer;
use crate::config::{Config, UserAccess};

/// What `serve` cannot do without on this machine, as far as it can be tried without leaving a trace.
pub fn problems(config: &Config) -> Vec<String> {
    tls(config)
        .into_iter()
        .chain(upstreams(config))
        .chain(directories(config))
        .chain(ports(config))
        .chain(memory(config))
        .collect()
}

fn tls(config: &Config) -> Option<String> {
    let tls = config.server.tls.as_ref()?;
    super::load_tls(tls).err().map(|error| format!("[server] tls_certificate, tls_key: {error}"))
}

/// The authorities' certificates.
fn upstreams(config: &Config) -> Vec<String> {
    let of_databases = config.databases.iter().flat_map(|d| {
        let followed = d.follow.iter().map(|follow| (format!("follow of database \"{}\"", d.name), follow));
        std::iter::once((format!("upstream of database \"{}\"", d.name), &d.upstream)).chain(followed)
    });
    let of_users = config.users.iter().filter_map(|user| match &user.access {
        UserAccess::Unrestricted { upstream } => Some((format!("upstream of user \"{}\"", user.name), upstream.as_ref()?)),
        UserAccess::Fixed(_) | UserAccess::Shared { .. } => None,
    });
    let all = of_databases.chain(of_users);
    all.filter_map(|(what, upstream)| Some(format!("{what}: {}", Dialer::new(upstream.clone()).err()?))).collect()
}

/// What it can: statements that need these are refused, or go without, as `on_failure` says.
pub fn faults(config: &Config) -> Option<String> {
    written("value_keys", &config.audit.as_ref()?.value_keys)
}

fn directories(config: &Config) -> Option<String> {
    written("path", &config.audit.as_ref()?.path)
}

fn written(key: &str, path: &Path) -> Option<String> {
    may_write(path).err().map(|error| format!("[audit] {key}: {} cannot be written: {error}", path.display()))
}

/// Whether files can be made in a directory, or it can be made itself.
fn may_write(path: &Path) -> io::Result<()> {
    let there = path.ancestors().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }).find(|p| p.exists());
    let there = there.ok_or(io::ErrorKind::NotFound)?;
    if !there.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    // Without a name, where the system has such files.
    tempfile::tempfile_in(there).map(drop)
}

fn ports(config: &Config) -> Option<String> {
    let listen = config.server.listen;
    let is_same = config.server.admin_listen? == listen && listen.port() != 0;
    is_same.then(|| format!("[server] listen and admin_listen are both {listen}"))
}

/// Answers have their room from the start.
fn memory(config: &Config) -> Option<String> {
    let wanted = config.cache?;
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<usize>().ok())?;
    let (wanted, there) = (wanted >> 20, total >> 10);
    (wanted > there).then(|| format!("[cache] memory_mb = {wanted}: this machine has {there} MiB"))
}
