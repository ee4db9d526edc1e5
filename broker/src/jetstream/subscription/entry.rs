//! A message of a subscription's journal, as bytes.
//!
//! ```text
//!  0  u8   version, 1
//!  1  u8   0: changes; 1: a part of a picture of everything that is kept; 2: its last part; 3: a new owner begins;
//!          and 128 more when the next message goes on with this one
//!  2  ...  for each change: u16 length of the key, the key, u32 length of the value (u32::MAX: deleted), the value
//! ```
//!
//! All integers are big-endian. Keys and values are those of `delivery::keys`, and a few of the owner's own. What was
//! not gone on with, or a picture that did not come to its last part, before a new owner began, never was.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::{Buf, BufMut, Bytes};
use crossdock_topics::{Error, Result};

use crate::delivery::Keep;

const VERSION: u8 = 1;
const HEADER: usize = 2;
const DELETED: u32 = u32::MAX;
const GOES_ON: u8 = 128;

/// What a message of a journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Changes of what is kept.
    Changes,
    /// A part of a picture of everything that is kept.
    Part,
    /// The last part of a picture: what came before the picture does not matter any more.
    LastPart,
    /// A new owner begins.
    Claim,
}

/// All that is kept of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    values: BTreeMap<Bytes, Bytes>,
    bytes: usize,
}

impl Kept {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.values.get(key)
    }

    /// The keys with this prefix, and their values, in order.
    pub(super) fn scan<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.values.range::<[u8], _>(from).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// About how many bytes a picture of it has.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn change(&mut self, key: &[u8], value: Option<&[u8]>) {
        let before = match value {
            Some(value) => {
                self.bytes += size(key, value);
                self.values.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
            }
            None => self.values.remove(key),
        };
        if let Some(before) = before {
            self.bytes -= size(key, &before);
        }
    }

    /// Takes in changes.
    ///
    /// # Errors
    /// `Internal` when they are damaged.
    pub(super) fn apply(&mut self, changes: &[u8]) -> Result<()> {
        let mut rest = changes;
        while rest.has_remaining() {
            let length = rest.try_get_u16().map_err(|_| damaged())?;
            let key = take(&mut rest, usize::from(length))?;
            let value = match rest.try_get_u32().map_err(|_| damaged())? {
                DELETED => None,
                length => Some(take(&mut rest, usize::try_from(length).unwrap_or(usize::MAX))?),
            };
            self.change(key, value);
        }
        Ok(())
    }

    /// A picture of all of it, in parts of about `limit` bytes each.
    pub(super) fn picture(&self, limit: usize) -> Vec<Changes> {
        let mut parts = Vec::new();
        let mut part = Changes::new(Kind::Part);
        for (key, value) in &self.values {
            if !part.is_empty() && part.body.len() + size(key, value) > limit {
                parts.push(std::mem::replace(&mut part, Changes::new(Kind::Part)));
            }
            part.put(key, value);
        }
        part.kind = Kind::LastPart;
        parts.push(part);
        parts
    }
}

/// How many bytes a change takes.
fn size(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + 6
}

/// Puts messages of a journal together, in their order.
#[derive(Default)]
pub(super) struct Replay {
    kept: Kept,
    picture: Option<Kept>,
    begun: Vec<u8>,
}

impl Replay {
    /// Takes in the next message.
    ///
    /// # Errors
    /// `Internal` when it is damaged, or written by a newer release.
    pub(super) fn read(&mut self, message: &[u8]) -> Result<()> {
        let (kind, goes_on) = match message {
            [VERSION, kind, ..] => (kind & !GOES_ON, kind & GOES_ON != 0),
            [version, _, ..] => {
                return Err(Error::internal(format!(
                    "what is kept of a subscription has version {version}, this release reads {VERSION}"
                ))
                .hint("it was written by a newer release: use that one"));
            }
            _ => return Err(damaged()),
        };
        if kind == Kind::Claim as u8 {
            (self.picture, self.begun) = (None, Vec::new());
            return Ok(());
        }
        self.begun.extend_from_slice(&message[HEADER..]);
        if goes_on {
            return Ok(());
        }
        let changes = std::mem::take(&mut self.begun);
        if kind == Kind::Changes as u8 {
            return self.kept.apply(&changes);
        }
        self.picture.get_or_insert_with(Kept::default).apply(&changes)?;
        if kind == Kind::LastPart as u8 {
            self.kept = self.picture.take().unwrap_or_default();
        }
        Ok(())
    }

    /// What they come to.
    pub(super) fn kept(self) -> Kept {
        self.kept
    }

    /// What they come to so far.
    pub(super) fn so_far(&self) -> &Kept {
        &self.kept
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    rest.split_off(..length).ok_or_else(damaged)
}

fn damaged() -> Error {
    Error::internal("what is kept of a subscription is damaged")
}

/// Changes, on their way into the journal.
#[derive(Debug)]
pub(super) struct Changes {
    kind: Kind,
    body: Vec<u8>,
}

impl Changes {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, body: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Others behind these.
    pub(super) fn add(&mut self, more: &Self) {
        self.body.extend_from_slice(&more.body);
    }

    /// The changes, as [`Kept::apply`] takes them.
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The messages, of at most so many bytes each.
    pub(super) fn messages(&self, limit: usize) -> impl Iterator<Item = Bytes> {
        let limit = limit.saturating_sub(HEADER).max(1);
        let count = self.body.len().div_ceil(limit).max(1);
        (0..count).map(move |index| {
            let chunk = self.body.get(index * limit..).unwrap_or_default();
            let chunk = &chunk[..chunk.len().min(limit)];
            let kind = self.kind as u8 | if index + 1 < count { GOES_ON } else { 0 };
            let mut message = Vec::with_capacity(HEADER + chunk.len());
            message.extend_from_slice(&[VERSION, kind]);
            message.extend_from_slice(chunk);
            message.into()
        })
    }

    fn key(&mut self, key: &[u8]) {
        self.body.put_u16(u16::try_from(key.len()).unwrap_or(u16::MAX));
        self.body.put_slice(key);
    }
}

impl Keep for Changes {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.key(key);
        self.body.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX - 1));
        self.body.put_slice(value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.key(key);
        self.body.put_u32(DELETED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(kind: Kind, list: &[(&str, Option<&str>)]) -> Changes {
        let mut changes = Changes::new(kind);
        for (key, value) in list {
            match value {
                Some(value) => changes.put(key.as_bytes(), value.as_bytes()),
                None => changes.delete(key.as_bytes()),
            }
        }
        changes
    }

    fn replay(messages: impl IntoIterator<Item = Bytes>) -> Kept {
        let mut replay = Replay::default();
        messages.into_iter().for_each(|message| replay.read(&message).unwrap());
        replay.kept()
    }

    #[test]
    fn changes_are_taken_in_and_a_picture_holds_what_they_came_to() {
        let first = changes(Kind::Changes, &[("a", Some("1")), ("ab", Some("2")), ("b", Some(""))]);
        let second = changes(Kind::Changes, &[("a", Some("11")), ("b", None), ("c", None)]);
        for limit in [0, 5, 1000] {
            let kept = replay(first.messages(limit).chain(second.messages(limit)));
            assert_eq!(kept.get(b"a").unwrap(), "11");
            assert_eq!(kept.scan(b"a").count(), 2);
            assert!(kept.get(b"b").is_none());
            let parts = kept.picture(limit);
            assert_eq!(parts.len(), if limit < 1000 { 2 } else { 1 });
            let later = changes(Kind::Changes, &[("z", Some("9"))]);
            let messages = later.messages(9).chain(parts.iter().flat_map(|part| part.messages(limit)));
            assert_eq!(replay(messages.collect::<Vec<_>>()), kept);
        }
        assert_eq!(Kept::default().picture(10).len(), 1);
    }

    #[test]
    fn what_an_owner_left_half_done_never_was() {
        let whole = changes(Kind::Changes, &[("a", Some("1"))]);
        let half: Vec<Bytes> = changes(Kind::Changes, &[("b", Some("2"))]).messages(4).take(2).collect();
        let part: Vec<Bytes> = changes(Kind::Part, &[("c", Some("3"))]).messages(100).collect();
        let claim: Vec<Bytes> = Changes::new(Kind::Claim).messages(100).collect();
        let last = changes(Kind::Changes, &[("d", Some("4"))]);
        for begun in [half, part] {
            let messages: Vec<Bytes> = whole.messages(100).chain(begun).chain(claim.clone()).collect();
            let kept = replay(messages.into_iter().chain(last.messages(100)));
            let keys: Vec<&[u8]> = kept.scan(b"").map(|(key, _)| key.as_ref()).collect();
            assert_eq!(keys, [b"a", b"d"]);
        }
    }

    #[test]
    fn what_is_damaged_or_newer_is_refused() {
        let whole = changes(Kind::Changes, &[("key", Some("value"))]).messages(100).next().unwrap();
        for end in [0, 1, 3, 6, 8, whole.len() - 1] {
            assert!(Replay::default().read(&whole[..end]).is_err(), "{end}");
        }
        assert!(Replay::default().read(&[2, 0]).unwrap_err().message.contains("version 2"));
    }
}
