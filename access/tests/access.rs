//! Users and permissions in a real store: who is let in, for what, and what happens when they change.
#![allow(clippy::unwrap_used)] // in what the tests have in common

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use crossdock_access::{Access, Action, Credentials, Principal, hash_api_key, hash_password};
use crossdock_broker::{Embedded, EmbeddedOptions};
use crossdock_config::{Name, Permission, UserRecord, keys};
use crossdock_topics::{
    Broker, Entry, Error, ErrorCode, Expect, LeaseId, Result, Revision, Shutdown, Store, Watch,
};
use secrecy::SecretString;
use tempfile::TempDir;

struct House {
    broker: Arc<Embedded>,
    shutdown: Shutdown,
    _directory: TempDir,
}

impl House {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let broker = Embedded::open(EmbeddedOptions::new(directory.path())).unwrap();
        Self { broker, shutdown: Shutdown::new(Duration::from_secs(5)), _directory: directory }
    }

    async fn open(&self) -> Access {
        Access::open(self.broker.clone(), &self.shutdown).await.unwrap()
    }

    async fn user(&self, name: &str, password: Option<&str>, api_key: Option<&str>) {
        let name: Name = name.parse().unwrap();
        let record = UserRecord {
            password: password.map(|password| hash_password(&password.into()).unwrap()),
            api_key: api_key.map(|key| hash_api_key(&name, &key.into()).unwrap()),
            name: name.clone(),
        };
        self.put(&keys::user(&name), serde_json::to_vec(&record).unwrap()).await;
    }

    async fn permission(&self, yaml: &str) {
        let yaml = format!("permissions: [{yaml}]");
        let document = crossdock_config::parse(yaml.as_bytes(), None, None).unwrap().document;
        let permission: &Permission = &document.permissions[0];
        self.put(&keys::permission(&permission.name), serde_json::to_vec(permission).unwrap()).await;
    }

    async fn put(&self, key: &str, value: Vec<u8>) {
        self.broker.put(key, value.into(), Expect::Any, None).await.unwrap();
    }

    async fn end(self) {
        tokio::time::timeout(Duration::from_secs(5), self.shutdown.drain()).await.expect("all tasks end");
        self.broker.close().await;
    }
}

fn password(user: &str, password: &str) -> Credentials {
    Credentials::Basic { user: user.into(), password: password.into() }
}

fn api_key(key: &str) -> Credentials {
    Credentials::ApiKey(SecretString::from(key))
}

const KEY: &str = "svc@example.org.0123456789abcdef";

/// Waits for something that a change in the store leads to.
async fn until<T>(mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(done) = check().await {
            return done;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn let_in(access: &Access, credentials: &Credentials) -> Principal {
    until(async || access.authenticate(credentials).await.ok()).await
}

async fn refused(access: &Access, credentials: &Credentials) {
    let error = until(async || access.authenticate(credentials).await.err()).await;
    assert_eq!(error.code, ErrorCode::Unauthenticated, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_proves_it_is_let_in_and_nobody_else() {
    let house = House::new();
    house.user("alice", Some("correct horse"), None).await;
    house.user("svc@example.org", None, Some(KEY)).await;
    house.user("nologin", None, None).await;
    let access = house.open().await;

    assert_eq!(let_in(&access, &password("alice", "correct horse")).await.user().as_str(), "alice");
    assert_eq!(let_in(&access, &api_key(KEY)).await.user().as_str(), "svc@example.org");
    let long = "x".repeat(Credentials::MAX + 1);
    for wrong in [
        password("alice", "wrong horse"),
        password("alice", ""),
        password("alice", &long),
        password(&long, "x"),
        password("Alice", "correct horse"),
        password("", "correct horse"),
        password("bob", "correct horse"),
        password("nologin", ""),
        password("svc@example.org", KEY),
        api_key("alice.correct horse"),
        api_key("svc@example.org.0123456789abcdeX"),
        api_key("correct horse"),
        api_key(""),
        api_key("."),
    ] {
        let error = access.authenticate(&wrong).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unauthenticated, "{wrong:?}");
        assert_eq!(
            error,
            access.authenticate(&password("nobody", "x")).await.unwrap_err(),
            "all look the same"
        );
    }
    assert!(!format!("{:?}", password("alice", "correct horse")).contains("horse"));
    assert!(!format!("{access:?}").contains("argon2"));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_add_up_and_change_while_in_use() {
    let house = House::new();
    house.user("alice", Some("pw"), None).await;
    house.permission("{name: a, users: [alice], publish: ['orders.*'], invoke: [route]}").await;
    house.permission("{name: b, users: [alice, bob], publish: [stock], consume: ['orders.**']}").await;
    let access = house.open().await;
    let credentials = password("alice", "pw");
    let alice = let_in(&access, &credentials).await;

    for (action, name, allowed) in [
        (Action::Publish, "orders.new", true),
        (Action::Publish, "stock", true),
        (Action::Publish, "orders.new.eu", false),
        (Action::Publish, "orders", false),
        (Action::Publish, "orders.*", true),
        (Action::Publish, "orders.**", false),
        (Action::Consume, "orders.new.eu", true),
        (Action::Consume, "orders.*.eu", true),
        (Action::Consume, "stock", false),
        (Action::Consume, "**", false),
        (Action::Invoke, "route", true),
        (Action::Invoke, "_workers.deploy", false),
    ] {
        let checked = alice.check(action, name);
        assert_eq!(checked.is_ok(), allowed, "{action} {name}");
        if let Err(error) = checked {
            assert_eq!(error.code, ErrorCode::PermissionDenied);
            for word in ["alice", name] {
                assert!(error.message.contains(word), "{error}");
            }
        }
    }
    assert_eq!(alice.check(Action::Publish, "a b").unwrap_err().code, ErrorCode::InvalidArgument);
    assert_eq!(alice.check_admin().unwrap_err().code, ErrorCode::PermissionDenied);

    house.permission("{name: b, users: [bob], publish: [stock]}").await;
    house.permission("{name: c, users: [alice], admin: true}").await;
    let admin = until(async || {
        let alice = access.authenticate(&credentials).await.unwrap();
        alice.check_admin().ok().map(|()| alice)
    })
    .await;
    for name in ["anything", "**", "orders.**"] {
        assert!(admin.check(Action::Publish, name).is_ok(), "{name}");
    }
    assert!(admin.check(Action::Consume, "_logs.route").is_ok());
    let error = admin.check(Action::Publish, "_logs.route").unwrap_err();
    assert!(error.message.contains("system's own"), "{error}");

    house.broker.delete("permissions/c", Expect::Any).await.unwrap();
    until(async || {
        let alice = access.authenticate(&credentials).await.unwrap();
        (alice.check_admin().is_err() && alice.check(Action::Publish, "stock").is_err()).then_some(())
    })
    .await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_proven_is_cheap_until_the_user_changes() {
    let house = House::new();
    house.user("alice", Some("old"), None).await;
    let access = house.open().await;
    let old = password("alice", "old");
    let_in(&access, &old).await;
    let begun = Instant::now();
    for _ in 0..1000 {
        access.authenticate(&old).await.unwrap();
    }
    // A thousand argon2 hashes take ten seconds and more.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    house.user("alice", Some("new"), None).await;
    refused(&access, &old).await;
    let_in(&access, &password("alice", "new")).await;
    house.broker.delete("users/alice", Expect::Any).await.unwrap();
    refused(&access, &password("alice", "new")).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_user_costs_what_a_known_one_does() {
    let house = House::new();
    house.user("alice", Some("pw"), None).await;
    house.user("keyless", None, None).await;
    let access = house.open().await;
    let mut quickest = [Duration::MAX; 3];
    for round in 0..5 {
        for (index, user) in ["alice", "keyless", "nobody"].into_iter().enumerate() {
            let begun = Instant::now();
            access.authenticate(&password(user, &format!("wrong {round}"))).await.unwrap_err();
            quickest[index] = quickest[index].min(begun.elapsed());
        }
    }
    // Without a hash to check it would be microseconds; how long one takes differs with the load of the machine.
    for took in quickest {
        assert!(took > Duration::from_millis(1), "{quickest:?}");
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_bounded_and_does_not_touch_those_who_are_known() {
    let house = House::new();
    house.user("alice", Some("pw"), None).await;
    let access = house.open().await;
    let known = password("alice", "pw");
    let_in(&access, &known).await;

    let guesses: Vec<_> = (0..400)
        .map(|n| {
            let access = access.clone();
            tokio::spawn(
                async move { access.authenticate(&password("alice", &n.to_string())).await.unwrap_err() },
            )
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = Instant::now();
    access.authenticate(&known).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    let mut overloaded = 0;
    for guess in guesses {
        let error = tokio::time::timeout(Duration::from_secs(20), guess).await.unwrap().unwrap();
        match error.code {
            ErrorCode::Overloaded => {
                assert!(error.retry_after.is_some());
                overloaded += 1;
            }
            code => assert_eq!(code, ErrorCode::Unauthenticated),
        }
    }
    assert!(overloaded >= 400 - 258, "{overloaded}");
    house.end().await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn those_who_do_not_wait_for_their_check_are_bounded_too() {
    let house = House::new();
    house.user("alice", Some("pw"), None).await;
    let access = house.open().await;
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    for n in 0..200 {
        let guess = password("alice", &n.to_string());
        let _ = tokio::time::timeout(Duration::from_millis(1), access.authenticate(&guess)).await;
    }
    // Other tests have some as well; a check for each that was abandoned would be 200.
    assert!(threads() < before + 60, "{} threads, {before} before", threads());
    let_in(&access, &password("alice", "pw")).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_takes_access_away_from_its_users_alone() {
    let house = House::new();
    house.user("alice", Some("pw"), None).await;
    house.put("users/bob", b"{\"name\": \"bob\", \"password\": 5}".to_vec()).await;
    house.put("permissions/broken", b"\xff".to_vec()).await;
    house.permission("{name: a, users: [alice], publish: [t]}").await;
    let access = house.open().await;
    let alice = let_in(&access, &password("alice", "pw")).await;
    assert!(alice.check(Action::Publish, "t").is_ok());
    refused(&access, &password("bob", "5")).await;
    house.end().await;
}

/// A real store that loses its watches and refuses to list when it is told to.
struct Moody {
    store: Arc<Embedded>,
    /// Whether new watches are lost at once and lists fail.
    down: AtomicBool,
    refused: AtomicUsize,
    cut: tokio::sync::watch::Sender<u64>,
}

impl Moody {
    fn lose_watches(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    fn check(&self) -> Result<()> {
        if !self.down.load(SeqCst) {
            return Ok(());
        }
        self.refused.fetch_add(1, SeqCst);
        Err(Error::new(ErrorCode::Unavailable, "down"))
    }
}

#[async_trait]
impl Store for Moody {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.store.get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect, lease: Option<LeaseId>) -> Result<Revision> {
        self.store.put(key, value, expect, lease).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<Revision> {
        self.store.delete(key, expect).await
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision)> {
        self.check()?;
        self.store.list(prefix).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        self.check()?;
        let mut watch = self.store.watch(prefix, after).await?;
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let mut cut = self.cut.subscribe();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = cut.changed() => return,
                    change = watch.next() => {
                        let Some(change) = change else { return };
                        if sender.send(change).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Watch(receiver))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.store.revoke(lease).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_watch_is_made_up_for_and_what_was_known_counts_meanwhile() {
    let house = House::new();
    house.user("alice", Some("pw"), None).await;
    let moody = Arc::new(Moody {
        store: house.broker.clone(),
        down: AtomicBool::new(false),
        refused: AtomicUsize::new(0),
        cut: tokio::sync::watch::Sender::new(0),
    });
    let access = Access::open(moody.clone(), &house.shutdown).await.unwrap();
    let alice = password("alice", "pw");
    let_in(&access, &alice).await;

    moody.down.store(true, SeqCst);
    moody.lose_watches();
    house.user("bob", Some("pw"), None).await;
    house.broker.delete("users/alice", Expect::Any).await.unwrap();
    until(async || (moody.refused.load(SeqCst) >= 2).then_some(())).await;
    assert!(access.authenticate(&alice).await.is_ok(), "what was known last counts");
    assert!(access.authenticate(&password("bob", "pw")).await.is_err());
    assert!(moody.refused.load(SeqCst) < 20, "it waits between attempts");

    moody.down.store(false, SeqCst);
    let_in(&access, &password("bob", "pw")).await;
    refused(&access, &alice).await;

    // And it goes on following.
    moody.lose_watches();
    house.user("carol", Some("pw"), None).await;
    let_in(&access, &password("carol", "pw")).await;

    moody.down.store(true, SeqCst);
    let error = Access::open(moody.clone(), &house.shutdown).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable, "without a first answer there is nothing to go by");
    moody.lose_watches();
    house.end().await;
}
