//! The engines behind the broker's contract ([`crossdock_topics::Broker`]).
//!
//! [`Embedded`] keeps its topics in RocksDB in this process. Only this crate touches data files. The rules of
//! delivery are in [`group`], a pure state machine; everything else here is how they become durable, fast.

pub mod embedded;
pub mod group;
pub mod remote;

pub use embedded::{Embedded, EmbeddedOptions};
pub use remote::{Remote, RemoteOptions};
