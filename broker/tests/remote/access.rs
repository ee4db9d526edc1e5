//! Who is let in, what they may do, and what nobody else can read.

use std::path::PathBuf;
use std::time::Duration;

use crossdock_access::{Credentials, hash_password};
use crossdock_broker::Remote;
use crossdock_broker::remote::{ServeOptions, ServerTls};
use crossdock_config::{Name, UserRecord, keys};
use crossdock_topics::{
    Batch, Broker, Error, ErrorCode, Expect, Fetch, Log, Message, Requests, Result, Settlement, StartAt,
    Store, Subscriptions, Topic,
};
use tempfile::TempDir;

use super::server::{Server, connect, soon, url};

async fn user(server: &Server, name: &str, permission: &str) {
    let name: Name = name.parse().unwrap();
    let record = UserRecord {
        password: Some(hash_password(&String::from("swordfish").into()).unwrap()),
        api_key: None,
        name: name.clone(),
    };
    let yaml = format!("permissions: [{{name: {name}, users: [{name}], {permission}}}]");
    let document = crossdock_config::parse(yaml.as_bytes(), None, None).unwrap().document;
    let permission = serde_json::to_vec(&document.permissions[0]).unwrap();
    server.broker.put(&keys::permission(&name), permission.into(), Expect::Any, None).await.unwrap();
    let record = serde_json::to_vec(&record).unwrap();
    server.broker.put(&keys::user(&name), record.into(), Expect::Any, None).await.unwrap();
}

async fn enter(server: &Server, name: &str, password: &str) -> Result<std::sync::Arc<Remote>> {
    let mut options = url(server.address);
    options.credentials =
        Some(Credentials::Basic { user: name.into(), password: String::from(password).into() });
    Remote::connect(options).await
}

/// A user becomes known a moment after it is written.
async fn let_in(server: &Server, name: &str) -> std::sync::Arc<Remote> {
    soon("being let in", async {
        loop {
            if let Ok(remote) = enter(server, name, "swordfish").await {
                return remote;
            }
        }
    })
    .await
}

fn one(text: &str) -> Batch {
    Batch::of(&Message::new(text.to_owned())).unwrap()
}

fn denied<T: std::fmt::Debug>(result: Result<T>) {
    assert_eq!(result.unwrap_err().code, ErrorCode::PermissionDenied);
}

#[tokio::test]
async fn everybody_does_what_they_may_and_nothing_else() {
    let server = Server::start_with(ServeOptions::default(), true).await;
    server.orders().await;
    server.broker.put_topic(Topic::new("secrets".parse().unwrap()), Expect::Any).await.unwrap();
    user(&server, "clerk", "publish: [orders], consume: [orders]").await;
    user(&server, "boss", "admin: true").await;

    let nobody = Remote::connect(url(server.address)).await.unwrap_err();
    assert_eq!(nobody.code, ErrorCode::Unauthenticated);
    let clerk = let_in(&server, "clerk").await;
    assert_eq!(enter(&server, "clerk", "wrong").await.unwrap_err().code, ErrorCode::Unauthenticated);

    let (orders, secrets) = ("orders".parse().unwrap(), "secrets".parse().unwrap());
    let sub = "orders".parse().unwrap();
    clerk.publish(&orders, one("a"), Default::default()).await.unwrap();
    denied(clerk.publish(&secrets, one("a"), Default::default()).await);
    denied(clerk.publish(&"_logs.x".parse().unwrap(), one("a"), Default::default()).await);
    // Nor have others write where they may not themselves.
    let mut asking = Message::new("?");
    asking.reply_to = Some("secrets".into());
    denied(clerk.publish(&orders, Batch::of(&asking).unwrap(), Default::default()).await);
    clerk.read(&orders, StartAt::Start, 1, Duration::ZERO).await.unwrap();
    denied(clerk.read(&secrets, StartAt::Start, 1, Duration::ZERO).await);
    let fetched = clerk.fetch(&sub, Fetch::new(None, 1, Duration::from_secs(5))).await.unwrap();
    let mut settlement = Settlement::ack([fetched[0].id]);
    settlement.outputs.push((secrets.clone(), one("b")));
    denied(clerk.settle(&sub, settlement).await);
    clerk.settle(&sub, Settlement::ack([fetched[0].id])).await.unwrap();
    denied(clerk.put_topic(Topic::new("mine".parse().unwrap()), Expect::Any).await);
    denied(clerk.topic(&secrets).await);
    let names: Vec<_> = clerk.topics().await.unwrap().into_iter().map(|info| info.topic.name).collect();
    assert_eq!(names, [orders]);
    denied(clerk.get("users/boss").await);
    denied(clerk.list("").await);
    denied(clerk.watch("", 0).await);
    denied(clerk.set_paused(&sub, true).await);
    denied(clerk.serve(&"pricing".parse().unwrap(), 1).await);
    denied(clerk.request(&"pricing".parse().unwrap(), Message::new("?"), Duration::from_secs(1)).await);

    let boss = let_in(&server, "boss").await;
    boss.put_topic(Topic::new("_logs.x".parse().unwrap()), Expect::Any).await.unwrap();
    boss.publish(&"_logs.x".parse().unwrap(), one("a"), Default::default()).await.unwrap();
    assert!(boss.get("users/boss").await.unwrap().is_some());
    clerk.close().await;
    boss.close().await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_taken_from_someone_who_is_connected_counts() {
    let options = ServeOptions { heartbeat: Duration::from_millis(200), ..ServeOptions::default() };
    let server = Server::start_with(options, true).await;
    server.orders().await;
    user(&server, "clerk", "publish: [orders]").await;
    let clerk = let_in(&server, "clerk").await;
    let orders = "orders".parse().unwrap();
    clerk.publish(&orders, one("a"), Default::default()).await.unwrap();
    user(&server, "clerk", "publish: [others]").await;
    soon("being refused", async {
        loop {
            match clerk.publish(&orders, one("a"), Default::default()).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(Error { code: ErrorCode::PermissionDenied, .. }) => return,
                Err(error) => assert_eq!(error.code, ErrorCode::Unavailable, "{error}"),
            }
        }
    })
    .await;
    clerk.close().await;
    server.stop().await;
}

/// A certificate for `localhost` and its key, as files.
fn certificate(directory: &TempDir) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

#[tokio::test]
async fn an_encrypted_connection_is_to_who_it_should_be() {
    let directory = TempDir::new().unwrap();
    let (certificate, key) = certificate(&directory);
    let tls = ServerTls::from_files(&certificate, &key).unwrap();
    let server = Server::start(ServeOptions { tls: Some(tls), ..ServeOptions::default() }).await;
    server.orders().await;
    let encrypted = |host: &str| {
        let port = server.address.port();
        let mut options =
            crossdock_broker::RemoteOptions::new(&format!("crossdocks://{host}:{port}")).unwrap();
        options.ca = Some(certificate.clone());
        options
    };
    let remote = Remote::connect(encrypted("localhost")).await.unwrap();
    // Larger than what is encrypted at once, both ways.
    let large = Message::new(vec![7; 900_000]);
    let orders = "orders".parse().unwrap();
    remote.publish(&orders, Batch::of(&large).unwrap(), Default::default()).await.unwrap();
    let page = remote.read(&orders, StartAt::Start, 10, Duration::ZERO).await.unwrap();
    assert_eq!(page.messages[0].record.payload(), large.payload);
    remote.close().await;

    // Another name, another CA, no encryption: each says what is wrong.
    let mut stranger = encrypted("localhost");
    stranger.ca = None;
    for options in [encrypted("127.0.0.1"), stranger] {
        let error = Remote::connect(options).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert!(error.to_string().contains("not trusted"), "{error}");
    }
    let error = Remote::connect(url(server.address)).await.unwrap_err();
    assert!(error.to_string().contains("crossdocks://"), "{error}");
    server.stop().await;

    let plain = Server::start(ServeOptions::default()).await;
    let mut options = url(plain.address);
    options.address.tls = true;
    options.address.host = "localhost".into();
    assert_eq!(Remote::connect(options).await.unwrap_err().code, ErrorCode::Unavailable);
    let error = ServerTls::from_files(&key, &certificate).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    connect(plain.address).await.close().await;
    plain.stop().await;
}
