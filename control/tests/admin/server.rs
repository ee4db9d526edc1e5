//! A server with nothing but its Admin API.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossdock_access::{Access, hash_api_key, hash_password};
use crossdock_broker::{Embedded, EmbeddedOptions};
use crossdock_config::{Name, Permission, UserRecord, keys};
use crossdock_control::Options;
use crossdock_tests::Client;
use crossdock_topics::{Broker, Expect, Shutdown, Store};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The password of everybody here.
pub(crate) const PASSWORD: &str = "correct horse";

/// A running server; `admin` may do everything, `bob` may only publish to and consume from `orders`.
pub(crate) struct Server {
    pub(crate) broker: Arc<Embedded>,
    pub(crate) admin: Client,
    pub(crate) shutdown: Shutdown,
    running: JoinHandle<crossdock_topics::Result<()>>,
    _folder: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = open(folder.path()).await;
        users(&*broker).await;
        let shutdown = Shutdown::new(Duration::from_secs(5));
        let store: Arc<dyn Store> = broker.clone();
        let access = Access::open(store, &shutdown).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let options =
            Options { name: "one".into(), gateway_url: "http://127.0.0.1:7400".into(), broker_url: None };
        let running = crossdock_control::run(options, listener, broker.clone(), access, shutdown.clone());
        let running = tokio::spawn(running);
        let admin = Client::new(&url, Some(("admin".into(), PASSWORD.into())));
        Self { broker, admin, shutdown, running, _folder: folder }
    }

    /// Somebody who is not an admin.
    pub(crate) fn bob(&self) -> Client {
        self.admin.with_user(Some(("bob", PASSWORD)))
    }

    /// Stops it, which must not take long.
    pub(crate) async fn stop(self) -> Arc<Embedded> {
        self.shutdown.begin();
        tokio::time::timeout(Duration::from_secs(10), self.running).await.unwrap().unwrap().unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.shutdown.drain()).await.unwrap();
        self.broker.close().await;
        self.broker
    }
}

async fn open(folder: &Path) -> Arc<Embedded> {
    let options = EmbeddedOptions::new(folder.join("data"));
    tokio::task::spawn_blocking(move || Embedded::open(options)).await.unwrap().unwrap()
}

async fn users(store: &dyn Store) {
    for name in ["admin", "bob"] {
        let name: Name = name.parse().unwrap();
        let hashed = name.clone();
        let user = tokio::task::spawn_blocking(move || UserRecord {
            password: Some(hash_password(&PASSWORD.into()).unwrap()),
            api_key: Some(hash_api_key(&hashed, &format!("{hashed}.0123456789abcdef").into()).unwrap()),
            name: hashed,
        });
        put(store, &keys::user(&name), &user.await.unwrap()).await;
    }
    let permission = |text: serde_json::Value| serde_json::from_value::<Permission>(text).unwrap();
    for permission in [
        permission(serde_json::json!({"name": "admins", "users": ["admin"], "admin": true})),
        permission(serde_json::json!(
            {"name": "traders", "users": ["bob"], "publish": ["orders"], "consume": ["orders"]}
        )),
    ] {
        put(store, &keys::permission(&permission.name), &permission).await;
    }
}

/// Writes a record to the store.
pub(crate) async fn put(store: &dyn Store, key: &str, value: &impl serde::Serialize) {
    let value = serde_json::to_vec(value).unwrap();
    store.put(key, value.into(), Expect::Any, None).await.unwrap();
}
