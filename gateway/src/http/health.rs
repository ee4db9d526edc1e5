//! `GET /health`: whether this server should be sent requests. Open to all, so it says no more than that.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use crossdock_http::{Problem, json_response};
use crossdock_topics::{Error, ErrorCode};

use super::gateway::Gateway;

pub(super) async fn health(State(gateway): State<Gateway>) -> Response {
    let why = if gateway.shutdown.has_started() {
        "the server is stopping"
    } else if !gateway.broker.health().ready {
        "the broker does not take writes"
    } else {
        return json_response(&br#"{"ready":true}"#[..]);
    };
    let error = Error::new(ErrorCode::Unavailable, why).hint("`crossdock status` shows the reason");
    Problem::from(error).into_response()
}
