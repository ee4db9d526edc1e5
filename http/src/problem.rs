//! An error as HTTP shows it: `application/problem+json` (RFC 9457).

use std::borrow::Cow;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use crossdock_topics::{Error, ErrorCode};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode, Uri};
use serde::Serialize;

/// The result of a handler.
pub type Result<T, E = Problem> = std::result::Result<T, E>;

/// An [`Error`] on its way out, with the place in the request's body it is about, if there is one.
///
/// Shown as `{type, title, status, code, detail, hint?, line?, column?}`. `code` is the stable name to act on;
/// `detail` and `hint` are for people.
#[derive(Clone, Debug)]
pub struct Problem(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    error: Error,
    place: Option<(usize, usize)>,
    status: StatusCode,
    allow: Option<HeaderValue>,
}

impl Problem {
    /// Adds the place in the body: line and column, from 1.
    #[must_use]
    pub fn at(mut self, line: usize, column: usize) -> Self {
        self.0.place = Some((line, column));
        self
    }

    /// 405: the path is known, the method is not one of `allow` (as the `Allow` header shows them).
    #[must_use]
    pub fn method_not_allowed(method: &Method, allow: &str) -> Self {
        let error =
            Error::invalid(format!("{method} is not allowed here")).hint(format!("this path takes {allow}"));
        let mut problem = Self::from(error);
        problem.0.status = StatusCode::METHOD_NOT_ALLOWED;
        problem.0.allow = HeaderValue::from_str(allow).ok();
        problem
    }

    /// 405 from a handler whose router adds the `Allow` header, as axum does for `method_not_allowed_fallback`.
    #[must_use]
    pub fn wrong_method(method: &Method) -> Self {
        let error = Error::invalid(format!("{method} is not allowed here"))
            .hint("the Allow header says which methods this path takes");
        let mut problem = Self::from(error);
        problem.0.status = StatusCode::METHOD_NOT_ALLOWED;
        problem
    }

    /// The error it shows.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.0.error
    }

    /// The status it is shown with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The place in the body it is about: line and column, from 1.
    #[must_use]
    pub fn place(&self) -> Option<(usize, usize)> {
        self.0.place
    }

    /// The JSON that is shown.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let shown = Shown {
            r#type: format!("urn:crossdock:error:{}", self.0.error.code),
            title: title(self.0.error.code),
            status: self.0.status.as_u16(),
            code: self.0.error.code,
            detail: &self.0.error.message,
            hint: self.0.error.hint.as_ref(),
            line: self.0.place.map(|(line, _)| line),
            column: self.0.place.map(|(_, column)| column),
        };
        serde_json::to_vec(&shown).unwrap_or_default() // texts and numbers: cannot fail
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self(Box::new(Parts { status: status(error.code), error, place: None, allow: None }))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = self.to_json();
        let Parts { error, status, allow, .. } = *self.0;
        if error.code == ErrorCode::Internal {
            tracing::error!(error = %error, "a request failed by our own fault");
        }
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(allow) = allow {
            headers.insert(ALLOW, allow);
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static(r#"Basic realm="crossdock", charset="UTF-8""#);
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        let at_least = (error.code == ErrorCode::Overloaded).then_some(Duration::from_secs(1));
        if let Some(wait) = error.retry_after.or(at_least) {
            // Whole seconds, never early and never zero.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, seconds.max(1).into());
        }
        response
    }
}

/// The answer for a path that nothing is known of.
#[must_use]
pub fn not_found(uri: &Uri) -> Problem {
    Error::not_found("such path:", uri.path())
        .hint("check the path and the port: unless said otherwise the gateway listens on 7400 and the Admin API on 7401")
        .into()
}

/// The one place where error codes become statuses.
fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidArgument => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::AlreadyExists | ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::UnsupportedContent => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorCode::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::ServiceFailed | ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn title(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidArgument => "The request is malformed",
        ErrorCode::Unauthenticated => "Credentials are needed",
        ErrorCode::PermissionDenied => "Permission denied",
        ErrorCode::NotFound => "Not found",
        ErrorCode::AlreadyExists => "It exists already",
        ErrorCode::Conflict => "The state is not what the request expected",
        ErrorCode::TooLarge => "Too large",
        ErrorCode::UnsupportedContent => "This kind of content is not understood",
        ErrorCode::Overloaded => "Overloaded",
        ErrorCode::Unavailable => "Unavailable",
        ErrorCode::Timeout => "The deadline passed",
        ErrorCode::ServiceFailed => "The service failed",
        ErrorCode::Internal => "Internal error",
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    code: ErrorCode,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a Cow<'static, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(problem: &Problem) -> serde_json::Value {
        serde_json::from_slice(&problem.to_json()).unwrap()
    }

    #[test]
    fn a_problem_has_a_stable_code_and_says_what_to_do() {
        let problem = Problem::from(Error::invalid("no key").hint("send X-Key")).at(3, 7);
        assert_eq!(
            shown(&problem),
            serde_json::json!({
                "type": "urn:crossdock:error:invalid_argument", "title": "The request is malformed",
                "status": 400, "code": "invalid_argument", "detail": "no key", "hint": "send X-Key",
                "line": 3, "column": 7,
            })
        );
        let response = problem.into_response();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn overload_says_when_to_come_back_in_whole_seconds_never_early() {
        let overloaded = |wait: Option<Duration>| {
            let mut error = Error::new(ErrorCode::Overloaded, "full");
            error.retry_after = wait;
            let response = Problem::from(error).into_response();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            response.headers()[RETRY_AFTER].to_str().unwrap().to_owned()
        };
        assert_eq!(overloaded(None), "1");
        assert_eq!(overloaded(Some(Duration::from_millis(20))), "1");
        assert_eq!(overloaded(Some(Duration::from_millis(2001))), "3");
    }

    #[test]
    fn who_is_unknown_is_asked_and_a_wrong_method_is_told_the_right_ones() {
        let unknown = Problem::from(Error::new(ErrorCode::Unauthenticated, "who?")).into_response();
        assert!(unknown.headers()[WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic "));
        let wrong = Problem::method_not_allowed(&Method::PUT, "GET, POST").into_response();
        assert_eq!((wrong.status().as_u16(), &wrong.headers()[ALLOW]), (405, &"GET, POST".parse().unwrap()));
    }
}
