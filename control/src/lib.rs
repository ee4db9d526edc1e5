//! The Admin API: everything the CLI and the dashboard can do.
//!
//! [`run`] serves it and keeps the server a member of its cluster (`members/NAME` in the store, leased). What
//! travels is in [`api`], for clients in Rust; the same is described at `/api/v1/openapi.json`, which is made
//! from the handlers. Everything but that description and `/api/v1/health` needs admin permission.
//!
//! Nothing is kept here: each request reads the broker and its store, so that all servers answer alike.

mod administrators;
pub mod api;
mod apply;
mod deploy;
mod extract;
mod gate;
mod membership;
mod openapi;
mod records;
mod replay;
mod rollout;
mod routes;
mod run;
mod server;

pub use run::{Options, run};
