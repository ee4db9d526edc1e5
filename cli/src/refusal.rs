//! What a server says when it does not do what it was asked.

use crossdock_config::{Fault, Step};
use crossdock_topics::{Error, ErrorCode};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

/// An error, and what else a refused configuration comes back with.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The error.
    pub(crate) error: Error,
    /// Everything that is wrong in the document, where it is.
    pub(crate) faults: Vec<Fault>,
    /// What was done before it went wrong.
    pub(crate) steps: Vec<Step>,
}

impl Refusal {
    /// Reads an answer's body; nothing when it is not one of ours.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Problem>(body).ok().map(Self::from)
    }

    /// What to make of an answer that is not ours, such as a proxy's on the way.
    pub(crate) fn of_a_stranger(who: &Url, status: StatusCode) -> Self {
        let message = format!("{who} answered {status}, which is not Crossdock's way of saying no");
        let hint = "is CROSSDOCK_URL the Admin API of a Crossdock server?";
        Error::new(code_of(status), message).hint(hint).into()
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, faults: Vec::new(), steps: Vec::new() }
    }
}

/// An error as the server writes it (RFC 9457).
#[derive(Deserialize)]
struct Problem {
    code: ErrorCode,
    detail: String,
    #[serde(default)]
    hint: Option<String>,
    #[serde(default)]
    faults: Vec<Fault>,
    #[serde(default)]
    steps: Vec<Step>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let mut error = Error::new(problem.code, problem.detail);
        error.hint = problem.hint.map(Into::into);
        Self { error, faults: problem.faults, steps: problem.steps }
    }
}

fn code_of(status: StatusCode) -> ErrorCode {
    match status.as_u16() {
        400 => ErrorCode::InvalidArgument,
        401 => ErrorCode::Unauthenticated,
        403 => ErrorCode::PermissionDenied,
        404 => ErrorCode::NotFound,
        409 => ErrorCode::Conflict,
        413 => ErrorCode::TooLarge,
        415 => ErrorCode::UnsupportedContent,
        429 => ErrorCode::Overloaded,
        502 | 503 => ErrorCode::Unavailable,
        504 => ErrorCode::Timeout,
        _ => ErrorCode::Internal,
    }
}
