//! Batches on their way to the log. The broker answers in the order in which it was given them, and so they wait here
//! in that order.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use crossdock_topics::{
    Batch, Broker, Error, ErrorCode, PublishOptions, Published, Receipts, Result, TopicName,
};
use crossdock_wire::session::{self, Expectation, SourceOf, ToClient};

use super::frames;
use super::session::Session;
use crate::remote::pieces::Pieces;
use crate::remote::pipe::Pipe;

/// What waits for receipts.
#[derive(Default)]
pub(super) struct Publishing {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// The broker had no room for this one: it is tried again before any other, so that the order stays.
    blocked: Option<Blocked>,
}

struct Waiting {
    id: u64,
    bytes: usize,
    published: Published,
}

struct Blocked {
    id: u64,
    topic: TopicName,
    batch: Batch,
    options: PublishOptions,
    room: tokio::time::Interval,
}

impl Publishing {
    /// Whether another batch can be taken.
    pub(super) fn has_room(&self, requests: usize, bytes: usize) -> bool {
        self.blocked.is_none() && self.waiting.len() < requests && self.bytes < bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.blocked.is_none()
    }

    /// Hands a batch to the broker.
    fn begin(
        &mut self,
        broker: &dyn Broker,
        id: u64,
        topic: TopicName,
        batch: Batch,
        options: PublishOptions,
    ) {
        let bytes = batch.as_bytes().len();
        let mut published = broker.publish(&topic, batch.clone(), options.clone());
        // A refusal is there at once.
        let mut context = Context::from_waker(std::task::Waker::noop());
        let published = match Pin::new(&mut published).poll(&mut context) {
            Poll::Ready(Err(error)) if error.code == ErrorCode::Overloaded => {
                let mut room = tokio::time::interval(std::time::Duration::from_millis(5));
                room.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                room.reset();
                self.blocked = Some(Blocked { id, topic, batch, options, room });
                return;
            }
            Poll::Ready(answer) => {
                let (sender, published) = Published::pending();
                sender.send(answer);
                published
            }
            Poll::Pending => published,
        };
        self.bytes += bytes;
        self.waiting.push_back(Waiting { id, bytes, published });
    }

    fn refuse(&mut self, id: u64, error: Error) {
        self.waiting.push_back(Waiting { id, bytes: 0, published: Published::refused(error) });
    }

    /// Answers what is stored; whether anything was.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, broker: &dyn Broker, pipe: &mut Pipe) -> bool {
        let mut moved = false;
        while let Some(first) = self.waiting.front_mut() {
            let Poll::Ready(answer) = Pin::new(&mut first.published).poll(cx) else { break };
            self.bytes -= first.bytes;
            pipe.output.append(match answer {
                Ok(receipts) => receipt(first.id, receipts),
                Err(error) => frames::failed(first.id, &error),
            });
            self.waiting.pop_front();
            moved = true;
        }
        if let Some(blocked) = &mut self.blocked
            && blocked.room.poll_tick(cx).is_ready()
        {
            moved = true;
            if let Some(Blocked { id, topic, batch, options, .. }) = self.blocked.take() {
                self.begin(broker, id, topic, batch, options);
            }
        }
        moved
    }
}

fn receipt(id: u64, receipts: Receipts) -> Pieces {
    let Receipts { first, count, durability, duplicates } = receipts;
    let durability = session::durability_number(durability);
    frames::plain(&ToClient::Receipts { id, first, count, durability, duplicates })
}

impl Session {
    pub(super) fn publish(
        &mut self,
        id: u64,
        topic: &str,
        durability: Option<u8>,
        expected: Option<Expectation>,
        source: Option<SourceOf>,
        payload: Bytes,
    ) {
        let checked = (|| -> Result<_> {
            let topic = self.gate.publish(topic)?;
            let batch = Batch::from_packed(payload)?;
            self.gate.batch(&batch)?;
            let durability = durability
                .map(|number| {
                    session::durability_of(number)
                        .ok_or_else(|| Error::invalid(format!("{number} is no durability")))
                })
                .transpose()?;
            let (expected, source) = (expected.map(Into::into), source.map(Into::into));
            Ok((topic, batch, PublishOptions { durability, expected, source }))
        })();
        match checked {
            Ok((topic, batch, options)) => {
                self.publishing.begin(&*self.server.broker, id, topic, batch, options);
            }
            Err(error) => self.publishing.refuse(id, error),
        }
    }
}
