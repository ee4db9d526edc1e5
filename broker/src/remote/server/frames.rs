//! Answers as frames.

use bytes::Bytes;
use crossdock_topics::{Batch, Delivery, Error, ErrorCode, Record, Result, TopicName};
use crossdock_wire::FrameError;
use crossdock_wire::session::{Outputs, ToClient, TopicRuns, WireError};
use serde::Serialize;

use super::gate::Gate;
use crate::remote::pieces::Pieces;
use crate::remote::pipe::Pipe;

/// What is said to a peer whose bytes make no sense.
pub(super) fn malformed(error: &FrameError) -> Error {
    match error {
        FrameError::TooLarge { .. } => Error::new(ErrorCode::TooLarge, error.to_string()),
        FrameError::Malformed(_) => Error::invalid(error.to_string()),
        FrameError::Io(_) => Error::new(ErrorCode::Unavailable, error.to_string()),
    }
}

/// Says why the connection ends.
pub(super) fn refuse(pipe: &mut Pipe, error: &Error) {
    // It fits: errors are short.
    let _ = pipe.send(&ToClient::Failed { id: 0, error: WireError::from(error) }, Pieces::default());
}

/// An answer without a payload.
pub(super) fn plain(header: &ToClient) -> Pieces {
    whole(header, Pieces::default())
}

/// An answer; if it cannot be sent, why not.
pub(super) fn whole(header: &ToClient, payload: Pieces) -> Pieces {
    Pieces::frame(header, payload).unwrap_or_else(|error| {
        let failed = ToClient::Failed { id: id_of(header), error: WireError::from(&malformed(&error)) };
        Pieces::frame(&failed, Pieces::default()).unwrap_or_default()
    })
}

/// That a request was not done.
pub(super) fn failed(id: u64, error: &Error) -> Pieces {
    plain(&ToClient::Failed { id, error: WireError::from(error) })
}

/// The answer to a call.
pub(super) fn done(
    id: u64,
    value: &impl Serialize,
    more: bool,
    rest: impl IntoIterator<Item = Bytes>,
) -> Pieces {
    let json = match serde_json::to_vec(value) {
        Ok(json) => json,
        Err(error) => return failed(id, &Error::internal(format!("the answer is no JSON: {error}"))),
    };
    let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
    let mut payload = Pieces::from(Bytes::from(json));
    rest.into_iter().for_each(|bytes| payload.share(bytes));
    whole(&ToClient::Done { id, json: length, more }, payload)
}

/// Deliveries; `flow` says how large their payloads are, too.
pub(super) fn deliveries(id: u64, deliveries: &[Delivery], flow: bool) -> Pieces {
    let (mut topics, mut payloads, mut run) = (Vec::new(), Vec::new(), Pieces::default());
    for delivery in deliveries {
        TopicRuns::add(&mut topics, delivery);
        if flow {
            payloads.push(payload_bytes(&delivery.record));
        }
        run.record(&delivery.record);
    }
    whole(&ToClient::Deliveries { id, topics, payloads }, run)
}

/// How many bytes at the end of a record are its payload.
pub(super) fn payload_bytes(record: &Record) -> u32 {
    u32::try_from(record.payload().len()).unwrap_or(u32::MAX)
}

/// Takes outputs from the beginning of a payload; gives what follows them.
pub(super) fn outputs(
    gate: &Gate,
    sent: Outputs,
    mut payload: Bytes,
) -> Result<(Vec<(TopicName, Batch)>, Bytes)> {
    let mut outputs = Vec::with_capacity(sent.len().min(64));
    for (topic, length) in sent {
        let length = length as usize;
        if length > payload.len() {
            return Err(Error::invalid("the outputs are longer than the payload"));
        }
        let topic = gate.publish(&topic)?;
        let batch = Batch::from_packed(payload.split_to(length))?;
        gate.batch(&batch)?;
        outputs.push((topic, batch));
    }
    Ok((outputs, payload))
}

fn id_of(header: &ToClient) -> u64 {
    match header {
        ToClient::Deliveries { id, .. }
        | ToClient::Page { id, .. }
        | ToClient::Done { id, .. }
        | ToClient::Settled { id, .. }
        | ToClient::Answer { id, .. } => *id,
        // All others fit.
        _ => 0,
    }
}
