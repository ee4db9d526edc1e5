//! Asking a service.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use crossdock_access::Principal;
use crossdock_http::{Result, read_body, refuse_encoded};
use crossdock_topics::{Error, ErrorCode, Message, ServiceName};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::extract::{Named, Query, duration};
use crate::server::Server;

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Patience {
    /// How long to wait for the reply, such as `5s`; at most 10m, 30s unless said.
    timeout: Option<String>,
}

/// Asks a service
///
/// The body is the payload of the request, with its content type; the payload of the reply is the answer, with
/// its content type.
#[utoipa::path(post, path = "/services/{name}/invoke", tag = "services", operation_id = "invoke_service",
    params(("name" = String, Path, description = "The service."), Patience),
    request_body(content = Vec<u8>, content_type = "*/*", description = "The payload."),
    responses((status = 200, description = "The reply.", body = Vec<u8>, content_type = "*/*")))]
pub(super) async fn invoke(
    State(server): State<Server>,
    Extension(principal): Extension<Principal>,
    Named(name): Named<ServiceName>,
    Query(patience): Query<Patience>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    if name.as_str().starts_with('_') {
        return Err(Error::new(
            ErrorCode::PermissionDenied,
            format!("{name} is one of the system's own services"),
        )
        .hint("deploy with POST /api/v1/services/{name}/deploy")
        .into());
    }
    let timeout = patience.timeout.as_deref();
    let timeout = duration("timeout", timeout, Duration::from_secs(30), Duration::from_secs(600))?;
    refuse_encoded(&headers)?;
    let payload = read_body(body, server.limits.max_body, server.limits.body).await?;
    let mut message = Message::new(payload).with_header(":user", principal.user().as_str());
    message.content_type = text(&headers, CONTENT_TYPE.as_str())?.map(Into::into);
    message.traceparent = text(&headers, "traceparent")?.map(Into::into);
    message.check()?;
    let reply = server.broker.request(&name, message, timeout).await?;
    let mut response = Response::new(Body::from(reply.payload));
    if let Some(kind) = reply.content_type.as_deref() {
        let kind = HeaderValue::from_str(kind).map_err(|_| {
            Error::new(ErrorCode::ServiceFailed, "the service replied with a content type that is none")
        })?;
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    Ok(response)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Error> {
    let value = headers.get(name).map(|value| value.to_str());
    value.transpose().map_err(|_| Error::invalid(format!("the header {name} is not plain text")))
}
