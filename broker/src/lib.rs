//! The engines behind the broker's contract ([`crossdock_topics::Broker`]).
//!
//! [`Embedded`] keeps its topics in RocksDB in this process, [`Remote`] reaches one in another process, [`JetStream`] keeps
//! them in a NATS cluster. Only this crate touches data files, and NATS as an engine. The rules of
//! delivery are in [`group`], a pure state machine; everything else here is how they become durable, fast.

mod delivery;
pub mod embedded;
pub mod group;
pub mod jetstream;
pub mod moving;
pub mod remote;
mod store_view;

pub use embedded::{Embedded, EmbeddedOptions};
pub use jetstream::{JetStream, JetStreamOptions};
pub use remote::{Remote, RemoteOptions};
