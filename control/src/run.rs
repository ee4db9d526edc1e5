//! The Admin API as a part of a server.

use std::sync::Arc;

use axum::{Extension, Router, middleware};
use crossdock_access::Access;
use crossdock_config::Member;
use crossdock_http::{Limits, Problem, not_found, serve};
use crossdock_topics::{Clock, Error, Result, SharedBroker, Shutdown, SystemClock};
use http::{Method, Uri};
use tokio::net::TcpListener;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::openapi::Document;
use crate::server::Server;
use crate::{api, gate, membership, openapi, routes};

/// What a server says of itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name, different from all other servers' of the cluster: 1 to 100 letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// Where its gateway is reached, such as `http://10.0.0.7:7400`.
    pub gateway_url: String,
    /// Where its broker is reached over the wire, such as `crossdock://10.0.0.7:7402`, if it is.
    pub broker_url: Option<String>,
}

impl Options {
    fn check(&self) -> Result<()> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if self.name.is_empty() || self.name.len() > 100 || !self.name.chars().all(fine) {
            return Err(Error::invalid(format!("{:?} cannot name a server", self.name))
                .hint("use 1 to 100 letters, digits, '_', '-' and '.'"));
        }
        Ok(())
    }
}

/// Serves the Admin API on a listener, and keeps this server a member of its cluster, until shutdown begins and
/// the requests under way are finished (or its grace is over).
///
/// # Errors
/// `InvalidArgument` for a name that cannot be one; nothing later.
pub async fn run(
    options: Options,
    listener: TcpListener,
    broker: SharedBroker,
    access: Access,
    shutdown: Shutdown,
) -> Result<()> {
    options.check()?;
    let member = Arc::new(Member {
        name: options.name,
        started: SystemClock.now(),
        version: env!("CARGO_PKG_VERSION").into(),
        gateway_url: options.gateway_url,
    });
    let limits = Limits { max_body: Server::MAX_BODY, connections: 512, ..Limits::default() };
    let broker_url = options.broker_url.map(Into::into);
    let server = Server { broker, broker_url, access, member, limits, shutdown: shutdown.clone() };
    tokio::join!(
        serve(listener, router(&server), limits, &shutdown),
        membership::keep(server.store(), &server.member, &shutdown),
    );
    Ok(())
}

/// All routes.
fn router(server: &Server) -> Router {
    let gate = middleware::from_fn_with_state(server.clone(), gate::admin);
    let routes = routes::open().merge(routes::admin().route_layer(gate));
    let (router, _) = OpenApiRouter::default().nest(api::PREFIX, routes).split_for_parts();
    let json = serde_json::to_vec(&description()).unwrap_or_default(); // texts and lists: cannot fail
    router
        .layer(Extension(Document(json.into())))
        .fallback(|uri: Uri| async move { not_found(&uri) })
        .method_not_allowed_fallback(|method: Method| async move { Problem::wrong_method(&method) })
        .with_state(server.clone())
}

/// What there is to say of the routes: it is collected with them.
pub(crate) fn description() -> OpenApi {
    let routes = routes::open().merge(routes::admin());
    openapi::finish(OpenApiRouter::with_openapi(openapi::base()).nest(api::PREFIX, routes).into_openapi())
}
