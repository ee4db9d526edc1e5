//! What is kept of a subscription, by which keys.
//!
//! | key | value |
//! | --- | --- |
//! | subscription u32, topic u32, 0 | the place, see `group::place` |
//! | subscription u32, topic u32, 1, offset u64 | a message that waits |
//! | subscription u32, topic u32, 2, offset u64 | a dead letter |
//! | subscription u32, topic u32, 3, offset u64 | a packed record: what is delivered in a message's place |
//! | subscription u32, topic u32, 4, offset u64 | a message that is with a consumer, while another engine takes over |
//!
//! All integers are big-endian, so that keys sort as their numbers do. Numbers are never used again.

/// The kinds of keys a group has.
pub(crate) const PLACE: u8 = 0;
pub(crate) const WAITING: u8 = 1;
pub(crate) const DEAD: u8 = 2;
pub(crate) const MENDED: u8 = 3;
pub(crate) const HELD: u8 = 4;

pub(crate) fn group(subscription: u32, topic: u32) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&subscription.to_be_bytes());
    key[4..].copy_from_slice(&topic.to_be_bytes());
    key
}

pub(crate) fn place(subscription: u32, topic: u32) -> [u8; 9] {
    let mut key = [PLACE; 9];
    key[..8].copy_from_slice(&group(subscription, topic));
    key
}

pub(crate) fn message(subscription: u32, topic: u32, kind: u8, offset: u64) -> [u8; 17] {
    let mut key = [kind; 17];
    key[..8].copy_from_slice(&group(subscription, topic));
    key[9..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// Whether it is the key of a message of this kind.
pub(crate) fn is_of(key: &[u8], kind: u8) -> bool {
    key.len() == 17 && key[8] == kind
}

/// A u32 at the start of `bytes`.
pub(crate) fn u32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// A u64 at the start of `bytes`.
pub(crate) fn u64_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}
