//! The second tier: a Redis nearby, for answers that memory has no room for.
//!
//! Redis is not trusted: its loss, its slowness, a failover, old data or somebody who writes to it can only cost hits. An answer leaves
//! sealed, with its stamps, and what comes back is opened and its stamps compared with the tags of now, as those of memory are
//! (NOTHING STALE, CACHE KEY).
//!
//! The tier belongs to one process from its start to its end: keys begin with a number that is made at start, and what seals is made
//! then too and never leaves memory. For stamps are numbers of this process's table of tags; in another process, or after a restart,
//! the same numbers would stand for something else, and what they were taken for would look current. So there is nothing to share
//! and nothing to configure, and what an earlier process has left goes by its expiry.
//!
//! No session waits longer than [`PATIENCE`], and after a few that waited in vain nothing is sent for a while ([`keep`]): a Redis that
//! has stopped costs a session some milliseconds once, whatever the load. Nothing is asked for that was not put here.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aes_gcm::aead::AeadInPlace;
use aes_gcm::aead::generic_array::GenericArray;
use aes_gcm::{Aes256Gcm, KeyInit};
use arc_swap::ArcSwapOption;
use hmac::{Hmac, Mac};
use rand::RngCore;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError};
use sha2::Sha256;
use tokio::sync::{Notify, mpsc};

use super::store::{Entry, StoredKey};
use super::tags::{Stamps, Tags};
use crate::config;
use crate::event::{Event, Events, Redis};
use crate::principal::Tenant;

/// How long a session waits for an answer: less than what is asked for took the server.
const PATIENCE: Duration = if cfg!(debug_assertions) { SLOW } else { Duration::from_millis(1) };
/// What is not optimised takes longer itself.
const SLOW: Duration = Duration::from_millis(20);
/// How long a connection, or an answer's way there, may take: nobody waits for them.
const LONG_PATIENCE: Duration = Duration::from_secs(1);
/// What one that waited in vain counts, what each answer in time takes off, and what gives Redis up. Three in a row, or more than one in
/// nine: where processors are busy some are late, and if one were enough, Redis would be left alone most of the time.
const LATE: u32 = 8;
const TOO_LATE: u32 = 3 * LATE;
/// How long nothing is sent after a failure, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The longest answer that is put there, in bytes: a longer one would take longer than [`PATIENCE`].
const LONGEST: usize = 256 << 10;
/// What a sealed answer takes besides it: stamps, of which an answer has a few for each table.
const OVERHEAD: usize = 16 << 10;
/// How long Redis keeps what nobody asks for, in seconds.
const EXPIRY: u32 = 3600;
/// Answers on their way there; further ones are dropped.
const QUEUE: usize = 64;
/// How many are known to be there, in each of two generations: 2 MiB at most.
const KNOWN: usize = 1 << 16;

/// The second tier of one process.
#[derive(Debug)]
pub struct Shared {
    tier: Arc<Tier>,
    puts: mpsc::Sender<Put>,
}

/// An answer on its way there.
#[derive(Debug)]
struct Put {
    key: StoredKey,
    entry: Arc<Entry>,
}

struct Tier {
    seal: Seal,
    tags: Arc<Tags>,
    /// `None`: nothing is sent.
    link: ArcSwapOption<Link>,
    /// The link was given up.
    given_up: Notify,
    known: Mutex<Known>,
    /// See [`LATE`].
    late: AtomicU32,
    /// A moving average, in microseconds.
    round_trip: AtomicU64,
    events: Events,
}

impl std::fmt::Debug for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tier(in use: {})", self.link.load().is_some())
    }
}

/// Connections: what a session asks for does not wait behind what is put.
struct Link {
    asks: MultiplexedConnection,
    puts: MultiplexedConnection,
}

/// What came back for a key. Not opened yet.
pub type Sealed = Vec<u8>;

/// What a sealed answer holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    pub stamps: Stamps,
    pub cost: u32,
    pub answer: Box<[u8]>,
}

impl Shared {
    /// Nothing that is there is asked for any more.
    pub fn forget(&self) {
        *self.tier.known() = Known::default();
    }

    /// Connects in the background, for as long as this lives. Inside a runtime.
    ///
    /// # Errors
    /// The client cannot be made.
    pub fn start(redis: &config::Redis, tags: Arc<Tags>, events: Events) -> Result<Shared, RedisError> {
        let mut settings = RedisConnectionInfo::default().set_db(redis.database).set_skip_set_lib_name();
        if let Some(user) = &redis.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &redis.password {
            settings = settings.set_password(password);
        }
        let address = ConnectionAddr::Tcp(redis.host.clone(), redis.port).into_connection_info()?;
        // Small packets that wait for others would take longer than anybody waits.
        let address = address.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = Client::open(address.set_redis_settings(settings))?;
        let tier = Arc::new(Tier::new(tags, events));
        let (puts, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(keep(tier.clone(), client, waiting));
        Ok(Shared { tier, puts })
    }

    /// Puts an answer there, some time, if that is worth it. Never waits.
    pub fn put(&self, key: &StoredKey, entry: &Arc<Entry>) {
        if self.tier.link.load().is_none() || entry.answer.len() > LONGEST || !self.tier.saves(entry.cost) {
            return;
        }
        if self.puts.try_send(Put { key: key.clone(), entry: entry.clone() }).is_err() {
            self.tier.tell(Redis::Dropped);
        }
    }

    /// Asks for an answer: at most one round trip, and no longer than [`PATIENCE`]. `None`: there is no sense in it.
    pub fn ask(&self, key: &StoredKey) -> Option<impl Future<Output = Option<Sealed>> + Send + 'static> {
        let link = self.tier.link.load_full()?;
        if !self.tier.known().has(key.hash()) {
            return None;
        }
        let (tier, name, hash) = (self.tier.clone(), self.tier.seal.name(key.bytes()), key.hash());
        Some(async move {
            // Not GET: who writes to Redis does not decide how much is read into memory here.
            let mut command = redis::cmd("GETRANGE");
            command.arg(name).arg(0).arg(LONGEST + OVERHEAD - 1);
            let sealed: Sealed = tier.in_time(&link, PATIENCE, LATE, command.query_async(&mut link.asks.clone())).await?;
            if sealed.is_empty() {
                tier.forget(hash, Redis::Absent);
                return None;
            }
            Some(sealed)
        })
    }

    /// What was sealed under this key and for this tenant, if nothing has begun to write since.
    pub fn open(&self, key: &StoredKey, tenant: Option<&Tenant>, sealed: Sealed) -> Option<Opened> {
        let tier = &self.tier;
        let Some(opened) = tier.seal.open(key.bytes(), tenant, sealed) else {
            tier.forget(key.hash(), Redis::Forged);
            return None;
        };
        if !opened.stamps.are_current(&tier.tags) && !crate::mutant!("cache.redis-stamps-not-checked") {
            tier.forget(key.hash(), Redis::Stale);
            return None;
        }
        Some(opened)
    }
}

impl Tier {
    fn new(tags: Arc<Tags>, events: Events) -> Tier {
        Tier {
            seal: Seal::new(),
            tags,
            link: ArcSwapOption::empty(),
            given_up: Notify::new(),
            known: Mutex::default(),
            late: AtomicU32::new(0),
            round_trip: AtomicU64::new(0),
            events,
        }
    }

    fn tell(&self, what: Redis) {
        self.events.emit(Event::Redis(what));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there is of no use: the next who asks does not wait for it.
    fn forget(&self, hash: u64, why: Redis) {
        self.known().remove(hash);
        self.tell(why);
    }

    /// Whether fetching saves time, by what the server took, in microseconds: a look-up by key never goes to Redis.
    fn saves(&self, cost: u32) -> bool {
        u64::from(cost) > 2 * self.round_trip.load(Ordering::Relaxed)
    }

    /// What Redis answers. The link is given up where that is an error, and where it was late, which counts as `late`, too often.
    async fn in_time<T>(
        &self,
        link: &Arc<Link>,
        patience: Duration,
        late: u32,
        asked: impl Future<Output = Result<T, RedisError>>,
    ) -> Option<T> {
        let begun = Instant::now();
        match tokio::time::timeout(patience, asked).await {
            Ok(Ok(answer)) => {
                self.note_round_trip(begun.elapsed());
                // Two at once may lose one of them, as below: it is a measure.
                self.late.store(self.late.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
                return Some(answer);
            }
            Ok(Err(error)) => {
                self.tell(Redis::Failed);
                self.give_up(link, &error.to_string());
            }
            Err(_) => {
                self.tell(Redis::TimedOut);
                if self.late.fetch_add(late, Ordering::Relaxed) + late >= TOO_LATE {
                    self.give_up(link, &format!("too often no answer in {patience:?}"));
                }
            }
        }
        None
    }

    fn note_round_trip(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let average = self.round_trip.load(Ordering::Relaxed);
        self.round_trip.store(average - average / 8 + took / 8, Ordering::Relaxed);
    }

    /// Nothing is sent by this link any more. Of all that fail at once, one tells it.
    fn give_up(&self, link: &Arc<Link>, trouble: &str) {
        let current = self.link.compare_and_swap(link, None);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            self.tell(Redis::Lost);
            tracing::warn!("Redis is left alone for a while: {trouble}");
            self.given_up.notify_one();
        }
    }

    fn is_in_use(&self, link: &Arc<Link>) -> bool {
        self.link.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, link))
    }

    async fn put(&self, link: &Arc<Link>, Put { key, entry }: Put) {
        // It may have waited for long.
        if !entry.stamps.are_current(&self.tags) {
            return;
        }
        let sealed = self.seal.seal(key.bytes(), &entry);
        if sealed.len() > LONGEST + OVERHEAD {
            return;
        }
        let mut command = redis::cmd("SET");
        command.arg(self.seal.name(key.bytes())).arg(sealed).arg("EX").arg(EXPIRY);
        if self.in_time(link, LONG_PATIENCE, TOO_LATE, command.query_async::<()>(&mut link.puts.clone())).await.is_some() {
            self.known().add(key.hash());
            self.tell(Redis::Put);
        }
    }
}

/// Connects, puts, and connects again: nothing of that is on a session's way. Ends with the sender of `puts`.
async fn keep(tier: Arc<Tier>, client: Client, mut puts: mpsc::Receiver<Put>) {
    let mut pause = PAUSES.0;
    let mut told = false;
    loop {
        match connect(&client).await {
            Ok((link, round_trip)) => {
                tracing::info!("Redis answers: the second tier of the result cache is in use");
                told = true;
                pause = PAUSES.0;
                let link = Arc::new(link);
                tier.round_trip.store(u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
                tier.late.store(0, Ordering::Relaxed);
                tier.link.store(Some(link.clone()));
                tier.tell(Redis::Found);
                while tier.is_in_use(&link) {
                    tokio::select! {
                        biased;
                        () = tier.given_up.notified() => {}
                        put = puts.recv() => match put {
                            Some(put) => tier.put(&link, put).await,
                            None => return,
                        },
                    }
                }
            }
            Err(trouble) if !told => {
                tracing::warn!("Redis is left alone, and tried again from time to time: {trouble}");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
        if puts.is_closed() {
            return;
        }
    }
}

/// Connections to a Redis that answers as fast as sessions need it, and how fast that is.
async fn connect(client: &Client) -> Result<(Link, Duration), String> {
    let connection = || async {
        let connecting = client.get_multiplexed_async_connection();
        let connected = tokio::time::timeout(LONG_PATIENCE, connecting).await;
        connected.map_err(|_| format!("no connection in {LONG_PATIENCE:?}"))?.map_err(|error| error.to_string())
    };
    let link = Link { asks: connection().await?, puts: connection().await? };
    let mut best = LONG_PATIENCE;
    // The best of some: a busy moment says nothing about what is far away.
    for _ in 0..5 {
        let begun = Instant::now();
        let pinged = tokio::time::timeout(LONG_PATIENCE, redis::cmd("PING").query_async::<()>(&mut link.asks.clone())).await;
        pinged.map_err(|_| format!("no answer in {LONG_PATIENCE:?}"))?.map_err(|error| error.to_string())?;
        best = best.min(begun.elapsed());
    }
    if best > PATIENCE {
        return Err(format!("a round trip takes {best:?}, and nobody waits longer than {PATIENCE:?}"));
    }
    Ok((link, best))
}

/// What this process has put there, by hash. Two of one hash cost a round trip in vain, for the rest is compared where it is opened.
#[derive(Debug, Default)]
struct Known {
    young: HashSet<u64, ahash::RandomState>,
    old: HashSet<u64, ahash::RandomState>,
}

impl Known {
    fn has(&self, hash: u64) -> bool {
        self.young.contains(&hash) || self.old.contains(&hash)
    }

    fn add(&mut self, hash: u64) {
        if self.young.len() >= KNOWN {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash);
    }

    fn remove(&mut self, hash: u64) {
        self.young.remove(&hash);
        self.old.remove(&hash);
    }
}

/// What seals: made at start, gone with the process. INVARIANT: never printed, never written anywhere.
struct Seal {
    master: [u8; 32],
    /// Tells the keys of this process from those of any other.
    incarnation: [u8; 16],
    /// How many were sealed. INVARIANT: no number is used twice, or two answers would open each other.
    sealed: AtomicU64,
}

const NONCE: usize = 12;
const MARK: usize = 16;

impl Seal {
    fn new() -> Seal {
        let mut seal = Seal { master: [0; 32], incarnation: [0; 16], sealed: AtomicU64::new(0) };
        rand::rng().fill_bytes(&mut seal.master);
        rand::rng().fill_bytes(&mut seal.incarnation);
        seal
    }

    /// `what` tells the uses of the master apart.
    fn derive(&self, what: &[u8], of: &[u8]) -> [u8; 32] {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.master).expect("HMAC takes keys of any length");
        mac.update(what);
        mac.update(of);
        mac.finalize().into_bytes().into()
    }

    /// Redis' key: says nothing about what is asked.
    fn name(&self, key: &[u8]) -> String {
        let hashed = self.derive(b"name", key);
        let (front, back) =
            (u128::from_be_bytes(self.incarnation), hashed.first_chunk().map_or(0, |half| u128::from_be_bytes(*half)));
        format!("bulkhead:{front:032x}:{back:032x}")
    }

    /// One for each tenant: what is sealed for one cannot be opened for another, whatever else fails.
    fn cipher(&self, tenant: Option<&Tenant>) -> Aes256Gcm {
        let key = match tenant {
            Some(tenant) => self.derive(b"tenant", tenant.0.as_bytes()),
            None => self.derive(b"nobody", b""),
        };
        Aes256Gcm::new(&key.into())
    }

    /// The nonce, then what is sealed.
    fn seal(&self, key: &[u8], entry: &Entry) -> Sealed {
        let mut nonce = [0; NONCE];
        nonce[..8].copy_from_slice(&self.sealed.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let mut sealed = Vec::with_capacity(entry.answer.len() + 256);
        sealed.extend_from_slice(&nonce);
        entry.stamps.write(&mut sealed);
        sealed.extend_from_slice(&entry.cost.to_le_bytes());
        sealed.extend_from_slice(&entry.answer);
        let cipher = self.cipher(entry.owner.tenant.as_ref());
        let mark = cipher.encrypt_in_place_detached(&nonce.into(), authenticated(key), &mut sealed[NONCE..]);
        // It fails above 64 GiB.
        let Ok(mark) = mark else { return Vec::new() };
        sealed.extend_from_slice(&mark);
        sealed
    }

    /// `None`: it was not sealed here, not under this key, not for this tenant, or it has been touched since.
    fn open(&self, key: &[u8], tenant: Option<&Tenant>, mut sealed: Sealed) -> Option<Opened> {
        let length = sealed.len().checked_sub(NONCE + MARK)?;
        let (nonce, rest) = sealed.split_at_mut(NONCE);
        let (inside, mark) = rest.split_at_mut(length);
        let (nonce, mark) = (GenericArray::from_slice(nonce), GenericArray::from_slice(mark));
        self.cipher(tenant).decrypt_in_place_detached(nonce, authenticated(key), inside, mark).ok()?;
        let (stamps, rest) = Stamps::read(inside)?;
        let (cost, answer) = rest.split_first_chunk()?;
        Some(Opened { stamps, cost: u32::from_le_bytes(*cost), answer: answer.into() })
    }
}

/// What a sealed answer is bound to besides its tenant: the whole key, as in memory (CACHE KEY).
fn authenticated(key: &[u8]) -> &[u8] {
    if crate::mutant!("cache.redis-any-key") { b"" } else { key }
}

#[cfg(test)]
mod tests {
    use super::super::store::Store;
    use super::super::tags::Tag;
    use super::*;
    use crate::cache::tags::Part;

    fn entry(tenant: Option<&str>, answer: &[u8]) -> Entry {
        let tags = Tags::new();
        let mut stamps = Stamps::default();
        assert!(stamps.add(tags.slot(0, Tag::Everything), &tags));
        assert!(stamps.add(tags.slot(0, Tag::Family(7, Part::Any)), &tags));
        let owner = Store::new(1 << 20).owner(tenant.map(|t| Tenant(t.into())).as_ref());
        Entry { answer: answer.into(), stamps, owner, template: Arc::default(), cost: 12_345, until: None }
    }

    #[test]
    fn what_is_sealed_is_opened_by_who_sealed_it_for_the_same_key_and_tenant() {
        let seal = Seal::new();
        let (one, two) = (Tenant("1".into()), Tenant("2".into()));
        for tenant in [Some(&one), None] {
            let entry = entry(tenant.map(|t| &*t.0), b"a canary in an answer");
            let sealed = seal.seal(b"key", &entry);
            assert!(!sealed.windows(6).any(|w| w == b"canary"));
            let opened = seal.open(b"key", tenant, sealed.clone()).expect("nobody touched it");
            assert_eq!((&opened.stamps, opened.cost, &opened.answer), (&entry.stamps, 12_345, &entry.answer));
            assert_eq!(seal.open(b"key", Some(&two), sealed.clone()), None, "another tenant");
            assert_eq!(seal.open(b"kez", tenant, sealed.clone()), None, "another key");
            assert_eq!(Seal::new().open(b"key", tenant, sealed.clone()), None, "another process");
            for at in 0..sealed.len() {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1;
                assert_eq!(seal.open(b"key", tenant, flipped), None, "flipped at {at}");
                assert_eq!(seal.open(b"key", tenant, sealed[..at].to_vec()), None, "cut at {at}");
            }
            assert_eq!(seal.open(b"key", tenant, [&sealed[..], b"x"].concat()), None);
        }
        let nobodys = seal.seal(b"key", &entry(None, b"x"));
        assert_eq!(seal.open(b"key", Some(&Tenant("".into())), nobodys), None, "nobody is no tenant");
    }

    #[test]
    fn names_and_nonces_are_used_once() {
        let (seal, other) = (Seal::new(), Seal::new());
        assert_eq!(seal.name(b"key"), seal.name(b"key"));
        assert_ne!(seal.name(b"key"), seal.name(b"kez"));
        assert_ne!(seal.name(b"key"), other.name(b"key"));
        assert_eq!(seal.name(b"key").len(), "bulkhead:".len() + 32 + 1 + 32);
        let entry = entry(None, b"x");
        let (a, b) = (seal.seal(b"key", &entry), seal.seal(b"key", &entry));
        assert_ne!(a[..NONCE], b[..NONCE]);
    }

    #[test]
    fn only_what_takes_longer_than_the_way_there_is_put() {
        let tier = Tier::new(Arc::default(), Events::default());
        (0..50).for_each(|_| tier.note_round_trip(Duration::from_micros(200)));
        assert!(!tier.saves(200) && !tier.saves(300) && tier.saves(450));
        (0..50).for_each(|_| tier.note_round_trip(Duration::from_micros(900)));
        assert!(!tier.saves(1_700) && tier.saves(1_900));
    }

    #[test]
    fn what_was_put_is_known_in_bounded_memory() {
        let mut known = Known::default();
        for hash in 0..3 * KNOWN as u64 {
            assert!(!known.has(hash));
            known.add(hash);
            assert!(known.has(hash));
        }
        assert!(known.young.len() + known.old.len() <= 2 * KNOWN);
        assert!(known.has(2 * KNOWN as u64 - 1) && !known.has(0));
        known.remove(2 * KNOWN as u64 - 1);
        assert!(!known.has(2 * KNOWN as u64 - 1));
    }
}
