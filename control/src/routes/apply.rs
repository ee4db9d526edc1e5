//! The configuration as a whole: applied and exported.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use crossdock_access::Principal;
use crossdock_config::{Document, Invalid, Step, parse};
use crossdock_http::{Json, Problem, Result, read_body, refuse_encoded};
use crossdock_topics::{Error, ErrorCode};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::api::Applied;
use crate::apply::{self, Interrupted};
use crate::extract::Query;
use crate::server::Server;

const YAML: &str = "application/yaml";

/// Whether to do it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Manner {
    /// Whether only to say what would be done.
    #[serde(default)]
    dry_run: bool,
}

/// Applies a configuration
///
/// Brings topics, subscriptions, services, users, permissions and REST channels, in this order, to what the
/// document says. What it does not name stays; nothing is deleted. The whole document is checked first: if
/// anything is wrong nothing is done, and the problem's `faults` name every place. Applying the same again
/// changes nothing. When a step fails, those before it stay done, and the problem lists them as `steps`.
/// Services are waited for, for up to 30 s together; their steps say what became of them.
#[utoipa::path(post, path = "/apply", tag = "configuration", operation_id = "apply", params(Manner),
    request_body(content = String, content_type = "application/yaml", description = "The document."),
    responses((status = 200, description = "What was done.", body = Applied)))]
pub(super) async fn apply(
    State(server): State<Server>,
    Extension(principal): Extension<Principal>,
    Query(manner): Query<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    yaml(&headers)?;
    let body = read_body(body, server.limits.max_body, server.limits.body).await?;
    let state = apply::current(server.store()).await?;
    // Parsing takes long for a large document, and checking passwords for a small one.
    let planned = tokio::task::spawn_blocking(move || planned(&body, &state)).await;
    let planned = planned.map_err(|_| Error::internal("the plan was broken off"))?;
    let (document, steps) = match planned {
        Ok(planned) => planned,
        Err(Refused::Invalid(invalid)) => return Ok(faulty(invalid)),
        Err(Refused::Other(error)) => return Err(error.into()),
    };
    if manner.dry_run {
        return Ok(Json(Applied { dry_run: true, steps }).into_response());
    }
    match apply::execute(&server, document, steps, principal.user().as_str()).await {
        Ok(steps) => Ok(Json(Applied { dry_run: false, steps }).into_response()),
        Err(Interrupted { error, done }) => Ok(with(error.into(), "steps", &done)),
    }
}

enum Refused {
    Invalid(Invalid),
    Other(Error),
}

fn planned(
    body: &Bytes,
    state: &crossdock_config::State,
) -> std::result::Result<(Document, Vec<Step>), Refused> {
    let document = parse(body, None, Some(state)).map_err(Refused::Invalid)?.document;
    let steps = apply::steps(state, &document).map_err(Refused::Other)?;
    Ok((document, steps))
}

/// Exports the configuration
///
/// As a document that changes nothing when it is applied again. Secrets are not in it: users come without their
/// passwords and keys. Where a user is known already these stay as they are when it is applied; elsewhere nobody
/// can log in as the user until a password or an API key is applied.
#[utoipa::path(get, path = "/export", tag = "configuration", operation_id = "export",
    responses((status = 200, description = "The document.", body = String, content_type = "application/yaml")))]
pub(super) async fn export(State(server): State<Server>) -> Result<Response> {
    let document = apply::export(server.store()).await?;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(YAML))], document).into_response())
}

/// Refuses what says it is something else than YAML (which JSON is, too), or is compressed.
fn yaml(headers: &HeaderMap) -> Result<()> {
    refuse_encoded(headers)?;
    let Some(media) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = media.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let essence = essence.to_ascii_lowercase();
    if essence.ends_with(b"yaml") || essence.ends_with(b"json") {
        return Ok(());
    }
    Err(Error::new(ErrorCode::UnsupportedContent, "the body must be YAML")
        .hint("send it with Content-Type: application/yaml")
        .into())
}

/// The problem of a document with faults: at the first one's place, with all of them as `faults`.
fn faulty(invalid: Invalid) -> Response {
    let place = invalid.faults().first().map(|fault| fault.place).unwrap_or_default();
    let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
    let faults = invalid.faults().to_vec();
    with(Problem::from(Error::from(invalid)).at(at(place.line), at(place.column)), "faults", &faults)
}

/// The problem with one more field.
fn with(problem: Problem, field: &str, value: &impl Serialize) -> Response {
    let mut shown: serde_json::Value = serde_json::from_slice(&problem.to_json()).unwrap_or_default();
    shown[field] = serde_json::json!(value);
    let (head, _) = problem.into_response().into_parts();
    Response::from_parts(head, Body::from(shown.to_string()))
}
