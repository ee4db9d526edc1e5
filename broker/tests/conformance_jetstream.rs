//! What the engine on NATS JetStream keeps of the contract, on one real nats-server and on a cluster of three. Each case has
//! a prefix of its own there.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use crossdock_broker::{JetStream, JetStreamOptions};
use crossdock_tests::Nats;
use crossdock_topics::SharedBroker;
use crossdock_topics::conformance::{Exception, Harness};
use tokio::sync::{Mutex, OnceCell};

/// One for all cases: it keeps what each thinks is its own apart by prefixes. It ends with this process.
static ONE: OnceCell<Nats> = OnceCell::const_new();
static THREE: OnceCell<Nats> = OnceCell::const_new();
static CASES: AtomicU32 = AtomicU32::new(0);

/// One case's share of the server, or of the cluster.
struct Prefix {
    name: String,
    cluster: bool,
    /// The brokers of this case, so that none is dropped before the case has ended.
    opened: Mutex<Vec<SharedBroker>>,
}

impl Prefix {
    fn new(cluster: bool) -> Self {
        let name = format!("case-{}", CASES.fetch_add(1, Ordering::Relaxed));
        Self { name, cluster, opened: Mutex::default() }
    }
}

#[async_trait]
impl Harness for Prefix {
    async fn open(&self) -> SharedBroker {
        let nats = if self.cluster {
            THREE.get_or_init(|| Nats::cluster(3)).await
        } else {
            ONE.get_or_init(Nats::single).await
        };
        let mut options = JetStreamOptions::new(&nats.url()).unwrap();
        options.prefix = self.name.clone();
        options.sync_always = !self.cluster;
        let broker: SharedBroker = JetStream::open(options).await.unwrap();
        self.opened.lock().await.push(broker.clone());
        broker
    }

    async fn reopen(&self) -> SharedBroker {
        self.open().await
    }

    /// There is one cluster, in which the broker that goes on and one from before its end cannot be at the same time.
    async fn reopen_killed(&self) -> Option<SharedBroker> {
        None
    }

    fn exceptions(&self) -> &'static [Exception] {
        EXCEPTIONS
    }
}

const fn not_yet(name: &'static str) -> Exception {
    Exception { name, reason: "not built yet" }
}

const EXCEPTIONS: &[Exception] = &[
    not_yet("purge::a_name_is_used_again_under_load"),
    not_yet("compaction::a_topic_can_say_that_nobody_is_asked"),
    Exception {
        name: "compaction::much_of_it_under_load",
        reason: "with sync_interval: always each message that goes costs a sync: on a busy machine slower than the load",
    },
];

mod one {
    use super::*;

    crossdock_topics::conformance_tests!(Prefix::new(false));
}

mod three {
    use super::*;

    crossdock_topics::conformance_tests!(Prefix::new(true));
}
