//! Topics.

use crossdock_topics::TopicInfo;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

/// All topics, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TopicList {
    /// The topics.
    #[schema(value_type = Vec<schema::TopicInfo>)]
    pub topics: Vec<TopicInfo>,
}

/// How much of a topic goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// The first offset that is kept; everything goes that is stored now when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}
