//! JSON in requests, and where in it the mistake is.

use axum::body::Body;
use axum::extract::{FromRef, FromRequest};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use crossdock_topics::{Error, ErrorCode};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::{Limits, Problem, Result, read_body};

/// A JSON body, in or out. Going in it is bounded by [`Limits::max_body`], and a mistake in it is answered with
/// its line and column.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T, S> FromRequest<S> for Json<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
    Limits: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, state: &S) -> Result<Self> {
        let (head, body) = request.into_parts();
        let limits = Limits::from_ref(state);
        // Clients that send JSON without saying so are understood; saying something else is not.
        if head.headers.get(CONTENT_TYPE).is_some_and(|media| !is_json(media)) {
            return Err(Error::new(ErrorCode::UnsupportedContent, "the body must be JSON")
                .hint("send it with Content-Type: application/json")
                .into());
        }
        refuse_encoded(&head.headers)?;
        parse_json(&read_body(body, limits.max_body, limits.body).await?).map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => json_response(bytes),
            Err(error) => Problem::from(Error::internal(format!("an answer cannot be written: {error}")))
                .into_response(),
        }
    }
}

/// A response of this JSON text.
#[must_use]
pub fn json_response(text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Whether a media type is JSON: `application/json` or `...+json`, with or without parameters.
#[must_use]
pub fn is_json(media: &HeaderValue) -> bool {
    let essence = media.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/json")
        || essence.last_chunk::<5>().is_some_and(|end| end.eq_ignore_ascii_case(b"+json"))
}

/// Refuses a body that is compressed: nobody here unpacks it.
///
/// # Errors
/// `UnsupportedContent`.
pub fn refuse_encoded(headers: &HeaderMap) -> Result<()> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            let encoding = String::from_utf8_lossy(encoding.as_bytes());
            Err(Error::new(
                ErrorCode::UnsupportedContent,
                format!("Content-Encoding {encoding:?} is not understood"),
            )
            .hint("send the body as it is, without Content-Encoding")
            .into())
        }
        _ => Ok(()),
    }
}

/// Checks that bytes are one JSON value, without building it; gives them as text.
///
/// # Errors
/// `InvalidArgument` with line and column.
pub fn check_json(bytes: &[u8]) -> Result<&str> {
    let text = utf8(bytes)?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| malformed(text, &error))?;
    Ok(text)
}

/// Reads one JSON value.
///
/// # Errors
/// `InvalidArgument` with line and column.
pub fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    let text = utf8(bytes)?;
    serde_json::from_str(text).map_err(|error| malformed(text, &error))
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + good.iter().rev().take_while(|byte| **byte != b'\n').count();
        Problem::from(Error::invalid("the JSON is not UTF-8").hint("encode it as UTF-8")).at(line, column)
    })
}

fn malformed(json: &str, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    // The place is said apart from the text.
    let what = text.rfind(" at line ").map_or(&*text, |end| &text[..end]);
    // A mistake at the end of a line is reported as column 0 of the next one.
    let place = match (error.line(), error.column()) {
        (line @ 2.., 0) => (line - 1, json.split('\n').nth(line - 2).map_or(0, str::len) + 1),
        (line, column) => (line, column.max(1)),
    };
    Problem::from(Error::invalid(format!("the JSON is wrong: {what}"))).at(place.0, place.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &[u8]) -> (u64, u64) {
        let shown: serde_json::Value =
            serde_json::from_slice(&check_json(text).unwrap_err().to_json()).unwrap();
        (shown["line"].as_u64().unwrap(), shown["column"].as_u64().unwrap())
    }

    #[test]
    fn mistakes_are_answered_with_their_place() {
        assert_eq!(place(b"{\"a\": 1,\n \"b\": x}"), (2, 7));
        assert_eq!(place(b"{\n\"a\": \"\xff\"}"), (2, 7));
        assert_eq!(place(b"{} {}"), (1, 4));
        assert_eq!(place(b"{\n  \"a\": tru\n}"), (2, 11));
        assert_eq!(place(b""), (1, 1));
        assert!(check_json(b" {\"a\": [1, 2.5e3, null, \"\\u00e4\"]}\n").is_ok());
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let deep = "[".repeat(1_000_000);
        assert!(check_json(deep.as_bytes()).is_err());
    }

    #[test]
    fn json_media_types() {
        for yes in ["application/json", "Application/JSON; charset=utf-8", "application/cloudevents+json"] {
            assert!(is_json(&HeaderValue::from_static(yes)), "{yes}");
        }
        for no in ["text/plain", "application/jsonx", "application/x-ndjson", ""] {
            assert!(!is_json(&HeaderValue::from_static(no)), "{no}");
        }
    }
}
