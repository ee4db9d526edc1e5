//! A part of the store, always as it is now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Backoff, Change, Entry, Result, Store, Watch};

/// How long to wait before asking a store again that failed.
const RETRY: Backoff =
    Backoff { first: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(5) };

/// All keys that begin with a prefix, followed by a watch.
pub(super) struct Mirror {
    store: Arc<dyn Store>,
    prefix: &'static str,
    entries: BTreeMap<String, Entry>,
    /// None when it was lost.
    watch: Option<Watch>,
    failures: u32,
}

impl Mirror {
    pub(super) async fn open(store: Arc<dyn Store>, prefix: &'static str) -> Result<Self> {
        let (entries, watch) = list(&*store, prefix).await?;
        Ok(Self { store, prefix, entries, watch: Some(watch), failures: 0 })
    }

    /// What is there, as of the last change that was told.
    pub(super) fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Resolves after something has changed; changes that came together are one. Lists again when the watch is
    /// lost, for as long as it takes. Can be dropped at any await without losing a change.
    pub(super) async fn changed(&mut self) {
        if let Some(watch) = &mut self.watch {
            if let Some(change) = watch.next().await {
                apply(&mut self.entries, change);
                while let Ok(change) = watch.0.try_recv() {
                    apply(&mut self.entries, change);
                }
                self.failures = 0;
                return;
            }
            self.watch = None;
        }
        loop {
            // Also before the first attempt: a watch that is lost at once must not make a busy loop.
            self.failures = self.failures.saturating_add(1);
            let seed = std::process::id().into(); // servers of a cluster do not come back together
            tokio::time::sleep(RETRY.wait(self.failures, seed)).await;
            match list(&*self.store, self.prefix).await {
                Ok((entries, watch)) => {
                    self.entries = entries;
                    self.watch = Some(watch);
                    return;
                }
                Err(error) => {
                    tracing::warn!(prefix = self.prefix, %error, "the store cannot be read; what was known counts");
                }
            }
        }
    }
}

async fn list(store: &dyn Store, prefix: &str) -> Result<(BTreeMap<String, Entry>, Watch)> {
    let (entries, revision) = store.list(prefix).await?;
    let watch = store.watch(prefix, revision).await?;
    Ok((entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect(), watch))
}

fn apply(entries: &mut BTreeMap<String, Entry>, change: Change) {
    match change {
        Change::Put(entry) => {
            entries.insert(entry.key.clone(), entry);
        }
        Change::Deleted { key, .. } => {
            entries.remove(&key);
        }
    }
}
