//! The words of Crossdock and the contract of its broker.
//!
//! Everything else depends on this crate and it depends on nothing of ours: no I/O, no runtime, no engine.
//! Read it in this order: [`Message`] and [`Batch`] (what travels), [`Topic`] and [`Subscription`] (where it
//! waits), [`Receipt`], [`Delivery`] and [`Outcome`] (what is said about it), then [`Broker`], whose parts
//! [`Log`], [`Subscriptions`], [`Requests`] and [`Store`] carry the promises every engine keeps. With the
//! feature `conformance` the suite that checks those promises comes along.

pub mod backoff;
pub mod broker;
pub mod dead_letters;
pub mod delivery;
pub mod durability;
pub mod error;
pub mod explain;
pub mod filter;
pub mod health;
pub mod message;
pub mod name;
pub mod publish;
pub mod record;
pub mod request;
pub mod shutdown;
pub mod size;
pub mod start;
pub mod store;
pub mod subscription;
pub mod time;
pub mod topic;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use backoff::Backoff;
pub use broker::{Broker, Fetch, Log, Page, Requests, SharedBroker, Subscriptions};
pub use dead_letters::{DeadLetterFilter, Redrive, Selection};
pub use delivery::{ConsumerId, Delivery, DeliveryId, Outcome, Settled, Settlement};
pub use durability::Durability;
pub use error::{Error, ErrorCode, Result};
pub use explain::{Explanation, MessageState, Situation, StoredFacts};
pub use filter::Filter;
pub use health::Health;
pub use message::Message;
pub use name::{ServiceName, SubscriptionName, TopicName, TopicPattern};
pub use publish::{Expected, PublishOptions, Published, Receipt, ReceiptSender, Receipts, Source};
pub use record::{Batch, Record, Stored};
pub use request::{Reply, Request, Responder};
pub use shutdown::Shutdown;
pub use size::Size;
pub use start::StartAt;
pub use store::{Change, Entry, Expect, LeaseId, Revision, Store, Watch};
pub use subscription::{
    DeadLetter, Order, ParkedKey, Sharing, Subscription, SubscriptionInfo, TopicProgress,
};
pub use time::{Clock, SystemClock, Timestamp};
pub use topic::{Retention, Topic, TopicInfo};
