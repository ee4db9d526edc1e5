//! How messages reach consumers when several things happen at once.

use std::time::Duration;

use crossdock_topics::{
    Broker, ErrorCode, Fetch, Log, Settlement, Subscription, Subscriptions, Timestamp, Topic,
};

use super::*;
use crate::delivery::block::{Block, Builder};
use crate::delivery::take::{Missing, Taken};
use crate::delivery::{READ_BYTES, SubscriptionState};
use crate::embedded::database::Database;
use crate::embedded::keys;
use crate::embedded::log::{TopicLog, load};
use crate::embedded::segments::Segments;
use crate::group::{Group, Place, Rules};

fn log(tail: u64, head: u64) -> Arc<TopicLog> {
    let topic = Topic::new(name("t"));
    Arc::new(TopicLog::new(1, topic, 1, head, Segments::default(), tail, Timestamp(1)))
}

/// A block of as many messages as there are offsets.
fn block(offsets: std::ops::Range<u64>) -> (bytes::Bytes, Arc<Block>) {
    let mut builder = Builder::new(offsets.start, 0);
    for offset in offsets {
        builder.push(batch([offset.to_string()]).as_bytes(), 1, false);
    }
    builder.finish(Timestamp(1))
}

#[tokio::test]
async fn a_topic_that_always_has_something_new_does_not_starve_one_that_is_behind() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let (old, hot) = (topic(&broker, "old").await, topic(&broker, "hot").await);
    subscribe(&broker, Subscription::new(name("s"), vec![name("*")])).await;
    broker.publish(&old, batch(["old"]), Default::default()).await.unwrap();
    broker.close().await;

    let broker = open(&folder);
    let mut seen = 0;
    for round in 0..40 {
        broker
            .publish(&hot, batch((0..4).map(|n| format!("{round}-{n}"))), Default::default())
            .await
            .unwrap();
        let taken = broker.fetch(&name("s"), Fetch::new(None, 1, Duration::ZERO)).await.unwrap();
        seen += taken.iter().filter(|delivery| delivery.topic == old).count();
        let settlement = Settlement::ack(taken.iter().map(|delivery| delivery.id));
        broker.settle(&name("s"), settlement).await.unwrap();
    }
    assert_eq!(seen, 1);
}

#[tokio::test]
async fn who_has_left_takes_nothing_even_if_it_was_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let t = topic(&broker, "t").await;
    subscribe(&broker, Subscription::new(name("s"), vec![name("t")])).await;
    let leaver = broker.join(&name("s")).await.unwrap();
    let waiting = |consumer| {
        let broker = broker.clone();
        tokio::spawn(async move {
            broker.fetch(&name("s"), Fetch::new(consumer, 1, Duration::from_secs(60))).await
        })
    };
    let gone = waiting(Some(leaver));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let other = waiting(None);
    tokio::time::sleep(Duration::from_millis(50)).await;
    broker.leave(&name("s"), leaver);
    broker.publish(&t, batch(["x"]), Default::default()).await.unwrap();
    // The one that left was first in the row, and may have got the wake-up: it hands it on.
    let taken = tokio::time::timeout(Duration::from_secs(5), other).await.expect("at once").unwrap().unwrap();
    assert_eq!((taken.len(), taken[0].attempt), (1, 1));
    assert_eq!(soon(gone).await.unwrap().unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_wake_up_of_a_fetch_that_is_dropped_goes_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let t = topic(&broker, "t").await;
    subscribe(&broker, Subscription::new(name("s"), vec![name("t")])).await;
    for round in 0..50 {
        let waiting = || {
            let broker = broker.clone();
            tokio::spawn(async move {
                broker.fetch(&name("s"), Fetch::new(None, 1, Duration::from_secs(60))).await
            })
        };
        let dropped = waiting();
        tokio::task::yield_now().await;
        let stays = waiting();
        tokio::task::yield_now().await;
        broker.publish(&t, batch([round.to_string()]), Default::default()).await.unwrap();
        dropped.abort();
        if let Ok(taken) = dropped.await {
            stays.abort();
            let settled = Settlement::ack(taken.unwrap().iter().map(|delivery| delivery.id));
            broker.settle(&name("s"), settled).await.unwrap();
            continue;
        }
        let taken = tokio::time::timeout(Duration::from_secs(5), stays).await.expect("at once");
        let settled = Settlement::ack(taken.unwrap().unwrap().iter().map(|delivery| delivery.id));
        broker.settle(&name("s"), settled).await.unwrap();
    }
}

#[test]
fn blocks_that_come_late_move_no_place() {
    let log = log(3000, 0);
    let definition = Subscription::new(name("s"), vec![name("t")]);
    let group = || Group::new(Rules::from(&definition), Place::default().into(), 1);
    let state = Arc::new(SubscriptionState::new(1, definition.clone(), None, 1));
    state.attach(&log.feed, group());
    let supply = |offset, blocks| state.supply(&Missing { log: log.feed.clone(), offset, life: 0 }, blocks);
    // They were asked for by a group that this one has taken the place of.
    assert!(supply(1000, vec![block(1000..1010).1]).unwrap());
    assert_eq!(state.info().topics[0].next, 0);
    // Nothing is passed over in silence either.
    assert!(supply(0, vec![block(5..10).1]).unwrap_err().message.contains("hole"));
    assert!(supply(0, Vec::new()).unwrap_err().message.contains("hole"));
    // But what retention has dropped is.
    log.set_head(5);
    assert!(supply(0, vec![block(4..10).1]).unwrap());
    assert_eq!(state.info().topics[0].next, 5);
    log.mark_deleted();
    assert!(!supply(5, Vec::new()).unwrap());
}

#[test]
fn where_a_topic_ends_earlier_nothing_comes_of_what_was_read_before() {
    let log = log(20, 0);
    let definition = Subscription::new(name("s"), vec![name("t")]);
    let group = Group::new(Rules::from(&definition), Place::default().into(), 1);
    let state = Arc::new(SubscriptionState::new(1, definition, None, 1));
    state.attach(&log.feed, group);
    let (now, fetch) = (Timestamp(1), |max| Fetch::new(None, max, Duration::ZERO));
    let offsets = |taken: &Taken| taken.deliveries.iter().map(|delivery| delivery.offset).collect::<Vec<_>>();
    let missing = state.take(&fetch(6), now).missing.unwrap();
    assert!(state.supply(&missing, vec![block(0..20).1]).unwrap());
    assert_eq!(offsets(&state.take(&fetch(6), now)), [0, 1, 2, 3, 4, 5]);
    state.shortened(log.id, 10, now);
    // Whoever reads meanwhile may still bring what was there.
    assert!(state.supply(&missing, vec![block(0..20).1]).unwrap());
    let taken = state.take(&fetch(100), now);
    assert!(offsets(&taken).is_empty());
    let missing = taken.missing.unwrap();
    assert_eq!(missing.offset, 6);
    assert!(state.supply(&missing, vec![block(6..15).1]).unwrap());
    assert_eq!(offsets(&state.take(&fetch(100), now)), (6..15).collect::<Vec<_>>());
}

#[test]
fn damage_on_the_disk_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(&EmbeddedOptions::new(folder.path())).unwrap();
    let mut batch = rocksdb::WriteBatch::default();
    let mut flipped = block(9..10).0.to_vec();
    flipped[20] ^= 1;
    for (at, value) in [(0, block(0..2).0), (4, block(4..6).0), (6, block(7..9).0), (9, flipped.into())] {
        batch.put_cf(database.family("log"), keys::log(1, at), value);
    }
    database.write(batch).unwrap();
    let log = log(10, 0);
    let told = |offset| load(&log, &database, offset, READ_BYTES).unwrap_err().to_string();
    assert!(told(0).contains("topic t has a hole in its log before offset 4"), "{}", told(0));
    assert!(told(4).contains("lies in another one's place (topic t, at offset 6)"), "{}", told(4));
    assert!(told(9).contains("checksum does not match (topic t, at offset 9)"), "{}", told(9));
    // What retention has dropped from the front is no hole.
    let blocks = load(&log, &database, 3, 0).unwrap();
    assert!(blocks.len() == 1 && blocks[0].range() == (4..6));
}

#[tokio::test]
async fn a_broker_that_has_ended_leaves_no_topic_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let broker = open(&folder);
    let of = topic(&broker, "t").await;
    subscribe(&broker, Subscription::new(name("s"), vec![name("t")])).await;
    let feed = Arc::downgrade(&broker.shared.topic(&of).unwrap().feed);
    broker.close().await;
    drop(broker);
    assert!(feed.upgrade().is_none());
}
