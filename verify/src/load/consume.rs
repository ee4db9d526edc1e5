//! A consumer: takes messages and says what became of them, or goes away without a word.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossdock_topics::{
    Batch, ConsumerId, Delivery, Fetch, Outcome, Result, Settled, Settlement, SubscriptionName,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{PATIENCE, Phase, Shared, answer, pause};
use crate::freight::{Freight, Output};
use crate::history::{Answer, Event, Reader, Verdict};
use crate::judge::Together;
use crate::pace::{Outage, What};

pub(super) async fn run(shared: Arc<Shared>, reader: Reader, task: u64, phase: watch::Receiver<Phase>) {
    let mut dice = shared.dice(task);
    let Ok(name) = shared.subscription(reader) else { return };
    let mut outage = Outage::of(What::Consuming);
    while *phase.borrow() != Phase::Stop {
        if let Ok(Ok(consumer)) = tokio::time::timeout(PATIENCE, shared.broker(task).join(&name)).await {
            outage.over(&shared.pace);
            let consumer = Consumer { shared: &shared, reader, task, name: &name, consumer };
            // It ends when it wants to leave, or when nobody answers.
            if consumer.work(&mut dice, &phase).await.is_err() {
                outage.begin();
            }
            shared.broker(task).leave(&name, consumer.consumer);
        } else {
            outage.begin();
        }
        pause(&mut dice).await;
    }
}

struct Consumer<'a> {
    shared: &'a Shared,
    reader: Reader,
    task: u64,
    name: &'a SubscriptionName,
    consumer: ConsumerId,
}

impl Consumer<'_> {
    async fn work(&self, dice: &mut StdRng, phase: &watch::Receiver<Phase>) -> Result<()> {
        while *phase.borrow() != Phase::Stop {
            let max = dice.random_range(1..=64);
            let fetch = Fetch::new(Some(self.consumer), max, Duration::from_millis(300));
            let deliveries = self.shared.broker(self.task).fetch(self.name, fetch).await?;
            self.shared.history.extend(deliveries.iter().filter_map(|delivery| self.delivered(delivery)));
            let calm = *phase.borrow() != Phase::Load;
            // As if the process had died.
            if !calm && dice.random_range(0..40) == 0 {
                return Ok(());
            }
            // Only the outputs of one delivery are known again where they are stored first.
            if self.reader == Reader::Effects && self.shared.together == Together::OutputsFirst {
                let alone = deliveries.chunks(1).map(|one| {
                    let mut dice = StdRng::seed_from_u64(dice.random());
                    async move { self.settle(one, calm, &mut dice).await }
                });
                futures::future::join_all(alone.collect::<Vec<_>>())
                    .await
                    .into_iter()
                    .collect::<Result<()>>()?;
                continue;
            }
            let mut rest = &deliveries[..];
            while !rest.is_empty() {
                let some = if calm { rest.len() } else { dice.random_range(1..=rest.len()) };
                let (these, others) = rest.split_at(some);
                self.settle(these, calm, dice).await?;
                rest = others;
            }
        }
        Ok(())
    }

    fn delivered(&self, delivery: &Delivery) -> Option<Event> {
        match Freight::read(&delivery.record, self.shared.seed) {
            Ok(freight) => Some(Event::Delivered {
                reader: self.reader,
                freight,
                offset: delivery.offset,
                attempt: delivery.attempt,
            }),
            Err(wrong) => {
                self.shared.history.wrong(format!(
                    "delivered on {} as {}: {wrong}",
                    self.reader.name(),
                    delivery.offset
                ));
                None
            }
        }
    }

    fn verdict(&self, calm: bool, dice: &mut StdRng) -> Verdict {
        match dice.random_range(0..100) {
            _ if calm => Verdict::Ack,
            0..8 => Verdict::Retry,
            8..12 => Verdict::Release,
            12..15 if self.reader == Reader::Mixed => Verdict::Reject,
            _ => Verdict::Ack,
        }
    }

    /// Says something of each delivery, in one settlement, with an output for each that is acknowledged where this
    /// is the reader that makes them.
    async fn settle(&self, deliveries: &[Delivery], calm: bool, dice: &mut StdRng) -> Result<()> {
        let history = &self.shared.history;
        let id = self.shared.settlements.fetch_add(1, Ordering::Relaxed);
        let (mut settlement, mut outputs, mut ends) = (Settlement::default(), Batch::default(), 0);
        for delivery in deliveries {
            let verdict = self.verdict(calm, dice);
            let outcome = match verdict {
                Verdict::Ack => Outcome::Ack,
                Verdict::Retry => {
                    let after = Duration::from_millis(dice.random_range(0..30));
                    Outcome::Retry { after: Some(after), reason: "as the dice fell".into() }
                }
                Verdict::Release => Outcome::Release,
                Verdict::Reject => Outcome::Reject { reason: "as the dice fell".into() },
            };
            if self.reader == Reader::Effects && verdict == Verdict::Ack {
                outputs.push(&Output { settlement: id, of: delivery.offset }.message())?;
            }
            ends += u64::from(verdict.ends());
            settlement.outcomes.push((delivery.id, outcome));
            let offset = delivery.offset;
            history.add(Event::Settling { reader: self.reader, settlement: id, offset, verdict });
        }
        if !outputs.is_empty() {
            settlement.outputs.push((self.shared.outputs.clone(), outputs));
        }
        let began = Instant::now();
        let settled =
            tokio::time::timeout(PATIENCE, self.shared.broker(self.task).settle(self.name, settlement)).await;
        let (ended, answer) = match settled {
            Ok(Ok(Settled { stale, .. })) => {
                self.shared.pace.took(What::Consuming, began.elapsed());
                history.extend(
                    stale.iter().map(|delivery| Event::Stale { settlement: id, offset: delivery.offset }),
                );
                (Ok(()), Answer::Done)
            }
            Ok(Err(error)) => (Err(error.clone()), answer(&error)),
            Err(_) => (Ok(()), Answer::Unknown),
        };
        history.add(Event::Settled { settlement: id, answer });
        if answer != Answer::Refused {
            self.shared.backlog.settled(self.reader, ends);
        }
        ended
    }
}
