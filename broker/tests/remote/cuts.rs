//! Connections that are cut, and servers that go and come back.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use crossdock_broker::remote::ServeOptions;
use crossdock_topics::{
    Batch, Broker, ErrorCode, Expect, Fetch, Log, Message, Published, Requests, Settlement, Store,
    Subscriptions, TopicName,
};

use super::proxy::Proxy;
use super::scratch;
use super::server::{Server, connect, soon};

pub(crate) fn orders<T: std::str::FromStr<Err: std::fmt::Debug>>() -> T {
    "orders".parse().unwrap()
}

pub(crate) fn numbered(n: u64) -> Batch {
    Batch::of(&Message::new(n.to_string())).unwrap()
}

/// Publishes numbers, and gives the offset of each.
async fn publish(log: &dyn Log, count: u64, in_flight: usize) -> Vec<u64> {
    let mut under_way: VecDeque<Published> = VecDeque::new();
    let mut offsets = Vec::new();
    for n in 0..count {
        under_way.push_back(log.publish(&orders::<TopicName>(), numbered(n), Default::default()));
        if under_way.len() >= in_flight
            && let Some(oldest) = under_way.pop_front()
        {
            offsets.push(soon("a receipt", oldest).await.unwrap().first);
        }
    }
    for published in under_way {
        offsets.push(soon("a receipt", published).await.unwrap().first);
    }
    offsets
}

/// That the topic holds exactly these numbers in this order, and that each receipt named its place.
pub(crate) async fn check_stored(log: &dyn Log, offsets: &[u64]) {
    let stored = scratch::read_all(log, &orders()).await.unwrap();
    let texts: Vec<_> = stored.iter().map(scratch::text).collect();
    let expected: Vec<_> = (0..offsets.len()).map(|n| n.to_string()).collect();
    assert!(
        texts == expected,
        "{} stored of {}, in order: {}",
        texts.len(),
        expected.len(),
        texts.is_sorted()
    );
    assert!(stored.iter().map(|stored| stored.offset).eq(offsets.iter().copied()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_over_cut_connections_is_stored_once_and_in_order() {
    for (seed, bytes) in [(1, 2_000), (2, 40_000)] {
        let server = Server::start(ServeOptions::default()).await;
        server.orders().await;
        let proxy = Proxy::start(server.address, 20, bytes, seed).await;
        let remote = connect_through(&proxy).await;
        let offsets = publish(&*remote, 20_000, 700).await;
        // It may need more than these messages to cut as often as it is to.
        assert!(proxy.cuts() >= 3, "only {} cuts", proxy.cuts());
        check_stored(&*server.broker, &offsets).await;
        remote.close().await;
        server.stop().await;
    }
}

/// The first attempts may be cut as well.
async fn connect_through(proxy: &Proxy) -> std::sync::Arc<crossdock_broker::Remote> {
    soon("a connection", async {
        loop {
            match crossdock_broker::Remote::connect(super::server::url(proxy.address)).await {
                Ok(remote) => return remote,
                Err(error) => assert_eq!(error.code, ErrorCode::Unavailable, "{error}"),
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_while_the_server_restarts_is_stored_once_and_in_order() {
    let mut server = Server::start(ServeOptions::default()).await;
    server.orders().await;
    let remote = connect(server.address).await;
    let publishing = tokio::spawn({
        let remote = remote.clone();
        async move { publish(&*remote, 150_000, 300).await }
    });
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server = server.restart().await;
    }
    let offsets = publishing.await.unwrap();
    check_stored(&*server.broker, &offsets).await;
    // The last restart may have come after the last receipt.
    soon("a connection again", async {
        while !remote.health().ready {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    remote.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_goes_on_over_cut_connections_and_nothing_counts_as_failed() {
    const MESSAGES: u64 = 5_000;
    let server = Server::start(ServeOptions::default()).await;
    server.orders().await;
    publish(&*server.broker, MESSAGES, 1000).await;
    let proxy = Proxy::start(server.address, 15, 30_000, 3).await;
    let remote = connect_through(&proxy).await;
    let name = orders();
    let consumer = soon("joining", remote.join(&name)).await.unwrap();
    let mut seen: HashMap<u64, u32> = HashMap::new();
    let mut settled = 0;
    while settled < MESSAGES {
        let fetch = Fetch::new(Some(consumer), 300, Duration::from_secs(5));
        let deliveries = soon("deliveries", remote.fetch(&name, fetch)).await.unwrap();
        for delivery in &deliveries {
            *seen.entry(delivery.offset).or_default() += 1;
            assert_eq!(delivery.attempt, 1, "a cut counts as a failure of {delivery:?}");
        }
        let acks = Settlement::ack(deliveries.iter().map(|delivery| delivery.id));
        match soon("settling", remote.settle(&name, acks)).await {
            Ok(_) => {}
            // It may have been done or not: what was not comes again.
            Err(error) => assert_eq!(error.code, ErrorCode::Unavailable, "{error}"),
        }
        let info = server.broker.subscription(&name).await.unwrap();
        let progress = &info.topics[0];
        settled = progress.next - progress.in_flight - progress.set_aside;
        assert_eq!(progress.dead_letters, 0);
    }
    assert!(proxy.cuts() >= 5, "only {} cuts", proxy.cuts());
    assert_eq!(seen.len() as u64, MESSAGES);
    remote.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_vanishes_gives_its_messages_back_at_once() {
    let server = Server::start(ServeOptions::default()).await;
    server.orders().await;
    publish(&*server.broker, 10, 10).await;
    let name = orders();
    let proxy = Proxy::start(server.address, 0, 1000, 4).await;
    let first = connect(proxy.address).await;
    let consumer = first.join(&name).await.unwrap();
    let held = first.fetch(&name, Fetch::new(Some(consumer), 10, Duration::from_secs(5))).await.unwrap();
    assert_eq!(held.len(), 10);
    let second = connect(server.address).await;
    let another = second.join(&name).await.unwrap();
    // It is waited for: the lease is 30 seconds.
    first.close().await;
    let again = second.fetch(&name, Fetch::new(Some(another), 10, Duration::from_secs(10))).await.unwrap();
    assert_eq!(again.len(), 10);
    assert!(again.iter().all(|delivery| delivery.attempt == 1 && delivery.deliveries == 2));
    let stale = Settlement::ack(held.iter().map(|delivery| delivery.id));
    assert_eq!(second.settle(&name, stale).await.unwrap().stale.len(), 10);
    second.close().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_and_a_service_go_on_after_cuts() {
    let server = Server::start(ServeOptions::default()).await;
    let proxy = Proxy::start(server.address, 12, 6_000, 5).await;
    let remote = connect_through(&proxy).await;
    let mut watch = soon("a watch", remote.watch("k/", 0)).await.unwrap();
    let mut requests = soon("serving", remote.serve(&"echo".parse().unwrap(), 10)).await.unwrap();
    let serving = tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            let payload = request.message.payload.clone();
            request.responder.reply(Ok(Message::new(payload)));
        }
    });
    let mut written = BTreeMap::new();
    let mut answered = 0;
    for n in 0..300 {
        let key = format!("k/{n}");
        let revision = server.broker.put(&key, vec![b'x'; 200].into(), Expect::Any, None).await.unwrap();
        written.insert(revision, key);
        let asked = Message::new(n.to_string());
        // Those that a cut catches are refused, and so are those that come while nobody serves.
        match server.broker.request(&"echo".parse().unwrap(), asked, Duration::from_secs(20)).await {
            Ok(reply) => {
                assert_eq!(reply.payload, n.to_string());
                answered += 1;
            }
            Err(error) => {
                assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    let mut seen = BTreeMap::new();
    while seen.len() < written.len() {
        let change = soon("a change", watch.next()).await.expect("the watch goes on");
        assert!(seen.insert(change.revision(), change.key().to_owned()).is_none(), "told twice");
    }
    assert_eq!(seen, written);
    assert!(proxy.cuts() >= 5, "only {} cuts", proxy.cuts());
    assert!(answered > 50, "only {answered} were answered");
    remote.close().await;
    serving.await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_it_says_so_and_gives_up_in_time() {
    let server = Server::start(ServeOptions::default()).await;
    server.orders().await;
    let mut options = super::server::url(server.address);
    options.patience = Duration::from_millis(300);
    let remote = crossdock_broker::Remote::connect(options).await.unwrap();
    server.stop().await;
    soon("noticing", async {
        while remote.health().ready {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(remote.health().reason.is_some());
    let published = remote.publish(&orders::<TopicName>(), numbered(1), Default::default());
    assert_eq!(soon("an answer", published).await.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(soon("an answer", remote.topics()).await.unwrap_err().code, ErrorCode::Unavailable);
    soon("closing", remote.close()).await;
}
