//! What a publisher is to publish, and the window that keeps so many messages on their way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use crate::Failure;
use crate::peers::Publisher;
use crate::samples::Latencies;

/// The messages of one measurement: as many as there is time for, or a number of them, or a number each second.
#[derive(Debug)]
pub(crate) struct Feed {
    payload: Vec<u8>,
    plain: Bytes,
    stamp: Stamp,
    start: Instant,
    time: Duration,
    most: u64,
    rate: Option<u64>,
    sent: u64,
    acknowledged: u64,
    latencies: Latencies,
}

/// What the first eight bytes of a payload say.
#[derive(Clone, Copy, Debug)]
enum Stamp {
    Nothing,
    /// Which message it is, from 0.
    Number,
    /// When it was due, in nanoseconds since this moment.
    Due(Instant),
}

/// The stamp of a payload.
pub(crate) fn stamp(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Feed {
    fn new(size: usize) -> Self {
        // Random enough that nobody's compression makes it small, the same for all.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let payload: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .take(size)
        .collect();
        Self {
            plain: Bytes::from(payload.clone()),
            payload,
            stamp: Stamp::Nothing,
            start: Instant::now(),
            time: Duration::MAX,
            most: u64::MAX,
            rate: None,
            sent: 0,
            acknowledged: 0,
            latencies: Latencies::default(),
        }
    }

    /// As many as can be sent in this time, but no more than `most`.
    pub(crate) fn lasting(size: usize, time: Duration, most: u64) -> Self {
        Self { time, most, ..Self::new(size) }
    }

    /// Numbers its messages.
    pub(crate) fn numbered(self) -> Self {
        Self { stamp: Stamp::Number, ..self }
    }

    /// So many each second, for this time, a few due at each tick; each says when it was due, in nanoseconds since
    /// `origin`.
    pub(crate) fn paced(size: usize, time: Duration, rate: u64, origin: Instant) -> Self {
        let most = rate * u64::try_from(time.as_millis()).unwrap_or(u64::MAX) / 1000;
        // One that cannot keep up may take twice the time.
        let (time, stamp) = (2 * time, Stamp::Due(origin));
        Self { time, most, rate: Some(rate), stamp, ..Self::new(size) }
    }

    fn begin(&mut self) {
        self.start = Instant::now();
    }

    /// How many were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// From sending to the acknowledgement.
    pub(crate) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    fn is_over(&self) -> bool {
        self.sent >= self.most || self.start.elapsed() >= self.time
    }

    /// The next message, if one is due.
    fn next(&mut self) -> Option<Bytes> {
        let mut due = self.start;
        if let Some(rate) = self.rate {
            due += Duration::from_millis(self.sent * 1000 / rate);
            if due > Instant::now() {
                return None;
            }
        }
        let stamp = match self.stamp {
            Stamp::Nothing => {
                self.sent += 1;
                return Some(self.plain.clone());
            }
            Stamp::Number => self.sent,
            Stamp::Due(origin) => u64::try_from((due - origin).as_nanos()).unwrap_or(u64::MAX),
        };
        self.sent += 1;
        if let Some(first) = self.payload.first_chunk_mut() {
            *first = stamp.to_le_bytes();
        }
        Some(Bytes::copy_from_slice(&self.payload))
    }

    fn received(&mut self, begin: Instant, messages: usize) {
        self.acknowledged += messages as u64;
        self.latencies.add_many(begin.elapsed(), messages as u64);
    }
}

/// Sends messages, and gives what resolves with their acknowledgement.
pub(crate) trait Sender: Send {
    /// Resolves when all of a run are acknowledged.
    type Acknowledged: Future<Output = Result<(), Failure>> + Send + Unpin;

    /// How many messages it keeps on their way at most.
    fn in_flight(&self) -> usize;

    /// How many messages are sent at one go when so many wait: 1 unless the client gains by more.
    fn run_length(&self) -> usize {
        1
    }

    /// Sends a run of messages.
    fn send(
        &mut self,
        run: &mut Vec<Bytes>,
    ) -> impl Future<Output = Result<Self::Acknowledged, Failure>> + Send;
}

/// How often messages of a paced feed are due.
const TICK: Duration = Duration::from_millis(1);

#[async_trait]
impl<S: Sender> Publisher for S {
    async fn run(&mut self, feed: &mut Feed) -> Result<(), Failure> {
        let (in_flight, run_length) = (self.in_flight(), self.run_length());
        let mut under_way: VecDeque<(Instant, usize, S::Acknowledged)> = VecDeque::new();
        let mut messages = 0;
        let mut run = Vec::with_capacity(run_length);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        // The timer's ticks lie a constant part of a millisecond beside its start: messages are due when it ticks.
        for _ in 0..if feed.rate.is_some() { 3 } else { 0 } {
            tick.tick().await;
        }
        feed.begin();
        loop {
            while messages < in_flight && !feed.is_over() {
                let room = run_length.min(in_flight - messages);
                while run.len() < room
                    && feed.sent < feed.most
                    && let Some(payload) = feed.next()
                {
                    run.push(payload);
                }
                if run.is_empty() {
                    break;
                }
                let count = run.len();
                let begin = Instant::now();
                under_way.push_back((begin, count, self.send(&mut run).await?));
                run.clear();
                messages += count;
            }
            // They are answered in their order.
            let Some((begin, count, acknowledged)) = under_way.front_mut() else {
                if feed.is_over() {
                    return Ok(());
                }
                tick.tick().await;
                continue;
            };
            if feed.rate.is_some() {
                tokio::select! {
                    done = acknowledged => done?,
                    _ = tick.tick() => continue,
                }
            } else {
                acknowledged.await?;
            }
            feed.received(*begin, *count);
            messages -= *count;
            under_way.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers at once, and remembers what it was sent.
    struct Recorder(Vec<u64>);

    impl Sender for Recorder {
        type Acknowledged = std::future::Ready<Result<(), Failure>>;

        fn in_flight(&self) -> usize {
            8
        }

        fn run_length(&self) -> usize {
            3
        }

        async fn send(&mut self, run: &mut Vec<Bytes>) -> Result<Self::Acknowledged, Failure> {
            assert!(run.len() <= 3, "a run of {}", run.len());
            self.0.extend(run.iter().map(|payload| stamp(payload)));
            Ok(std::future::ready(Ok(())))
        }
    }

    #[tokio::test]
    async fn every_message_is_sent_once_in_order_and_counted() {
        let mut recorder = Recorder(Vec::new());
        let mut feed = Feed::lasting(128, Duration::from_secs(60), 100).numbered();
        recorder.run(&mut feed).await.unwrap();
        assert_eq!(recorder.0, (0..100).collect::<Vec<u64>>());
        assert_eq!(feed.acknowledged(), 100);
    }

    #[tokio::test]
    async fn a_paced_message_says_when_it_was_due_not_when_it_was_sent() {
        let origin = Instant::now();
        let mut recorder = Recorder(Vec::new());
        let mut feed = Feed::paced(64, Duration::from_millis(50), 2000, origin);
        recorder.run(&mut feed).await.unwrap();
        assert_eq!(recorder.0.len(), 100);
        // Two at each tick, and each tick a millisecond after the one before.
        let steps: Vec<u64> = recorder.0.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let expected: Vec<u64> = (1..100).map(|place| if place % 2 == 0 { 1_000_000 } else { 0 }).collect();
        assert_eq!(steps, expected);
    }
}
