//! The life of one message.

use crossdock_topics::Explanation;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Message, schema};

/// What has become of a message, and what it waits for, in each subscription of its topic.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Explained {
    /// What is known of it.
    #[schema(value_type = schema::Explanation)]
    pub explanation: Explanation,
    /// The message, if it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
}
