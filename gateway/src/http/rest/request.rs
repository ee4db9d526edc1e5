//! A REST request as a message.

use bytestring::ByteString;
use crossdock_access::Principal;
use crossdock_http::Result;
use crossdock_topics::{Error, Message};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::table::Channel;
use crate::http::fields::text;

/// The longest request id that is taken from a caller, in bytes.
const MAX_ID: usize = 200;

/// What names this request in logs, in the message, and in the response: what the caller sent as
/// `X-Request-Id`, if it is printable and not too long, else something new.
pub(super) fn id(headers: &HeaderMap) -> ByteString {
    let sent = headers.get("x-request-id").and_then(|value| value.to_str().ok());
    match sent {
        Some(id) if !id.is_empty() && id.len() <= MAX_ID => id.into(),
        _ => Uuid::now_v7().to_string().into(),
    }
}

/// The request as a message without its payload. What HTTP says of it is in headers that begin with `:`; its own
/// headers come along, but for those of the connection and those that prove who asks.
///
/// # Errors
/// `InvalidArgument` when a header or a parameter is not UTF-8, or a header that the channel needs is missing.
pub(super) fn message(
    channel: &Channel,
    parameters: &[String],
    head: &Parts,
    id: &str,
    principal: Option<&Principal>,
) -> Result<Message, Error> {
    let field = |name: &HeaderName| head.headers.get(name).map(|value| text(name, value)).transpose();
    let needed = |name: Option<&HeaderName>| {
        let Some(name) = name else { return Ok(None) };
        let value = field(name)?.filter(|value| !value.is_empty());
        value.map(Some).ok_or_else(|| {
            Error::invalid(format!("the request has no header {name}")).hint("this path needs it")
        })
    };
    let mut headers = Vec::with_capacity(head.headers.len() + parameters.len() + 4);
    headers.push((ByteString::from_static(":method"), ByteString::from(head.method.as_str())));
    headers.push((ByteString::from_static(":path"), ByteString::from(head.uri.path())));
    if let Some(query) = head.uri.query() {
        headers.push((ByteString::from_static(":query"), query.into()));
    }
    for (name, value) in channel.parameters.iter().zip(parameters) {
        let value = percent_decode_str(value)
            .decode_utf8()
            .map_err(|_| Error::invalid(format!("{value:?} in the path is not percent-encoded UTF-8")))?;
        headers.push((name.as_str().into(), value.as_ref().into()));
    }
    if let Some(principal) = principal {
        headers.push((ByteString::from_static(":user"), principal.user().as_str().into()));
    }
    for (name, value) in &head.headers {
        if !stays_here(name) && !is_named_by_connection(&head.headers, name) {
            headers.push((name.as_str().into(), text(name, value)?));
        }
    }
    Ok(Message {
        key: needed(channel.key_header.as_ref())?,
        id: needed(channel.message_id_header.as_ref())?,
        correlation_id: Some(id.into()),
        content_type: field(&CONTENT_TYPE)?,
        traceparent: field(&HeaderName::from_static("traceparent"))?,
        headers,
        ..Message::default()
    })
}

/// Headers of the connection (RFC 9110, section 7.6.1), headers that prove who asks, and those that have a
/// field of their own in a message.
fn stays_here(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || matches!(
            name.as_str(),
            "authorization"
                | "cookie"
                | "x-api-key"
                | "content-type"
                | "content-length"
                | "traceparent"
                | "expect"
                | "x-request-id"
        )
}

/// Whether a header is about one connection only.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn is_named_by_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(http::header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|named| named.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    })
}
