//! The gate before every route that is not open.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use crossdock_http::{Authenticated, Problem};
use crossdock_topics::{Error, ErrorCode};
use http::Method;

use crate::server::Server;

/// Lets those with admin permission pass, before anything of the request's body is read, and leaves a trace of
/// what they change. Handlers find who it is as an extension of the request.
pub(crate) async fn admin(
    State(server): State<Server>,
    Authenticated(principal): Authenticated,
    route: MatchedPath,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    principal.check_admin()?;
    if server.shutdown.has_started() && request.method() != Method::GET {
        let stopping = Error::new(ErrorCode::Unavailable, "this server is stopping");
        return Err(stopping.hint("ask another one, or again when it is back").into());
    }
    let change = is_change(request.method(), route.as_str())
        .then(|| (request.method().clone(), request.uri().path().to_owned(), principal.user().clone()));
    request.extensions_mut().insert(principal);
    let response = next.run(request).await;
    if let Some((method, path, user)) = change {
        tracing::info!(%method, path, %user, status = response.status().as_u16(), "admin");
    }
    Ok(response)
}

/// Whether requests to a route change the platform. Messages and calls are its daily work.
fn is_change(method: &Method, route: &str) -> bool {
    let freight = route.ends_with("/{name}/messages") || route.ends_with("/{name}/invoke");
    method != Method::GET && method != Method::HEAD && !freight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_the_platform_leaves_a_trace_whatever_it_is_called() {
        for (method, route, change) in [
            (Method::PUT, "/api/v1/topics/{name}", true), // of /api/v1/topics/messages, too
            (Method::DELETE, "/api/v1/services/{name}", true),
            (Method::POST, "/api/v1/apply", true),
            (Method::POST, "/api/v1/topics/{name}/messages", false),
            (Method::POST, "/api/v1/services/{name}/invoke", false),
            (Method::GET, "/api/v1/topics", false),
            (Method::HEAD, "/api/v1/topics", false),
        ] {
            assert_eq!(is_change(&method, route), change, "{method} {route}");
        }
    }
}
