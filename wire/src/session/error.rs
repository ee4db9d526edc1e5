//! Errors as they travel.

use std::time::Duration;

use crossdock_topics::{Error, ErrorCode};
use serde::de::IntoDeserializer;
use serde::de::value::Error as Unknown;
use serde::{Deserialize, Serialize};

/// `[code, message, hint, retry_after_ms]`: an error with its code's stable name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireError(pub String, pub String, pub Option<String>, pub Option<u64>);

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self(
            error.code.as_str().to_owned(),
            error.message.clone().into_owned(),
            error.hint.clone().map(std::borrow::Cow::into_owned),
            error.retry_after.map(millis),
        )
    }
}

impl From<WireError> for Error {
    /// A code that this version does not know is taken as [`ErrorCode::Internal`].
    fn from(WireError(code, message, hint, retry_after): WireError) -> Self {
        let name = IntoDeserializer::<Unknown>::into_deserializer(code.as_str());
        let mut error = Self::new(ErrorCode::deserialize(name).unwrap_or(ErrorCode::Internal), message);
        error.hint = hint.map(Into::into);
        error.retry_after = retry_after.map(Duration::from_millis);
        error
    }
}
