//! What logins usually do, on the disk beside the audit log: a proxy that is started anew goes on with it.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::rules::behaviour::kept::{Bytes, VERSION, put_text};
use crate::session::shared::Logins;
use crate::session::usual::Usual;

/// What is learned in so long is lost with the machine.
const PAUSE: Duration = Duration::from_secs(600);
/// In bytes: more than all baselines take.
const LONGEST: u64 = 256 << 20;
const MAGIC: &[u8] = b"bulkhead usual\n";

/// Keeps what is learned from time to time.
pub async fn keep(place: PathBuf, logins: Arc<Logins>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let (own, all) = (place.clone(), logins.clone());
        let _ = tokio::task::spawn_blocking(move || write(&own, &all)).await;
    }
}

/// Goes on with what is there.
pub fn read(place: &Path, logins: &Logins) {
    let all = match read_file(place) {
        Ok(all) => all,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return tracing::warn!("what is usual of logins is learned anew: {}: {error}", place.display()),
    };
    if restore(&all, logins).is_none() {
        tracing::warn!("what is usual of logins is learned anew: {} is not what was written", place.display());
    }
}

fn read_file(place: &Path) -> io::Result<Vec<u8>> {
    let about = std::fs::symlink_metadata(place)?;
    if !about.is_file() || about.len() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file of a usual length"));
    }
    std::fs::read(place)
}

fn restore(all: &[u8], logins: &Logins) -> Option<()> {
    let (kept, sum) = all.split_last_chunk::<32>()?;
    let is_whole = Sha256::digest(kept)[..] == sum[..];
    let mut bytes = Bytes(kept.strip_prefix(MAGIC).filter(|_| is_whole)?);
    (bytes.u32()? == VERSION).then_some(())?;
    while !bytes.0.is_empty() {
        let name = bytes.text()?;
        let usual = Usual::restore(&mut bytes)?;
        // Who is not configured any more is forgotten.
        if let Some(login) = logins.get(name) {
            login.usual.take_over(usual);
        }
    }
    Some(())
}

/// Whole, or not at all.
pub fn write(place: &Path, logins: &Logins) {
    let mut all = [MAGIC, &VERSION.to_le_bytes()].concat();
    let empty = all.len();
    for login in logins.all() {
        let before = all.len();
        put_text(&login.user.name, &mut all);
        let named = all.len();
        login.usual.write(&mut all);
        if all.len() == named {
            all.truncate(before);
        }
    }
    if all.len() == empty {
        return;
    }
    all.extend_from_slice(&Sha256::digest(&all));
    if let Err(error) = replace(place, &all) {
        tracing::warn!("what is usual of logins is not kept: {}: {error}", place.display());
    }
}

fn replace(place: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = place.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) | Ok(()) => {}
    }
    // Not what somebody has put in its place.
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, User, UserAccess};
    use crate::principal::Tenant;
    use crate::rules::behaviour::{Baseline, Common, Ended};

    fn logins(names: &[&str]) -> Logins {
        let user = |name: &&str| User {
            name: (*name).to_owned(),
            secret: Secret::Password("secret".to_owned()),
            access: UserAccess::Fixed(Tenant("1".into())),
            roles: Default::default(),
            databases: vec![],
            max_clients: None,
            purposes: Default::default(),
            glass: Default::default(),
        };
        Logins::new(names.iter().map(user))
    }

    /// What a login may know.
    fn some() -> Vec<u8> {
        let (common, mut baseline) = (Common::default(), Baseline::new(1));
        baseline.note(&Ended { template: 1, at: 1_800_000_000, rows: 1, bytes: 9, error: None }, &common);
        let mut known = vec![];
        common.write(&mut known);
        known.extend_from_slice(&1u32.to_le_bytes());
        put_text("1", &mut known);
        baseline.write(&mut known);
        known
    }

    fn known(logins: &Logins, name: &str) -> Vec<u8> {
        let mut out = vec![];
        logins.get(name).expect("it is configured").usual.write(&mut out);
        out
    }

    #[test]
    fn it_is_there_again_for_who_is_still_configured_and_whole_or_not_at_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = directory.path().join("usual");
        let before = logins(&["a", "b", "c"]);
        write(&place, &before);
        assert!(!place.exists(), "nothing is known");
        for name in ["a", "c"] {
            let usual = Usual::restore(&mut Bytes(&some())).expect("it was written");
            before.get(name).expect("it is configured").usual.take_over(usual);
        }
        write(&place, &before);
        let after = logins(&["a", "b"]);
        read(&place, &after);
        assert_eq!((known(&after, "a"), known(&after, "b")), (some(), vec![]));
        let whole = std::fs::read(&place).expect("it is there");
        for at in [0, 20, whole.len() / 2, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&place, &changed).expect("write");
            let anew = logins(&["a"]);
            read(&place, &anew);
            assert!(known(&anew, "a").is_empty(), "byte {at}");
        }
        std::fs::write(&place, &whole[..whole.len() - 5]).expect("write");
        read(&place, &after);
        read(&directory.path().join("nowhere"), &after);
    }
}
