//! A publisher: batches one after another, several under way, each message's name as its id or without one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Batch, PublishOptions, Published, Receipts, Result};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{PATIENCE, Phase, Shared, answer, pause};
use crate::freight::Freight;
use crate::history::{Answer, Event};
use crate::pace::{Outage, What};

/// How many batches a publisher has under way.
const WINDOW: usize = 6;

struct UnderWay {
    first: Freight,
    count: u32,
    began: Instant,
    /// The answer, and how long it took.
    answer: JoinHandle<(Option<Result<Receipts>>, Duration)>,
}

pub(super) async fn run(shared: Arc<Shared>, publisher: u32, phase: watch::Receiver<Phase>) {
    let mut dice = shared.dice(u64::from(publisher));
    let mut under_way: VecDeque<UnderWay> = VecDeque::new();
    let mut next = Freight { publisher, number: 0 };
    let mut outage = Outage::of(What::Publishing);
    while *phase.borrow() == Phase::Load {
        if shared.backlog.is_long(shared.together) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        } else if under_way.len() < WINDOW {
            let (first, count) = (next, dice.random_range(1..=20));
            next.number += count;
            shared.history.add(Event::Sent { first, count });
            let (began, published) = (Instant::now(), shared.publish(first, count));
            let answer = tokio::spawn(async move {
                let answer = tokio::time::timeout(PATIENCE, published).await.ok();
                (answer, began.elapsed())
            });
            under_way.push_back(UnderWay { first, count, began, answer });
            tokio::time::sleep(Duration::from_micros(dice.random_range(0..8_000))).await;
        } else if !take_answers(&shared, &mut under_way, WINDOW / 2, &mut outage, &mut dice).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    take_answers(&shared, &mut under_way, usize::MAX, &mut outage, &mut dice).await;
}

/// Takes in the answers to the oldest batches. When one is not answered, takes in all, so that what is published
/// again overtakes nothing; gives whether all were answered.
async fn take_answers(
    shared: &Shared,
    under_way: &mut VecDeque<UnderWay>,
    count: usize,
    outage: &mut Outage,
    dice: &mut StdRng,
) -> bool {
    let (mut again, mut left) = (Vec::new(), count);
    while left > 0
        && let Some(UnderWay { first, count, began, answer }) = under_way.pop_front()
    {
        left -= 1;
        let (answered, took) = answer.await.unwrap_or((None, PATIENCE));
        if let Some(answer) = shared.enter(first, count, answered) {
            shared.history.add(Event::Unanswered { first, answer });
            left = usize::MAX;
            if answer == Answer::Unknown {
                outage.began_at(began);
                if first.has_id() {
                    again.push((first, count));
                }
            }
        } else {
            shared.pace.took(What::Publishing, took);
            outage.over(&shared.pace);
        }
    }
    let all = again.is_empty();
    for (first, count) in again {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        // A refusal now says nothing of the first time.
        while tokio::time::Instant::now() < deadline {
            let answered = tokio::time::timeout(PATIENCE, shared.publish(first, count)).await;
            if shared.enter(first, count, answered.ok()).is_none() {
                outage.over(&shared.pace);
                break;
            }
            pause(dice).await;
        }
    }
    all
}

impl Shared {
    fn publish(&self, first: Freight, count: u32) -> Published {
        let mut batch = Batch::default();
        for number in first.number..first.number + count {
            let message = Freight { number, ..first }.message(self.seed);
            if let Err(error) = batch.push(&message) {
                return Published::refused(error);
            }
        }
        self.broker(first.publisher.into()).publish(&self.freight, batch, PublishOptions::default())
    }

    /// Enters receipts; gives how it was answered otherwise.
    fn enter(&self, first: Freight, count: u32, answered: Option<Result<Receipts>>) -> Option<Answer> {
        match answered {
            Some(Ok(receipts)) => {
                self.backlog.stored(u64::from(count));
                let freight = (first.number..first.number + count).map(|number| Freight { number, ..first });
                self.history.extend(
                    freight
                        .zip(receipts.iter())
                        .map(|(freight, receipt)| Event::Stored { freight, offset: receipt.offset }),
                );
                None
            }
            Some(Err(error)) => Some(answer(&error)),
            None => Some(Answer::Unknown),
        }
    }
}
