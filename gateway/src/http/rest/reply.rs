//! A service's reply as a response.

use axum::body::Body;
use axum::response::Response;
use crossdock_http::Result;
use crossdock_topics::{Error, ErrorCode, Message, ServiceName};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};

use super::request::is_hop_by_hop;

/// The response a reply stands for: status from `:status` (200 without one, 204 if there is no payload either),
/// the other headers as they are, but for those of the connection.
///
/// # Errors
/// `ServiceFailed` when the status or a header is none.
pub(super) fn response(service: &ServiceName, reply: Message) -> Result<Response> {
    let failed = |what: String| {
        Error::new(ErrorCode::ServiceFailed, format!("service {service} answered with {what}"))
            .hint("see the service's log and correct its reply")
    };
    let status = match reply.header(":status") {
        Some(text) => final_status(text).ok_or_else(|| failed(format!("{text:?} as its status")))?,
        None if reply.payload.is_empty() => StatusCode::NO_CONTENT,
        None => StatusCode::OK,
    };
    let mut response = Response::new(match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Body::empty(),
        _ => Body::from(reply.payload),
    });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Some(media) = reply.content_type {
        let media =
            HeaderValue::from_str(&media).map_err(|_| failed(format!("{media:?} as content type")))?;
        headers.insert(CONTENT_TYPE, media);
    }
    for (name, value) in &reply.headers {
        if name.starts_with(':') {
            continue;
        }
        let wrong = || failed(format!("a header that is none: {name:?}"));
        let name: HeaderName = name.parse().map_err(|_| wrong())?;
        if is_hop_by_hop(&name) || name == CONTENT_LENGTH {
            continue;
        }
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| wrong())?;
        if name == CONTENT_TYPE {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    Ok(response)
}

/// A status that ends a request: 200 to 599.
fn final_status(text: &str) -> Option<StatusCode> {
    let status = text.parse::<u16>().ok().and_then(|code| StatusCode::from_u16(code).ok())?;
    (200..600).contains(&status.as_u16()).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(reply: Message) -> Result<Response> {
        response(&"orders".parse().unwrap(), reply)
    }

    #[test]
    fn a_reply_decides_status_and_headers() {
        let reply = Message::json("{}")
            .with_header(":status", "201")
            .with_header("location", "/orders/7")
            .with_header("set-cookie", "a=1")
            .with_header("set-cookie", "b=2")
            .with_header("connection", "close")
            .with_header("content-length", "999");
        let response = of(reply).unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers()["location"], "/orders/7");
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
        assert!(!response.headers().contains_key("connection"));
        assert!(!response.headers().contains_key("content-length"));
    }

    #[test]
    fn without_a_status_it_is_200_or_204() {
        assert_eq!(of(Message::new("x")).unwrap().status(), 200);
        assert_eq!(of(Message::new("")).unwrap().status(), 204);
    }

    #[test]
    fn a_reply_cannot_break_out_of_its_place() {
        for (name, value) in [(":status", "101"), (":status", "abc"), (":status", "999"), ("a b", "x")] {
            let problem = of(Message::new("x").with_header(name, value)).unwrap_err();
            assert_eq!(problem.error().code, ErrorCode::ServiceFailed, "{name}");
        }
        let split = Message::new("x").with_header("location", "/\r\nset-cookie: evil=1");
        assert!(of(split).is_err());
    }
}
