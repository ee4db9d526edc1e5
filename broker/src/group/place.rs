//! What of a group survives a restart, and how it is written.
//!
//! All three are msgpack arrays of their fields, in order; a later version may append fields, never change one.

use crossdock_topics::{Error, Timestamp};
use serde::{Deserialize, Serialize};

/// How far a group has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The first offset that has not been looked at.
    pub next: u64,
    /// Offsets below `next`, ascending, that must be delivered again although nothing else is known of them.
    pub open: Vec<u64>,
}

impl Place {
    /// Writes `next`, the number of open offsets, and each as the distance from the one before it, as LEB128.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.open.len() * 2);
        put(&mut out, self.next);
        put(&mut out, self.open.len() as u64);
        let mut last = 0;
        for offset in &self.open {
            put(&mut out, offset - last);
            last = *offset;
        }
        out
    }

    /// Reads what [`Place::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, Error> {
        let damaged = || Error::internal("a subscription's place is damaged");
        let next = get(&mut bytes).ok_or_else(damaged)?;
        let count = get(&mut bytes).ok_or_else(damaged)?;
        let mut open = Vec::with_capacity(usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len()));
        let mut last: u64 = 0;
        for _ in 0..count {
            last = get(&mut bytes).and_then(|step| last.checked_add(step)).ok_or_else(damaged)?;
            open.push(last);
        }
        if open.last().is_some_and(|last| *last >= next) || !bytes.is_empty() {
            return Err(damaged());
        }
        Ok(Self { next, open })
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[allow(clippy::cast_possible_truncation)] // seven bits at a time
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[allow(clippy::cast_possible_truncation)]
    out.push(value as u8);
}

fn get(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What is kept of a message that waits to be delivered again, or for its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// When it may be delivered.
    pub due: Timestamp,
    /// How often it has been delivered.
    pub deliveries: u32,
    /// How often it has failed.
    pub failures: u32,
    /// Why it failed last; empty when it has not.
    pub reason: String,
}

/// What is kept of a message that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Why.
    pub reason: String,
    /// How often it failed.
    pub failures: u32,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Who failed.
    pub by: Option<String>,
    /// When it was given up.
    pub at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct WaitingFields(i64, u32, u32, String);

#[derive(Serialize, Deserialize)]
struct DeadFields(String, u32, u32, Option<String>, i64);

impl Waiting {
    /// Writes it.
    ///
    /// # Errors
    /// None in practice: the fields are plain.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        write(&WaitingFields(self.due.0, self.deliveries, self.failures, self.reason.clone()))
    }

    /// Reads it.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let WaitingFields(due, deliveries, failures, reason) = read(bytes)?;
        Ok(Self { due: Timestamp(due), deliveries, failures, reason })
    }
}

impl Dead {
    /// Writes it.
    ///
    /// # Errors
    /// None in practice: the fields are plain.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        write(&DeadFields(self.reason.clone(), self.failures, self.deliveries, self.by.clone(), self.at.0))
    }

    /// Reads it.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let DeadFields(reason, failures, deliveries, by, at) = read(bytes)?;
        Ok(Self { reason, failures, deliveries, by, at: Timestamp(at) })
    }
}

fn write<T: Serialize>(fields: &T) -> Result<Vec<u8>, Error> {
    rmp_serde::to_vec(fields).map_err(|cause| Error::internal(format!("cannot write a record: {cause}")))
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    rmp_serde::from_slice(bytes)
        .map_err(|cause| Error::internal(format!("a subscription's record is damaged: {cause}")))
}

/// The text, cut to at most `limit` bytes at a character's border.
pub(super) fn shorten(text: &str, limit: usize) -> String {
    let cut = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..cut].to_owned()
}
