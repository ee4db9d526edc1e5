//! A gateway on a real listener, over a real embedded broker in a folder of its own.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)] // each test file uses its part of this

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossdock_access::{Access, hash_api_key, hash_password};
use crossdock_broker::remote::trusting_nobody;
use crossdock_broker::{Embedded, EmbeddedOptions};
use crossdock_config::{Permission, RestChannel, UserRecord, keys};
use crossdock_gateway::http::{Options, run};
use crossdock_http::Limits;
use crossdock_topics::{Broker, Expect, Log, Message, Shutdown, Store, Subscription, Subscriptions, Topic};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const ADMIN: (&str, &str) = ("admin", "correct horse battery");
pub const ADMIN_BASIC: &str = "Basic YWRtaW46Y29ycmVjdCBob3JzZSBiYXR0ZXJ5";

pub struct Sandbox {
    pub broker: Arc<Embedded>,
    pub address: SocketAddr,
    pub shutdown: Shutdown,
    pub client: Client,
    gateway: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Sandbox {
    /// With the user `admin`, who may do everything.
    pub async fn start() -> Self {
        let limits = Limits {
            head: Duration::from_secs(2),
            body: Duration::from_secs(1),
            stall: Duration::from_secs(1),
            ..Limits::default()
        };
        Self::start_with(limits, |options| options).await
    }

    pub async fn start_with(limits: Limits, broker: fn(EmbeddedOptions) -> EmbeddedOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = broker(EmbeddedOptions::new(folder.path()));
        let broker = tokio::task::spawn_blocking(|| Embedded::open(options)).await.unwrap().unwrap();
        let shutdown = Shutdown::new(Duration::from_secs(5));
        put_user(&*broker, ADMIN.0, ADMIN.1, None).await;
        put_permission(&*broker, r#"{"name": "admins", "users": ["admin"], "admin": true}"#).await;
        let access = Access::open(broker.clone(), &shutdown).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = run(Options { limits }, listener, broker.clone(), access, shutdown.clone());
        let gateway = tokio::spawn(async move { running.await.unwrap() });
        // Nothing is encrypted here, but a client must know how.
        let client = Client::builder().tls_backend_preconfigured(trusting_nobody().unwrap()).build().unwrap();
        Self { broker, address, shutdown, client, gateway, _folder: folder }
    }

    pub async fn topic(&self, name: &str) {
        self.broker.put_topic(Topic::new(name.parse().unwrap()), Expect::Any).await.unwrap();
    }

    pub async fn subscription(&self, name: &str, topic: &str) {
        let subscription = Subscription::new(name.parse().unwrap(), vec![topic.parse().unwrap()]);
        self.broker.put_subscription(subscription, Expect::Any).await.unwrap();
    }

    pub async fn channel(&self, json: &str) {
        let channel: RestChannel = serde_json::from_str(json).unwrap();
        let key = keys::rest_channel(&channel.name);
        self.broker.put(&key, json.as_bytes().to_vec().into(), Expect::Any, None).await.unwrap();
        // The gateway follows the store.
        let path = channel.path.as_str().replace(['{', '}', '*'], "x");
        for _ in 0..100 {
            let answer = self.client.trace(self.url(&path)).await;
            if answer != StatusCode::NOT_FOUND {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the gateway does not know {path} after 2 s");
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request of the user `admin`.
    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path)).basic_auth(ADMIN.0, Some(ADMIN.1))
    }

    /// A request of the user `admin`.
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path)).basic_auth(ADMIN.0, Some(ADMIN.1))
    }

    /// All messages of a topic.
    pub async fn stored(&self, topic: &str) -> Vec<Message> {
        let topic = topic.parse().unwrap();
        let page = self.broker.read(&topic, crossdock_topics::StartAt::Start, 1000, Duration::ZERO).await;
        page.unwrap().messages.iter().map(|stored| stored.record.to_message()).collect()
    }

    /// A connection on which anything can be sent.
    pub async fn raw(&self, text: impl AsRef<[u8]>) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_ref()).await.unwrap();
        stream
    }

    pub async fn stop(self) {
        self.shutdown.begin();
        tokio::time::timeout(Duration::from_secs(5), self.gateway).await.expect("it does not stop").unwrap();
        self.shutdown.drain().await;
        self.broker.close().await;
    }
}

trait Trace {
    async fn trace(&self, url: String) -> StatusCode;
}

impl Trace for Client {
    /// A method that no channel takes: it tells whether a path is known, and does nothing.
    async fn trace(&self, url: String) -> StatusCode {
        self.request(reqwest::Method::TRACE, url).send().await.unwrap().status()
    }
}

pub async fn put_user(store: &dyn Store, name: &str, password: &str, api_key: Option<&str>) {
    let (owned, password, api_key) = (name.to_owned(), password.to_owned(), api_key.map(ToOwned::to_owned));
    let user = tokio::task::spawn_blocking(move || UserRecord {
        name: owned.parse().unwrap(),
        password: Some(hash_password(&password.into()).unwrap()),
        api_key: api_key.map(|key| hash_api_key(&owned.parse().unwrap(), &key.into()).unwrap()),
    });
    let value = serde_json::to_vec(&user.await.unwrap()).unwrap();
    store.put(&keys::user(&name.parse().unwrap()), value.into(), Expect::Any, None).await.unwrap();
}

pub async fn put_permission(store: &dyn Store, json: &str) {
    let permission: Permission = serde_json::from_str(json).unwrap();
    let value = serde_json::to_vec(&permission).unwrap();
    store.put(&keys::permission(&permission.name), value.into(), Expect::Any, None).await.unwrap();
}

/// Status and JSON of a response.
pub async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// All that comes until the other side closes, which it must do within 10 s.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await;
    read.expect("the connection stays open").ok();
    String::from_utf8_lossy(&bytes).into_owned()
}
