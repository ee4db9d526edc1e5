//! Everything at once: random freight through competing consumers, checked message by message.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Harness;
use super::steps::{
    Dice, batch, eventually, name, publish_batch, read_all, reject, retry, soon, standing, stored_texts,
    subscription_with, take, topic_with,
};
use crate::{
    Backoff, Delivery, Durability, Fetch, Message, Outcome, Selection, Settlement, SharedBroker,
    SubscriptionName, TopicName,
};

const PUBLISHERS: u64 = 3;
const ROUNDS: u64 = 20;
const CONSUMERS: u64 = 4;
const MAX_FAILURES: u32 = 3;

/// What happened to one message, as its consumers know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Story {
    deliveries: u32,
    failures: u32,
    held: bool,
    acked: bool,
    dead: bool,
}

/// By topic and offset.
type Book = Mutex<BTreeMap<(TopicName, u64), Story>>;

/// What a run works on.
struct Freight {
    broker: SharedBroker,
    sub: SubscriptionName,
    topics: [TopicName; 2],
    outputs: TopicName,
    book: Book,
    done: AtomicBool,
    seed: u64,
}

pub(super) async fn each_message_is_acknowledged_once_in_the_end(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    // A failure names its seed; add it here to see it again.
    for seed in [1, 7, 42] {
        run(&broker, seed).await;
    }
}

async fn run(broker: &SharedBroker, seed: u64) {
    let made = async |text: String, level| topic_with(broker, &text, |t| t.durability = level).await;
    let topics = [
        made(format!("in{seed}.a"), Durability::Fsync).await,
        made(format!("in{seed}.b"), Durability::Memory).await,
    ];
    let outputs = made(format!("out{seed}"), Durability::Os).await;
    let sub = subscription_with(broker, &format!("sub{seed}"), &[&format!("in{seed}.*")], |s| {
        s.max_failures = MAX_FAILURES;
        s.lease = Duration::from_secs(600);
        s.backoff = Backoff { first: Duration::from_millis(2), factor: 2.0, max: Duration::from_millis(20) };
    })
    .await;
    let (book, done) = (Book::default(), AtomicBool::new(false));
    let freight = Arc::new(Freight { broker: broker.clone(), sub, topics, outputs, book, done, seed });
    let mut publishers = tokio::task::JoinSet::new();
    for n in 0..PUBLISHERS {
        publishers.spawn(freight.clone().publish(n));
    }
    let mut consumers = tokio::task::JoinSet::new();
    for n in 0..CONSUMERS {
        consumers.spawn(freight.clone().consume(n));
    }
    soon("all publishers", publishers.join_all()).await;
    eventually(&format!("seed {seed}: all is settled or given up"), async || {
        standing(broker, &freight.sub).await[..3] == [0; 3]
    })
    .await;
    freight.done.store(true, Ordering::SeqCst);
    soon("all consumers", consumers.join_all()).await;
    freight.check().await;
}

impl Freight {
    /// Publishes batches of random sizes, and some of them twice.
    async fn publish(self: Arc<Self>, number: u64) {
        let mut dice = Dice(self.seed * 100 + number);
        for round in 0..ROUNDS {
            let topic = &self.topics[usize::from(dice.below(2) == 1)];
            let size = 1 + dice.below(6);
            let messages = (0..size).map(|n| {
                let id = format!("{number}/{round}/{n}");
                Message::new(id.clone()).with_id(id)
            });
            let packed = batch(messages);
            let first = publish_batch(&self.broker, topic, packed.clone()).await.unwrap();
            assert!(first.duplicates.is_empty(), "seed {}: {first:?}", self.seed);
            if dice.below(4) == 0 {
                let again = publish_batch(&self.broker, topic, packed).await.unwrap();
                assert_eq!(again.duplicates.len() as u64, size, "seed {}: {again:?}", self.seed);
            }
        }
    }

    /// Takes messages and does something with them, until there is nothing left to do.
    async fn consume(self: Arc<Self>, number: u64) {
        let mut dice = Dice(self.seed * 1000 + number);
        let mut consumer = self.broker.join(&self.sub).await.unwrap();
        while !self.done.load(Ordering::SeqCst) {
            let max = 1 + usize::try_from(dice.below(8)).unwrap();
            let fetch = Fetch::new(Some(consumer), max, Duration::from_millis(30));
            let taken = self.broker.fetch(&self.sub, fetch).await.unwrap();
            for delivery in &taken {
                self.note_delivery(delivery);
            }
            let mut together = Settlement::default();
            let mut left = false;
            for delivery in &taken {
                let outcome = match dice.below(100) {
                    0..55 => Outcome::Ack,
                    55..70 => retry("failed"),
                    70..80 => {
                        Outcome::Retry { after: Some(Duration::from_millis(5)), reason: "later".into() }
                    }
                    80..87 => Outcome::Release,
                    87..95 => reject("rejected"),
                    _ => {
                        left = true;
                        break;
                    }
                };
                self.note_outcome(delivery, &outcome);
                let text = format!("{}/{}", delivery.topic, delivery.offset);
                if outcome == Outcome::Ack {
                    together.outputs.push((self.outputs.clone(), batch([Message::new(text)])));
                }
                together.outcomes.push((delivery.id, outcome));
                if dice.below(3) == 0 {
                    self.settle(std::mem::take(&mut together)).await;
                }
            }
            self.settle(together).await;
            if left {
                // Those it did not come to are given back.
                self.note_leaving(&taken);
                self.broker.leave(&self.sub, consumer);
                consumer = self.broker.join(&self.sub).await.unwrap();
            }
        }
        self.broker.leave(&self.sub, consumer);
    }

    async fn settle(&self, settlement: Settlement) {
        let count = settlement.outcomes.len();
        let settled = self.broker.settle(&self.sub, settlement).await.unwrap();
        assert_eq!((settled.settled, settled.stale.len()), (count, 0), "seed {}: {settled:?}", self.seed);
    }

    fn note_delivery(&self, delivery: &Delivery) {
        let mut book = self.book.lock().unwrap();
        let story = book.entry((delivery.topic.clone(), delivery.offset)).or_default();
        assert!(!story.held, "seed {}: with two at once: {delivery:?} {story:?}", self.seed);
        assert!(!story.acked && !story.dead, "seed {}: after its end: {delivery:?} {story:?}", self.seed);
        story.held = true;
        story.deliveries += 1;
        assert_eq!(
            (delivery.deliveries, delivery.attempt),
            (story.deliveries, story.failures + 1),
            "seed {}: {delivery:?}",
            self.seed
        );
    }

    /// Before it is settled, since it can be delivered again before the answer is here.
    fn note_outcome(&self, delivery: &Delivery, outcome: &Outcome) {
        let mut book = self.book.lock().unwrap();
        let story = book.get_mut(&(delivery.topic.clone(), delivery.offset)).unwrap();
        story.held = false;
        match outcome {
            Outcome::Ack => story.acked = true,
            Outcome::Retry { .. } => {
                story.failures += 1;
                story.dead = story.failures == MAX_FAILURES;
            }
            Outcome::Reject { .. } => story.dead = true,
            Outcome::Release => {}
        }
    }

    fn note_leaving(&self, taken: &[Delivery]) {
        let mut book = self.book.lock().unwrap();
        for delivery in taken {
            // One that was settled may be with somebody else by now.
            let story = book.get_mut(&(delivery.topic.clone(), delivery.offset)).unwrap();
            if story.deliveries == delivery.deliveries {
                story.held = false;
            }
        }
    }

    /// Compares what the broker says with what the consumers saw, then delivers the dead letters too.
    async fn check(&self) {
        let seed = self.seed;
        let book = self.book.lock().unwrap().clone();
        let mut count = 0;
        for topic in &self.topics {
            for message in read_all(&self.broker, topic).await {
                let story = book.get(&(topic.clone(), message.offset));
                let story = story.unwrap_or_else(|| panic!("seed {seed}: lost: {topic}/{}", message.offset));
                assert!(story.acked != story.dead, "seed {seed}: {topic}/{}: {story:?}", message.offset);
                count += 1;
            }
        }
        assert_eq!(count, book.len(), "seed {seed}: delivered what is not there");
        let mut outputs = stored_texts(&read_all(&self.broker, &self.outputs).await);
        outputs.sort();
        let acked = book.iter().filter(|(_, story)| story.acked);
        let mut expected: Vec<String> = acked.map(|((topic, n), _)| format!("{topic}/{n}")).collect();
        expected.sort();
        assert_eq!(outputs, expected, "seed {seed}: an output for each acknowledgement");
        let dead: Vec<_> = book.into_iter().filter(|(_, story)| story.dead).collect();
        let letters = self.broker.dead_letters(&self.sub, None, 10_000).await.unwrap();
        assert_eq!(letters.len(), dead.len(), "seed {seed}: {letters:?}");
        for (letter, (place, story)) in letters.iter().zip(&dead) {
            assert_eq!((&letter.topic, letter.offset), (&place.0, place.1), "seed {seed}");
            assert_eq!(letter.deliveries, story.deliveries, "seed {seed}: {letter:?}");
        }
        assert_eq!(
            self.broker.redrive(&self.sub, Selection::All.into()).await.unwrap(),
            dead.len(),
            "seed {seed}"
        );
        let mut again: Vec<(TopicName, u64)> = Vec::new();
        for delivery in take(&self.broker, &name(self.sub.as_str()), dead.len()).await {
            assert_eq!((delivery.attempt, delivery.deliveries), (1, 1), "seed {seed}: {delivery:?}");
            again.push((delivery.topic.clone(), delivery.offset));
            self.settle(Settlement::ack([delivery.id])).await;
        }
        again.sort();
        assert_eq!(again, dead.into_iter().map(|(place, _)| place).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(standing(&self.broker, &self.sub).await, [0; 4], "seed {seed}");
    }
}
