//! The store, as [`Store`] has it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crossdock_topics::{Entry, Error, Expect, LeaseId, Result, Revision, Store, Watch};

use super::writer::Command;
use super::{Embedded, closed, store};

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        Ok(self.shared.store.get(key))
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect, lease: Option<LeaseId>) -> Result<Revision> {
        store::check(key, Some(&value))?;
        let key = key.to_owned();
        self.shared.ask(|answer| Command::Put { key, value, expect, lease, answer }).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<Revision> {
        store::check(key, None)?;
        let key = key.to_owned();
        self.shared.ask(|answer| Command::Delete { key, expect, answer }).await
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision)> {
        Ok(self.shared.store.list(prefix))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        let watch = self.shared.store.watch(prefix, after)?;
        // Looked at afterwards: closing ends those it finds, and this one finds the closing.
        if self.shared.closing.load(std::sync::atomic::Ordering::Acquire) { Err(closed()) } else { Ok(watch) }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        if ttl < Duration::from_millis(100) || ttl > Duration::from_secs(3600) {
            return Err(Error::invalid("a lease lasts 100ms to 1h"));
        }
        self.shared.ask(|answer| Command::Grant { ttl, answer }).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.shared.ask(|answer| Command::KeepAlive { lease, answer }).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.shared.ask(|answer| Command::Revoke { lease, answer }).await
    }
}
