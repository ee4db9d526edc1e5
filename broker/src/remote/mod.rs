//! The engine behind `crossdock://`: a broker in another process, and the server that lets it be used.
//!
//! [`Remote`] is a [`crossdock_topics::Broker`] whose topics another process keeps; [`serve`] offers any broker on a
//! listener. Between them goes what [`crossdock_wire::session`] says. Each connection is one task on each side, which
//! reads, writes and waits for answers in turn; nothing is spawned for a request.

mod client;
mod pieces;
mod pipe;
mod server;
mod tls;

pub(crate) use client::Peer;
pub use client::{Address, DEFAULT_PORT, Remote, RemoteOptions};
pub(crate) use pipe::Stream;
pub(crate) use server::Host;
pub use server::{ServeOptions, serve};
pub use tls::{ServerTls, trusting, trusting_nobody};
