//! Values that a policy wants told: of columns of some class (`[[class]] recorded`), as a pseudonym that who looks for a value can
//! compare, or sealed.
//!
//! Each tenant has a key of its own for each class and each month, in a file beside the log or elsewhere (`[audit] value_keys`). A
//! value is gone for good once its key is: that is how one is erased out of a log of which no byte may change, and how values are kept
//! for fewer days than records (`recorded_days`). A key that is destroyed leaves a note, which becomes a record of the log.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aes_gcm::aead::AeadInPlace;
use aes_gcm::aead::generic_array::GenericArray;
use aes_gcm::{Aes256Gcm, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Sha256;

use super::record::Record;
use crate::finding::{Recording, Telling};

/// A key is for statements of so many days.
const PERIOD: u64 = 30;
/// Values of one statement that are told; of more, how many.
const MOST: usize = 10_000;
/// What is sealed of a longer value, in bytes.
pub const LONGEST: usize = 4 << 10;
const NONCE: usize = 12;
const KEY: &str = "key";
const ERASED: &str = "erased";

/// A value of a statement.
#[derive(Clone, Debug)]
pub struct Classed<'v> {
    /// `schema.table.column`
    pub column: &'v str,
    pub recording: &'v Recording,
    pub value: Cow<'v, [u8]>,
}

/// What a key's file says, and what is left of it when it is destroyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    pub class: String,
    /// `None`: of nobody in particular.
    pub tenant: Option<String>,
    /// Days since 1970, of the first statement and the last.
    pub first: u64,
    pub last: u64,
    /// The day on which it is destroyed by itself.
    pub until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// One of them.
pub struct ValueKey {
    id: String,
    about: About,
    /// Of pseudonyms and of seals; never used as it is.
    secret: [u8; 32],
}

impl std::fmt::Debug for ValueKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ValueKey({})", self.id)
    }
}

/// All of a log, in a directory.
#[derive(Debug)]
pub struct ValueKeys {
    directory: PathBuf,
    known: Mutex<Known>,
}

/// By class and tenant.
type Keys = HashMap<(String, Option<String>), Vec<Arc<ValueKey>>>;

#[derive(Debug, Default)]
struct Known {
    /// Whether the directory was read.
    is_read: bool,
    keys: Keys,
}

/// What has become of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erased {
    pub id: String,
    pub about: About,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody wanted it.
    Asked,
    /// Its time was over.
    Old,
    /// Its file is not there any more, and nobody has said why.
    Lost,
}

impl Erased {
    pub fn record(&self) -> Record {
        let record = Record::new("erased").text("key", &self.id).text("class", &self.about.class);
        record.maybe("tenant", self.about.tenant.as_deref()).text(
            "why",
            match self.why {
                Why::Asked => "asked",
                Why::Old => "recorded_days",
                Why::Lost => "lost",
            },
        )
    }
}

impl ValueKey {
    fn derived(&self, purpose: &[u8], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        mac.update(purpose);
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// The same for equal values of a column, and for no others.
    pub fn pseudonym(&self, column: &str, value: &[u8]) -> String {
        BASE64.encode(&self.derived(b"pseudonym", &[column.as_bytes(), value])[..16])
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&self.derived(b"seal", &[]).into())
    }

    /// Its beginning, where it is long. How long it is shows to sixteen bytes.
    fn seal(&self, column: &str, value: &[u8]) -> String {
        let value = &value[..value.len().min(LONGEST)];
        let mut sealed = vec![0; NONCE];
        rand::rng().fill_bytes(&mut sealed);
        let mut text = (value.len() as u32).to_le_bytes().to_vec();
        text.extend_from_slice(value);
        text.resize(text.len().next_multiple_of(16), 0);
        let nonce = GenericArray::clone_from_slice(&sealed);
        // A key is of one month, and an AES-GCM nonce of 96 random bits is safe for 2^32 values.
        let tag = self.cipher().encrypt_in_place_detached(&nonce, column.as_bytes(), &mut text).expect("it is short");
        sealed.extend_from_slice(&text);
        sealed.extend_from_slice(&tag);
        BASE64.encode(sealed)
    }

    /// `None`: it is not of this key, or not as it was.
    pub fn open(&self, column: &str, sealed: &str) -> Option<Vec<u8>> {
        let sealed = BASE64.decode(sealed).ok()?;
        let (nonce, rest) = sealed.split_at_checked(NONCE)?;
        let (text, tag) = rest.split_at_checked(rest.len().checked_sub(16)?)?;
        let mut text = text.to_vec();
        let (nonce, tag) = (GenericArray::from_slice(nonce), GenericArray::from_slice(tag));
        self.cipher().decrypt_in_place_detached(nonce, column.as_bytes(), &mut text, tag).ok()?;
        let (length, value) = text.split_first_chunk()?;
        value.get(..u32::from_le_bytes(*length) as usize).map(<[u8]>::to_vec)
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn about(&self) -> &About {
        &self.about
    }
}

impl ValueKeys {
    pub fn in_directory(directory: &Path) -> ValueKeys {
        ValueKeys { directory: directory.to_owned(), known: Mutex::default() }
    }

    /// A field of a record ([`Record::with`]) that tells them.
    ///
    /// # Errors
    /// A key can be neither read nor made.
    pub fn tell<'v>(&self, tenant: Option<&str>, values: impl Iterator<Item = Classed<'v>>) -> io::Result<Vec<u8>> {
        let today = days(SystemTime::now());
        // By column: few columns, of many values perhaps.
        let mut told: Vec<(&str, &Recording, Arc<ValueKey>, Vec<Value>)> = vec![];
        let mut seen: HashSet<(&str, Cow<'_, [u8]>)> = HashSet::new();
        let mut more = 0u64;
        for Classed { column, recording, value } in values {
            if seen.contains(&(column, value.clone())) {
                continue;
            }
            if seen.len() == MOST {
                more += 1;
                continue;
            }
            let place = match told.iter().position(|(other, ..)| *other == column) {
                Some(place) => place,
                None => {
                    told.push((column, recording, self.key_of(recording, tenant, today)?, vec![]));
                    told.len() - 1
                }
            };
            let (_, _, key, values) = &mut told[place];
            values.push(match recording.how {
                Telling::Hmac => key.pseudonym(column, &value).into(),
                Telling::Encrypt => key.seal(column, &value).into(),
            });
            seen.insert((column, value));
        }
        if told.is_empty() {
            return Ok(vec![]);
        }
        let told = told.into_iter().map(|(column, recording, key, values)| {
            let how = match recording.how {
                Telling::Hmac => "hmac",
                Telling::Encrypt => "sealed",
            };
            serde_json::json!({ "column": column, "class": recording.class, "key": key.id, how: values })
        });
        let told = Value::Array(told.collect());
        Ok(Record::fields(|record| {
            let record = record.json("values", &told);
            if more > 0 { record.number("more_values", more) } else { record }
        }))
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Every key that there is.
    ///
    /// # Errors
    /// The directory cannot be read, or has something else under a key's name.
    pub fn all(&self) -> io::Result<Vec<Arc<ValueKey>>> {
        Ok(self.known()?.keys.values().flatten().cloned().collect())
    }

    /// Destroys keys, and leaves a note of each. How many there were.
    ///
    /// # Errors
    /// One cannot be destroyed; those before it are.
    pub fn erase(&self, is_meant: impl Fn(&About) -> bool) -> io::Result<usize> {
        let meant: Vec<_> = self.all()?.into_iter().filter(|key| is_meant(&key.about)).collect();
        for key in &meant {
            let note = serde_json::to_vec(&About { key: None, ..key.about.clone() }).unwrap_or_default();
            // The note first: whoever finds both goes on with this.
            write_durably(&self.directory, &self.path(&key.id, ERASED), &note)?;
            destroy(&self.directory, &self.path(&key.id, KEY))?;
        }
        self.lock().keys.values_mut().for_each(|keys| keys.retain(|key| !is_meant(&key.about)));
        Ok(meant.len())
    }

    /// Forgets keys that somebody has destroyed, and destroys those whose time is over. `tell`: records one, before its note is gone.
    ///
    /// # Errors
    /// The directory's.
    pub fn tend(&self, tell: impl Fn(&Erased)) -> io::Result<()> {
        let names = match fs::read_dir(&self.directory) {
            Ok(names) => Some(names),
            // Nothing was told yet, or all is lost.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(named(&self.directory, &error)),
        };
        for entry in names.into_iter().flatten() {
            let path = entry?.path();
            let (Some(id), Some(ERASED)) = (stem(&path), path.extension().and_then(|e| e.to_str())) else { continue };
            // What is wrong with one is no other's trouble: it stays, for somebody to look at.
            if let Err(error) = self.follow_note(&id, &path, &tell) {
                tracing::warn!("a note of an erased key of values cannot be followed: {error}");
            }
        }
        let today = days(SystemTime::now());
        for key in self.all()? {
            let why = if key.about.until.is_some_and(|until| until <= today) {
                Why::Old
            } else if !self.path(&key.id, KEY).exists() && !self.path(&key.id, ERASED).exists() {
                tracing::error!("a key of values in the audit log is not there any more: {}", self.path(&key.id, KEY).display());
                Why::Lost
            } else {
                continue;
            };
            if let Err(error) = destroy(&self.directory, &self.path(&key.id, KEY)) {
                tracing::warn!("a key of values cannot be destroyed: {error}");
                continue;
            }
            self.forget(&key.id);
            tell(&Erased { id: key.id.clone(), about: key.about.clone(), why });
        }
        Ok(())
    }

    fn follow_note(&self, id: &str, note: &Path, tell: &impl Fn(&Erased)) -> io::Result<()> {
        // Whatever it says.
        destroy(&self.directory, &self.path(id, KEY))?;
        self.forget(id);
        let about = read_about(note)?;
        tell(&Erased { id: id.to_owned(), about, why: Why::Asked });
        is_gone(fs::remove_file(note)).map_err(|error| named(note, &error))
    }

    fn forget(&self, id: &str) {
        self.lock().keys.values_mut().for_each(|keys| keys.retain(|key| key.id != id));
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> io::Result<MutexGuard<'_, Known>> {
        let mut known = self.lock();
        if !known.is_read {
            known.keys = self.read()?;
            known.is_read = true;
        }
        Ok(known)
    }

    fn path(&self, id: &str, kind: &str) -> PathBuf {
        self.directory.join(format!("{id}.{kind}"))
    }

    fn read(&self) -> io::Result<Keys> {
        let mut keys = Keys::new();
        let names = match fs::read_dir(&self.directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keys),
            Err(error) => return Err(named(&self.directory, &error)),
        };
        for entry in names {
            let path = entry?.path();
            let (Some(id), Some(KEY)) = (stem(&path), path.extension().and_then(|e| e.to_str())) else { continue };
            if self.path(&id, ERASED).exists() {
                continue;
            }
            let about = match read_about(&path) {
                Ok(about) => about,
                // What was told with it cannot be read; what comes has another, and others are as they were.
                Err(error) => {
                    tracing::error!("a key of values in the audit log cannot be used: {error}");
                    continue;
                }
            };
            let secret = about.key.as_ref().and_then(|key| BASE64.decode(key).ok()?.try_into().ok());
            let Some(secret) = secret else {
                tracing::error!("a key of values in the audit log cannot be used: {}: it has none of 32 bytes", path.display());
                continue;
            };
            let name = (about.class.clone(), about.tenant.clone());
            keys.entry(name).or_default().push(Arc::new(ValueKey { id, about: About { key: None, ..about }, secret }));
        }
        Ok(keys)
    }

    /// The key of this month, which is made where there is none.
    fn key_of(&self, recording: &Recording, tenant: Option<&str>, today: u64) -> io::Result<Arc<ValueKey>> {
        let mut known = self.known()?;
        let whose = tenant.filter(|_| !crate::mutant!("audit.one-key-for-all-tenants"));
        let keys = known.keys.entry((recording.class.to_string(), whose.map(str::to_owned))).or_default();
        // Where a policy says other days than before, another.
        let until = |last: u64| recording.days.map(|days| last + u64::from(days) + 1);
        let is_its = |key: &&Arc<ValueKey>| {
            (key.about.first..=key.about.last).contains(&today) && key.about.until == until(key.about.last)
        };
        if let Some(key) = keys.iter().find(is_its) {
            return Ok(key.clone());
        }
        let last = today + recording.days.map_or(PERIOD, |days| PERIOD.min(u64::from(days))) - 1;
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        let about = About {
            class: recording.class.to_string(),
            tenant: tenant.map(str::to_owned),
            first: today,
            last,
            until: until(last),
            key: Some(BASE64.encode(secret)),
        };
        let id = format!("{:016x}", rand::random::<u64>());
        fs::create_dir_all(&self.directory).map_err(|error| named(&self.directory, &error))?;
        let written = write_durably(&self.directory, &self.path(&id, KEY), &serde_json::to_vec(&about).unwrap_or_default());
        written.map_err(|error| named(&self.directory, &error))?;
        let key = Arc::new(ValueKey { id, about: About { key: None, ..about }, secret });
        keys.push(key.clone());
        Ok(key)
    }
}

fn stem(path: &Path) -> Option<String> {
    path.file_stem()?.to_str().map(str::to_owned)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Of a plain file of a key's length: whatever else has its name is not waited for.
fn read_about(path: &Path) -> io::Result<About> {
    let read = || {
        let about = fs::symlink_metadata(path)?;
        if !about.is_file() || about.len() > 64 << 10 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file of a key"));
        }
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    };
    read().map_err(|error| named(path, &error))
}

fn days(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400
}

/// Whole, or not at all; nobody else reads it.
fn write_durably(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Of this process alone: two may write one note.
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let write = || {
        is_gone(fs::remove_file(&new))?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        fs::File::open(directory)?.sync_all()
    };
    write().inspect_err(|_| _ = fs::remove_file(&new))
}

/// Overwritten first: what that is worth depends on the disk, and copies elsewhere are for whoever made them.
fn destroy(directory: &Path, path: &Path) -> io::Result<()> {
    if crate::mutant!("audit.erased-keys-stay") {
        return Ok(());
    }
    let destroy = || {
        let about = fs::symlink_metadata(path)?;
        if !about.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file of a key"));
        }
        let mut file = fs::OpenOptions::new().write(true).open(path)?;
        file.write_all(&vec![b'-'; usize::try_from(about.len().min(64 << 10)).unwrap_or_default()])?;
        file.sync_all()?;
        is_gone(fs::remove_file(path))?;
        fs::File::open(directory)?.sync_all()
    };
    is_gone(destroy()).map_err(|error| named(path, &error))
}

/// Somebody else may have been faster.
fn is_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(class: &str, how: Telling, days: Option<u32>) -> Recording {
        Recording { class: class.into(), how, days }
    }

    /// What is told of values of one column.
    fn told(keys: &ValueKeys, recording: &Recording, tenant: &str, values: &[&str]) -> Vec<Value> {
        let classed = values.iter().map(|v| Classed { column: "public.a.b", recording, value: v.as_bytes().into() });
        let field = keys.tell(Some(tenant), classed).expect("a key");
        let record: Value = serde_json::from_slice(&Record::new("x").with(&field).end()).expect("JSON");
        record["values"].as_array().cloned().unwrap_or_default()
    }

    #[test]
    fn equal_values_have_one_pseudonym_in_one_column_of_one_tenant() {
        let directory = tempfile::tempdir().expect("a directory");
        let keys = ValueKeys::in_directory(directory.path());
        let email = recording("pii.email", Telling::Hmac, None);
        let of = |tenant: &str, value: &str| told(&keys, &email, tenant, &[value])[0]["hmac"].clone();
        assert_eq!(of("1", "a@b.c"), of("1", "a@b.c"));
        assert_ne!(of("1", "a@b.c"), of("1", "a@b.d"));
        assert_ne!(of("1", "a@b.c"), of("2", "a@b.c"), "another tenant");
        let key = keys.all().unwrap().into_iter().find(|key| key.about.tenant.as_deref() == Some("1")).unwrap();
        assert_eq!(of("1", "a@b.c")[0], key.pseudonym("public.a.b", b"a@b.c"));
        assert_ne!(of("1", "a@b.c")[0], key.pseudonym("public.a.c", b"a@b.c"), "another column");
        let count = |values: &[&str]| told(&keys, &email, "1", values)[0]["hmac"].as_array().map(Vec::len);
        assert_eq!(count(&["x", "x", "y"]), Some(2), "once each");
        let many: Vec<String> = (0..MOST + 50).map(|n| n.to_string()).collect();
        assert_eq!(count(&many.iter().map(String::as_str).collect::<Vec<_>>()), Some(MOST));
    }

    #[test]
    fn what_is_sealed_is_opened_as_long_as_its_key_is_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let card = recording("pci.pan", Telling::Encrypt, Some(10));
        let keys = ValueKeys::in_directory(directory.path());
        let one = told(&keys, &card, "1", &["4111111111111111", ""]).remove(0);
        let again = ValueKeys::in_directory(directory.path());
        let open = |keys: &ValueKeys, place: usize, column: &str| {
            let all = keys.all().expect("keys");
            let key = all.iter().find(|key| one["key"] == key.id())?;
            key.open(column, one["sealed"][place].as_str()?)
        };
        assert_eq!(open(&again, 0, "public.a.b").as_deref(), Some(&b"4111111111111111"[..]));
        assert_eq!(open(&again, 1, "public.a.b").as_deref(), Some(&b""[..]));
        assert_eq!(open(&again, 0, "public.a.c"), None, "it is of its column");
        let length = |told: &Value| told["sealed"][0].as_str().map(str::len);
        assert_eq!(length(&one), length(&told(&keys, &card, "1", &["4111111111111"])[0]));
        // Somebody wants it gone, while the proxy runs.
        assert_eq!(again.erase(|about| about.tenant.as_deref() == Some("1")).expect("it is destroyed"), 1);
        assert_eq!(open(&again, 0, "public.a.b"), None);
        let noted = Mutex::new(vec![]);
        let tend = |keys: &ValueKeys| keys.tend(|erased| noted.lock().unwrap().push(erased.why)).expect("a directory");
        tend(&keys);
        tend(&keys);
        assert_eq!(*noted.lock().unwrap(), [Why::Asked], "told once");
        assert!(keys.all().unwrap().is_empty() && fs::read_dir(directory.path()).unwrap().next().is_none());
        assert_ne!(told(&keys, &card, "1", &["x"])[0]["key"], one["key"], "what comes has another");
    }

    #[test]
    fn keys_go_when_their_time_is_over() {
        let directory = tempfile::tempdir().expect("a directory");
        let keys = ValueKeys::in_directory(directory.path());
        let day = recording("day", Telling::Hmac, Some(1));
        let today = days(SystemTime::now());
        let key = keys.key_of(&day, None, today - 3).expect("a key");
        assert_eq!((key.about.last, key.about.until), (today - 3, Some(today - 1)));
        let (now, kept) =
            (keys.key_of(&day, None, today).unwrap(), keys.key_of(&recording("kept", Telling::Hmac, None), None, 0).unwrap());
        let gone = Mutex::new(vec![]);
        keys.tend(|erased| gone.lock().unwrap().push((erased.id.clone(), erased.why))).expect("a directory");
        assert_eq!(*gone.lock().unwrap(), [(key.id.clone(), Why::Old)]);
        let mut left: Vec<_> = keys.all().unwrap().iter().map(|key| key.id.clone()).collect();
        let mut expected = vec![now.id.clone(), kept.id.clone()];
        left.sort();
        expected.sort();
        assert_eq!(left, expected);
        assert_ne!(
            keys.key_of(&recording("day", Telling::Hmac, Some(2)), None, today).unwrap().id,
            now.id,
            "other days, another key"
        );
    }

    #[test]
    fn what_is_no_key_is_left_alone_and_hides_no_other() {
        let directory = tempfile::tempdir().expect("a directory");
        let day = recording("day", Telling::Hmac, Some(1));
        let old = ValueKeys::in_directory(directory.path());
        let gone = old.key_of(&day, None, days(SystemTime::now()) - 3).expect("a key");
        for name in ["0.key", "1.erased"] {
            fs::write(directory.path().join(name), "{}").unwrap();
        }
        fs::create_dir(directory.path().join("2.key")).unwrap();
        fs::write(directory.path().join("2.erased"), "{}").unwrap();
        let keys = ValueKeys::in_directory(directory.path());
        assert_eq!(keys.all().expect("the others").len(), 1);
        assert_eq!(told(&keys, &day, "1", &["x"]).len(), 1);
        let told = Mutex::new(vec![]);
        keys.tend(|erased| told.lock().unwrap().push(erased.id.clone())).expect("a directory");
        assert_eq!(*told.lock().unwrap(), std::slice::from_ref(&gone.id), "what is too old goes all the same");
        // One that somebody has taken away is told of, and what comes has another.
        let before = keys.key_of(&day, Some("1"), days(SystemTime::now())).expect("a key");
        fs::remove_file(directory.path().join(format!("{}.key", before.id))).unwrap();
        let lost = Mutex::new(vec![]);
        keys.tend(|erased| lost.lock().unwrap().push((erased.id.clone(), erased.why))).expect("a directory");
        assert_eq!(*lost.lock().unwrap(), [(before.id.clone(), Why::Lost)]);
        assert_ne!(keys.key_of(&day, Some("1"), days(SystemTime::now())).expect("a key").id, before.id);
        // Where there is no room for one, nothing is left behind.
        let nowhere = directory.path().join("0.key/below");
        let trouble = ValueKeys::in_directory(&nowhere).key_of(&day, None, 0).expect_err("no directory");
        assert!(trouble.to_string().contains("0.key/below"), "{trouble}");
    }
}
