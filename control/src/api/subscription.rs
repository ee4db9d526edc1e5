//! Subscriptions: how they stand, and what operators do about them.

use crossdock_topics::{ParkedKey, StartAt, SubscriptionInfo, TopicName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

/// All subscriptions, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SubscriptionList {
    /// The subscriptions.
    #[schema(value_type = Vec<schema::SubscriptionInfo>)]
    pub subscriptions: Vec<SubscriptionInfo>,
}

/// Where a subscription goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SeekRequest {
    /// The place.
    #[schema(value_type = schema::StartAt)]
    pub to: StartAt,
    /// In which of its topics; in all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub topic: Option<TopicName>,
}

/// The keys of a subscription that are parked, by topic and offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ParkedKeyList {
    /// The keys.
    #[schema(value_type = Vec<schema::ParkedKey>)]
    pub keys: Vec<ParkedKey>,
}

/// A key that may go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The key.
    pub key: String,
    /// Puts its message to the dead letters, instead of delivering it again with its failures forgotten.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub give_up: bool,
}
