//! Keys, and what becomes of an answer, without a server.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::follow::{Follower, Snapshot};
use super::upkeep::{Definitions, Tables};
use super::*;
use crate::plan::ChangedRow;
use crate::plan::{Action, Effect, Literals, OwnSequences, Parameters, Plan, Segment, TenantType};
use crate::principal::Access;

fn touched(family: u32, whose: Whose, rows: Rows) -> Touched {
    Touched { family, whose, rows }
}

fn plan(epoch: u64, text: &str) -> Plan {
    Plan {
        action: Action::Forward,
        effect: Effect::Read,
        command: "SELECT",
        segments: vec![Segment::Text(text.into()), Segment::Tenant(TenantType::Text)],
        needs_tenant: true,
        reads: Reads::Families { sources: [touched(7, Whose::Tenant, Rows::All)].into(), ttl: None },
        ..Plan::nothing(PolicyEpoch(epoch))
    }
}

fn principal(tenant: &str, roles: &[&str]) -> Principal {
    Principal {
        user: "user".into(),
        database: "shop".into(),
        roles: roles.iter().map(|r| Box::from(*r)).collect(),
        access: Access::Fixed(Tenant(tenant.into())),
        tenant_setting: None,
    }
}

fn settings(pairs: &[(&str, &str)]) -> Settings {
    Settings::new(pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect::<BTreeMap<_, _>>())
}

/// What is asked: everything that a key is made of.
struct Question {
    database: DatabaseCache,
    text: String,
    epoch: u64,
    search_path: Vec<Box<str>>,
    principal: Principal,
    settings: Settings,
}

impl Question {
    fn find(&self) -> Found {
        let Question { database, text, epoch, search_path, principal, settings } = self;
        database.find(Asked { text, epoch: PolicyEpoch(*epoch), principal, search_path, form: Form::Simple, settings })
    }

    fn look(&self) -> Looked {
        let (plan, literals, own) = (plan(self.epoch, &self.text), Literals::new(), OwnSequences::default());
        let bound = plan.bind(&self.text, &literals, Parameters::None, &self.principal, &own);
        let Found::Missing(missing) = self.find() else { panic!("known already") };
        self.database.look(missing, &bound.expect("a tenant is chosen"), Turn::Second)
    }

    fn key(&self) -> StoredKey {
        match self.find() {
            Found::Missing(missing) => missing.key,
            Found::Hit(_) => panic!("known already"),
        }
    }

    fn keep(&self, answer: &[u8]) {
        let Looked::Miss(mut fill) = self.look() else { panic!("known already") };
        assert!(fill.add(&[answer, b"Z\0\0\0\x05I"].concat()));
        self.database.keep(*fill);
    }

    fn hit(&self) -> Option<Vec<u8>> {
        if let Found::Hit(entry) = self.find() { Some(entry.answer.to_vec()) } else { None }
    }
}

fn question(cache: &Arc<Cache>, database: u32, epoch: u64, tenant: &str, roles: &[&str], set: &[(&str, &str)]) -> Question {
    Question {
        database: cache.of_database("shop", database, database),
        text: "SELECT ".into(),
        epoch,
        search_path: vec!["public".into()],
        principal: principal(tenant, roles),
        settings: settings(set),
    }
}

#[test]
fn a_key_tells_all_that_an_answer_depends_on() {
    let cache = Arc::new(Cache::new(1 << 20));
    let mut questions = vec![
        question(&cache, 0, 1, "1", &[], &[]),
        question(&cache, 1, 1, "1", &[], &[]),
        question(&cache, 0, 2, "1", &[], &[]),
        question(&cache, 0, 1, "2", &[], &[]),
        question(&cache, 0, 1, "1", &["a"], &[]),
        question(&cache, 0, 1, "1", &["a", "b"], &[]),
        question(&cache, 0, 1, "1", &["ab"], &[]),
        question(&cache, 0, 1, "1", &[], &[("datestyle", "German")]),
        question(&cache, 0, 1, "1", &[], &[("datestyle", "SQL")]),
        question(&cache, 0, 1, "1", &[], &[("timezone", "SQL")]),
    ];
    let another = || question(&cache, 0, 1, "1", &[], &[]);
    questions.push(Question { text: "SELECT DISTINCT ".into(), ..another() });
    questions.push(Question { search_path: vec!["own".into(), "public".into()], ..another() });
    let own = Principal { tenant_setting: Some("app.tenant".into()), ..principal("1", &[]) };
    questions.push(Question { principal: own, ..another() });
    let keys: std::collections::HashSet<StoredKey> = questions.iter().map(Question::key).collect();
    assert_eq!(keys.len(), questions.len());
    let same = question(&cache, 0, 1, "1", &[], &[("application_name", "psql"), ("statement_timeout", "5s")]);
    assert!(keys.contains(&same.key()), "what no answer depends on");
}

#[test]
fn tenants_do_not_share_answers() {
    let cache = Arc::new(Cache::new(1 << 20));
    let (one, two) = (question(&cache, 0, 1, "1", &[], &[]), question(&cache, 0, 1, "2", &[], &[]));
    assert_ne!(one.key(), two.key());
    one.keep(b"of 1");
    assert_eq!(one.hit().as_deref(), Some(&b"of 1"[..]));
    assert_eq!(two.hit(), None);
}

#[test]
fn an_answer_is_given_until_something_begins_to_write() {
    let cache = Arc::new(Cache::new(1 << 20));
    let one = question(&cache, 0, 1, "1", &[], &[]);
    let tenant = Tenant("1".into());
    let families = |own: &[u32], any: &[u32]| {
        let own = own.iter().map(|family| touched(*family, Whose::Tenant, Rows::All));
        Writes::Families(own.chain(any.iter().map(|family| touched(*family, Whose::Anyones, Rows::Added))).collect())
    };
    let write = |database: u32, writes: &Writes, tenant: &Tenant| {
        let database = cache.of_database("shop", database, database);
        let mut intent = database.intend();
        database.widen(&mut intent, writes, &WrittenRows::default(), Some(tenant));
        intent
    };
    // Where a write of anything goes is not known: it may be another database.
    for (database, writes) in
        [(0, families(&[7], &[])), (0, families(&[], &[7])), (0, Writes::Everything), (1, Writes::Everything)]
    {
        one.keep(b"old");
        assert!(one.hit().is_some());
        let intent = write(database, &writes, &tenant);
        assert!(matches!(one.look(), Looked::Passed(Uncached::Writing)), "{writes:?}");
        intent.end();
        assert!(matches!(one.look(), Looked::Miss(_)), "{writes:?}");
    }
    one.keep(b"new");
    for (database, writes, tenant) in [
        (0, families(&[7], &[]), Tenant("2".into())),
        (0, families(&[8], &[9]), tenant.clone()),
        (0, Writes::Nothing, tenant.clone()),
        (1, families(&[7], &[7]), tenant.clone()),
    ] {
        write(database, &writes, &tenant).end();
        assert_eq!(one.hit().as_deref(), Some(&b"new"[..]), "{writes:?} in database {database}");
    }
    // What begins to be written while the answer is on its way is never given.
    let Looked::Miss(mut fill) = question(&cache, 0, 2, "1", &[], &[]).look() else { panic!("known") };
    write(0, &families(&[7], &[]), &tenant).end();
    fill.add(b"older");
    one.database.keep(*fill);
    assert!(question(&cache, 0, 2, "1", &[], &[]).hit().is_none());
}

/// One family, whose tenants are told by a column.
#[derive(Debug)]
struct OneTable;

impl Tables for OneTable {
    fn family(&self, _: &str, _: &str) -> Option<u32> {
        Some(7)
    }

    fn families(&self) -> Vec<u32> {
        vec![7]
    }

    fn definitions(&self) -> Definitions {
        Definitions { changes: 0, exact_at: None }
    }

    fn changed<'v>(&self, relation: u32, value: &dyn Fn(&str) -> Option<&'v [u8]>) -> Option<ChangedRow> {
        let tenant = value("tenant").map(|t| Tenant(String::from_utf8_lossy(t).into()));
        (relation == 9).then_some(ChangedRow { family: 7, tenant, row: None })
    }
}

#[test]
fn what_the_log_tells_is_unreadable_until_it_is_visible() {
    let cache = Arc::new(Cache::new(1 << 20));
    let (one, two) = (question(&cache, 0, 1, "1", &[], &[]), question(&cache, 0, 1, "2", &[], &[]));
    let mut follower = Follower::new(one.database.clone());
    let message = |parts: &[&[u8]]| parts.concat();
    let begin = message(&[b"B", &[0; 16], &100u32.to_be_bytes()]);
    let relation = message(&[b"R", &9u32.to_be_bytes(), b"public\0t\0d\0\x01\x01tenant\0", &[0; 8]]);
    let insert = |oid: u32| message(&[b"I", &oid.to_be_bytes(), b"N\0\x01t\0\0\0\x011"]);
    let commit = message(&[b"C", &[0; 25]]);
    let snapshot = |text: &str| Snapshot::parse(text).expect("a snapshot");
    // Of a table that is not known, anything may have changed.
    for (oid, others_stay) in [(9, true), (8, false)] {
        one.keep(b"of 1");
        two.keep(b"of 2");
        for part in [&begin, &relation, &insert(oid), &commit] {
            follower.take(part, &OneTable).expect("a message");
        }
        assert!(matches!(one.look(), Looked::Passed(Uncached::Writing)));
        assert_eq!(two.hit().is_some(), others_stay);
        follower.note_snapshot(&snapshot("100:101:100"));
        assert!(follower.is_pending() && matches!(one.look(), Looked::Passed(Uncached::Writing)), "it runs still");
        follower.note_snapshot(&snapshot("101:101:"));
        assert!(!follower.is_pending() && matches!(one.look(), Looked::Miss(_)));
        one.database.forget();
    }
    assert!(follower.take(b"?", &OneTable).is_err());
}

#[test]
fn an_answer_of_one_epoch_is_not_kept_under_another() {
    let cache = Arc::new(Cache::new(1 << 20));
    let asked = question(&cache, 0, 2, "1", &[], &[]);
    let Found::Missing(missing) = asked.find() else { panic!("known already") };
    let (plan, literals, own) = (plan(1, &asked.text), Literals::new(), OwnSequences::default());
    let bound = plan.bind(&asked.text, &literals, Parameters::None, &asked.principal, &own);
    let looked = asked.database.look(missing, &bound.expect("a tenant is chosen"), Turn::Second);
    assert!(matches!(looked, Looked::Passed(Uncached::Epoch)), "{looked:?}");
}

#[test]
fn one_server_under_two_names_is_written_through_either() {
    let cache = Arc::new(Cache::new(1 << 20));
    let one = Question { database: cache.of_database("shop", 1, 0), ..question(&cache, 0, 1, "1", &[], &[]) };
    one.keep(b"old");
    let other = cache.of_database("other", 0, 0);
    let mut intent = other.intend();
    other.widen(&mut intent, &Writes::Everything, &WrittenRows::default(), None);
    assert!(one.hit().is_none());
    intent.end();
}

#[test]
fn memory_is_bounded_and_long_answers_are_not_kept() {
    let cache = Arc::new(Cache::new(1 << 20));
    for n in 0..2_000 {
        let mut one = question(&cache, 0, 1, "1", &[], &[]);
        one.text = format!("SELECT {n}, ");
        one.keep(&vec![b'x'; 4_000]);
    }
    assert!(cache.store.bytes() <= 1 << 20, "{:?}", cache.store);
    assert!(cache.store.bytes() > 1 << 19, "{:?}", cache.store);
    let Looked::Miss(mut fill) = question(&cache, 0, 1, "1", &[], &[]).look() else { panic!("known") };
    assert!(!fill.add(&vec![b'x'; (1 << 16) + 1]));
}

/// Of few letters, so that two are often the same, or would be if they were only put behind one another.
fn word() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just('\0'), Just('\u{1}'), Just('\u{4}'), Just('a'), Just('ü')], 0..4)
        .prop_map(|letters| letters.into_iter().collect())
}

/// All that a key is made of; [`Form`] without its borrows.
#[derive(Clone, Debug, PartialEq)]
struct Parts {
    database: u32,
    epoch: u64,
    text: String,
    tenant: Option<String>,
    roles: Vec<String>,
    tenant_setting: Option<String>,
    search_path: Vec<String>,
    settings: BTreeMap<String, String>,
    /// `None`: [`Form::Simple`].
    form: Option<(bool, Vec<u32>, Vec<u8>)>,
}

/// As in the configuration: a setting has a name.
fn parts() -> impl Strategy<Value = Parts> {
    use proptest::collection::{btree_map, vec};
    let number = || prop_oneof![Just(0_u32), Just(1), Just(4), Just(u32::from(b'Q')), Just(u32::MAX), any::<u32>()];
    let name = || prop_oneof![word(), Just("application_name".to_owned()), Just("lock_timeout".to_owned())];
    let asked = (number(), number().prop_map(u64::from), word(), proptest::option::of(word()), vec(word(), 0..3));
    let session = (proptest::option::of("[ab]{1,2}"), vec(word(), 0..3), btree_map(name(), word(), 0..3));
    let form = proptest::option::of((any::<bool>(), vec(number(), 0..3), word().prop_map(String::into_bytes)));
    (asked, session, form).prop_map(|(asked, session, form)| {
        let (database, epoch, text, tenant, roles) = asked;
        let (tenant_setting, search_path, settings) = session;
        Parts { database, epoch, text, tenant, roles, tenant_setting, search_path, settings, form }
    })
}

impl Parts {
    /// With those of another where a bit is set: two that differ in a part or two.
    fn mixed(&self, other: &Parts, which: u16) -> Parts {
        let from = |n: u16| if which & (1 << n) == 0 { self } else { other };
        let form = from(8).form.clone().map(|form| {
            let of = |n| from(n).form.clone().unwrap_or_else(|| form.clone());
            (of(9).0, of(10).1, of(11).2)
        });
        Parts {
            database: from(0).database,
            epoch: from(1).epoch,
            text: from(2).text.clone(),
            tenant: from(3).tenant.clone(),
            roles: from(4).roles.clone(),
            tenant_setting: from(5).tenant_setting.clone(),
            search_path: from(6).search_path.clone(),
            settings: from(7).settings.clone(),
            form,
        }
    }

    /// Without what no answer depends on.
    fn shown(&self) -> Parts {
        let mut shown = self.clone();
        shown.settings.retain(|name, _| !["application_name", "lock_timeout"].contains(&name.as_str()));
        shown
    }

    fn key(&self, cache: &Arc<Cache>) -> Vec<u8> {
        let boxed = |all: &[String]| all.iter().map(|one| Box::from(one.as_str())).collect::<Vec<Box<str>>>();
        let chosen = self.tenant.as_deref().map(|tenant| Tenant(tenant.into()));
        let principal = Principal {
            user: "user".into(),
            database: "shop".into(),
            roles: boxed(&self.roles).into(),
            access: Access::Shared { tenants: crate::principal::TenantSet::Any, chosen },
            tenant_setting: self.tenant_setting.as_deref().map(Arc::from),
        };
        let (search_path, settings) = (boxed(&self.search_path), Settings::new(self.settings.clone()));
        let form = match &self.form {
            None => Form::Simple,
            Some((described, types, bound)) => Form::Extended { described: *described, types, bound },
        };
        let epoch = PolicyEpoch(self.epoch);
        let asked =
            Asked { text: &self.text, epoch, principal: &principal, search_path: &search_path, form, settings: &settings };
        let mut key = BytesMut::new();
        cache.of_database("shop", self.database, 0).write_key(asked, &mut key);
        key.to_vec()
    }
}

/// What a key says, read from its front to its end: a key that can be read back is that of nothing else.
struct Said<'k>(&'k [u8]);

impl Said<'_> {
    fn take(&mut self, n: usize) -> Vec<u8> {
        self.0.split_off(..n).expect("more").to_vec()
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four"))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let n = self.number();
        self.take(n as usize)
    }

    fn word(&mut self) -> String {
        String::from_utf8(self.bytes()).expect("a word")
    }

    fn words(&mut self) -> Vec<String> {
        (0..self.number()).map(|_| self.word()).collect()
    }

    fn parts(mut self) -> Parts {
        let (database, epoch) = (self.number(), u64::from_le_bytes(self.take(8).try_into().expect("eight")));
        let form = (self.take(1) == b"P").then(|| {
            let (described, types) = (self.take(1) == [1], self.number());
            (described, (0..types).map(|_| self.number()).collect(), self.bytes())
        });
        let tenant = if self.0.starts_with(&[u8::MAX; 4]) { self.take(4).pop().and(None) } else { Some(self.word()) };
        let roles = self.words();
        let tenant_setting = Some(self.word()).filter(|name| !name.is_empty());
        let (search_path, shown, text) = (self.words(), self.bytes(), self.word());
        assert!(self.0.is_empty(), "nothing follows");
        let mut shown = Said(&shown);
        let mut settings = BTreeMap::new();
        while !shown.0.is_empty() {
            settings.insert(shown.word(), shown.word());
        }
        Parts { database, epoch, text, tenant, roles, tenant_setting, search_path, settings, form }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_are_equal_where_all_parts_are(one in parts(), other in parts(), which in any::<u16>(), and in any::<u16>()) {
        static CACHE: std::sync::LazyLock<Arc<Cache>> = std::sync::LazyLock::new(|| Arc::new(Cache::new(1 << 20)));
        let mixed = one.mixed(&other, which & and);
        let key = one.key(&CACHE);
        prop_assert_eq!(Said(&key).parts(), one.shown());
        prop_assert_eq!(key == mixed.key(&CACHE), one.shown() == mixed.shown(), "{:?}", mixed);
    }
}
