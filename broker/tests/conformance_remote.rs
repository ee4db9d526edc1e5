//! The remote engine keeps every promise of the contract: the same suite, over TCP, against a server on an embedded
//! broker.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod scratch;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crossdock_broker::remote::{ServeOptions, serve};
use crossdock_broker::{Embedded, Remote, RemoteOptions};
use crossdock_topics::conformance::Harness;
use crossdock_topics::{Broker, SharedBroker, Shutdown};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

/// A directory with a broker, and the server before it.
#[derive(Default)]
struct Served {
    own: Option<TempDir>,
    running: Mutex<Option<Server>>,
    copies: Mutex<Vec<(TempDir, Server)>>,
}

struct Server {
    broker: Arc<Embedded>,
    shutdown: Shutdown,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(path: &Path) -> (Self, SharedBroker) {
        let broker = scratch::open(path).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("crossdock://{}", listener.local_addr().unwrap());
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let served: SharedBroker = broker.clone();
        let serving = tokio::spawn(serve(ServeOptions::default(), listener, served, None, shutdown.clone()));
        let remote = Remote::connect(RemoteOptions::new(&url).unwrap()).await.unwrap();
        (Self { broker, shutdown, serving }, remote)
    }

    async fn stop(self) {
        self.shutdown.begin();
        self.serving.await.unwrap();
        self.broker.close().await;
    }
}

impl Served {
    fn new() -> Self {
        Self { own: Some(TempDir::new().unwrap()), ..Self::default() }
    }

    fn path(&self) -> &Path {
        self.own.as_ref().unwrap().path()
    }
}

#[async_trait]
impl Harness for Served {
    async fn open(&self) -> SharedBroker {
        let (server, remote) = Server::start(self.path()).await;
        *self.running.lock().await = Some(server);
        remote
    }

    async fn reopen(&self) -> SharedBroker {
        if let Some(server) = self.running.lock().await.take() {
            server.stop().await;
        }
        self.open().await
    }

    /// The files as they are at this moment are what a killed process leaves behind.
    async fn reopen_killed(&self) -> Option<SharedBroker> {
        let copy = TempDir::new().unwrap();
        scratch::copy(self.path(), copy.path()).unwrap();
        let (server, remote) = Server::start(copy.path()).await;
        self.copies.lock().await.push((copy, server));
        Some(remote)
    }
}

crossdock_topics::conformance_tests!(Served::new());
