//! The Admin API: everything the CLI and the dashboard can do.

pub mod api;
