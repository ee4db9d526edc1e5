//! The engine on NATS JetStream (`nats://A,B,C`): what must not be lost is kept by NATS, by several servers of a cluster
//! if there are several; the rules of delivery are ours, the same as in the other engines.

mod choice;
#[allow(dead_code)] // until the parts that use all of it are there
mod connection;
#[allow(dead_code)] // until the parts that use all of it are there
mod follow;
pub(crate) mod house;
mod instance;
#[allow(dead_code)] // until subscriptions read it
mod log;
mod options;
mod peers;
mod requests;
mod standing;
#[allow(dead_code)] // until the parts that use all of it are there
mod store;
mod subscription;
mod tunnel;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use crossdock_topics::{Broker, Error, ErrorCode, Health, Result, Shutdown};

pub use options::{JetStreamOptions, NatsLogin};

use connection::Connection;
use instance::Instance;
use log::Logs;
use peers::Peers;
use requests::RequestDesk;
use standing::Standing;
use store::KeyStore;
use subscription::{Here, Hub, Routes};

/// How long what is under way may take to end when the broker is closed.
const GRACE: Duration = Duration::from_secs(5);
/// How long subscriptions may take to become other servers' then.
const HANDING_OVER: Duration = Duration::from_secs(8);

/// A broker on a NATS cluster. Any number of processes can hold one on the same cluster and prefix: all are equal.
pub struct JetStream {
    connection: Connection,
    store: KeyStore,
    instance: Instance,
    requests: RequestDesk,
    logs: Arc<Logs>,
    hub: Arc<Hub>,
    here: Arc<Here>,
    /// Where subscriptions are. Nothing in the one whom other engines ask: what they ask goes no further.
    routes: Option<Routes>,
    shutdown: Shutdown,
    closed: Arc<AtomicBool>,
    standing: Standing,
}

impl JetStream {
    /// Connects, and makes what is needed in NATS where it is not there.
    ///
    /// # Errors
    /// `InvalidArgument` for options that cannot be; `Unauthenticated`; `Unavailable` when no server answers, is too
    /// old, or has no JetStream.
    pub async fn open(options: JetStreamOptions) -> Result<Arc<Self>> {
        let connection = Connection::open(options).await?;
        let shutdown = Shutdown::new(GRACE);
        match Box::pin(Self::start(connection.clone(), shutdown.clone())).await {
            Ok(broker) => Ok(Arc::new(broker)),
            Err(error) => {
                let _ = tokio::time::timeout(GRACE, shutdown.drain()).await;
                connection.close().await;
                Err(error)
            }
        }
    }

    async fn start(connection: Connection, shutdown: Shutdown) -> Result<Self> {
        connection.watch_over(&shutdown);
        let store = Box::pin(KeyStore::open(&connection, &shutdown)).await?;
        let instance = Instance::start(&store, &connection.options.name, &shutdown).await?;
        if let Err(error) = house::check_whole(&store).await {
            instance.leave(&store).await;
            return Err(error);
        }
        let requests = RequestDesk::start(&connection, &store, &instance, &shutdown).await?;
        let logs = Logs::open(&connection, &store, &instance, &shutdown);
        let hub = Box::pin(Hub::open(&connection, &store, &instance, &logs, &shutdown)).await?;
        let standing = Standing::of(&connection, store.replicas().min(hub.replicas()));
        if let Some(warning) = &standing.warning {
            tracing::warn!("{warning}");
        }
        let here = Arc::new(Here::new(&hub));
        let mut broker = Self {
            connection,
            store,
            instance,
            requests,
            logs,
            hub,
            here,
            routes: None,
            shutdown,
            closed: Arc::default(),
            standing,
        };
        let asked = Arc::new(broker.without_routes());
        let (connection, store, instance) = (&broker.connection, &broker.store, &broker.instance);
        let peers = Box::pin(Peers::open(connection, store, instance, asked, &broker.shutdown)).await?;
        broker.routes = Some(Routes::new(&broker.hub, &broker.here, peers, &broker.shutdown));
        Ok(broker)
    }

    /// The same engine for others to ask: subscriptions are those that it owns itself.
    fn without_routes(&self) -> Self {
        Self {
            connection: self.connection.clone(),
            store: self.store.clone(),
            instance: self.instance.clone(),
            requests: self.requests.clone(),
            logs: self.logs.clone(),
            hub: self.hub.clone(),
            here: self.here.clone(),
            routes: None,
            shutdown: self.shutdown.clone(),
            closed: self.closed.clone(),
            standing: self.standing.clone(),
        }
    }

    /// Why it cannot be used, if it cannot.
    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }
}

impl Drop for JetStream {
    /// Whoever forgot to close it leaves no tasks behind; the others notice when its lease has run out.
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

fn closed() -> Error {
    Error::new(ErrorCode::Unavailable, "the broker is closed").hint("start it again")
}

#[async_trait]
impl Broker for JetStream {
    fn health(&self) -> Health {
        let reason = match self.check_open() {
            Err(error) => Some(error.message.into_owned()),
            Ok(()) if !self.connection.up().borrow().is => Some("there is no connection to NATS".to_owned()),
            Ok(()) => self.store.trouble(),
        };
        let Standing { engine, detail, warning } = self.standing.clone();
        let warnings: Vec<String> = warning.into_iter().chain(self.logs.warnings()).collect();
        let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
        Health { ready: reason.is_none(), reason, engine, detail: Some(detail), warning }
    }

    async fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            if let Some(routes) = self.routes.as_ref().filter(|_| self.connection.up().borrow().is)
                && tokio::time::timeout(HANDING_OVER, routes.go()).await.is_err()
            {
                tracing::warn!("not all subscriptions could be handed over; the other servers take them now");
            }
            self.hub.close();
            self.requests.close();
            self.store.close();
            let leaving = self.instance.leave(&self.store);
            let _ = tokio::time::timeout(self.shutdown.grace(), leaving).await;
            let _ = tokio::time::timeout(self.shutdown.grace(), self.shutdown.drain()).await;
            self.connection.close().await;
        }
    }
}
