//! Which messages a subscription is about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Record};

/// The longest program, in bytes.
pub const MAX_PROGRAM: usize = 4096;

/// A choice among messages, evaluated by the broker. All that is given must be true.
///
/// A message of which the program cannot be evaluated (its payload is not JSON, the program fails or runs on for too long)
/// is delivered: a filter never loses what it does not understand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// The message has these headers with exactly these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// A jq program over the payload as JSON, such as `.total > 100`; its first result decides, where `false` and
    /// `null` mean no, and so does none. It only asks: an engine may refuse what defines, loops over, assigns or
    /// multiplies something, and leaves payloads of more than a mebibyte unevaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jq: Option<String>,
}

impl Filter {
    /// Checks its limits. Whether the program is one is found out by the engine that compiles it.
    ///
    /// # Errors
    /// [`crate::ErrorCode::InvalidArgument`].
    pub fn check(&self) -> Result<(), Error> {
        if self.headers.is_empty() && self.jq.is_none() {
            return Err(
                Error::invalid("the filter asks for nothing").hint("give `headers` or `jq`, or leave it out")
            );
        }
        if self.headers.len() > 32 || self.jq.as_ref().is_some_and(|program| program.len() > MAX_PROGRAM) {
            return Err(Error::invalid(format!(
                "a filter can have at most 32 headers and a program of {MAX_PROGRAM} bytes"
            )));
        }
        Ok(())
    }

    /// Whether the message has the headers that are asked for.
    #[must_use]
    pub fn has_headers(&self, record: &Record) -> bool {
        self.headers.iter().all(|(name, value)| record.headers().any(|(n, v)| n == name && v == value))
    }
}
