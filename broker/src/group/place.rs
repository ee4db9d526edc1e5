//! What of a group survives a restart, and how it is written.
//!
//! Records and dead letters are msgpack arrays of their fields, in order; a later version may append fields, never
//! change one. What earlier ones wrote is read with the fields they did not know absent.

use std::borrow::Cow;

use crossdock_topics::{Error, Timestamp};
use serde::{Deserialize, Serialize};

use super::key::KeyHash;
use super::ranges::Ranges;
use super::{Facts, Known, MAX_BY, MAX_REASON};

/// How far a group has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The first offset that has not been looked at.
    pub next: u64,
    /// Offsets below `next` that must be delivered although nothing else is known of them.
    pub open: Ranges,
}

impl Place {
    /// Nothing has been looked at from `next` on.
    #[must_use]
    pub fn at(next: u64) -> Self {
        Self { next, open: Ranges::default() }
    }

    /// Writes `next`; 0; the number of runs of open offsets; and for each the distance from the end of the one before
    /// it and its length, all as LEB128. The first releases wrote, instead of all that follows `next`, the number of
    /// open offsets, and for each the distance from the one before it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self.next, &self.open)
    }

    /// Reads what [`Place::encode`] wrote, now or then.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, Error> {
        let damaged = || Error::internal("a subscription's place is damaged");
        let next = get(&mut bytes).ok_or_else(damaged)?;
        let count = get(&mut bytes).ok_or_else(damaged)?;
        let mut open = Ranges::default();
        let mut last: u64 = 0;
        for _ in 0..count {
            let offset = get(&mut bytes).and_then(|step| last.checked_add(step));
            last = offset.filter(|offset| *offset < next).ok_or_else(damaged)?;
            open.insert(last);
        }
        if count == 0 && !bytes.is_empty() {
            for _ in 0..get(&mut bytes).ok_or_else(damaged)? {
                let start = get(&mut bytes).and_then(|gap| last.checked_add(gap)).ok_or_else(damaged)?;
                let length = get(&mut bytes).filter(|length| *length > 0).ok_or_else(damaged)?;
                last = start.checked_add(length).ok_or_else(damaged)?;
                open.push(start, last);
            }
        }
        if open.end().is_some_and(|end| end > next) || !bytes.is_empty() {
            return Err(damaged());
        }
        Ok(Self { next, open })
    }
}

pub(super) fn encode(next: u64, open: &Ranges) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + open.runs().len() * 3);
    put(&mut out, next);
    put(&mut out, 0);
    if open.runs().len() > 0 {
        put(&mut out, open.runs().len() as u64);
        let mut last = 0;
        for (start, end) in open.runs() {
            put(&mut out, start - last);
            put(&mut out, end - start);
            last = end;
        }
    }
    out
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

/// What is kept of a message that waits.
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
    /// What else is of interest.
    pub facts: Facts,
    /// Since when its key is parked, if it is.
    pub parked: Option<ParkedSince>,
    /// Who failed last.
    pub by: Option<String>,
}

/// Since when a key is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParkedSince(pub Timestamp);

/// What is kept of a message that is with a consumer, where somebody else is to hear what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The delivery's token.
    pub token: u64,
    /// Until when it is held.
    pub until: Timestamp,
    /// How often the message has been delivered, with this time.
    pub deliveries: u32,
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
    /// What else is of interest.
    pub facts: Facts,
}

/// The last five are absent in what the first releases wrote.
#[derive(Serialize, Deserialize)]
struct WaitingFields<'a>(
    i64,
    u32,
    u32,
    Cow<'a, str>,
    #[serde(default)] u64,
    #[serde(default)] u8,
    #[serde(default)] u32,
    #[serde(default)] Option<i64>,
    #[serde(default)] Option<Cow<'a, str>>,
);

/// The last three are absent in what the first releases wrote.
#[derive(Serialize, Deserialize)]
struct DeadFields<'a>(
    Cow<'a, str>,
    u32,
    u32,
    Option<Cow<'a, str>>,
    i64,
    #[serde(default)] u64,
    #[serde(default)] u8,
    #[serde(default)] u32,
);

/// 0 is none.
fn number(key: Option<KeyHash>) -> u64 {
    key.map_or(0, KeyHash::number)
}

impl Waiting {
    pub(super) fn of(
        known: &Known,
        due: Timestamp,
        parked: Option<ParkedSince>,
        reason: &str,
        by: Option<&str>,
    ) -> Self {
        Self {
            due,
            deliveries: known.deliveries,
            failures: known.failures,
            reason: shorten(reason, MAX_REASON),
            facts: known.facts,
            parked,
            by: by.map(|by| shorten(by, MAX_BY)),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// None in practice: the fields are plain.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        write(&WaitingFields(
            self.due.0,
            self.deliveries,
            self.failures,
            Cow::Borrowed(&self.reason),
            number(self.facts.key),
            self.facts.priority,
            self.facts.size,
            self.parked.map(|since| since.0.0),
            self.by.as_deref().map(Cow::Borrowed),
        ))
    }

    /// Reads it.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let WaitingFields(due, deliveries, failures, reason, key, priority, size, parked, by) = read(bytes)?;
        Ok(Self {
            due: Timestamp(due),
            deliveries,
            failures,
            reason: reason.into_owned(),
            facts: Facts { key: KeyHash::from_number(key), size, priority },
            parked: parked.map(|since| ParkedSince(Timestamp(since))),
            by: by.map(Cow::into_owned),
        })
    }
}

impl Held {
    /// Writes it.
    ///
    /// # Errors
    /// None in practice: the fields are plain.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        write(&(self.token, self.until.0, self.deliveries))
    }

    /// Reads it.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (token, until, deliveries) = read(bytes)?;
        Ok(Self { token, until: Timestamp(until), deliveries })
    }
}

impl Dead {
    /// Writes it.
    ///
    /// # Errors
    /// None in practice: the fields are plain.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        write(&DeadFields(
            Cow::Borrowed(&self.reason),
            self.failures,
            self.deliveries,
            self.by.as_deref().map(Cow::Borrowed),
            self.at.0,
            number(self.facts.key),
            self.facts.priority,
            self.facts.size,
        ))
    }

    /// Reads it.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let DeadFields(reason, failures, deliveries, by, at, key, priority, size) = read(bytes)?;
        Ok(Self {
            reason: reason.into_owned(),
            failures,
            deliveries,
            by: by.map(Cow::into_owned),
            at: Timestamp(at),
            facts: Facts { key: KeyHash::from_number(key), size, priority },
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_the_disk_also_as_the_first_releases_wrote_it() {
        let place = Place { next: 900, open: [3, 4, 5, 300, 302, 899].into_iter().collect() };
        assert_eq!(Place::decode(&place.encode()).unwrap(), place);
        assert_eq!(Place::decode(&Place::at(7).encode()).unwrap(), Place::at(7));
        let mut old = Vec::new();
        [900, 6, 3, 1, 1, 295, 2, 597].into_iter().for_each(|number| put(&mut old, number));
        assert_eq!(Place::decode(&old).unwrap(), place);
        let mut beyond = Vec::new();
        [5, 0, 1, 3, 3].into_iter().for_each(|number| put(&mut beyond, number));
        assert!(Place::decode(&beyond).is_err(), "open beyond what was looked at");
        let whole = place.encode();
        for length in 0..whole.len() {
            assert!(Place::decode(&whole[..length]).is_err() || length == 3, "cut at {length}");
        }
    }

    #[test]
    fn a_thousand_in_a_row_take_a_few_bytes() {
        let place = Place { next: 100_000, open: (98_000..99_000).collect() };
        assert!(place.encode().len() < 12);
    }

    #[test]
    fn records_are_read_with_and_without_what_was_appended() {
        let waiting = Waiting {
            due: Timestamp(5),
            deliveries: 2,
            failures: 1,
            reason: "why".into(),
            facts: Facts { key: Some(KeyHash::of("k")), size: 700, priority: 3 },
            parked: Some(ParkedSince(Timestamp(4))),
            by: Some("svc".into()),
        };
        assert_eq!(Waiting::decode(&waiting.encode().unwrap()).unwrap(), waiting);
        let old = write(&(5i64, 2u32, 1u32, "why")).unwrap();
        let plain = Waiting { facts: Facts::default(), parked: None, by: None, ..waiting };
        assert_eq!(Waiting::decode(&old).unwrap(), plain);
        let dead = Dead {
            reason: "why".into(),
            failures: 1,
            deliveries: 2,
            by: Some("svc".into()),
            at: Timestamp(9),
            facts: Facts { key: Some(KeyHash::of("k")), size: 700, priority: 3 },
        };
        assert_eq!(Dead::decode(&dead.encode().unwrap()).unwrap(), dead);
        let held = Held { token: u64::MAX, until: Timestamp(-1), deliveries: 3 };
        assert_eq!(Held::decode(&held.encode().unwrap()).unwrap(), held);
        let old = write(&("why", 1u32, 2u32, Some("svc"), 9i64)).unwrap();
        assert_eq!(Dead::decode(&old).unwrap(), Dead { facts: Facts::default(), ..dead });
    }
}
