//! Errors as values: a code from a closed set, what is wrong, and what to do next.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The result of what a broker does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of error it is. The set is closed: each code has one meaning everywhere (HTTP status, exit code
/// of the CLI, exception of the SDK), and is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// What was asked is malformed; asking again will not help.
    InvalidArgument,
    /// Nobody has said who is asking, or it was not proven.
    Unauthenticated,
    /// The one who asks may not do this.
    PermissionDenied,
    /// What is named does not exist.
    NotFound,
    /// What should be made exists already.
    AlreadyExists,
    /// The state is not what the request expected: another revision, a stale delivery, a thing in use.
    Conflict,
    /// Larger than a limit allows.
    TooLarge,
    /// A kind of content that is not understood here.
    UnsupportedContent,
    /// A bounded queue is full, or a rate is used up; try again after a while.
    Overloaded,
    /// Nobody can do this now: no worker, a broker that is starting, draining, or refuses writes.
    Unavailable,
    /// The deadline passed first. It may have been done, or not.
    Timeout,
    /// The user's own code failed.
    ServiceFailed,
    /// Our own fault, or damaged data.
    Internal,
}

impl ErrorCode {
    /// The stable name, as in `{"code": "not_found"}`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::UnsupportedContent => "unsupported_content",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::ServiceFailed => "service_failed",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error: its code, what is wrong, and what to do next. It is shown to users as it is, so it never holds
/// a secret. Where a cause matters to operators only, log it and leave it out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub struct Error {
    /// What kind of error it is.
    pub code: ErrorCode,
    /// What is wrong, with the names and limits concerned.
    pub message: Cow<'static, str>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Cow<'static, str>>,
    /// When it is worth trying again; set with [`ErrorCode::Overloaded`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
}

impl Error {
    /// An error of this code; `message` says what is wrong.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), hint: None, retry_after: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds when it is worth trying again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// [`ErrorCode::InvalidArgument`].
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// [`ErrorCode::NotFound`] of a named thing, such as `not_found("topic", "orders")`.
    pub fn not_found(kind: &str, name: impl fmt::Display) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no {kind} {name}"))
    }

    /// [`ErrorCode::Internal`].
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}
