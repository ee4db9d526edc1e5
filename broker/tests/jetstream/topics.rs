//! Topics while nats-servers are killed and halted: nothing acknowledged is lost, nothing is stored twice, and all is in
//! the order in which it was published.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossdock_broker::{JetStream, JetStreamOptions};
use crossdock_tests::{Line, Nats, eventually};
use crossdock_topics::{
    Batch, Broker, Durability, ErrorCode, Expect, Log, Message, PublishOptions, Published, Source, StartAt,
    Store, Topic,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{PATIENCE, open, orders};

/// So many batches of a publisher are under way.
const UNDER_WAY: usize = 64;

/// What a publisher was told: the text of each message, and where it lies if that was acknowledged.
type Told = Vec<(String, Option<u64>)>;

/// How a publisher publishes.
#[derive(Clone, Copy)]
enum How {
    /// Single messages.
    Singles,
    /// Batches of up to five.
    Batches,
    /// Single messages that name their source, sent again until they are answered.
    Sources(u128),
}

/// Publishes until it is told to stop, without waiting for each answer.
fn publishing(
    broker: &Arc<JetStream>,
    name: &'static str,
    how: How,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<Told> {
    let (broker, stop) = (broker.clone(), stop.clone());
    tokio::spawn(async move {
        let mut told = Told::new();
        let mut under_way: VecDeque<(u64, Vec<String>, Published)> = VecDeque::new();
        let (mut n, mut unanswered, mut longest) = (0, 0, Duration::ZERO);
        loop {
            let stopped = stop.load(Ordering::Relaxed);
            if under_way.len() >= UNDER_WAY || (stopped && !under_way.is_empty()) {
                let (number, texts, published) = under_way.pop_front().unwrap();
                let began = std::time::Instant::now();
                let mut answer = timeout(PATIENCE, published).await.expect("an answer");
                longest = longest.max(began.elapsed());
                if let (How::Sources(publisher), Err(error)) = (how, &answer) {
                    // Whoever names a source sends again until there is an answer; those behind it were refused.
                    assert!(matches!(error.code, ErrorCode::Unavailable | ErrorCode::Conflict), "{error}");
                    let source = Some(Source { publisher, sequence: number, answered: number });
                    let again = PublishOptions { source, ..PublishOptions::default() };
                    let stored = eventually("it to be stored", PATIENCE, || async {
                        broker.publish(&orders(), batch(&texts), again.clone()).await.ok()
                    });
                    answer = Ok(stored.await);
                }
                match answer {
                    Ok(receipts) => {
                        told.extend((receipts.first..).zip(texts).map(|(offset, text)| (text, Some(offset))));
                    }
                    Err(error) => {
                        assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
                        unanswered += 1;
                        told.extend(texts.into_iter().map(|text| (text, None)));
                    }
                }
                continue;
            }
            if stopped {
                eprintln!(
                    "{name}: {} messages, {unanswered} batches unanswered, the longest took {longest:?}",
                    told.len()
                );
                return told;
            }
            let count = if matches!(how, How::Batches) { 1 + n % 5 } else { 1 };
            let texts: Vec<String> = (0..count).map(|m| format!("{name} {n:06}.{m}")).collect();
            let source = match how {
                How::Sources(publisher) => {
                    let answered = under_way.front().map_or(n, |(number, ..)| *number);
                    Some(Source { publisher, sequence: n, answered })
                }
                _ => None,
            };
            let options = PublishOptions { source, ..PublishOptions::default() };
            under_way.push_back((n, texts.clone(), broker.publish(&orders(), batch(&texts), options)));
            n += 1;
            // A pace that a loaded machine keeps.
            if n % 8 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    })
}

fn batch(texts: &[String]) -> Batch {
    let mut batch = Batch::default();
    texts.iter().for_each(|text| batch.push(&Message::new(text.clone())).unwrap());
    batch
}

/// Reads on from the start until a message says that it is the end.
fn reading(broker: &Arc<JetStream>) -> JoinHandle<Vec<(u64, String)>> {
    let broker = broker.clone();
    tokio::spawn(async move {
        let (mut seen, mut next) = (Vec::new(), 0);
        loop {
            let page = match broker.read(&orders(), StartAt::Offset(next), 1000, Duration::from_secs(1)).await
            {
                Ok(page) => page,
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            next = page.next;
            for message in page.messages {
                let text = String::from_utf8(message.record.payload().to_vec()).unwrap();
                if text == "end" {
                    return seen;
                }
                seen.push((message.offset, text));
            }
        }
    })
}

/// The server that leads the topic's stream.
async fn leader(nats: &Nats) -> usize {
    let url = nats.url();
    let servers: Vec<&str> = url.trim_start_matches("nats://").split(',').collect();
    let context = async_nats::jetstream::new(async_nats::connect(servers).await.unwrap());
    eventually("the topic to have a leader", PATIENCE, || async {
        let info = context.get_stream("crossdock-t-1").await.ok()?.cached_info().clone();
        info.cluster?.leader.map(|name| nats.named(&name))
    })
    .await
}

async fn end(broker: &Arc<JetStream>) {
    eventually("the end to be stored", PATIENCE, || async {
        broker
            .publish(&orders(), Batch::of(&Message::new("end")).unwrap(), PublishOptions::default())
            .await
            .ok()
    })
    .await;
}

fn check(told: Vec<Told>, seen: &[(u64, String)]) {
    assert!(seen.iter().zip(0..).all(|((offset, _), n)| *offset == n), "a hole, or one twice");
    for told in told {
        let name = told[0].0.split(' ').next().unwrap().to_owned() + " ";
        let of: Vec<&String> =
            seen.iter().map(|(_, text)| text).filter(|text| text.starts_with(&name)).collect();
        let disorder = of.windows(2).find(|pair| pair[0] >= pair[1]);
        assert_eq!(disorder, None, "stored twice, or out of order");
        for (text, offset) in told {
            if let Some(offset) = offset {
                assert_eq!(seen[usize::try_from(offset).unwrap()].1, text, "at offset {offset}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_cluster_nothing_is_lost_or_disordered_while_its_servers_are_killed_and_halted() {
    let mut nats = Nats::cluster(3).await;
    let (one, two, three) = (open(&nats.url()).await, open(&nats.url()).await, open(&nats.url()).await);
    let mut topic = Topic::new(orders());
    topic.durability = Durability::Quorum(3);
    one.put_topic(topic, Expect::Absent).await.unwrap();
    eventually("all to know the topic", PATIENCE, || async {
        (two.topic(&orders()).await.is_ok() && three.topic(&orders()).await.is_ok()).then_some(())
    })
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let seen = reading(&three);
    let told = vec![
        publishing(&one, "singles", How::Singles, &stop),
        publishing(&two, "batches", How::Batches, &stop),
        publishing(&three, "sources", How::Sources(77), &stop),
    ];
    let pause = Duration::from_millis(1500);
    for round in 0..3 {
        tokio::time::sleep(pause).await;
        let node = if round == 1 { (leader(&nats).await + 1) % 3 } else { leader(&nats).await };
        nats.kill(node).await;
        tokio::time::sleep(pause).await;
        nats.restart(node).await;
    }
    let halted = leader(&nats).await;
    nats.halt(halted).await;
    tokio::time::sleep(pause * 4).await;
    nats.resume(halted).await;
    tokio::time::sleep(pause).await;
    finish(told, &stop, seen, vec![one, two, three]).await;
}

/// A single server that syncs each message, and whoever opens an engine on it at an address.
async fn single() -> (Nats, impl AsyncFn(&str) -> Arc<JetStream>) {
    let nats = Nats::single().await;
    let start = async |url: &str| {
        let mut options = JetStreamOptions::new(url).unwrap();
        options.sync_always = true;
        JetStream::open(options).await.unwrap()
    };
    (nats, start)
}

/// Waits for those who publish, and judges what they were told by what is there.
async fn finish(
    told: Vec<JoinHandle<Told>>,
    stop: &AtomicBool,
    seen: JoinHandle<Vec<(u64, String)>>,
    brokers: Vec<Arc<JetStream>>,
) {
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for told in told {
        all.push(timeout(PATIENCE * 2, told).await.unwrap().unwrap());
    }
    end(&brokers[0]).await;
    let seen = timeout(PATIENCE, seen).await.unwrap().unwrap();
    check(all, &seen);
    for broker in brokers {
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_servers_publish_to_one_topic_without_waiting_each_in_its_order() {
    let (nats, start) = single().await;
    let (one, two) = (start(&nats.url()).await, start(&nats.url()).await);
    one.put_topic(Topic::new(orders()), Expect::Absent).await.unwrap();
    eventually("the topic", PATIENCE, || async { two.topic(&orders()).await.ok() }).await;
    let stop = Arc::new(AtomicBool::new(false));
    let seen = reading(&one);
    let mut told = vec![publishing(&one, "alone", How::Singles, &stop)];
    // Again and again one goes on alone, so that its messages follow each other without waiting when the other comes.
    for other in ["first", "second", "third", "fourth"] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let stop = Arc::new(AtomicBool::new(false));
        told.push(publishing(&two, other, How::Batches, &stop));
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.store(true, Ordering::Relaxed);
    }
    finish(told, &stop, seen, vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_held_up_on_its_way_is_not_stored_again_when_it_arrives() {
    let (nats, start) = single().await;
    let line = Line::to(&nats.url()).await;
    let (one, two) = (start(&line.url()).await, start(&nats.url()).await);
    one.put_topic(Topic::new(orders()), Expect::Absent).await.unwrap();
    eventually("the topic", PATIENCE, || async { two.topic(&orders()).await.ok() }).await;
    let stop = Arc::new(AtomicBool::new(false));
    let seen = reading(&two);
    let mut told = vec![
        publishing(&one, "singles", How::Singles, &stop),
        publishing(&one, "sources", How::Sources(78), &stop),
    ];
    for round in 0..24_u64 {
        if round == 8 {
            told.push(publishing(&two, "other", How::Batches, &stop));
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        line.hold_up();
        // Before the engine has sent it again, while it does, or later.
        tokio::time::sleep(Duration::from_millis(20 + 7 * (round % 12))).await;
        line.mend();
    }
    finish(told, &stop, seen, vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_one_server_nothing_is_lost_or_disordered_while_it_is_killed() {
    let (mut nats, start) = single().await;
    let (one, two) = (start(&nats.url()).await, start(&nats.url()).await);
    one.put_topic(Topic::new(orders()), Expect::Absent).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let seen = reading(&one);
    let mut told = vec![publishing(&one, "alone", How::Singles, &stop)];
    let pause = Duration::from_secs(1);
    for round in 0..4 {
        if round == 2 {
            eventually("the topic", PATIENCE, || async { two.topic(&orders()).await.ok() }).await;
            told.push(publishing(&two, "other", How::Batches, &stop));
        }
        tokio::time::sleep(pause).await;
        nats.kill(0).await;
        tokio::time::sleep(pause).await;
        nats.restart(0).await;
    }
    tokio::time::sleep(pause).await;
    finish(told, &stop, seen, vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_needs_a_server_which_is_just_starting_is_made_when_it_is_there() {
    let mut nats = Nats::cluster(3).await;
    let mut options = JetStreamOptions::new(&nats.url()).unwrap();
    options.patience = PATIENCE;
    let broker = JetStream::open(options).await.unwrap();
    for node in 0..3 {
        nats.kill(node).await;
    }
    // Two are enough for all that is there, and have not heard of the third one yet.
    for node in 0..2 {
        nats.start_again(node).await;
    }
    eventually("the store", PATIENCE, || async { broker.get("any").await.ok() }).await;
    let making = tokio::spawn({
        let broker = broker.clone();
        async move { broker.put_topic(Topic::new(orders()), Expect::Absent).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    nats.start_again(2).await;
    timeout(PATIENCE, making).await.unwrap().unwrap().unwrap();
    broker.close().await;
}
