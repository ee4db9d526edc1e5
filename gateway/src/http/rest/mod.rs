//! REST channels: paths of the configuration that lead to a service or a topic.
//!
//! table.rs: the channels as they are now, and which one a request is for
//! request.rs: a request as a message; reply.rs: a reply as a response
//! signature.rs: the proof that a request's body comes from whom it should

mod reply;
mod request;
mod signature;
mod table;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use crossdock_access::{Action, Principal};
use crossdock_http::{Problem, Result, authenticate, check_json, is_json, not_found, refuse_encoded};
use crossdock_topics::{Batch, Error, ErrorCode, ServiceName};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, StatusCode};

pub(super) use table::Table;
use table::{Channel, Found, Target};

use super::gateway::Gateway;
use super::publish::{receipt, stored};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers for every path that is not the gateway's own.
pub(super) async fn answer(State(gateway): State<Gateway>, request: Request) -> Response {
    let found = gateway.channels.load().find(request.method(), request.uri().path());
    match found {
        Found::Channel(channel, parameters) => {
            let id = request::id(request.headers());
            let mut response = match call(&gateway, &channel, &parameters, &id, request).await {
                Ok(response) => response,
                Err(problem) => problem.into_response(),
            };
            if let Ok(id) = HeaderValue::from_str(&id) {
                response.headers_mut().insert(X_REQUEST_ID, id);
            }
            response
        }
        Found::OtherMethods(allow) if request.method() == Method::OPTIONS => {
            (StatusCode::NO_CONTENT, [(ALLOW, allow)]).into_response()
        }
        Found::OtherMethods(allow) => Problem::method_not_allowed(request.method(), &allow).into_response(),
        Found::Nothing => not_found(request.uri()).into_response(),
    }
}

async fn call(
    gateway: &Gateway,
    channel: &Channel,
    parameters: &[String],
    id: &str,
    request: Request<Body>,
) -> Result<Response> {
    let (head, body) = request.into_parts();
    let principal = match channel.authenticate {
        true => Some(authenticate(&head.headers, &gateway.access).await?),
        false => None,
    };
    if let Some(principal) = &principal {
        permit(principal, &channel.target)?;
    }
    refuse_encoded(&head.headers)?;
    let taken = gateway.intake.take(body, gateway.limits, async { Ok(channel.max_body) }).await?;
    let body = taken.bytes.clone();
    if body.len() > channel.max_body {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("the body is larger than {} bytes", channel.max_body),
        )
        .hint("send less, or raise the channel's max_body")
        .into());
    }
    channel.signature.check(&head.headers, &body)?;
    if !body.is_empty() && head.headers.get(CONTENT_TYPE).is_some_and(is_json) {
        check_json(&body)?;
    }
    let mut message = request::message(channel, parameters, &head, id, principal.as_ref())?;
    message.payload = body;
    match &channel.target {
        Target::Service(service) => {
            let reply = gateway.broker.request(service, message, channel.timeout).await;
            let response = reply.map_err(Into::into).and_then(|reply| reply::response(service, reply));
            match response {
                Err(problem) if principal.is_none() => Err(discreet(service, problem)),
                response => response,
            }
        }
        Target::Topic(topic) => {
            let published = gateway.broker.publish(topic, Batch::of(&message)?, Default::default());
            let receipts = stored(published, channel.timeout).await?;
            Ok(receipt(StatusCode::ACCEPTED, topic, &receipts))
        }
    }
}

/// The problem as those may see it who have not said who they are: what made the service's code fail can hold
/// what they should not know.
fn discreet(service: &ServiceName, problem: Problem) -> Problem {
    match problem.error().code {
        ErrorCode::ServiceFailed => Error::new(ErrorCode::ServiceFailed, format!("service {service} failed"))
            .hint("an operator finds the reason in the service's log")
            .into(),
        _ => problem,
    }
}

fn permit(principal: &Principal, target: &Target) -> Result<()> {
    match target {
        Target::Service(service) => principal.check(Action::Invoke, service.as_str())?,
        Target::Topic(topic) => principal.check(Action::Publish, topic.as_str())?,
    }
    Ok(())
}
