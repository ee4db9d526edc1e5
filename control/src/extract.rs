//! What a request's address says, taken in with clear errors.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path};
use crossdock_http::Problem;
use crossdock_topics::time::human;
use crossdock_topics::{Error, TopicName};
use http::request::Parts;
use serde::de::DeserializeOwned;

/// The name in the path.
pub(crate) struct Named<T>(pub(crate) T);

impl<T, S> FromRequestParts<S> for Named<T>
where
    T: FromStr<Err = Error>,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Error::invalid(rejection.body_text()))?;
        Ok(Self(text.parse()?))
    }
}

/// The query; fields it does not know are refused by the type it is read into.
pub(crate) struct Query<T>(pub(crate) T);

impl<T, S> FromRequestParts<S> for Query<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let axum::extract::Query(query) = axum::extract::Query::try_from_uri(&parts.uri)
            .map_err(|rejection| Error::invalid(rejection.body_text()))?;
        Ok(Self(query))
    }
}

/// A number of messages to give at once: 1 to 1000, 100 unless said.
pub(crate) fn page_size(max: Option<usize>) -> Result<usize, Error> {
    match max.unwrap_or(100) {
        max @ 1..=1000 => Ok(max),
        max => Err(Error::invalid(format!("max is {max}, it can be 1 to 1000"))),
    }
}

/// A duration of at most `longest`, `default` unless said.
pub(crate) fn duration(
    field: &str,
    text: Option<&str>,
    default: Duration,
    longest: Duration,
) -> Result<Duration, Error> {
    let Some(text) = text else { return Ok(default) };
    let duration = human::parse(text).map_err(|why| Error::invalid(format!("{field}: {why}")))?;
    at_most(field, duration, longest)
}

/// The duration, if it is at most `longest`.
pub(crate) fn at_most(field: &str, duration: Duration, longest: Duration) -> Result<Duration, Error> {
    if duration > longest {
        return Err(Error::invalid(format!("{field} is {duration:?}, it can be at most {longest:?}")));
    }
    Ok(duration)
}

/// A message's place as `TOPIC:OFFSET`.
pub(crate) fn place(text: &str) -> Result<(TopicName, u64), Error> {
    let wrong = || {
        Error::invalid(format!("{text:?} is not a place"))
            .hint("write it like orders:42, or pass on what stood in `next`")
    };
    let (topic, offset) = text.rsplit_once(':').ok_or_else(wrong)?;
    Ok((topic.parse()?, offset.parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_has_bounds() {
        assert_eq!(page_size(None).unwrap(), 100);
        assert!(page_size(Some(0)).is_err() && page_size(Some(1001)).is_err());
        let read = |text| duration("wait", text, Duration::ZERO, Duration::from_secs(30));
        assert_eq!(read(None).unwrap(), Duration::ZERO);
        assert_eq!(read(Some("2s")).unwrap(), Duration::from_secs(2));
        for wrong in ["31s", "2", "soon", "-1s"] {
            assert!(read(Some(wrong)).unwrap_err().message.contains("wait"), "{wrong}");
        }
    }

    #[test]
    fn a_place_is_a_topic_and_an_offset() {
        assert_eq!(place("orders.new:7").unwrap(), ("orders.new".parse().unwrap(), 7));
        for wrong in ["", "orders", "orders:", ":7", "orders:-1", "a b:1"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
