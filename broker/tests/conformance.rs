//! The embedded engine keeps every promise of the contract.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod scratch;

use std::sync::Mutex;

use async_trait::async_trait;
use crossdock_topics::SharedBroker;
use crossdock_topics::conformance::Harness;
use tempfile::TempDir;

/// A directory that goes when the test does.
struct Directory {
    own: TempDir,
    copies: Mutex<Vec<TempDir>>,
}

impl Directory {
    fn new() -> Self {
        Self { own: TempDir::new().unwrap(), copies: Mutex::default() }
    }
}

#[async_trait]
impl Harness for Directory {
    async fn open(&self) -> SharedBroker {
        scratch::open(self.own.path()).await.unwrap()
    }

    async fn reopen(&self) -> SharedBroker {
        scratch::open(self.own.path()).await.unwrap()
    }

    /// The files as they are at this moment are what a killed process leaves behind.
    async fn reopen_killed(&self) -> Option<SharedBroker> {
        let copy = TempDir::new().unwrap();
        scratch::copy(self.own.path(), copy.path()).unwrap();
        let broker = scratch::open(copy.path()).await.unwrap();
        self.copies.lock().unwrap().push(copy);
        Some(broker)
    }
}

crossdock_topics::conformance_tests!(Directory::new());
