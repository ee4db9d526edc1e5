//! The description of the API, made from its handlers.

use axum::Extension;
use axum::response::Response;
use bytes::Bytes;
use crossdock_http::json_response;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, Content, OpenApi, Ref, RefOr, Response as Described, ResponseBuilder};
use utoipa::{OpenApi as _, ToSchema};

use crate::api::schema::{Fault, Step};

/// The description as JSON.
#[derive(Clone)]
pub(crate) struct Document(pub(crate) Bytes);

/// Describes this API
///
/// As OpenAPI 3.1.
#[utoipa::path(get, path = "/openapi.json", tag = "status", operation_id = "openapi", security(()),
    responses((status = 200, description = "The OpenAPI document.", body = crate::api::schema::Any)))]
pub(crate) async fn document(Extension(Document(json)): Extension<Document>) -> Response {
    json_response(json)
}

/// An error.
#[derive(ToSchema)]
#[allow(dead_code)] // its fields are read by the derive alone
struct Problem {
    /// Names the code, as a URN.
    r#type: String,
    /// The code in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// The stable name to act on, such as `not_found`.
    code: String,
    /// What is wrong, for people.
    detail: String,
    /// What to do next, for people.
    hint: Option<String>,
    /// Where in the body: the line, from 1.
    line: Option<u32>,
    /// Where in the body: the column, from 1.
    column: Option<u32>,
    /// All that is wrong in a configuration.
    faults: Option<Vec<Fault>>,
    /// When applying a configuration failed on the way: the steps that were done before.
    steps: Option<Vec<Step>>,
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Crossdock Admin API",
        description = "Everything the CLI can do. Errors are problems (RFC 9457) with a stable `code`.",
    ),
    components(schemas(Problem)),
    security(("password" = []), ("api_key" = []), ("bearer" = [])),
)]
struct Base;

/// What is true of the whole API, before any route is known.
pub(crate) fn base() -> OpenApi {
    let mut base = Base::openapi();
    let components = base.components.get_or_insert_with(Components::new);
    let schemes = [
        ("password", SecurityScheme::Http(Http::new(HttpAuthScheme::Basic))),
        ("api_key", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")))),
        ("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer))),
    ];
    for (name, scheme) in schemes {
        components.add_security_scheme(name, scheme);
    }
    base
}

/// Adds to every operation what all have in common: the shape of errors, and words for an answer that needs none
/// beside its schema (the standard wants some).
pub(crate) fn finish(mut document: OpenApi) -> OpenApi {
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            describe(operation);
            add_problem(operation);
        }
    }
    document
}

fn describe(operation: &mut Operation) {
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            response.description = "As asked.".into();
        }
    }
}

fn add_problem(operation: &mut Operation) {
    let problem: Described = ResponseBuilder::new()
        .description("What went wrong.")
        .content("application/problem+json", Content::new(Some(Ref::from_schema_name("Problem"))))
        .build();
    operation.responses.responses.insert("default".into(), RefOr::T(problem));
}

#[cfg(test)]
mod tests;
