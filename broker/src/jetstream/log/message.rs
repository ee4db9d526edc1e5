//! A message as it lies in NATS: its payload as it is, all else as headers that a tool for NATS can read.
//!
//! ```text
//! Crossdock-Key, -Id, -Correlation-Id, -Reply-To, -Content-Type, -Traceparent   the field
//! Crossdock-Expires-At, -Deliver-At                                            milliseconds since 1970
//! Crossdock-Priority                                                           0 to 9
//! Crossdock-Headers                                                            name=value&name=value, in order
//! Crossdock-Packed                                                             the payload is the packed record
//! Crossdock-Time                                                               when it was stored, of one that was moved here
//! ```
//!
//! What is not printable ASCII is percent-encoded, and so are `%` and blanks (in `Crossdock-Headers` `=` and `&` too): values
//! may hold line ends, and NATS trims them. NATS takes 64 KiB of headers for a message: where they would be near that, all
//! of the message goes into the payload, as [`crossdock_topics::record`] packs it. A message that something else put into
//! the stream is its payload and nothing more.

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use bytestring::ByteString;
use crossdock_topics::{Message, Record, Timestamp};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

const FIELD: &AsciiSet = &CONTROLS.add(b' ').add(b'%');
const PAIR: &AsciiSet = &FIELD.add(b'=').add(b'&');

const KEY: &str = "Crossdock-Key";
const ID: &str = "Crossdock-Id";
const CORRELATION_ID: &str = "Crossdock-Correlation-Id";
const REPLY_TO: &str = "Crossdock-Reply-To";
const CONTENT_TYPE: &str = "Crossdock-Content-Type";
const TRACEPARENT: &str = "Crossdock-Traceparent";
const EXPIRES_AT: &str = "Crossdock-Expires-At";
const DELIVER_AT: &str = "Crossdock-Deliver-At";
const PRIORITY: &str = "Crossdock-Priority";
const HEADERS: &str = "Crossdock-Headers";
/// When a message was stored that was moved here: milliseconds since 1970.
pub(super) const TIME: HeaderName = HeaderName::from_static("Crossdock-Time");
const PACKED: &str = "Crossdock-Packed";

/// More bytes of headers than this go into the payload: NATS and the publisher add some of their own.
const MOST_HEADER_BYTES: usize = 40 * 1024;

/// What the headers take that are added to those of a message: its id, what is expected, its place in a batch, its source.
const ADDED_HEADER_BYTES: usize = 8 * 1024;

/// How many bytes what has so many, so many of them payload, has in NATS at most. All else can become three times as long.
pub(super) fn may_be_as_large(bytes: usize, payload: usize) -> usize {
    (bytes - payload) * 3 + payload + ADDED_HEADER_BYTES
}

/// How many bytes a message has in NATS, if that may be more than `most`.
pub(super) fn larger_than(most: usize, record: &Record) -> Option<usize> {
    if may_be_as_large(record.size(), record.payload().len()) <= most {
        return None;
    }
    let (headers, payload) = encode(record);
    let length = |(name, values): (&HeaderName, &Vec<HeaderValue>)| -> usize {
        values.iter().map(|value| name.to_string().len() + value.as_str().len() + 4).sum()
    };
    let size = headers.iter().map(length).sum::<usize>() + payload.len() + ADDED_HEADER_BYTES;
    Some(size).filter(|size| *size > most)
}

/// What to send for a message.
pub(super) fn encode(record: &Record) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let mut bytes = 0;
    let mut put = |name: &'static str, value: String| {
        bytes += value.len();
        headers.insert(HeaderName::from_static(name), value);
    };
    let fields = [
        (KEY, record.key()),
        (ID, record.id()),
        (CORRELATION_ID, record.correlation_id()),
        (REPLY_TO, record.reply_to()),
        (CONTENT_TYPE, record.content_type()),
        (TRACEPARENT, record.traceparent()),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            put(name, escape(value));
        }
    }
    for (name, time) in [(EXPIRES_AT, record.expires_at()), (DELIVER_AT, record.deliver_at())] {
        if let Some(time) = time {
            put(name, time.0.to_string());
        }
    }
    if record.priority() > 0 {
        put(PRIORITY, record.priority().to_string());
    }
    let mut pairs = String::new();
    for (name, value) in record.headers() {
        if !pairs.is_empty() {
            pairs.push('&');
        }
        pairs.extend(utf8_percent_encode(name, PAIR));
        pairs.push('=');
        pairs.extend(utf8_percent_encode(value, PAIR));
    }
    if !pairs.is_empty() {
        put(HEADERS, pairs);
    }
    if bytes <= MOST_HEADER_BYTES {
        return (headers, record.payload());
    }
    let mut headers = HeaderMap::new();
    headers.insert(PACKED, "1");
    (headers, record.as_bytes().clone())
}

/// The message that was sent so.
pub(super) fn decode(headers: Option<&HeaderMap>, payload: Bytes) -> Message {
    let mut message = Message::new(payload);
    let Some(headers) = headers else { return message };
    // A look at each that is there: most have none of these.
    for (name, values) in headers.iter() {
        let (name, Some(value)) = (AsRef::<str>::as_ref(name), values.first()) else { continue };
        let value = value.as_str();
        let text = || Some(unescape(value));
        let time = || value.parse().ok().map(Timestamp);
        match name {
            PACKED => {
                return match Record::from_packed(message.payload.clone()) {
                    Ok(record) => record.to_message(),
                    Err(_) => Message::new(message.payload),
                };
            }
            KEY => message.key = text(),
            ID => message.id = text(),
            CORRELATION_ID => message.correlation_id = text(),
            REPLY_TO => message.reply_to = text(),
            CONTENT_TYPE => message.content_type = text(),
            TRACEPARENT => message.traceparent = text(),
            EXPIRES_AT => message.expires_at = time(),
            DELIVER_AT => message.deliver_at = time(),
            PRIORITY => message.priority = value.parse().unwrap_or(0),
            HEADERS => {
                let pair = |pair: &str| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (unescape(name), unescape(value))
                };
                message.headers = value.split('&').map(pair).collect();
            }
            _ => {}
        }
    }
    // What another hand has put there may be more than a message can be.
    match message.check() {
        Ok(()) => message,
        Err(_) => Message::new(message.payload),
    }
}

/// When a message was stored that was moved here.
pub(super) fn time_of(headers: Option<&HeaderMap>) -> Option<Timestamp> {
    headers?.get(TIME)?.as_str().parse().ok().map(Timestamp)
}

/// A text as the value of a header, or as an id for NATS.
pub(super) fn escape(text: &str) -> String {
    utf8_percent_encode(text, FIELD).to_string()
}

fn unescape(text: &str) -> ByteString {
    percent_decode_str(text).decode_utf8_lossy().into_owned().into()
}

#[cfg(test)]
mod tests {
    use crossdock_topics::message::MAX_FIELD;
    use proptest::prelude::*;

    use super::*;

    fn back(message: &Message) -> Message {
        let (headers, payload) = encode(&Record::of(message).unwrap());
        for (_, values) in headers.iter() {
            for value in values {
                let value = value.as_str();
                assert!(value.bytes().all(|byte| byte.is_ascii_graphic()), "{value:?} would not survive");
            }
        }
        let size: usize =
            headers.iter().map(|(name, values)| name.to_string().len() + values[0].as_str().len() + 4).sum();
        assert!(size < 48 * 1024, "{size} bytes of headers leave no room for those of NATS");
        decode(Some(&headers), payload)
    }

    fn text(most: usize) -> impl Strategy<Value = ByteString> {
        prop_oneof![
            prop::collection::vec(any::<char>(), 0..24)
                .prop_map(|chars| chars.into_iter().collect::<String>()),
            "[ -~]{0,40}",
            Just("\r\n %=&\0 ".to_owned()),
            (0..=most / 4).prop_map(|n| "\u{1F69A}".repeat(n)),
        ]
        .prop_map(ByteString::from)
    }

    prop_compose! {
        fn message()(
            key in prop::option::of(text(MAX_FIELD)),
            id in prop::option::of(text(MAX_FIELD).prop_filter("not empty", |id| !id.is_empty())),
            correlation_id in prop::option::of(text(MAX_FIELD)),
            reply_to in prop::option::of(text(100)),
            content_type in prop::option::of(text(100)),
            traceparent in prop::option::of(text(100)),
            times in prop::option::of((any::<i64>(), any::<i64>())),
            priority in 0..=9u8,
            headers in prop::collection::vec((text(40), text(400)), 0..60),
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) -> Message {
            Message {
                key, id, correlation_id, reply_to, content_type, traceparent, priority, headers,
                expires_at: times.map(|(time, _)| Timestamp(time)),
                deliver_at: times.map(|(_, time)| Timestamp(time)),
                payload: payload.into(),
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_may_be_published_comes_back_as_it_was(message in message()) {
            prop_assume!(message.check().is_ok());
            prop_assert_eq!(back(&message), message);
        }
    }

    #[test]
    fn what_a_message_takes_is_counted_with_its_headers() {
        let record = |message: &Message| Record::of(message).unwrap();
        let mut message = Message::new(vec![0; 1 << 20]);
        assert!(larger_than(1 << 20, &record(&message)).is_some());
        assert_eq!(larger_than((1 << 20) + ADDED_HEADER_BYTES + 100, &record(&message)), None);
        message.payload = Bytes::from(vec![0; 1_000_000]);
        assert_eq!(larger_than(1 << 20, &record(&message)), None);
        message.headers = vec![("n".into(), "\n".repeat(13_500).into())];
        assert!(larger_than(1 << 20, &record(&message)).is_some());
        // As they are they are shorter than they could be.
        message.headers = vec![("n".into(), "n".repeat(20_000).into())];
        assert_eq!(larger_than(1 << 20, &record(&message)), None);
    }

    #[test]
    fn the_largest_headers_come_back_too() {
        let mut message = Message::new("x").with_key("\u{1F69A}".repeat(MAX_FIELD / 4));
        message.headers = vec![("n".into(), "\n".repeat(60 * 1024).into())];
        assert_eq!(back(&message), message);
    }

    #[test]
    fn a_message_of_another_hand_is_its_payload() {
        assert_eq!(decode(None, Bytes::from_static(b"x")), Message::new("x"));
        let mut headers = HeaderMap::new();
        headers.insert("Other", "1");
        headers.insert("Crossdock-Priority", "77");
        headers.insert("Crossdock-Expires-At", "soon");
        assert_eq!(decode(Some(&headers), Bytes::from_static(b"x")), Message::new("x"));
        let mut headers = HeaderMap::new();
        headers.insert("Crossdock-Packed", "1");
        assert_eq!(decode(Some(&headers), Bytes::from_static(b"\xff\xff")), Message::new(&b"\xff\xff"[..]));
    }
}
