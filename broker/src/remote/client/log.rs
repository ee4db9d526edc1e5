//! Topics, as [`Log`] has them.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crossdock_topics::{
    Batch, Error, ErrorCode, Expect, Log, Page, PublishOptions, Published, Record, Result, Revision, StartAt,
    Stored, Timestamp, Topic, TopicInfo, TopicName,
};
use crossdock_wire::session::{self, Call, ToClient, ToServer};
use tokio::time::Instant;

use super::Remote;
use super::link::{Answer, Link, closed, strange};
use super::store::{Repeat, call};

/// No wait is longer than this, whatever was asked for: a moment that far away can still be represented.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(30 * 86_400);

impl Link {
    fn publish(&self, topic: &TopicName, batch: Batch, options: PublishOptions) -> Result<Published> {
        if self.is_closed() {
            return Err(closed());
        }
        let mut state = self.state.lock();
        let (waiting, limit) = (state.lanes.bytes(), self.waiting_bytes);
        if waiting > 0 && waiting + batch.as_bytes().len() > limit {
            return Err(Error::new(
                ErrorCode::Overloaded,
                format!("{waiting} bytes of messages wait for their receipts already"),
            )
            .hint("publish more slowly; nothing of this was stored")
            .retry_after(Duration::from_millis(100)));
        }
        let (waiter, published) = Published::pending();
        if state.lanes.publish(topic, batch, options, waiter, Instant::now()) {
            drop(state);
            self.driver.wake();
        }
        Ok(published)
    }
}

/// Waits as numbers in a frame.
pub(super) fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

/// The records of a payload, checked.
pub(super) fn records(payload: &Bytes) -> impl Iterator<Item = Result<Record>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == payload.len() {
            return None;
        }
        let Some((record, next)) = Record::slice(payload, at) else {
            at = payload.len();
            return Some(Err(Error::internal("the server sent a record that is cut off")));
        };
        at = next;
        Some(Record::from_packed(record.as_bytes().clone()))
    })
}

#[async_trait]
impl Log for Remote {
    async fn put_topic(&self, topic: Topic, expect: Expect) -> Result<Revision> {
        // What is the same already changes nothing, unless it was expected to be as it was.
        let repeat = if expect == Expect::Any { Repeat::Harmless } else { Repeat::Never };
        call(&self.link, repeat, Call::PutTopic { topic, expect }).await
    }

    async fn delete_topic(&self, name: &TopicName) -> Result<()> {
        call(&self.link, Repeat::Never, Call::DeleteTopic { name: name.clone() }).await
    }

    async fn topic(&self, name: &TopicName) -> Result<TopicInfo> {
        call(&self.link, Repeat::Harmless, Call::Topic { name: name.clone() }).await
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        call(&self.link, Repeat::Harmless, Call::Topics).await
    }

    async fn purge(&self, name: &TopicName, before: Option<u64>) -> Result<u64> {
        let repeat = if before.is_some() { Repeat::Harmless } else { Repeat::Never };
        call(&self.link, repeat, Call::Purge { name: name.clone(), before }).await
    }

    fn publish(&self, topic: &TopicName, batch: Batch, options: PublishOptions) -> Published {
        self.link.publish(topic, batch, options).unwrap_or_else(Published::refused)
    }

    async fn room(&self) {
        let link = &*self.link;
        let asks = std::mem::take(&mut link.state.lock().full);
        if asks {
            let _: Result<()> = call(link, Repeat::Harmless, Call::Room).await;
        }
        let room = link.room.notified();
        tokio::pin!(room);
        room.as_mut().enable();
        if link.state.lock().lanes.bytes() > link.waiting_bytes / 2 && !link.is_closed() {
            // The bound covers the moment between the check and the last receipt.
            let _ = tokio::time::timeout(Duration::from_millis(100), room).await;
        }
    }

    async fn read(&self, topic: &TopicName, from: StartAt, max: usize, wait: Duration) -> Result<Page> {
        let deadline = Instant::now() + wait.min(LONGEST_WAIT);
        let (place, value) = session::place(from);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let request = |id| ToServer::Read {
                id,
                topic: topic.as_str().to_owned(),
                place,
                value,
                max: u32::try_from(max).unwrap_or(u32::MAX),
                wait_ms: millis(left),
            };
            let page = page(&self.link.ask_again(request, Bytes::new()).await?)?;
            // A server that goes away ends its reads early.
            if !page.messages.is_empty() || Instant::now() + Duration::from_millis(1) >= deadline {
                return Ok(page);
            }
        }
    }
}

fn page(answer: &Answer) -> Result<Page> {
    let ToClient::Page { next, runs, .. } = &answer.header else { return Err(strange(&answer.header)) };
    let mut records = records(&answer.payload);
    let mut messages = Vec::new();
    for run in runs {
        for index in 0..u64::from(run.2) {
            let record = records.next().ok_or_else(|| strange(&answer.header))??;
            messages.push(Stored { offset: run.0.wrapping_add(index), time: Timestamp(run.1), record });
        }
    }
    Ok(Page { messages, next: *next })
}
