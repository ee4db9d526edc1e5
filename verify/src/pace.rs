//! How soon the broker answers, and for how long it did not.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::Histogram;

/// What is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// To store messages.
    Publishing,
    /// To deliver them, and to take in what became of them.
    Consuming,
}

/// How soon the broker answers.
#[derive(Debug, Default)]
pub(crate) struct Pace([Mutex<Answers>; 2]);

/// Of one kind.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// How long what was answered took.
    pub(crate) took: Histogram,
    /// The longest time from a call that failed, or took long, to the next one of the same task that was answered.
    pub(crate) outage: Duration,
}

impl Pace {
    /// Something was answered after a while.
    pub(crate) fn took(&self, what: What, took: Duration) {
        let mut answers = self.0[what as usize].lock();
        answers.took.record(took);
        answers.outage = answers.outage.max(took);
    }

    fn was_out(&self, what: What, length: Duration) {
        let mut answers = self.0[what as usize].lock();
        answers.outage = answers.outage.max(length);
    }

    /// Adds what is known to that of others.
    pub(crate) fn add_to(&self, what: What, all: &mut Answers) {
        let answers = self.0[what as usize].lock();
        all.took.merge(&answers.took);
        all.outage = all.outage.max(answers.outage);
    }
}

/// A time in which one task is not answered.
#[derive(Debug)]
pub(crate) struct Outage {
    what: What,
    since: Option<Instant>,
}

impl Outage {
    /// None yet.
    pub(crate) fn of(what: What) -> Self {
        Self { what, since: None }
    }

    /// A call that began just now, or a moment ago, failed.
    pub(crate) fn begin(&mut self) {
        self.began_at(Instant::now());
    }

    /// A call that began then failed.
    pub(crate) fn began_at(&mut self, began: Instant) {
        self.since.get_or_insert(began);
    }

    /// Something was answered.
    pub(crate) fn over(&mut self, pace: &Pace) {
        if let Some(since) = self.since.take() {
            pace.was_out(self.what, since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_lasts_from_the_first_failure_to_the_next_answer() {
        let (pace, mut outage) = (Pace::default(), Outage::of(What::Publishing));
        outage.over(&pace);
        for _ in 0..3 {
            outage.begin();
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        outage.over(&pace);
        pace.took(What::Publishing, Duration::from_secs(1));
        pace.took(What::Consuming, Duration::from_secs(9));
        let mut all = Answers::default();
        pace.add_to(What::Publishing, &mut all);
        assert_eq!((all.outage, all.took.max_ms()), (Duration::from_secs(6), 1000.0));
    }
}
