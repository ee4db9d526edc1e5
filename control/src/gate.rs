//! The gate before every route that is not open.

use axum::extract::{Request, State};
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
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    principal.check_admin()?;
    if server.shutdown.has_started() && request.method() != Method::GET {
        let stopping = Error::new(ErrorCode::Unavailable, "this server is stopping");
        return Err(stopping.hint("ask another one, or again when it is back").into());
    }
    let path = request.uri().path();
    // Messages and calls are the platform's daily work, not changes to it.
    let freight = path.ends_with("/messages") || path.ends_with("/invoke");
    let change = (request.method() != Method::GET && !freight)
        .then(|| (request.method().clone(), path.to_owned(), principal.user().clone()));
    request.extensions_mut().insert(principal);
    let response = next.run(request).await;
    if let Some((method, path, user)) = change {
        tracing::info!(%method, path, %user, status = response.status().as_u16(), "admin");
    }
    Ok(response)
}
