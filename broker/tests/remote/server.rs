//! A server on a broker of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossdock_access::Access;
use crossdock_broker::remote::{ServeOptions, serve};
use crossdock_broker::{Embedded, Remote, RemoteOptions};
use crossdock_topics::{Broker, Expect, Log, Shutdown, Subscription, Subscriptions, Topic};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// What must happen, happens within this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} did not come about"))
}

/// A broker with a server before it.
pub(crate) struct Server {
    pub(crate) broker: Arc<Embedded>,
    pub(crate) address: SocketAddr,
    pub(crate) directory: TempDir,
    shutdown: Shutdown,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(options: ServeOptions) -> Self {
        Self::start_with(options, false).await
    }

    /// One that asks who is there, if `guarded`.
    pub(crate) async fn start_with(options: ServeOptions, guarded: bool) -> Self {
        Self::begin(TempDir::new().unwrap(), "127.0.0.1:0".parse().unwrap(), options, guarded).await
    }

    async fn begin(directory: TempDir, address: SocketAddr, options: ServeOptions, guarded: bool) -> Self {
        let broker = scratch_open(&directory).await;
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new(Duration::from_secs(2));
        let access = match guarded {
            true => Some(Access::open(broker.clone(), &shutdown).await.unwrap()),
            false => None,
        };
        let serving = tokio::spawn(serve(options, listener, broker.clone(), access, shutdown.clone()));
        Self { broker, address, directory, shutdown, serving }
    }

    /// A topic and a subscription to it, both called `orders`.
    pub(crate) async fn orders(&self) {
        self.broker.put_topic(Topic::new("orders".parse().unwrap()), Expect::Any).await.unwrap();
        let subscription = Subscription::new("orders".parse().unwrap(), vec!["orders".parse().unwrap()]);
        self.broker.put_subscription(subscription, Expect::Any).await.unwrap();
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.begin();
        soon("the end of the server", self.serving).await.unwrap();
        self.broker.close().await;
        self.directory
    }

    /// Stops it, and starts it again on the same directory and address.
    pub(crate) async fn restart(self) -> Self {
        let address = self.address;
        Self::begin(self.stop().await, address, ServeOptions::default(), false).await
    }
}

async fn scratch_open(directory: &TempDir) -> Arc<Embedded> {
    super::scratch::open(directory.path()).await.unwrap()
}

pub(crate) fn url(address: SocketAddr) -> RemoteOptions {
    RemoteOptions::new(&format!("crossdock://{address}")).unwrap()
}

pub(crate) async fn connect(address: SocketAddr) -> Arc<Remote> {
    Remote::connect(url(address)).await.unwrap()
}
