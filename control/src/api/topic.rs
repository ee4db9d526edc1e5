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
