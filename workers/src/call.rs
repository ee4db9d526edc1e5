//! One call of a handler: for a message, or for a request.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use crossdock_topics::{
    Batch, Delivery, DeliveryId, Error, ErrorCode, Outcome, Record, Reply, Responder, ServiceName, TopicName,
};
use crossdock_wire::session::{Run, ToClient, TopicRuns};
use crossdock_wire::{Frame, FrameError};
use tokio::sync::mpsc;

/// What a handler is to do, and whom to tell how it ended.
///
/// A call that is dropped tells them too: its message is released, so that it is delivered again at once, and
/// its caller hears that the service went away.
#[derive(Debug)]
pub(crate) struct Call {
    /// Which handler of the manifest.
    pub(crate) handler: u32,
    /// How long it may take once it has begun.
    pub(crate) timeout: Duration,
    pub(crate) work: Work,
}

#[derive(Debug)]
pub(crate) enum Work {
    Message { delivery: Box<Delivery>, held: Held },
    Request { record: Record, deadline: Instant, responder: Option<Responder> },
}

impl Call {
    /// Whether nobody waits for it any more.
    pub(crate) fn is_pointless(&self, now: Instant) -> bool {
        match &self.work {
            Work::Message { .. } => false,
            Work::Request { deadline, responder, .. } => {
                *deadline <= now || responder.as_ref().is_none_or(Responder::is_abandoned)
            }
        }
    }

    /// The frame that hands it to a process, as the call `id`.
    pub(crate) fn frame(&self, id: u64, now: Instant) -> Result<Frame, FrameError> {
        let flow = u64::from(self.handler) + 1;
        match &self.work {
            Work::Message { delivery, .. } => {
                let Delivery { topic, offset, time, attempt, deliveries, record, .. } = &**delivery;
                let run = Run(*offset, id, time.0, *attempt, *deliveries, 1);
                let header = ToClient::Deliveries {
                    id: flow,
                    topics: vec![TopicRuns(topic.to_string(), 0, vec![run])],
                    payloads: vec![payload_bytes(record)],
                };
                let record = record.as_bytes();
                let mut payload = BytesMut::with_capacity(4 + record.len());
                payload.put_u32_le(u32::try_from(record.len()).unwrap_or(u32::MAX));
                payload.put_slice(record);
                header.frame(payload.freeze())
            }
            Work::Request { record, deadline, .. } => {
                let budget = self.timeout.min(deadline.saturating_duration_since(now));
                let header = ToClient::Request {
                    id,
                    serving: flow,
                    budget_ms: u64::try_from(budget.as_millis()).unwrap_or(u64::MAX),
                    payload_bytes: payload_bytes(record),
                };
                header.frame(record.as_bytes().clone())
            }
        }
    }

    /// Ends it as a failure of the service's, for this reason.
    pub(crate) fn fail(self, code: ErrorCode, reason: String, service: &ServiceName) {
        match self.work {
            Work::Message { held, .. } => held.settle(Outcome::Retry { after: None, reason }, Vec::new()),
            Work::Request { responder, .. } => {
                if let Some(responder) = responder {
                    let hint = format!("see its log: crossdock service logs {service}");
                    responder.reply(Err(Error::new(code, reason).hint(hint)));
                }
            }
        }
    }

    /// Ends a request.
    pub(crate) fn reply(self, reply: Reply) {
        if let Work::Request { responder: Some(responder), .. } = self.work {
            responder.reply(reply);
        }
    }
}

pub(crate) fn payload_bytes(record: &Record) -> u32 {
    u32::try_from(record.payload().len()).unwrap_or(u32::MAX)
}

/// Which message a delivery is of, for people.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) topic: TopicName,
    pub(crate) offset: u64,
    /// Which try it is, from 1.
    pub(crate) attempt: u32,
}

/// What became of a delivery.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) delivery: DeliveryId,
    pub(crate) place: Place,
    pub(crate) outcome: Outcome,
    pub(crate) outputs: Vec<(TopicName, Batch)>,
}

/// A delivery that has to be settled, once: as its handler says, or by release when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    delivery: DeliveryId,
    place: Place,
    settler: Option<mpsc::UnboundedSender<Finished>>,
}

impl Held {
    /// The settler's queue holds at most what its consumer has fetched, which is bounded.
    pub(crate) fn new(delivery: &Delivery, settler: mpsc::UnboundedSender<Finished>) -> Self {
        let Delivery { topic, offset, attempt, .. } = delivery;
        let place = Place { topic: topic.clone(), offset: *offset, attempt: *attempt };
        Self { delivery: delivery.id, place, settler: Some(settler) }
    }

    pub(crate) fn settle(mut self, outcome: Outcome, outputs: Vec<(TopicName, Batch)>) {
        self.tell(outcome, outputs);
    }

    fn tell(&mut self, outcome: Outcome, outputs: Vec<(TopicName, Batch)>) {
        if let Some(settler) = self.settler.take() {
            let place = self.place.clone();
            let _ = settler.send(Finished { delivery: self.delivery, place, outcome, outputs });
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.tell(Outcome::Release, Vec::new());
    }
}

/// Takes what a process published out of a payload, and gives the rest of it.
pub(crate) fn outputs(
    outputs: &[(String, u32)],
    mut payload: Bytes,
) -> Result<(Vec<(TopicName, Batch)>, Bytes), Error> {
    let mut batches = Vec::with_capacity(outputs.len().min(64));
    for (topic, length) in outputs {
        let topic: TopicName = topic.parse()?;
        if topic.is_system() {
            return Err(Error::new(
                ErrorCode::PermissionDenied,
                format!("{topic} is the system's own topic"),
            )
            .hint("publish to a topic whose name does not begin with '_'"));
        }
        let length = *length as usize;
        if length > payload.len() {
            return Err(Error::internal("the process announced more outputs than it sent"));
        }
        batches.push((topic, Batch::from_packed(payload.split_to(length))?));
    }
    Ok((batches, payload))
}
