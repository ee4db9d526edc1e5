//! Places in a log.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Timestamp};

/// A place in a topic's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    /// The oldest message that is kept.
    #[default]
    Start,
    /// After the newest message: only what comes later.
    End,
    /// The first message kept at or after this offset.
    Offset(u64),
    /// The first message kept that was stored at or after this moment.
    Time(Timestamp),
}

impl FromStr for StartAt {
    type Err = Error;

    /// Reads `start`, `end`, an offset, or an RFC 3339 moment.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "start" => Ok(Self::Start),
            "end" => Ok(Self::End),
            _ => {
                if let Ok(offset) = text.parse() {
                    return Ok(Self::Offset(offset));
                }
                text.parse().map(Self::Time).map_err(|_| {
                    Error::invalid(format!("{text:?} is not a place in a topic"))
                        .hint("use start, end, an offset, or a moment like 2026-11-22T17:00:00Z")
                })
            }
        }
    }
}
