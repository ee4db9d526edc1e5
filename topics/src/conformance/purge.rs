//! Dropping messages because somebody says so, and using a topic's name again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Harness;
use super::steps::{
    A_WHILE, ack, close, info, name, nothing, one, publish, read_all, refused, reject, retry, say, soon,
    standing, stored_texts, subscription, subscription_with, take, take_one, text, texts, topic,
};
use crate::{ErrorCode, Expect, Fetch, Settlement, SharedBroker, StartAt, Topic, TopicName};

async fn purge(broker: &SharedBroker, topic: &TopicName, before: Option<u64>) -> u64 {
    soon("a purge", broker.purge(topic, before)).await.unwrap()
}

pub(super) async fn all_that_is_stored_goes_and_the_numbers_go_on(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    assert_eq!(purge(&broker, &orders, None).await, 0);
    publish(&broker, &orders, ["a", "b", "c"]).await;
    assert_eq!(purge(&broker, &orders, None).await, 3);
    let after = info(&broker, &orders).await;
    assert_eq!((after.head, after.tail, after.bytes), (3, 3, 0));
    assert!(read_all(&broker, &orders).await.is_empty());
    assert_eq!(purge(&broker, &orders, None).await, 3);
    assert_eq!(publish(&broker, &orders, ["d"]).await.first, 3);
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["d"]);
    refused(broker.purge(&name("nowhere"), None).await, ErrorCode::NotFound);
}

pub(super) async fn what_lies_before_an_offset_goes(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    publish(&broker, &orders, ["a", "b", "c", "d"]).await;
    assert_eq!(purge(&broker, &orders, Some(2)).await, 2);
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["c", "d"]);
    assert_eq!(purge(&broker, &orders, Some(1)).await, 2, "what is gone does not come back");
    let page = broker.read(&orders, StartAt::Offset(0), 10, Duration::ZERO).await.unwrap();
    assert_eq!((stored_texts(&page.messages), page.next), (vec!["c".to_owned(), "d".to_owned()], 4));
}

pub(super) async fn beyond_the_end_is_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    publish(&broker, &orders, ["a", "b"]).await;
    refused(broker.purge(&orders, Some(3)).await, ErrorCode::InvalidArgument);
    assert_eq!(stored_texts(&read_all(&broker, &orders).await), ["a", "b"]);
}

pub(super) async fn what_subscriptions_have_of_it_goes_too(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription_with(&broker, "sub", &["orders"], |s| {
        s.backoff.first = Duration::from_secs(600);
        s.backoff.max = Duration::from_secs(600);
    })
    .await;
    publish(&broker, &orders, ["dead", "failed", "held", "waiting", "kept dead", "kept"]).await;
    let taken = take(&broker, &sub, 5).await;
    say(&broker, &sub, &taken[0], reject("no")).await;
    say(&broker, &sub, &taken[1], retry("busy")).await;
    say(&broker, &sub, &taken[4], reject("no")).await;
    assert_eq!(standing(&broker, &sub).await, [1, 2, 1, 2]);
    assert_eq!(purge(&broker, &orders, Some(4)).await, 4);
    assert_eq!(standing(&broker, &sub).await, [1, 0, 0, 1]);
    let late = broker.settle(&sub, Settlement::ack([taken[2].id])).await.unwrap();
    assert_eq!((late.settled, late.stale), (0, vec![taken[2].id]));
    let dead = broker.dead_letters(&sub, None, 10).await.unwrap();
    assert_eq!(dead.iter().map(|letter| letter.offset).collect::<Vec<_>>(), [4]);
    assert_eq!(text(&take_one(&broker, &sub).await), "kept");
    assert_eq!(info(&broker, &orders).await.held_by, None);
}

pub(super) async fn consumers_go_on_behind_it(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders = topic(&broker, "orders").await;
    let sub = subscription(&broker, "sub", &["orders"]).await;
    publish(&broker, &orders, ["a", "b", "c"]).await;
    let first = take_one(&broker, &sub).await;
    ack(&broker, &sub, &[first]).await;
    purge(&broker, &orders, None).await;
    nothing(&broker, &sub).await;
    // One who waits already, in both ways of reading, gets what comes next.
    let waiting = (
        broker.fetch(&sub, Fetch::new(None, 10, super::PATIENCE)),
        broker.read(&orders, StartAt::Offset(0), 10, super::PATIENCE),
        async {
            tokio::time::sleep(A_WHILE).await;
            publish(&broker, &orders, ["d"]).await
        },
    );
    let (fetched, read, _) = tokio::join!(waiting.0, waiting.1, waiting.2);
    assert_eq!(texts(&fetched.unwrap()), ["d"]);
    assert_eq!(stored_texts(&read.unwrap().messages), ["d"]);
}

pub(super) async fn a_restart_does_not_bring_it_back(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let (all, some) = (topic(&broker, "all").await, topic(&broker, "some").await);
    let sub = subscription(&broker, "sub", &["all", "some"]).await;
    publish(&broker, &all, ["a", "b"]).await;
    publish(&broker, &some, ["c", "d"]).await;
    purge(&broker, &all, None).await;
    purge(&broker, &some, Some(1)).await;
    let check = async |broker: &SharedBroker| {
        let (all, some) = (info(broker, &all).await, info(broker, &some).await);
        assert_eq!([all.head, all.tail, some.head, some.tail], [2, 2, 1, 2]);
        assert_eq!(texts(&take(broker, &sub, 1).await), ["d"]);
        nothing(broker, &sub).await;
    };
    if let Some(after) = harness.reopen_killed().await {
        check(&after).await;
        close(after).await;
    }
    close(broker).await;
    let broker = harness.reopen().await;
    check(&broker).await;
    assert_eq!(publish(&broker, &all, ["e"]).await.first, 2);
}

pub(super) async fn a_name_is_used_again_under_load(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let orders: TopicName = name("orders");
    let everything = subscription(&broker, "everything", &["*"]).await;
    let (last, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut tasks = tokio::task::JoinSet::new();
    for publisher in 0..3 {
        let (broker, orders) = (broker.clone(), orders.clone());
        let (last, done) = (last.clone(), done.clone());
        tasks.spawn(async move {
            let mut stored = Vec::new();
            for n in 0.. {
                let is_last = last.load(Ordering::SeqCst);
                if done.load(Ordering::SeqCst) {
                    break;
                }
                let text = format!("{publisher} {n}");
                match soon("an answer", broker.publish(&orders, one(text.clone()), Default::default())).await
                {
                    Ok(receipts) if is_last => stored.push((receipts.first, text)),
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!(error.code, ErrorCode::NotFound, "{error}");
                        assert!(!is_last, "it is there: {error}");
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            stored
        });
    }
    let consumer = {
        let (broker, everything, done) = (broker.clone(), everything.clone(), done.clone());
        tokio::spawn(async move {
            while !done.load(Ordering::SeqCst) {
                let fetch = Fetch::new(None, 50, Duration::from_millis(20));
                let taken = broker.fetch(&everything, fetch).await.unwrap();
                let settlement = Settlement::ack(taken.iter().map(|delivery| delivery.id));
                broker.settle(&everything, settlement).await.unwrap();
            }
        })
    };
    for round in 0..8 {
        broker.put_topic(Topic::new(orders.clone()), Expect::Absent).await.unwrap();
        if round == 7 {
            last.store(true, Ordering::SeqCst);
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
        broker.purge(&orders, None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        if round < 7 {
            broker.delete_topic(&orders).await.unwrap();
        }
    }
    done.store(true, Ordering::SeqCst);
    let published = soon("all publishers", tasks.join_all()).await;
    soon("the consumer", consumer).await.unwrap();
    let found = read_all(&broker, &orders).await;
    let head = info(&broker, &orders).await.head;
    for (at, message) in (head..).zip(&found) {
        assert_eq!(message.offset, at);
    }
    let found = stored_texts(&found);
    for (offset, text) in published.into_iter().flatten().filter(|(offset, _)| *offset >= head) {
        assert_eq!(found[usize::try_from(offset - head).unwrap()], text, "offset {offset}");
    }
}
