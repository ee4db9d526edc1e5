//! Replaying a part of a topic into another one.

use crossdock_topics::{StartAt, TopicName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

/// What is to be replayed. It is done step by step, so that it can go on for hours and be taken up by any server:
/// each request does as much as a few seconds allow and says where to go on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// The topic that the messages are published to.
    #[schema(value_type = String)]
    pub into: TopicName,
    /// Where to begin; for the next step, `next` of the one before as an offset.
    #[schema(value_type = schema::StartAt)]
    pub from: StartAt,
    /// Where to end: the first message that is left out. The end of now when absent; to end there in every step, pass
    /// `end` of the first one as an offset.
    #[serde(default = "to_the_end")]
    #[schema(value_type = Option<schema::StartAt>)]
    pub to: StartAt,
    /// At most so many messages a second, from 0.1; as fast as it goes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Only says which messages they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

fn to_the_end() -> StartAt {
    StartAt::End
}

/// How far a replay has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplayStep {
    /// How many messages this step has stored.
    pub stored: u64,
    /// How many had been replayed before, within the dedup window of the topic they go to.
    pub duplicates: u64,
    /// The offset to go on from.
    pub next: u64,
    /// The offset to end at.
    pub end: u64,
    /// Whether all of it is done.
    pub done: bool,
}
