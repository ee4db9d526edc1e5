//! The sandbox: the real binary on free ports, in a folder of its own, to be talked to, killed and started
//! again. A scenario begins with [`Sandbox::builder`] and reads from there.
//!
//! Nothing here knows the platform's insides: it is driven as a user drives it, by its command line, its
//! HTTP interfaces and signals.

mod answer;
mod beside;
mod client;
mod disk;
mod eventually;
pub mod github;
mod line;
mod nats;
mod ports;
mod raw;
mod sandbox;
mod server;
mod servers;
mod tls;

pub use answer::Answer;
pub use beside::Beside;
pub use client::{Client, Stored};
pub use disk::SmallDisk;
pub use eventually::eventually;
pub use line::Line;
pub use nats::{Nats, nats_server};
pub use raw::{exchange, open};
pub use sandbox::{Builder, Ran, Sandbox};
pub use servers::Servers;
pub use tls::Encrypted;
