//! What users, permissions and channels are called.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crossdock_topics::Error;
use serde::{Deserialize, Serialize};

/// The name of a user, a permission or a channel: 1 to 100 ASCII letters, digits, `_`, `-`, `.` and `@`,
/// beginning with a letter or a digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name, in bytes.
    pub const MAX: usize = 100;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| {
            Err(Error::invalid(format!("{text:?} cannot be a name: {why}")).hint(
                "a name is made of letters, digits, '_', '-', '.' and '@', and begins with a letter or a digit",
            ))
        };
        let Some(first) = text.chars().next() else { return refuse("it is empty".into()) };
        if text.len() > Self::MAX {
            return refuse(format!("it is longer than {} bytes", Self::MAX));
        }
        if !first.is_ascii_alphanumeric() {
            return refuse(format!("it begins with {first:?}"));
        }
        if let Some(wrong) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || "_-.@".contains(*c))) {
            return refuse(format!("{wrong:?} is not allowed"));
        }
        Ok(Self(text.into()))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_the_error_says_how_to_write_them() {
        for good in ["alice", "a.b-c_D9", "bob@example.org", "7"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "_x", ".a", "a b", "ü", "a/b", "a:b", "../x", &"x".repeat(101)] {
            assert!(bad.parse::<Name>().unwrap_err().hint.is_some(), "{bad}");
        }
    }
}
