//! Names of topics, subscriptions and services, and the patterns that match topics.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The longest name, in bytes.
pub const MAX_NAME: usize = 200;

fn check(kind: &str, text: &str) -> Result<(), Error> {
    let refuse = |why: &str| {
        Err(Error::invalid(format!("{text:?} cannot name a {kind}: {why}")).hint(
            "a name is made of letters, digits, '_' and '-', in segments joined by '.', as in orders.new",
        ))
    };
    if text.is_empty() {
        return refuse("it is empty");
    }
    if text.len() > MAX_NAME {
        return refuse(&format!("it is longer than {MAX_NAME} bytes"));
    }
    for segment in text.split('.') {
        if segment.is_empty() {
            return refuse("a segment is empty");
        }
        if let Some(wrong) = segment.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '_' || *c == '-'))
        {
            return refuse(&format!("{wrong:?} is not allowed"));
        }
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                check($kind, text)?;
                Ok(Self(text.into()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// The name of a topic: 1 to 200 bytes of ASCII letters, digits, `_` and `-`, in segments joined by `.`.
    /// A first segment that begins with `_` marks a topic of the system's own (`_logs.orders`).
    TopicName, "topic"
}
name! {
    /// The name of a subscription; the same alphabet as a topic's.
    SubscriptionName, "subscription"
}
name! {
    /// The name a service answers to; the same alphabet as a topic's.
    ServiceName, "service"
}

impl TopicName {
    /// Whether this topic is the system's own. Users may read such topics with permission, not write them.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.0.starts_with('_')
    }
}

/// A pattern over topic names: `*` stands for exactly one segment, `**` for one or more, anything else for
/// itself. A wildcard in the first place does not match the system's own topics, so `**` is "all of ours".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TopicPattern(Arc<str>);

impl TopicPattern {
    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `topic` is one of those this pattern stands for.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        fn rest<'a>(mut pattern: std::str::Split<'a, char>, mut topic: std::str::Split<'a, char>) -> bool {
            loop {
                match (pattern.next(), topic.next()) {
                    (None, None) => return true,
                    (Some("**"), Some(_)) => loop {
                        if rest(pattern.clone(), topic.clone()) {
                            return true;
                        }
                        if topic.next().is_none() {
                            return false;
                        }
                    },
                    (Some("*"), Some(_)) => {}
                    (Some(wanted), Some(segment)) if wanted == segment => {}
                    _ => return false,
                }
            }
        }
        !(self.0.starts_with('*') && topic.starts_with('_')) && rest(self.0.split('.'), topic.split('.'))
    }

    /// The one topic this pattern names, when it has no wildcard.
    #[must_use]
    pub fn literal(&self) -> Option<TopicName> {
        (!self.0.contains('*')).then(|| TopicName(self.0.clone()))
    }
}

impl FromStr for TopicPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut many = 0;
        for segment in text.split('.') {
            match segment {
                "*" => {}
                "**" => many += 1,
                _ => check("topic pattern", segment).map_err(|mut error| {
                    error.message = format!("{text:?} is not a topic pattern: {}", error.message).into();
                    error.hint(
                        "'*' stands for one whole segment and '**' for many, as in orders.* or github.**",
                    )
                })?,
            }
        }
        if text.len() > MAX_NAME || many > 4 {
            return Err(Error::invalid(format!(
                "{text:?} is not a topic pattern: at most {MAX_NAME} bytes and four '**' are allowed"
            )));
        }
        Ok(Self(text.into()))
    }
}

impl From<TopicName> for TopicPattern {
    fn from(name: TopicName) -> Self {
        Self(name.0)
    }
}

impl<'de> Deserialize<'de> for TopicPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, topic: &str) -> bool {
        pattern.parse::<TopicPattern>().unwrap().matches(topic)
    }

    #[test]
    fn names_are_checked_and_the_error_says_how_to_write_them() {
        for good in ["orders", "orders.new", "a-b_c.D9", "_logs.x"] {
            assert!(good.parse::<TopicName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "a.", "a b", "ü", "a/b", "a*", "../x", &"x".repeat(201)] {
            let error = bad.parse::<TopicName>().unwrap_err();
            assert!(error.hint.is_some(), "{bad}");
        }
    }

    #[test]
    fn a_star_is_one_segment_and_two_are_many() {
        assert!(matches("orders.*", "orders.new"));
        assert!(!matches("orders.*", "orders"));
        assert!(!matches("orders.*", "orders.new.eu"));
        assert!(matches("orders.**", "orders.new.eu"));
        assert!(!matches("orders.**", "orders"));
        assert!(matches("**.eu", "orders.new.eu"));
        assert!(matches("a.**.z", "a.b.c.z"));
        assert!(!matches("a.**.z", "a.z"));
        assert!(matches("**", "x"));
        assert!(matches("orders", "orders"));
    }

    #[test]
    fn wildcards_leave_the_systems_own_topics_alone() {
        assert!(!matches("**", "_logs.x"));
        assert!(!matches("*.x", "_logs.x"));
        assert!(matches("_logs.*", "_logs.x"));
    }

    #[test]
    fn patterns_are_checked() {
        for bad in ["", "a.*b", "a..b", "***", "a. b", "**.**.**.**.**"] {
            assert!(bad.parse::<TopicPattern>().is_err(), "{bad}");
        }
        assert_eq!("a.b".parse::<TopicPattern>().unwrap().literal().unwrap().as_str(), "a.b");
        assert!("a.*".parse::<TopicPattern>().unwrap().literal().is_none());
    }
}
