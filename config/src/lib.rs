//! What a cluster is made of, as YAML and as the store keeps it: kinds, validation, plan, apply, export.
//!
//! The kinds come first ([`RestChannel`], [`UserRecord`], [`Permission`], [`ServiceRecord`]), each as it lies in
//! the store at a key of [`keys`]; a [`Document`] holds what a user wrote about them. Nothing here does I/O but
//! [`SecretRef::resolve`], which reads one environment variable or one file.

pub mod channel;
mod check;
mod diff;
pub mod document;
mod export;
pub mod fault;
pub mod keys;
pub mod manifest;
pub mod member;
pub mod name;
mod node;
pub mod parse;
pub mod path;
pub mod plan;
mod read;
pub mod secret;
pub mod service;
pub mod state;
mod text;
pub mod user;
mod variable;

pub use channel::{Hmac, Method, RestChannel, Target};
pub use crossdock_topics::Size;
pub use document::{Document, ServiceSpec, UserSpec};
pub use fault::{Fault, Invalid, Place};
pub use manifest::{Handler, Manifest};
pub use member::{Member, ServiceState, ServiceStatus};
pub use name::Name;
pub use parse::{Parsed, parse};
pub use path::PathTemplate;
pub use plan::{Action, Kind, Step, plan};
pub use secret::{EnvValue, SecretRef};
pub use service::{ServiceRecord, ServiceSettings, ServiceVersion};
pub use state::State;
pub use user::{Permission, UserRecord};
