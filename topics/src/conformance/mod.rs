//! The suite that every engine is run through: one case for each thing the contract promises.
//!
//! An engine implements [`Harness`] and names it in [`crate::conformance_tests!`], which makes one test of each
//! case. A case knows the contract and nothing else: it never looks at files, at an engine's settings, or at
//! how long something took where the contract sets no limit. Waits are bounded by [`PATIENCE`], long enough for
//! a loaded machine; a case that is met takes a fraction of a second.

// A case fails by panicking, as tests do.
#![allow(clippy::unwrap_used)]

mod at_least_once;
mod backpressure;
mod closing;
mod compaction;
mod competing;
mod dead_letters;
mod due;
mod expected;
mod explain;
mod failures;
mod filters;
mod freight;
mod keys;
mod leases;
mod once;
mod order;
mod pausing;
mod priorities;
mod purge;
mod reads;
mod receipts;
mod redriving;
mod requests;
mod retention;
mod seeking;
mod settle;
mod sharing;
mod sources;
mod steps;
mod store;
mod subscriptions;
mod topics;
mod watch;

#[macro_use]
mod list;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::SharedBroker;

/// How long a case waits for what must happen before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// No case takes longer, whatever goes wrong.
const CASE_LIMIT: Duration = Duration::from_secs(120);

/// How the suite gets hold of an engine. One harness serves one case.
#[async_trait]
pub trait Harness: Send + Sync + 'static {
    /// A broker with nothing in it.
    async fn open(&self) -> SharedBroker;

    /// The same broker again, after [`crate::Broker::close`].
    async fn reopen(&self) -> SharedBroker;

    /// What would be there if the broker's process were killed at this moment. The broker is idle, and may go
    /// on running beside this one. `None` when the engine cannot be put into this state.
    async fn reopen_killed(&self) -> Option<SharedBroker>;

    /// What this engine does not promise.
    fn exceptions(&self) -> &'static [Exception] {
        &[]
    }
}

/// Something an engine does not promise, and says so.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    /// A group (`leases`) or one case of it (`leases::a_lease_survives_a_restart`).
    pub name: &'static str,
    /// Why not.
    pub reason: &'static str,
}

/// One case of the suite.
#[derive(Clone, Copy)]
pub struct Case {
    /// The promise it belongs to.
    pub group: &'static str,
    /// What must hold.
    pub name: &'static str,
    run: fn(Arc<dyn Harness>) -> Running,
}

/// A case under way. Not `Send`: it is awaited where it was begun.
type Running = Pin<Box<dyn Future<Output = ()>>>;

macro_rules! cases {
    ($($group:ident: [$($name:ident),* $(,)?])*) => {
        /// Every case.
        pub const CASES: &[Case] = &[$($(Case {
            group: stringify!($group),
            name: stringify!($name),
            run: |harness| Box::pin($group::$name(harness)),
        }),*),*];
    };
}
conformance_cases!([cases]);

/// Runs one case. An exception of the engine is reported on stderr and skips it.
///
/// # Panics
/// When the case fails, takes too long, or is not one of [`CASES`], or when an exception names nothing.
pub async fn check(group: &str, name: &str, harness: Arc<dyn Harness>) {
    for exception in harness.exceptions() {
        let meant = |case: &Case| {
            case.group == exception.name || format!("{}::{}", case.group, case.name) == exception.name
        };
        assert!(CASES.iter().any(meant), "the exception {:?} names no group and no case", exception.name);
        if CASES.iter().any(|case| case.group == group && case.name == name && meant(case)) {
            eprintln!("{group}::{name}: not promised by this engine: {}", exception.reason);
            return;
        }
    }
    let case = CASES.iter().find(|case| case.group == group && case.name == name);
    let case = case.unwrap_or_else(|| panic!("there is no case {group}::{name}"));
    if tokio::time::timeout(CASE_LIMIT, (case.run)(harness)).await.is_err() {
        panic!("{group}::{name} took longer than {CASE_LIMIT:?}");
    }
}
