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

/// The name in the path, and what comes after it there.
pub(crate) struct NamedAnd<T, U>(pub(crate) T, pub(crate) U);

impl<T, U, S> FromRequestParts<S> for NamedAnd<T, U>
where
    T: FromStr<Err = Error>,
    U: FromStr,
    U::Err: std::fmt::Display,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path((name, rest)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Error::invalid(rejection.body_text()))?;
        let rest = rest.parse().map_err(|why| Error::invalid(format!("{rest:?} in the path: {why}")))?;
        Ok(Self(name.parse()?, rest))
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
            .map_err(|rejection| wrong_query(&rejection.body_text()))?;
        Ok(Self(query))
    }
}

/// What is wrong with a query, in the words of whoever writes one. The parser names the parameter and says why
/// it failed, not what it wants.
fn wrong_query(text: &str) -> Error {
    let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(text);
    let wanted = [
        ("digit", "a whole number, from 0"),
        ("number too large", "a smaller whole number"),
        ("cannot parse integer", "a whole number, from 0"),
        ("`true` or `false`", "true or false"),
    ];
    let wanted = wanted.iter().find(|(said, _)| text.contains(said)).map(|(_, wanted)| wanted);
    match (text.split_once(": "), wanted) {
        (Some((parameter, _)), Some(wanted)) => {
            Error::invalid(format!("the query parameter {parameter} must be {wanted}"))
        }
        _ => Error::invalid(format!("the query cannot be read: {text}")),
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

/// A message's place, `TOPIC:OFFSET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessagePlace(pub(crate) TopicName, pub(crate) u64);

impl FromStr for MessagePlace {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::invalid(format!("{text:?} is not a message's place"))
                .hint("write it like orders:42, or pass on what stood in `next`")
        };
        let (topic, offset) = text.rsplit_once(':').ok_or_else(wrong)?;
        Ok(Self(topic.parse()?, offset.parse().map_err(|_| wrong())?))
    }
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
    fn a_wrong_query_says_what_it_must_be() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)] // only read into
        struct Wish {
            max: Option<usize>,
            #[serde(default)]
            dry_run: bool,
        }
        let said = |query: &str| {
            let uri = format!("/?{query}").parse().unwrap();
            let read = axum::extract::Query::<Wish>::try_from_uri(&uri);
            wrong_query(&read.unwrap_err().body_text()).message.into_owned()
        };
        for wrong in ["max=soon", "max=-1", "max="] {
            assert_eq!(said(wrong), "the query parameter max must be a whole number, from 0");
        }
        assert!(said("max=99999999999999999999999").contains("max must be a smaller"));
        assert_eq!(said("dry_run=yes"), "the query parameter dry_run must be true or false");
        assert!(said("maximum=1").contains("unknown field `maximum`"));
    }

    #[test]
    fn a_place_is_a_topic_and_an_offset() {
        let place = |text: &str| text.parse::<MessagePlace>();
        assert_eq!(place("orders.new:7").unwrap(), MessagePlace("orders.new".parse().unwrap(), 7));
        for wrong in ["", "orders", "orders:", ":7", "orders:-1", "a b:1"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
