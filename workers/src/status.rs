//! What this server says of its services, for as long as it lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossdock_config::{ServiceStatus, keys};
use crossdock_topics::{ErrorCode, Expect, LeaseId, Result, Store};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A server that says nothing for so long is taken to be gone.
const LEASE: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// The statuses of this server's services in the store, under a lease that is kept alive.
#[derive(Clone)]
pub(crate) struct Statuses(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    /// What is to be written; nothing for what is to be deleted.
    changed: Mutex<BTreeMap<String, Option<ServiceStatus>>>,
    current: Mutex<BTreeMap<String, ServiceStatus>>,
    notify: Notify,
}

impl Statuses {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self(Arc::new(Inner {
            store,
            changed: Mutex::default(),
            current: Mutex::default(),
            notify: Notify::new(),
        }))
    }

    /// Says how a service stands; it is written soon, with whatever else has changed by then.
    pub(crate) fn report(&self, status: ServiceStatus) {
        let key = keys::status(&status.server, &status.service);
        self.0.changed.lock().insert(key, Some(status));
        self.0.notify.notify_one();
    }

    /// A service is not known here any more.
    pub(crate) fn withdraw(&self, server: &str, service: &crossdock_topics::ServiceName) {
        self.0.changed.lock().insert(keys::status(server, service), None);
        self.0.notify.notify_one();
    }

    /// Writes what is reported and keeps it alive until `stop`; then takes all of it back.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut lease = None;
        loop {
            if let Err(error) = self.write(&mut lease).await {
                tracing::warn!(%error, "the services' statuses could not be written, will try again");
                if error.code == ErrorCode::NotFound {
                    // The lease has run out, and all that was written with it is gone.
                    lease = None;
                    let current = self.0.current.lock().clone();
                    let mut changed = self.0.changed.lock();
                    for (key, status) in current {
                        changed.entry(key).or_insert(Some(status));
                    }
                    drop(changed);
                }
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(500)) => continue,
                    () = stop.cancelled() => {}
                }
            }
            tokio::select! {
                () = self.0.notify.notified() => {}
                () = tokio::time::sleep(KEEP_ALIVE) => {}
                () = stop.cancelled() => {
                    if let Some(lease) = lease {
                        let _ = self.0.store.revoke(lease).await;
                    }
                    return;
                }
            }
        }
    }

    async fn write(&self, lease: &mut Option<LeaseId>) -> Result<()> {
        let store = &self.0.store;
        let held = match *lease {
            Some(held) => {
                store.keep_alive(held).await?;
                held
            }
            None => *lease.insert(store.grant(LEASE).await?),
        };
        loop {
            let Some((key, status)) = self.0.changed.lock().pop_first() else { return Ok(()) };
            let written = match &status {
                Some(status) => {
                    let value = serde_json::to_vec(status).unwrap_or_default();
                    store.put(&key, value.into(), Expect::Any, Some(held)).await
                }
                None => store.delete(&key, Expect::Any).await,
            };
            if let Err(error) = written {
                self.0.changed.lock().entry(key).or_insert(status);
                return Err(error);
            }
            let mut current = self.0.current.lock();
            match status {
                Some(status) => current.insert(key, status),
                None => current.remove(&key),
            };
        }
    }
}
