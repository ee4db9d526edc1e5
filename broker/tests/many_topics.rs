//! What ten thousand topics cost one subscription that reads them all. Run it by hand:
//! `cargo test --release -p crossdock-broker --test many_topics -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod scratch;

use std::time::{Duration, Instant};

use crossdock_topics::{
    Batch, Expect, Fetch, Message, Settlement, SharedBroker, Subscription, Topic, TopicName,
};
use tempfile::TempDir;

/// Processor time of this process so far, in hundredths of a second.
fn processor_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; it judges nothing that is not judged elsewhere"]
async fn one_subscription_reads_them_all() {
    let folder = TempDir::new().unwrap();
    let broker: SharedBroker = scratch::open(folder.path()).await.unwrap();
    let mut known = 0;
    for count in [1, 100, 10_000] {
        let names: Vec<TopicName> = (known..count).map(|n| format!("t.n{n}").parse().unwrap()).collect();
        let made = names.iter().map(|name| broker.put_topic(Topic::new(name.clone()), Expect::Absent));
        for result in futures::future::join_all(made).await {
            result.unwrap();
        }
        known = count;
        if count == 1 {
            let all = Subscription::new("all".parse().unwrap(), vec!["t.*".parse().unwrap()]);
            broker.put_subscription(all, Expect::Absent).await.unwrap();
        }
        // Ten of them move, one message at a time.
        let cpu = processor_ticks();
        let (sub, began, mut rounds) = ("all".parse().unwrap(), Instant::now(), 0u64);
        while began.elapsed() < Duration::from_secs(3) {
            let topic = format!("t.n{}", rounds % 10.min(count)).parse().unwrap();
            broker.publish(&topic, Batch::of(&Message::new("x")).unwrap(), Default::default()).await.unwrap();
            let taken = broker.fetch(&sub, Fetch::new(None, 1, Duration::from_secs(5))).await.unwrap();
            assert_eq!(taken.len(), 1);
            let settled =
                broker.settle(&sub, Settlement::one(taken[0].id, crossdock_topics::Outcome::Ack)).await;
            assert_eq!(settled.unwrap().settled, 1);
            rounds += 1;
        }
        let each = began.elapsed() / u32::try_from(rounds).unwrap();
        let cpu = (processor_ticks() - cpu) * 10_000 / rounds;
        println!(
            "{count:>6} topics: {rounds} round trips of one message, {each:?} and {cpu} us of processor time each"
        );
    }
}
