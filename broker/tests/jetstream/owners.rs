//! Subscriptions that several engines share: one of them owns each, and the others ask that one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use crossdock_broker::JetStream;
use crossdock_tests::{Line, Nats, eventually};
use crossdock_topics::{
    Batch, Broker, ConsumerId, Delivery, Durability, ErrorCode, Expect, Fetch, Log, Message, Order, Outcome,
    PublishOptions, Selection, Settlement, Subscription, SubscriptionName, Subscriptions, Topic, TopicName,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::{PATIENCE, open};

fn topic() -> TopicName {
    "orders".parse().unwrap()
}

fn name() -> SubscriptionName {
    "billing".parse().unwrap()
}

/// A topic and a subscription, which the engine that makes it owns.
async fn subscribed(owner: &JetStream, order: Order) {
    let mut topic = Topic::new(topic());
    topic.durability = Durability::Os;
    owner.put_topic(topic, Expect::Absent).await.unwrap();
    let mut subscription = Subscription::new(name(), vec!["orders".parse().unwrap()]);
    subscription.order = order;
    owner.put_subscription(subscription, Expect::Absent).await.unwrap();
}

/// Publishes numbers, each with the key of its last digit.
async fn publish(broker: &JetStream, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let message = Message::new(number.to_string()).with_key((number % 10).to_string());
        let batch = Batch::of(&message).unwrap();
        broker.publish(&topic(), batch, PublishOptions::default()).await.unwrap();
    }
}

fn number(delivery: &Delivery) -> u64 {
    std::str::from_utf8(&delivery.record.payload()).unwrap().parse().unwrap()
}

async fn fetch(broker: &JetStream, consumer: Option<ConsumerId>, max: usize) -> Vec<Delivery> {
    let fetch = Fetch::new(consumer, max, Duration::from_secs(30));
    timeout(PATIENCE, broker.fetch(&name(), fetch)).await.expect("an answer").unwrap()
}

/// What a consumer tells.
#[derive(Debug)]
enum Told {
    /// It was given this message, by somebody who counts this many failures.
    Got(u64, u32),
    /// It is known that it is settled.
    Settled(u64),
}

/// Consumes until it is aborted. What is not answered as it should be is tried again, as whoever consumes does.
fn consuming(
    broker: Arc<JetStream>,
    told: mpsc::UnboundedSender<(usize, Told)>,
    who: usize,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut consumer = None;
        loop {
            let joined = match consumer {
                Some(joined) => joined,
                None => match broker.join(&name()).await {
                    Ok(joined) => *consumer.insert(joined),
                    Err(error) => {
                        passing(&error);
                        continue;
                    }
                },
            };
            let fetch = Fetch::new(Some(joined), 3, Duration::from_secs(5));
            let deliveries = match broker.fetch(&name(), fetch).await {
                Ok(deliveries) => deliveries,
                Err(error) => {
                    passing(&error);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            for delivery in &deliveries {
                let _ = told.send((who, Told::Got(number(delivery), delivery.attempt - 1)));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            match broker.settle(&name(), Settlement::ack(deliveries.iter().map(|d| d.id))).await {
                Ok(settled) => {
                    for delivery in deliveries.iter().filter(|d| !settled.stale.contains(&d.id)) {
                        let _ = told.send((who, Told::Settled(number(delivery))));
                    }
                }
                Err(error) => passing(&error),
            }
        }
    })
}

fn passing(error: &crossdock_topics::Error) {
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
}

/// Hears what consumers tell until these messages are all settled; each was settled once, never delivered after that,
/// none has failed, and those of a key came in their order. Gives how many each consumer has settled.
async fn all_settled(
    told: &mut mpsc::UnboundedReceiver<(usize, Told)>,
    settled: &mut BTreeMap<u64, usize>,
    count: u64,
) -> HashMap<usize, usize> {
    let mut last: HashMap<u64, u64> = HashMap::new();
    while (settled.len() as u64) < count {
        let (who, what) = timeout(PATIENCE, told.recv()).await.expect("all to be settled").unwrap();
        match what {
            Told::Got(number, failures) => {
                assert_eq!(failures, 0, "{number} has failed");
                assert!(!settled.contains_key(&number), "{number} came again after it was settled");
                // Those before it are settled, though that may not have been said.
                let before = last.insert(number % 10, number);
                assert!(before.is_none_or(|before| before <= number), "{number} came after {before:?}");
            }
            Told::Settled(number) => assert_eq!(settled.insert(number, who), None, "{number} twice"),
        }
    }
    let mut parts = HashMap::new();
    settled.values().for_each(|who| *parts.entry(*who).or_default() += 1);
    parts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_of_two_engines_share_the_messages_and_keys_keep_their_order() {
    let nats = Nats::single().await;
    let (owner, other) = (open(&nats.url()).await, open(&nats.url()).await);
    subscribed(&owner, Order::Key).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let consumers = [
        consuming(owner.clone(), tell.clone(), 0),
        consuming(other.clone(), tell.clone(), 1),
        consuming(other.clone(), tell, 2),
    ];
    eventually("all to have joined", PATIENCE, || async {
        (other.subscription(&name()).await.unwrap().consumers == 3).then_some(())
    })
    .await;
    publish(&other, 0..300).await;
    let parts = all_settled(&mut told, &mut BTreeMap::new(), 300).await;
    assert!((0..3).all(|who| parts.contains_key(&who)), "{parts:?}");
    for consumer in consumers {
        consumer.abort();
    }
    for broker in [owner, other] {
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_holds_is_given_back_when_it_goes() {
    let nats = Nats::single().await;
    let line = Line::to(&nats.url()).await;
    let (owner, going) = (open(&nats.url()).await, open(&line.url()).await);
    subscribed(&owner, Order::None).await;
    publish(&owner, 0..10).await;
    let consumer = going.join(&name()).await.unwrap();
    assert_eq!(fetch(&going, Some(consumer), 10).await.len(), 10);
    // One that says goodbye, and one that is cut off: nothing of it is heard any more.
    line.cut();
    let again = fetch(&owner, None, 10).await;
    assert!(again.iter().all(|delivery| delivery.attempt == 1 && delivery.deliveries == 2), "{again:?}");
    line.mend();
    for broker in [owner, going] {
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_goes_on_when_the_owner_is_gone() {
    let nats = Nats::single().await;
    let line = Line::to(&nats.url()).await;
    // One is dropped without a word, one cut off and comes back, one closed.
    for end in ["dropped", "cut off", "closed"] {
        let owner = open(if end == "cut off" { line.url() } else { nats.url() }.as_str()).await;
        let others = [open(&nats.url()).await, open(&nats.url()).await];
        subscribed(&owner, Order::Key).await;
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut consumers: Vec<_> = others
            .iter()
            .enumerate()
            .map(|(who, other)| consuming(other.clone(), tell.clone(), who))
            .collect();
        let mut settled = BTreeMap::new();
        publish(&others[0], 0..100).await;
        all_settled(&mut told, &mut settled, 100).await;
        let publishing = tokio::spawn({
            let broker = others[0].clone();
            async move { publish(&broker, 100..400).await }
        });
        let owner = match end {
            "dropped" => {
                drop(owner);
                None
            }
            "closed" => {
                owner.close().await;
                None
            }
            _ => {
                consumers.push(consuming(owner.clone(), tell.clone(), 2));
                line.cut();
                Some(owner)
            }
        };
        let began = Instant::now();
        all_settled(&mut told, &mut settled, 400).await;
        eprintln!("with the owner {end} all was settled after {:?}", began.elapsed());
        publishing.await.unwrap();
        if let Some(owner) = owner {
            line.mend();
            publish(&others[0], 400..500).await;
            all_settled(&mut told, &mut settled, 500).await;
            // It finds its place again.
            eventually("the one that was cut off to say how it stands", PATIENCE, || async {
                owner.subscription(&name()).await.ok().filter(|info| info.topics[0].next == 500)
            })
            .await;
            owner.close().await;
        }
        for consumer in consumers {
            consumer.abort();
        }
        others[0].delete_subscription(&name()).await.unwrap();
        others[0].delete_topic(&topic()).await.unwrap();
        for other in others {
            other.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_joins_gets_its_part_and_handing_over_under_load_loses_nothing() {
    let nats = Nats::single().await;
    let mut engines = vec![open(&nats.url()).await];
    subscribed(&engines[0], Order::Key).await;
    // More of them, so that there is something to share.
    for number in 0..8 {
        let mut subscription = Subscription::new(name(), vec!["orders".parse().unwrap()]);
        subscription.name = format!("idle-{number}").parse().unwrap();
        engines[0].put_subscription(subscription, Expect::Absent).await.unwrap();
    }
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut consumers = vec![consuming(engines[0].clone(), tell.clone(), 0)];
    let (publisher, stop) = (engines[0].clone(), Arc::new(AtomicBool::new(false)));
    let publishing = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut next = 0;
            while !stop.load(Ordering::Relaxed) {
                publish(&publisher, next..next + 10).await;
                next += 10;
            }
            next
        }
    });
    let store = store(&nats).await;
    for (joined, parts) in [(1, vec![4, 5]), (2, vec![3, 3, 3])] {
        let engine = open(&nats.url()).await;
        consumers.push(consuming(engine.clone(), tell.clone(), joined));
        engines.push(engine);
        eventually("each to own its part", PATIENCE, || async {
            let found = owned(&store).await;
            let mut counts: Vec<usize> = found.into_values().collect();
            counts.sort_unstable();
            (counts == parts).then_some(())
        })
        .await;
    }
    // Those that are left take over what the one that leaves had.
    let left = engines.remove(1);
    left.close().await;
    consumers[1].abort();
    stop.store(true, Ordering::Relaxed);
    let count = timeout(PATIENCE, publishing).await.unwrap().unwrap();
    all_settled(&mut told, &mut BTreeMap::new(), count).await;
    for consumer in consumers {
        consumer.abort();
    }
    let all = timeout(PATIENCE, engines[1].subscriptions()).await.unwrap().unwrap();
    assert_eq!(all.len(), 9);
    for engine in engines {
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_busy_is_handed_over_between_two_messages_and_what_is_held_stays() {
    let nats = Nats::single().await;
    let one = open(&nats.url()).await;
    subscribed(&one, Order::Key).await;
    let mut holding = Subscription::new(name(), vec!["orders".parse().unwrap()]);
    holding.name = "holding".parse().unwrap();
    let held_by = holding.name.clone();
    one.put_subscription(holding, Expect::Absent).await.unwrap();
    publish(&one, 0..10).await;
    let consumer = one.join(&held_by).await.unwrap();
    let held = one.fetch(&held_by, Fetch::new(Some(consumer), 1, Duration::ZERO)).await.unwrap();
    let (tell, mut told) = mpsc::unbounded_channel();
    let two = open(&nats.url()).await;
    let consumers = [consuming(one.clone(), tell.clone(), 0), consuming(two.clone(), tell.clone(), 1)];
    let (store, mut next) = (store(&nats).await, 10);
    eventually("the busy one to be the other engine's", PATIENCE, || {
        let (one, store, range) = (one.clone(), &store, next..next + 50);
        next += 50;
        async move {
            publish(&one, range).await;
            (own(store, "owners/1").await? != own(store, "owners/2").await?).then_some(())
        }
    })
    .await;
    publish(&one, next..next + 50).await;
    let (mut settled, mut given) = (BTreeMap::new(), Vec::new());
    while settled.len() < next as usize + 50 {
        match timeout(PATIENCE, told.recv()).await.expect("all to be settled").unwrap() {
            (_, Told::Got(number, _)) => given.push(number),
            (who, Told::Settled(number)) => drop(settled.insert(number, who)),
        }
    }
    given.sort_unstable();
    assert_eq!(given, (0..next + 50).collect::<Vec<_>>(), "each is given to somebody once");
    let settled = one.settle(&held_by, Settlement::ack([held[0].id])).await.unwrap();
    assert_eq!((settled.settled, settled.stale), (1, vec![]));
    for consumer in consumers {
        consumer.abort();
    }
    for broker in [one, two] {
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_closes_hands_over_what_it_owns_with_what_is_held_of_it() {
    let nats = Nats::single().await;
    let (one, two) = (open(&nats.url()).await, open(&nats.url()).await);
    let last = open(&nats.url()).await;
    subscribed(&one, Order::Key).await;
    publish(&one, 0..30).await;
    let consumer = last.join(&name()).await.unwrap();
    let mut held = fetch(&last, Some(consumer), 5).await;
    // What a consumer of its own holds is given back, as it goes.
    let going = one.join(&name()).await.unwrap();
    let own_part = one.fetch(&name(), Fetch::new(Some(going), 5, Duration::ZERO)).await.unwrap();
    let (store, mut given) = (store(&nats).await, Vec::new());
    for closing in [one, two] {
        closing.close().await;
        assert!(own(&store, "owners/1").await.is_some(), "somebody owns it as soon as it is closed");
        // It is held for as long as it is with whoever has it, through one owner after the other.
        let some: Vec<_> = held.drain(..2).collect();
        let settled =
            timeout(PATIENCE, last.settle(&name(), Settlement::ack(some.iter().map(|d| d.id)))).await;
        assert_eq!(settled.unwrap().unwrap().stale, []);
        given.extend(some);
    }
    let extended = last.extend(&name(), &[held[0].id], Duration::from_secs(60)).await.unwrap();
    assert_eq!((extended.settled, extended.stale), (1, vec![]));
    assert_eq!(last.settle(&name(), Settlement::ack([held[0].id])).await.unwrap().settled, 1);
    given.extend(held);
    while given.len() < 30 {
        let some = fetch(&last, Some(consumer), 100).await;
        last.settle(&name(), Settlement::ack(some.iter().map(|d| d.id))).await.unwrap();
        given.extend(some);
    }
    for delivery in &given {
        let again = own_part.iter().any(|own| own.offset == delivery.offset);
        assert_eq!(delivery.attempt, 1);
        assert!(again || delivery.deliveries == 1, "{delivery:?} came twice");
    }
    for key in 0..10 {
        let of_key: Vec<u64> = given.iter().map(number).filter(|number| number % 10 == key).collect();
        assert_eq!(of_key, [key, key + 10, key + 20]);
    }
    assert_eq!(last.subscription(&name()).await.unwrap().topics[0].in_flight, 0);
    last.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_what_was_handed_over_has_not_failed() {
    let nats = Nats::single().await;
    let (one, last) = (open(&nats.url()).await, open(&nats.url()).await);
    subscribed(&one, Order::Key).await;
    let mut strict = Subscription::new(name(), vec!["orders".parse().unwrap()]);
    (strict.order, strict.max_failures, strict.lease) = (Order::Key, 1, Duration::from_secs(20));
    one.put_subscription(strict, Expect::Any).await.unwrap();
    publish(&one, 0..1).await;
    let consumer = last.join(&name()).await.unwrap();
    let held = fetch(&last, Some(consumer), 1).await;
    one.close().await;
    // Nobody hears of that any more.
    last.leave(&name(), consumer);
    let again = fetch(&last, None, 1).await;
    assert_eq!(again.iter().map(|d| (d.offset, d.attempt, d.deliveries)).collect::<Vec<_>>(), [(0, 1, 2)]);
    assert_eq!(last.settle(&name(), Settlement::ack([held[0].id])).await.unwrap().stale, [held[0].id]);
    assert_eq!(last.settle(&name(), Settlement::ack([again[0].id])).await.unwrap().settled, 1);
    last.close().await;
}

/// The store as NATS has it.
async fn store(nats: &Nats) -> Stream {
    let client = async_nats::connect(nats.url()).await.unwrap();
    async_nats::jetstream::new(client).get_stream("KV_crossdock-store").await.unwrap()
}

/// A key of the engine's own.
async fn own(store: &Stream, key: &str) -> Option<Vec<u8>> {
    let message =
        store.get_last_raw_message_by_subject(&format!("$KV.crossdock-store.own.{key}")).await.ok()?;
    (!message.payload.is_empty()).then(|| message.payload.to_vec())
}

/// How many subscriptions each engine owns that owns any.
async fn owned(store: &Stream) -> HashMap<Vec<u8>, usize> {
    let mut counts = HashMap::new();
    for number in 1..20 {
        if let Some(owner) = own(store, &format!("owners/{number}")).await {
            *counts.entry(owner).or_default() += 1;
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_keeps_what_subscriptions_of_other_engines_need_and_drops_the_rest() {
    let nats = Nats::single().await;
    // The first one is it that drops messages.
    let keeper = open(&nats.url()).await;
    let mut kept = Topic::new(topic());
    kept.durability = Durability::Os;
    kept.retention.max_messages = Some(10);
    keeper.put_topic(kept, Expect::Absent).await.unwrap();
    let store = store(&nats).await;
    eventually("the first one to be the keeper", PATIENCE, || async {
        own(&store, "keeper").await.map(drop)
    })
    .await;
    let other = open(&nats.url()).await;
    let mut subscription = Subscription::new(name(), vec!["orders".parse().unwrap()]);
    subscription.max_failures = 1;
    other.put_subscription(subscription, Expect::Absent).await.unwrap();
    publish(&other, 0..100).await;
    let deliveries = fetch(&keeper, None, 50).await;
    assert_eq!(deliveries.len(), 50);
    let head = |offset: u64| {
        let keeper = &keeper;
        async move {
            eventually("the topic to begin there", PATIENCE, || async {
                (keeper.topic(&topic()).await.unwrap().head == offset).then_some(())
            })
            .await;
        }
    };
    let outcomes = deliveries.iter().map(|delivery| match delivery.offset {
        40 => (delivery.id, Outcome::Reject { reason: "no".into() }),
        _ => (delivery.id, Outcome::Ack),
    });
    let settlement = Settlement { outcomes: outcomes.collect(), ..Settlement::default() };
    assert_eq!(keeper.settle(&name(), settlement).await.unwrap().settled, 50);
    // A dead letter is needed too.
    head(40).await;
    assert_eq!(keeper.discard(&name(), Selection::All, false).await.unwrap(), 1);
    head(50).await;
    // What nobody owns is not forgotten.
    other.close().await;
    publish(&keeper, 100..110).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(keeper.topic(&topic()).await.unwrap().head, 50);
    let rest = fetch(&keeper, None, 100).await;
    assert_eq!(rest.iter().map(|d| d.offset).collect::<Vec<_>>(), (50..110).collect::<Vec<_>>());
    keeper.settle(&name(), Settlement::ack(rest.iter().map(|d| d.id))).await.unwrap();
    head(100).await;
    keeper.close().await;
}
