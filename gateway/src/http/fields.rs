//! What a publisher's headers say about its message.

use std::time::Duration;

use bytestring::ByteString;
use crossdock_topics::time::human;
use crossdock_topics::{Error, Message, Result, Timestamp, TopicName};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::cloudevents::CloudEvent;

/// A message without a payload, as the headers of a request describe it.
///
/// # Errors
/// `InvalidArgument` naming the header that is wrong.
pub(super) fn message(headers: &HeaderMap, now: Timestamp) -> Result<Message> {
    let mut message = Message::default();
    let mut event = CloudEvent::default();
    let mut deliver_in = None;
    for (name, value) in headers {
        match name.as_str() {
            "x-key" => once(&mut message.key, name, text(name, value)?)?,
            "x-message-id" => once(&mut message.id, name, text(name, value)?)?,
            "x-correlation-id" => once(&mut message.correlation_id, name, text(name, value)?)?,
            "x-reply-to" => {
                let topic = text(name, value)?;
                topic.parse::<TopicName>().map_err(|error| wrong(name, error))?;
                once(&mut message.reply_to, name, topic)?;
            }
            "x-expires-in" => {
                once(&mut message.expires_at, name, now.after(duration(name, value)?))?;
            }
            "x-deliver-at" => {
                let moment = text(name, value)?.parse().map_err(|error| wrong(name, error))?;
                once(&mut message.deliver_at, name, moment)?;
            }
            "x-deliver-in" => once(&mut deliver_in, name, now.after(duration(name, value)?))?,
            "x-priority" => {
                message.priority = text(name, value)?
                    .parse()
                    .ok()
                    .filter(|priority| *priority <= 9)
                    .ok_or_else(|| Error::invalid("X-Priority is not a digit").hint("send 0 to 9"))?;
            }
            "traceparent" => once(&mut message.traceparent, name, text(name, value)?)?,
            _ if name == CONTENT_TYPE => once(&mut message.content_type, name, text(name, value)?)?,
            other => {
                if let Some(own) = other.strip_prefix("x-header-") {
                    if own.is_empty() {
                        return Err(Error::invalid("X-Header- names no header").hint("send X-Header-NAME"));
                    }
                    message.headers.push((own.into(), text(name, value)?));
                } else if let Some(attribute) = other.strip_prefix("ce-") {
                    event.attribute(attribute, &text(name, value)?)?;
                }
            }
        }
    }
    if deliver_in.is_some() && message.deliver_at.is_some() {
        return Err(Error::invalid("X-Deliver-At and X-Deliver-In are both there").hint("send one of them"));
    }
    message.deliver_at = message.deliver_at.or(deliver_in);
    event.describe(&mut message)?;
    Ok(message)
}

/// A header's value as text.
///
/// # Errors
/// `InvalidArgument` when it is not UTF-8.
pub(super) fn text(name: &HeaderName, value: &HeaderValue) -> Result<ByteString> {
    std::str::from_utf8(value.as_bytes()).map(ByteString::from).map_err(|_| {
        Error::invalid(format!("the value of the header {name} is not UTF-8")).hint("encode it as UTF-8")
    })
}

fn once<T>(field: &mut Option<T>, name: &HeaderName, value: T) -> Result<()> {
    if field.replace(value).is_some() {
        return Err(Error::invalid(format!("the header {name} is there twice")).hint("send it once"));
    }
    Ok(())
}

fn duration(name: &HeaderName, value: &HeaderValue) -> Result<Duration> {
    human::parse(&text(name, value)?).map_err(|why| wrong(name, Error::invalid(why)))
}

fn wrong(name: &HeaderName, error: Error) -> Error {
    Error { message: format!("the header {name} is wrong: {}", error.message).into(), ..error }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn of(headers: &[(&'static str, &'static str)]) -> Result<Message> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        message(&map, NOW)
    }

    #[test]
    fn every_header_has_its_field() {
        let message = of(&[
            ("x-key", "grün"),
            ("x-message-id", "m1"),
            ("x-correlation-id", "c1"),
            ("x-reply-to", "replies"),
            ("x-expires-in", "1h"),
            ("x-deliver-in", "500ms"),
            ("x-priority", "7"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("content-type", "text/plain"),
            ("x-header-colour", "red"),
            ("x-header-colour", "blue"),
            ("x-unrelated", "nothing"),
            ("authorization", "Basic xyz"),
        ])
        .unwrap();
        assert_eq!(message.key.as_deref(), Some("grün"));
        assert_eq!(message.id.as_deref(), Some("m1"));
        assert_eq!(message.correlation_id.as_deref(), Some("c1"));
        assert_eq!(message.reply_to.as_deref(), Some("replies"));
        assert_eq!(message.expires_at, Some(Timestamp(1_000_000 + 3_600_000)));
        assert_eq!(message.deliver_at, Some(Timestamp(1_000_500)));
        assert_eq!(message.priority, 7);
        assert!(message.traceparent.is_some());
        assert_eq!(message.content_type.as_deref(), Some("text/plain"));
        let headers: Vec<_> = message.headers.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(headers, [("colour", "red"), ("colour", "blue")]);
    }

    #[test]
    fn a_wrong_header_is_named() {
        for (header, names) in [
            (("x-expires-in", "soon"), "x-expires-in"),
            (("x-deliver-at", "tomorrow"), "x-deliver-at"),
            (("x-deliver-in", "-1s"), "x-deliver-in"),
            (("x-priority", "10"), "X-Priority"),
            (("x-priority", "-1"), "X-Priority"),
            (("x-reply-to", "a b"), "x-reply-to"),
            (("x-reply-to", "replies.*"), "x-reply-to"),
            (("x-header-", "x"), "X-Header-"),
        ] {
            let error = of(&[header]).unwrap_err();
            assert!(error.message.contains(names), "{header:?}: {error}");
        }
        assert!(of(&[("x-key", "a"), ("x-key", "b")]).unwrap_err().message.contains("twice"));
        assert!(of(&[("x-deliver-in", "1s"), ("x-deliver-at", "2026-11-22T17:00:00Z")]).is_err());
    }

    #[test]
    fn a_value_that_is_not_utf8_is_named() {
        let mut map = HeaderMap::new();
        map.insert("x-key", HeaderValue::from_bytes(b"\xff").unwrap());
        assert!(message(&map, NOW).unwrap_err().message.contains("x-key"));
    }
}
