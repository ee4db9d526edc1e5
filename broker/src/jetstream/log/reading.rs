//! Reading a topic from a place on, without a subscription.

use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Page, Record, Result, StartAt, Stored, Timestamp, TopicName};
use tokio::time::Instant;

use super::definitions::no_topic;
use super::follower;
use super::message::decode;
use super::stored::From;
use super::streams::State;
use super::{Logs, TopicLog};
use crate::delivery::{LONGEST_WAIT, READ_BYTES};

impl Logs {
    /// The offset that a place stands for, NATS asked: the end lies behind everything that anybody was told is stored.
    pub(in crate::jetstream) async fn place(&self, log: &TopicLog, at: StartAt) -> Result<u64> {
        let info = self.info(log).await?;
        let state = info.ok_or_else(|| no_topic(&log.name))?.state;
        // Where unread messages may go, NATS drops them by itself.
        self.head_moved(log, state.head());
        Ok(match at {
            StartAt::Start => state.head(),
            StartAt::End => state.tail(),
            StartAt::Offset(offset) => offset.max(state.head()),
            StartAt::Time(time) => self.at_time(log, &state, time).await?,
        })
    }

    /// The offset of the first message that was stored at or after a moment.
    pub(super) async fn at_time(&self, log: &TopicLog, state: &State, time: Timestamp) -> Result<u64> {
        if let Some(moved) = log.moved.filter(|moved| time <= moved.last && state.head() < moved.end) {
            // NATS knows when they came here only.
            let (mut low, mut high) = (state.head(), moved.end);
            while low < high {
                let middle = low + (high - low) / 2;
                let found = self.streams.read(log.number, From::Offset(middle), 1, 1).await?;
                match found.first().filter(|kept| kept.offset < high && kept.time < time) {
                    Some(earlier) => low = earlier.offset + 1,
                    None => high = middle,
                }
            }
            return Ok(low);
        }
        let first = self.streams.read(log.number, From::Time(time), 1, READ_BYTES).await?;
        let first = first.first().map_or(state.tail(), |kept| kept.offset);
        // What was moved here was stored before.
        Ok(first.max(log.moved.map_or(0, |moved| moved.end)))
    }

    pub(super) async fn read(
        self: &Arc<Self>,
        topic: &TopicName,
        from: StartAt,
        max: usize,
        wait: Duration,
    ) -> Result<Page> {
        let log = self.find(topic).await?;
        let gone = || no_topic(topic);
        let deadline = Instant::now() + wait.min(LONGEST_WAIT);
        let mut place = match from {
            StartAt::Start => From::Offset(0),
            StartAt::Offset(offset) => From::Offset(offset),
            StartAt::Time(time) if log.moved.is_some() => {
                let info = self.streams.info(log.number).await?.ok_or_else(gone)?;
                From::Offset(self.at_time(&log, &info.state, time).await?)
            }
            StartAt::Time(time) => From::Time(time),
            StartAt::End => {
                let info = self.streams.info(log.number).await?.ok_or_else(gone)?;
                From::Offset(info.state.tail())
            }
        };
        // Nobody is woken for nothing: without a wait, nothing is followed.
        let mut need: Option<follower::Need> = None;
        // Where the topic ended before it was last read.
        let mut known: Option<u64> = None;
        loop {
            let feed = need.as_ref().map(|need| need.feed().clone());
            let moved = feed.as_ref().map(|feed| feed.moved.notified());
            tokio::pin!(moved);
            if let Some(moved) = moved.as_mut().as_pin_mut() {
                moved.enable();
            }
            if log.is_deleted() {
                return Err(gone());
            }
            let found = self.streams.read(log.number, place, max, READ_BYTES).await?;
            let mut page = Page { messages: Vec::new(), next: 0 };
            let mut bytes = 0;
            for kept in found {
                let record = Record::of(&decode(Some(&kept.headers), kept.payload))?;
                bytes += record.size();
                if page.messages.len() >= max.max(1) || (bytes > READ_BYTES && !page.messages.is_empty()) {
                    break;
                }
                page.next = kept.offset + 1;
                page.messages.push(Stored { offset: kept.offset, time: kept.time, record });
            }
            if !page.messages.is_empty() {
                return Ok(page);
            }
            // Nothing yet: from here on it is the first that comes. All that the topic had before it was read is gone; what it
            // has got since is not looked at yet.
            let info = self.streams.info(log.number).await?.ok_or_else(gone)?;
            let (head, tail) = (info.state.head(), info.state.tail());
            let begins = match place {
                From::Offset(offset) | From::On(_, offset) => Some(offset.max(head)),
                From::Time(_) => None,
            };
            let seen = known.replace(tail).filter(|known| *known <= tail).max(begins);
            if let Some(seen) = seen {
                (page.next, place) = (seen, From::Offset(seen));
            }
            if seen.is_none_or(|seen| seen < tail) {
                continue;
            }
            if Instant::now() >= deadline || self.shutdown.has_started() {
                return Ok(page);
            }
            let Some(moved) = moved.as_pin_mut() else {
                need = Some(self.follow(&log));
                continue;
            };
            tokio::select! {
                () = moved => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = log.deleted.cancelled() => {}
                () = self.shutdown.started() => {}
            }
        }
    }
}
