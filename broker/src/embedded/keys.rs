//! What lies where in the database. Every key of every column family is made here.
//!
//! | family | key | value |
//! | --- | --- | --- |
//! | `log` | topic u32, first offset u64 | a block, see `block` |
//! | `segments` | topic u32, first offset u64 | a run of the log, see `segments` |
//! | `groups` | see `delivery::keys` | what is kept of subscriptions |
//! | `keys` | topic u32, a message's key | the offset of its newest message u64; of compacted topics only |
//! | `store` | the key's own bytes | revision u64, lease u64 (0: none), the value |
//! | `default` | `format` | version of all this, u32 |
//! | `default` | `next` | the last topic, subscription and lease number and revision used: 4 x u64 |
//! | `default` | `starts` | how often it was opened, or more, u64 |
//! | `default` | `topic/NAME` | its number u32 |
//! | `default` | `head/` topic u32 | the first offset kept u64 |
//! | `default` | `subscription/NAME` | its number u32 |
//! | `default` | `paused/` subscription u32 | nothing; there while it is paused |
//! | `default` | `lease/` lease u64 | how long it lasts, u64 milliseconds |
//! | `default` | `compact/` topic u32 | `keys` holds all keys of this topic; empty |
//! | `default` | `moving` | there while all this is being moved here, see `house` |
//! | `default` | `source/` topic u32, publisher u128 | its batches that may be sent again, see `sources` |
//!
//! All integers are big-endian, so that keys sort as their numbers do. Numbers are never used again.

pub(super) use crate::delivery::keys::{MENDED, group, message, u32_of, u64_of};

/// The version of the layout above.
///
/// 2 has blocks with gaps, `keys`, and what `default` says of sources and starts; one of 1 becomes one of 2 when it is opened.
pub(super) const FORMAT: u32 = 2;

pub(super) const FORMAT_KEY: &[u8] = b"format";
pub(super) const NEXT_KEY: &[u8] = b"next";
pub(super) const STARTS_KEY: &[u8] = b"starts";
pub(super) const MOVING_KEY: &[u8] = b"moving";
pub(super) const TOPIC: &str = "topic/";
pub(super) const SUBSCRIPTION: &str = "subscription/";
pub(super) const LEASE: &[u8] = b"lease/";
const SOURCE: &[u8] = b"source/";
const COMPACT: &[u8] = b"compact/";

pub(super) fn log(topic: u32, offset: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&topic.to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}

pub(super) fn topic(name: &str) -> Vec<u8> {
    [TOPIC.as_bytes(), name.as_bytes()].concat()
}

pub(super) fn head(topic: u32) -> Vec<u8> {
    [b"head/".as_slice(), &topic.to_be_bytes()].concat()
}

pub(super) fn subscription(name: &str) -> Vec<u8> {
    [SUBSCRIPTION.as_bytes(), name.as_bytes()].concat()
}

pub(super) fn paused(subscription: u32) -> Vec<u8> {
    [b"paused/".as_slice(), &subscription.to_be_bytes()].concat()
}

pub(super) fn lease(lease: u64) -> Vec<u8> {
    [LEASE, &lease.to_be_bytes()].concat()
}

pub(super) fn compact(topic: u32) -> Vec<u8> {
    [COMPACT, &topic.to_be_bytes()].concat()
}

/// In the family `keys`.
pub(super) fn newest(topic: u32, key: &[u8]) -> Vec<u8> {
    [&topic.to_be_bytes(), key].concat()
}

pub(super) fn source(topic: u32, publisher: u128) -> Vec<u8> {
    [SOURCE, &topic.to_be_bytes(), &publisher.to_be_bytes()].concat()
}

/// Where the publishers of a topic begin.
pub(super) fn sources(topic: u32) -> Vec<u8> {
    [SOURCE, &topic.to_be_bytes()].concat()
}
