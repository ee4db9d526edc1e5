//! What plans and faults look like in JSON.
#![allow(dead_code)] // the fields are read by the derive alone

use serde::Serialize;
use utoipa::ToSchema;

/// One step, of one thing that a document names.
#[derive(ToSchema)]
pub(crate) struct Step {
    /// What is done.
    action: Action,
    /// To what kind of thing.
    kind: Kind,
    /// Its name.
    name: String,
    /// Which fields change, for people to read; never a secret.
    detail: Option<String>,
}

/// What is done.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// It was not there.
    Create,
    /// It was there and differed.
    Update,
    /// It was there as the document says.
    Unchanged,
}

/// A kind of thing that a document names.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A topic.
    Topic,
    /// A subscription.
    Subscription,
    /// A service.
    Service,
    /// A user.
    User,
    /// A permission.
    Permission,
    /// A REST channel.
    RestChannel,
}

/// One thing that is wrong in a document.
#[derive(ToSchema)]
pub(crate) struct Fault {
    /// The line, from 1.
    line: u64,
    /// The column, from 1.
    column: u64,
    /// Where it is as a path, such as `topics[0].retention.max_age`.
    path: String,
    /// What is wrong, and what to do about it.
    message: String,
}
