//! What a client and a broker say to each other; docs/PROTOCOL.md tells it to those who write a client.
//!
//! The client opens the stream and says [`ToServer::Hello`]; the server answers [`ToClient::Welcome`], or
//! [`ToClient::Failed`] with the id 0 and closes. From then on the client sends requests, as many as
//! [`ToClient::Welcome`] allows without waiting for answers. Each carries an id of the client's choice (not 0, and
//! not that of a request without its answer), and gets one answer that repeats it: the one that its documentation
//! names, or [`ToClient::Failed`]. [`ToServer::Consume`] and [`ToServer::Serve`] open a flow instead, which goes on until
//! [`ToClient::End`] or `Failed`; and to a [`ToServer::Call`] there can be several [`ToClient::Done`], which say whether
//! more follow. [`ToServer::Cancel`] asks to end what is under way; what it is answered then is the last of it.
//!
//! Headers are arrays `[kind, id, ...]` of integers and short texts, so that they are quick to take apart in any
//! language; what is asked rarely ([`Call`]) is JSON. Later versions add elements at the end, and readers pass over
//! those they do not know. Messages travel in payloads as records, packed as [`crossdock_topics::record`] says.

mod call;
mod error;
mod header;
mod places;
pub mod process;
mod requests;
mod responses;

pub use call::{Call, Keys, Letter, Written};
pub use error::WireError;
pub use places::{Delivered, DeliveryRange, OutcomeRange, PageRun, Ranges, Run, TopicRuns};
pub use requests::{
    Expectation, Login, Outputs, SourceOf, ToServer, durability_number, durability_of, place, place_of,
};
pub use responses::ToClient;

use crate::FrameCodec;

/// The version of this protocol. A client names the lowest and the highest it speaks, the server picks one.
pub const VERSION: u32 = 1;

/// The largest header, in bytes: room for the outcomes of as many deliveries as a subscription hands out.
pub const MAX_HEADER: usize = 4 * 1024 * 1024;

/// The largest payload, in bytes: the largest batch, with room for what goes beside it.
pub const MAX_PAYLOAD: usize = crossdock_topics::record::MAX_BATCH_BYTES + 1024 * 1024;

/// The most deliveries in one frame.
pub const MAX_DELIVERIES: usize = 8192;

/// The codec of a session.
#[must_use]
pub fn codec() -> FrameCodec {
    FrameCodec::new(MAX_HEADER, MAX_PAYLOAD)
}

/// The codec of its beginning, before the other side has said who it is: what one can make the other hold is little.
#[must_use]
pub fn greeting() -> FrameCodec {
    FrameCodec::new(8 * 1024, 64 * 1024)
}

#[cfg(test)]
mod tests;
