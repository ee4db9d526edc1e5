//! What a publisher's headers ask of the topic.

use crossdock_topics::{Durability, Error, Expected, PublishOptions, Result};
use http::HeaderMap;

const LAST: &str = "x-expected-last-offset";
const LAST_OF_KEY: &str = "x-expected-last-offset-of-key";
const DURABILITY: &str = "x-durability";

/// What must be true of the topic, and how safe the message must be. `key` is the message's.
///
/// # Errors
/// `InvalidArgument` naming the header that is wrong.
pub(super) fn options(headers: &HeaderMap, key: Option<&str>) -> Result<PublishOptions> {
    let last = one(headers, LAST)?.map(|text| offset(LAST, text)).transpose()?;
    let last_of_key = one(headers, LAST_OF_KEY)?.map(|text| offset(LAST_OF_KEY, text)).transpose()?;
    let expected = match (last, last_of_key, key) {
        (Some(_), Some(_), _) => {
            return Err(
                Error::invalid(format!("{LAST} and {LAST_OF_KEY} are both there")).hint("send one of them")
            );
        }
        (None, Some(_), None) => {
            return Err(
                Error::invalid(format!("{LAST_OF_KEY} is there, and no key")).hint("send it as X-Key")
            );
        }
        (Some(last), None, _) => Some(Expected::Last(last)),
        (None, Some(last), Some(key)) => Some(Expected::LastOfKey(key.to_owned(), last)),
        (None, None, _) => None,
    };
    let durability = one(headers, DURABILITY)?.map(durability).transpose()?;
    Ok(PublishOptions { durability, expected, source: None })
}

/// A header's only value.
fn one<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid(format!("the header {name} is there twice")).hint("send it once"));
    }
    value
        .to_str()
        .map(Some)
        .map_err(|_| Error::invalid(format!("the value of the header {name} is not ASCII")))
}

fn offset(name: &str, text: &str) -> Result<Option<u64>> {
    match text {
        "none" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| {
            Error::invalid(format!("the header {name} is {text:?}")).hint("send an offset, or none")
        }),
    }
}

fn durability(text: &str) -> Result<Durability> {
    match text {
        "memory" => Ok(Durability::Memory),
        "os" => Ok(Durability::Os),
        "fsync" => Ok(Durability::Fsync),
        _ => {
            Err(Error::invalid(format!("the header {DURABILITY} is {text:?}"))
                .hint("send memory, os or fsync"))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(headers: &[(&'static str, &'static str)], key: Option<&str>) -> Result<PublishOptions> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        options(&map, key)
    }

    #[test]
    fn an_offset_or_none_is_expected_of_the_topic_or_the_key() {
        assert_eq!(of(&[("x-other", "1")], None).unwrap(), PublishOptions::default());
        let expected = |headers: &[_], key| of(headers, key).unwrap().expected.unwrap();
        assert_eq!(expected(&[(LAST, "41")], None), Expected::Last(Some(41)));
        assert_eq!(expected(&[(LAST, "none")], Some("k")), Expected::Last(None));
        assert_eq!(expected(&[(LAST_OF_KEY, "7")], Some("k")), Expected::LastOfKey("k".into(), Some(7)));
        assert_eq!(of(&[(DURABILITY, "fsync")], None).unwrap(), Durability::Fsync.into());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (headers, key) in [
            (&[(LAST, "-1")][..], None),
            (&[(LAST, "")], None),
            (&[(LAST, "1"), (LAST, "1")], None),
            (&[(LAST, "1"), (LAST_OF_KEY, "1")], Some("k")),
            (&[(LAST_OF_KEY, "1")], None),
            (&[(DURABILITY, "quorum")], None),
        ] {
            assert!(of(headers, key).unwrap_err().message.contains("x-"), "{headers:?}");
        }
    }
}
