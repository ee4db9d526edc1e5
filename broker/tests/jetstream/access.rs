//! Who may do what in NATS, and over what connection.

use crossdock_broker::jetstream::NatsLogin;
use crossdock_broker::{JetStream, JetStreamOptions};
use crossdock_tests::Nats;
use crossdock_topics::{Batch, Broker, ErrorCode, Expect, Log, Message, Requests, StartAt, Store, Topic};

use super::PATIENCE;

/// As docs/ENGINES.md says that a user for Crossdock is made.
const USER: &str = r#"
accounts {
  CROSSDOCK {
    jetstream: enabled
    users: [ {
      user: crossdock
      password: "s3cret"
      permissions {
        publish: [ "crossdock.>", "$KV.crossdock-store.>", "$O.crossdock-objects.>", "$JS.API.>", "$JS.FC.>", "_INBOX.>" ]
        subscribe: [ "crossdock.>", "_INBOX.>" ]
      }
    } ]
  }
}
"#;

/// A little of everything.
async fn works(options: JetStreamOptions) {
    let broker = JetStream::open(options).await.unwrap();
    let revision = broker.put("k", vec![1; 600_000].into(), Expect::Absent, None).await.unwrap();
    assert_eq!(broker.get("k").await.unwrap().unwrap().revision, revision);
    broker.delete("k", Expect::At(revision)).await.unwrap();
    let mut topic = Topic::new("orders".parse().unwrap());
    topic.durability = crossdock_topics::Durability::Os;
    let name = topic.name.clone();
    broker.put_topic(topic, Expect::Any).await.unwrap();
    let receipts =
        broker.publish(&name, Batch::of(&Message::new("one")).unwrap(), Default::default()).await.unwrap();
    let page = broker.read(&name, StartAt::Start, 10, PATIENCE).await.unwrap();
    assert_eq!((page.messages.len(), page.messages[0].offset), (1, receipts.first));
    let service = "pricing".parse().unwrap();
    let mut requests = broker.serve(&service, 1).await.unwrap();
    let answering =
        tokio::spawn(async move { requests.recv().await.unwrap().responder.reply(Ok(Message::new("2"))) });
    assert_eq!(broker.request(&service, Message::new("?"), PATIENCE).await.unwrap().payload, "2");
    answering.await.unwrap();
    broker.delete_topic(&name).await.unwrap();
    assert!(broker.health().ready, "{:?}", broker.health());
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_no_more_than_the_listed_permissions_can_do_everything() {
    let nats = Nats::start(1, USER, "").await;
    let url = nats.url().replace("nats://", "nats://crossdock:s3cret@");
    Box::pin(works(JetStreamOptions::new(&url).unwrap())).await;
    for login in [
        None,
        Some(NatsLogin::Password("crossdock".into(), String::from("wrong").into())),
        Some(NatsLogin::Token(String::from("s3cret").into())),
    ] {
        let mut options = JetStreamOptions::new(&nats.url()).unwrap();
        options.login = login;
        let error = JetStream::open(options).await.err().expect("it is refused");
        assert_eq!(error.code, ErrorCode::Unauthenticated, "{error}");
        assert!(!error.to_string().contains("s3cret") && error.hint.is_some(), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_with_a_certificate_that_is_trusted_and_not_with_another() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = format!("tls {{ cert_file: {:?}\n key_file: {:?} }}", cert.display(), key.display());
    let nats = Nats::start(1, &tls, "").await;
    let url = nats.url().replace("nats://", "tls://");
    let mut options = JetStreamOptions::new(&url).unwrap();
    options.ca = Some(cert);
    Box::pin(works(options.clone())).await;
    options.ca = None;
    let error = JetStream::open(options).await.err().expect("it is refused");
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_or_has_no_jetstream_is_said() {
    let error = JetStream::open(JetStreamOptions::new("nats://127.0.0.1:1").unwrap()).await.err().unwrap();
    assert_eq!((error.code, error.hint.is_some()), (ErrorCode::Unavailable, true), "{error}");
}
