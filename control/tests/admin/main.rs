//! The Admin API over real sockets, on a real embedded broker.
#![allow(clippy::unwrap_used)] // in helpers as in tests: what fails there is the test

mod access;
mod configuration;
mod gate;
mod membership;
mod operating;
mod server;
mod services;
mod subscriptions;
mod topics;
mod worker;
