//! What the HTTP faces share: how an error looks, how a body is taken in, who is asking, and how a listener is
//! served. Here, and only here, error codes become HTTP statuses.
//!
//! ```text
//!   -> Authenticated(principal)                   who is asking
//!   -> read_body(body, limit, deadline), Json<T>  what is sent, bounded before it is read
//!   -> Problem                                    what went wrong, as application/problem+json
//! ```

pub mod authenticate;
pub mod body;
pub mod handover;
pub mod json;
pub mod limits;
pub mod message;
pub mod problem;
pub mod serve;
mod socket;
mod unread;

pub use authenticate::{Authenticated, authenticate};
pub use body::{read_body, read_body_if};
pub use handover::json_handover;
pub use json::{Json, check_json, is_json, json_response, parse_json, refuse_encoded};
pub use limits::Limits;
pub use message::MessageJson;
pub use problem::{Problem, Result, not_found};
pub use serve::serve;
