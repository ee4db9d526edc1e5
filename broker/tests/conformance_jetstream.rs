//! What the engine on NATS JetStream keeps of the contract: on one real nats-server, on a cluster of three, and where
//! subscriptions are another engine's. Each case has a prefix of its own there.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "conformance_jetstream/spread.rs"]
mod spreading;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use crossdock_broker::{JetStream, JetStreamOptions};
use crossdock_tests::Nats;
use crossdock_topics::SharedBroker;
use crossdock_topics::conformance::{Exception, Harness};
use spreading::Spread;
use tokio::sync::{Mutex, OnceCell};

/// One for all cases: it keeps what each thinks is its own apart by prefixes. It ends with this process.
static ONE: OnceCell<Nats> = OnceCell::const_new();
static THREE: OnceCell<Nats> = OnceCell::const_new();
static CASES: AtomicU32 = AtomicU32::new(0);

/// On what a case is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    One,
    Three,
    /// One server, two engines.
    Spread,
}

/// One case's share of the server, or of the cluster.
struct Prefix {
    name: String,
    on: On,
    /// The brokers of this case, so that none is dropped before the case has ended.
    opened: Mutex<Vec<SharedBroker>>,
    /// Servers with what a killed broker would have left.
    copies: Mutex<Vec<Nats>>,
}

impl Prefix {
    fn new(on: On) -> Self {
        // RUST_LOG shows what the engines do, where a case is run alone.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .try_init();
        let name = format!("case-{}", CASES.fetch_add(1, Ordering::Relaxed));
        Self { name, on, opened: Mutex::default(), copies: Mutex::default() }
    }

    async fn engine(&self) -> Arc<JetStream> {
        let nats = match self.on {
            On::Three => THREE.get_or_init(|| Nats::cluster(3)).await,
            On::One | On::Spread => ONE.get_or_init(Nats::single).await,
        };
        self.engine_on(nats).await
    }

    async fn engine_on(&self, nats: &Nats) -> Arc<JetStream> {
        let mut options = JetStreamOptions::new(&nats.url()).unwrap();
        options.prefix = self.name.clone();
        options.sync_always = self.on != On::Three;
        JetStream::open(options).await.unwrap()
    }
}

#[async_trait]
impl Harness for Prefix {
    async fn open(&self) -> SharedBroker {
        let broker: SharedBroker = match self.on {
            On::One | On::Three => self.engine().await,
            On::Spread => Arc::new(Spread { owner: self.engine().await, other: self.engine().await }),
        };
        self.opened.lock().await.push(broker.clone());
        broker
    }

    async fn reopen(&self) -> SharedBroker {
        self.open().await
    }

    /// On one server, on a copy of what it has on its disk: the broker that goes on and one from before its end cannot be
    /// in one place at the same time.
    async fn reopen_killed(&self) -> Option<SharedBroker> {
        if self.on != On::One {
            return None;
        }
        let copy = ONE.get()?.copy(&self.name).await;
        let broker: SharedBroker = self.engine_on(&copy).await;
        // Until the lease of the one that was killed is over, which is when its subscriptions are owned again.
        broker.subscriptions().await.unwrap();
        self.opened.lock().await.push(broker.clone());
        self.copies.lock().await.push(copy);
        Some(broker)
    }

    fn exceptions(&self) -> &'static [Exception] {
        EXCEPTIONS
    }
}

const EXCEPTIONS: &[Exception] = &[];

mod one {
    use super::*;

    crossdock_topics::conformance_tests!(Prefix::new(On::One));
}

mod three {
    use super::*;

    crossdock_topics::conformance_tests!(Prefix::new(On::Three));
}

mod spread {
    use super::*;

    crossdock_topics::conformance_tests!(Prefix::new(On::Spread));
}
