//! Which services there are, as the store says.

use std::collections::BTreeMap;
use std::time::Duration;

use crossdock_config::{ServiceRecord, keys};
use crossdock_topics::{Backoff, Change, Result, ServiceName, Watch};
use tokio::sync::watch;

use crate::launch::Workshop;
use crate::service::Service;
use crate::status::Statuses;

/// Follows the records of services until the shutdown begins, and keeps one task for each.
pub(crate) struct Reconciler {
    workshop: Workshop,
    statuses: Statuses,
    services: BTreeMap<ServiceName, watch::Sender<Option<ServiceRecord>>>,
}

impl Reconciler {
    pub(crate) fn new(workshop: Workshop, statuses: Statuses) -> Self {
        Self { workshop, statuses, services: BTreeMap::new() }
    }

    pub(crate) async fn run(mut self) {
        let shutdown = self.workshop.shutdown.clone();
        let backoff = Backoff { first: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(5) };
        let mut failures = 0;
        while !shutdown.has_started() {
            match self.list().await {
                Ok(mut changes) => {
                    failures = 0;
                    loop {
                        tokio::select! {
                            change = changes.next() => match change {
                                Some(change) => self.take(change),
                                None => break, // we were too slow: list again
                            },
                            () = shutdown.started() => return,
                        }
                    }
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, "the services cannot be listed, will try again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.wait(failures.max(1), rand::random::<u64>())) => {}
                () = shutdown.started() => return,
            }
        }
    }

    async fn list(&mut self) -> Result<Watch> {
        let (entries, revision) = self.workshop.broker.list(keys::SERVICES).await?;
        let mut gone: Vec<_> = self.services.keys().cloned().collect();
        for entry in entries {
            if let Some(name) = name_of(&entry.key) {
                gone.retain(|known| *known != name);
                self.put(name, &entry.value);
            }
        }
        for name in gone {
            self.remove(&name);
        }
        self.workshop.broker.watch(keys::SERVICES, revision).await
    }

    fn take(&mut self, change: Change) {
        let Some(name) = name_of(change.key()) else { return };
        match change {
            Change::Put(entry) => self.put(name, &entry.value),
            Change::Deleted { .. } => self.remove(&name),
        }
    }

    fn put(&mut self, name: ServiceName, value: &[u8]) {
        let record: ServiceRecord = match serde_json::from_slice(value) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(service = %name, %error, "the service's record is not understood");
                return;
            }
        };
        if let Some(known) = self.services.get(&name) {
            known.send_replace(Some(record));
            return;
        }
        let (sender, receiver) = watch::channel(Some(record));
        let service = Service::new(self.workshop.clone(), name.clone(), self.statuses.clone());
        self.workshop.shutdown.tasks().spawn(service.run(receiver));
        self.services.insert(name, sender);
    }

    fn remove(&mut self, name: &ServiceName) {
        // Its task stays: a service of the same name must not begin before the old one has ended.
        if let Some(known) = self.services.get(name) {
            known.send_replace(None);
        }
    }
}

fn name_of(key: &str) -> Option<ServiceName> {
    keys::name(keys::SERVICES, key)?.parse().ok()
}
