//! The users of the cluster, and the check of what they say.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use crossdock_config::{UserRecord, keys};
use crossdock_topics::{Backoff, Error, ErrorCode, Result, Shutdown, Store, Watch};
use secrecy::SecretString;
use tokio::sync::Semaphore;

use crate::cache::Cache;
use crate::snapshot::{Records, Snapshot};
use crate::{Credentials, Principal, hash};

/// How many checks of a secret run at once: each takes a core for tens of milliseconds, and 9 MiB.
const CHECKS: usize = 2;
/// How many may wait for such a check, beyond those that run.
const WAITING: usize = 256;
/// How long one may wait for it.
const WAIT: Duration = Duration::from_secs(3);
/// How many proven credentials are remembered.
const REMEMBERED: usize = 10_000;
/// How long to wait before asking a store again that failed.
const RETRY: Backoff =
    Backoff { first: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(5) };

/// Who may do what in the cluster. Cheap to clone. It follows the store: a change of users or permissions
/// counts from the moment its watch tells of it. While the store cannot be watched, what was known last counts.
#[derive(Clone)]
pub struct Access(Arc<Shared>);

struct Shared {
    snapshot: ArcSwap<Snapshot>,
    cache: Cache,
    /// Bounds those who wait, and those who run among them.
    queue: Semaphore,
    running: Arc<Semaphore>,
    /// What the credentials of unknown users are checked against, so that they cost the same as known ones'.
    nobody: String,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("users", &self.0.snapshot.load().users.len()).finish()
    }
}

impl Access {
    /// Reads users and permissions and follows them until shutdown.
    ///
    /// # Errors
    /// Those of the store's first answer.
    pub async fn open(store: Arc<dyn Store>, shutdown: &Shutdown) -> Result<Self> {
        let (records, watches) = list(&*store).await?;
        let secret = SecretString::from(format!("{:x}", u128::from_le_bytes(rand::random())));
        let nobody = blocking(move || hash::hash_password(&secret)).await??;
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(records.snapshot()),
            cache: Cache::new(rand::random(), REMEMBERED),
            queue: Semaphore::new(WAITING + CHECKS),
            running: Arc::new(Semaphore::new(CHECKS)),
            nobody,
        });
        shutdown.tasks().spawn(follow(shared.clone(), store, records, watches, shutdown.clone()));
        Ok(Self(shared))
    }

    /// Proves who is asking. Takes microseconds for what was proven before, else tens of milliseconds and a
    /// place in a bounded queue.
    ///
    /// # Errors
    /// `Unauthenticated` when it is not proven, be it the user or the secret; `Overloaded` when too many are
    /// being checked.
    pub async fn authenticate(&self, credentials: &Credentials) -> Result<Principal> {
        let (kind, hash_of): (u8, fn(&UserRecord) -> Option<&String>) = match credentials {
            Credentials::Basic { .. } => (0, |record| record.password.as_ref()),
            Credentials::ApiKey(_) => (1, |record| record.api_key.as_ref()),
        };
        let (name, secret) = credentials.parts().ok_or_else(refused)?;
        let fingerprint = self.0.cache.fingerprint(kind, name, secret);
        if let Some(principal) = self.proven(name, &fingerprint) {
            return Ok(principal);
        }

        let overloaded = || {
            Error::new(ErrorCode::Overloaded, "too many credentials are being checked")
                .hint("try again in a moment")
                .retry_after(Duration::from_secs(1))
        };
        let _queued = self.0.queue.try_acquire().map_err(|_| overloaded())?;
        let running = tokio::time::timeout(WAIT, self.0.running.clone().acquire_owned()).await;
        let running = running.map_err(|_| overloaded())?.map_err(|_| overloaded())?;
        // Another request with the same credentials may have been ahead in the queue.
        if let Some(principal) = self.proven(name, &fingerprint) {
            return Ok(principal);
        }

        let snapshot = self.0.snapshot.load_full();
        let user = snapshot.users.get(name);
        let known = user.and_then(|user| hash_of(&user.record));
        let hash = known.unwrap_or(&self.0.nobody).clone();
        let secret = SecretString::from(secret);
        // The check goes on when the one who asks goes away, and so it keeps its place until it is done.
        let right = blocking(move || {
            let _running = running;
            hash::matches(&secret, &hash)
        })
        .await?;
        match user {
            Some(user) if right && known.is_some() => {
                self.0.cache.remember(fingerprint, user.revision);
                Ok(Principal::new(user.record.name.clone(), user.grants.clone()))
            }
            _ => {
                // A name that is nobody's may be a password in the wrong place: it is not logged.
                tracing::warn!(user = user.map(|user| user.record.name.as_str()), "credentials were refused");
                Err(refused())
            }
        }
    }

    fn proven(&self, name: &str, fingerprint: &crate::cache::Fingerprint) -> Option<Principal> {
        let snapshot = self.0.snapshot.load();
        let user = snapshot.users.get(name)?;
        let proven = self.0.cache.proven(fingerprint, user.revision);
        proven.then(|| Principal::new(user.record.name.clone(), user.grants.clone()))
    }
}

fn refused() -> Error {
    Error::new(ErrorCode::Unauthenticated, "the user is unknown, or the password or API key is wrong")
        .hint("send the name and password of a user (HTTP basic authentication), or an API key")
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::new(ErrorCode::Unavailable, "the server is stopping").hint("try another server"))
}

type Watches = [Watch; 2];

/// All records, and the watches that miss nothing after them.
async fn list(store: &dyn Store) -> Result<(Records, Watches)> {
    let mut records = Records::default();
    let (users, users_at) = store.list(keys::USERS).await?;
    let (permissions, permissions_at) = store.list(keys::PERMISSIONS).await?;
    users.iter().chain(&permissions).for_each(|entry| records.put(entry));
    let watches =
        [store.watch(keys::USERS, users_at).await?, store.watch(keys::PERMISSIONS, permissions_at).await?];
    Ok((records, watches))
}

/// Keeps the snapshot up to date; lists again when a watch is lost, for as long as it takes.
async fn follow(
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    mut records: Records,
    mut watches: Watches,
    shutdown: Shutdown,
) {
    let seed = rand::random();
    loop {
        tokio::select! {
            () = shutdown.started() => return,
            () = changes(&shared, &mut records, &mut watches) => {}
        }
        let mut failures = 0;
        (records, watches) = loop {
            // Also before the first attempt: a watch that is lost at once must not make a busy loop.
            failures += 1;
            tokio::select! {
                () = shutdown.started() => return,
                () = tokio::time::sleep(RETRY.wait(failures, seed)) => {}
            }
            match list(&*store).await {
                Ok(listed) => break listed,
                Err(error) => {
                    tracing::warn!(%error, failures, "users and permissions cannot be read; the last known count");
                }
            }
        };
        shared.snapshot.store(Arc::new(records.snapshot()));
    }
}

/// Takes changes in until a watch is lost. What has come together makes one new snapshot.
async fn changes(shared: &Shared, records: &mut Records, [users, permissions]: &mut Watches) {
    loop {
        let change = tokio::select! {
            change = users.next() => change,
            change = permissions.next() => change,
        };
        let Some(change) = change else { return };
        records.apply(change);
        for watch in [&mut *users, &mut *permissions] {
            while let Ok(change) = watch.0.try_recv() {
                records.apply(change);
            }
        }
        shared.snapshot.store(Arc::new(records.snapshot()));
    }
}
