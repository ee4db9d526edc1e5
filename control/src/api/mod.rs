//! What travels over the Admin API, as plain data: a client in Rust uses these structs as they are, and the
//! OpenAPI document describes the same ones to everybody else.
//!
//! What other crates define is here as it is: topics and subscriptions from the contract, members, services'
//! settings, manifests and statuses from the configuration.
//!
//! Requests refuse fields they do not know. Answers may gain fields; whoever reads them ignores the unknown.

mod access;
mod apply;
mod dead_letter;
mod explain;
mod headers;
mod message;
mod replay;
pub(crate) mod schema;
mod service;
mod status;
mod subscription;
mod topic;

pub use access::{PermissionList, RestChannelList, UserInfo, UserList};
pub use apply::Applied;
pub use dead_letter::{
    Count, DeadLetter, DeadLetterEdit, DeadLetterPage, DiscardRequest, MessageRef, RedriveRequest,
};
pub use explain::Explained;
pub use headers::Headers;
pub use message::{Expectation, Message, MessagePage, NewMessage, PublishReceipt, PublishRequest, Published};
pub use replay::{ReplayRequest, ReplayStep};
pub use service::{DeployRequest, Deployment, LogLine, LogPage, RollbackRequest, ServiceInfo, ServiceList};
pub use status::{Backlog, Counts, Health, Memory, Status};
pub use subscription::{ParkedKeyList, ReleaseRequest, SeekRequest, SubscriptionList};
pub use topic::{PurgeRequest, TopicList};

/// Where every path of the API begins.
pub const PREFIX: &str = "/api/v1";
