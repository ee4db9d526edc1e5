//! A broker over the wire on bad days: cut connections, restarts, hostile peers, strangers.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "remote/access.rs"]
mod access;
#[path = "remote/cuts.rs"]
mod cuts;
#[path = "remote/hostile.rs"]
mod hostile;
#[path = "remote/killed.rs"]
mod killed;
#[path = "remote/proxy.rs"]
mod proxy;
mod scratch;
#[path = "remote/server.rs"]
mod server;
