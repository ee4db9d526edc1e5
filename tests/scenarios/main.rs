//! Scenarios: the real binary, driven as its users drive it. Each is named for what is given, what happens,
//! and what should come of it.

mod bad_disks;
mod bad_input;
mod bad_services;
mod chaos;
mod cluster;
mod configuration;
mod deployment;
mod github_webhooks;
mod lifecycle;
mod moving;
mod on_nats;
mod operating_elsewhere;
mod orders;
mod readme;
mod rolling;
mod several_servers;
mod verify;

use crossdock_tests::{Builder, Sandbox};

/// A sandbox of the binary that was just built.
fn sandbox() -> Builder {
    Sandbox::builder(env!("CARGO_BIN_EXE_crossdock"))
}
