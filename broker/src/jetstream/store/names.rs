//! Where a key lies in the bucket.
//!
//! | what | subject behind `$KV.BUCKET.` | as `nats kv` shows it |
//! | --- | --- | --- |
//! | a key of the store | the key, encoded | `services/orders` |
//! | a key of the engine's own | `own.` and the key, encoded | `own.instances/4f2a` |
//! | a lease | `lease.` and its number | `lease.81273` |
//!
//! A key of the store may have any printable ASCII, a subject may not: what is no letter, digit, `-`, `_` or `/` becomes
//! `=` and two hexadecimal digits. So no key of the store has a dot here, and none can be taken for one of the others.

use crossdock_topics::LeaseId;

/// A key, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::jetstream) enum Key {
    /// One of the store, for all to see.
    Shared(String),
    /// One of the engine's own, which no user sees.
    Own(String),
    /// A lease.
    Lease(LeaseId),
}

impl Key {
    /// The subject, without the bucket's part.
    pub(super) fn encode(&self) -> String {
        match self {
            Self::Shared(key) => encode(key),
            Self::Own(key) => format!("own.{}", encode(key)),
            Self::Lease(LeaseId(id)) => format!("lease.{id}"),
        }
    }

    /// The key of such a subject; `None` for one that is none of ours.
    pub(super) fn decode(subject: &str) -> Option<Self> {
        match subject.split_once('.') {
            None => Some(Self::Shared(decode(subject)?)),
            Some(("own", key)) => Some(Self::Own(decode(key)?)),
            Some(("lease", id)) => Some(Self::Lease(LeaseId(id.parse().ok()?))),
            Some(_) => None,
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shared(key) | Self::Own(key) => f.write_str(key),
            Self::Lease(LeaseId(id)) => write!(f, "lease {id}"),
        }
    }
}

fn encode(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("={byte:02X}"));
        }
    }
    text
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        if *byte == b'=' {
            let digits = std::str::from_utf8(behind.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &behind[2..];
        } else {
            bytes.push(*byte);
            rest = behind;
        }
    }
    String::from_utf8(bytes).ok().filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_comes_back_and_none_is_taken_for_another() {
        let printable: String = (0x21..0x7f_u8).map(char::from).collect();
        let keys = [
            Key::Shared("services/orders".into()),
            Key::Shared("own.x".into()),
            Key::Shared("lease.1".into()),
            Key::Shared("=41".into()),
            Key::Shared(printable),
            Key::Own("instances/a.b".into()),
            Key::Lease(LeaseId(7)),
        ];
        for key in &keys {
            let subject = key.encode();
            assert_eq!(Key::decode(&subject).as_ref(), Some(key), "{subject}");
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-/_=.".contains(c);
            assert!(subject.chars().all(allowed), "{subject} is no key of a NATS bucket");
        }
        assert_eq!(keys[0].encode(), "services/orders");
    }

    #[test]
    fn what_others_wrote_there_is_left_alone() {
        for foreign in ["", "own.", "lease.x", "a.b", "=4", "=zz", "own.=ff"] {
            assert_eq!(Key::decode(foreign), None, "{foreign}");
        }
    }
}
