//! Messages as they are named on the command line.

use std::fmt;
use std::str::FromStr;

use crossdock_topics::{Error, TopicName};

/// A message's place: `orders:17`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) topic: TopicName,
    pub(crate) offset: u64,
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::invalid(format!("{text:?} is not a message's place"))
                .hint("write it like orders:17, a topic and an offset")
        };
        let (topic, offset) = text.rsplit_once(':').ok_or_else(wrong)?;
        Ok(Self { topic: topic.parse()?, offset: offset.parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.topic, self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_topic_and_an_offset() {
        assert_eq!("orders.new:7".parse::<Place>().unwrap().to_string(), "orders.new:7");
        for wrong in ["", "orders", "orders:", ":7", "orders:-1", "a b:1"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
