//! The name in a path.

use std::str::FromStr;

use axum::extract::{FromRequestParts, RawPathParams};
use crossdock_http::{Problem, Result};
use crossdock_topics::Error;
use http::request::Parts;

/// The one parameter of a route, as a name.
pub(super) struct Named<T>(pub(super) T);

impl<T: FromStr<Err = Error>, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Parts, state: &S) -> Result<Self> {
        let parameters = RawPathParams::from_request_parts(head, state)
            .await
            .map_err(|error| Error::invalid(format!("the path is malformed: {}", error.body_text())))?;
        let name = parameters.iter().next().map(|(_, value)| value).unwrap_or_default();
        Ok(Self(name.parse()?))
    }
}
