//! The handlers, one file a subject. Each is described where it is written, and the OpenAPI document is made of
//! those descriptions.

mod access;
mod apply;
mod dead_letters;
mod delivery;
mod deploy;
mod explain;
mod invoke;
mod logs;
mod messages;
mod parked_keys;
mod replay;
mod services;
mod status;
mod subscriptions;
mod topics;

use crossdock_http::parse_json;
use crossdock_topics::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::server::Server;

/// Routes that anybody may call.
pub(crate) fn open() -> OpenApiRouter<Server> {
    OpenApiRouter::default().routes(routes!(status::health)).routes(routes!(crate::openapi::document))
}

/// Routes for those with admin permission.
pub(crate) fn admin() -> OpenApiRouter<Server> {
    OpenApiRouter::default()
        .routes(routes!(status::status))
        .routes(routes!(topics::list))
        .routes(routes!(topics::get, topics::put, topics::delete))
        .routes(routes!(topics::purge))
        .routes(routes!(replay::replay))
        .routes(routes!(messages::read, messages::publish))
        .routes(routes!(explain::explain))
        .routes(routes!(subscriptions::list))
        .routes(routes!(subscriptions::get, subscriptions::put, subscriptions::delete))
        .routes(routes!(delivery::pause))
        .routes(routes!(delivery::resume))
        .routes(routes!(delivery::seek))
        .routes(routes!(parked_keys::list))
        .routes(routes!(parked_keys::release))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::get, dead_letters::edit))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(services::list))
        .routes(routes!(services::get, services::delete))
        .routes(routes!(services::pause))
        .routes(routes!(services::resume))
        .routes(routes!(deploy::deploy))
        .routes(routes!(deploy::rollback))
        .routes(routes!(invoke::invoke))
        .routes(routes!(logs::logs))
        .routes(routes!(access::users))
        .routes(routes!(access::delete_user))
        .routes(routes!(access::permissions))
        .routes(routes!(access::delete_permission))
        .routes(routes!(access::rest_channels))
        .routes(routes!(access::delete_rest_channel))
        .routes(routes!(apply::apply))
        .routes(routes!(apply::export))
}

/// A definition whose name is in the path, and in the body only if it is the same.
fn definition<T: DeserializeOwned>(kind: &str, name: &str, mut body: Map<String, Value>) -> Result<T> {
    match body.get("name") {
        Some(Value::String(given)) if given == name => {}
        None => {
            body.insert("name".into(), name.into());
        }
        Some(other) => {
            return Err(Error::invalid(format!("the path names {kind} {name}, the body names {other}"))
                .hint("leave the name out of the body, or make both the same"));
        }
    }
    serde_json::from_value(Value::Object(body))
        .map_err(|cause| Error::invalid(format!("{kind} {name}: {cause}")))
}

/// The JSON of a body that may be left out; then it is as if it were `{}`.
fn optional<T: DeserializeOwned>(body: &[u8]) -> crossdock_http::Result<T> {
    parse_json(if body.is_empty() { b"{}" } else { body })
}

#[cfg(test)]
mod tests {
    use crossdock_topics::Topic;

    use super::*;

    fn topic(body: &str) -> Result<Topic> {
        definition("topic", "orders", serde_json::from_str(body).unwrap())
    }

    #[test]
    fn a_definition_has_the_name_of_its_path() {
        assert_eq!(topic("{}").unwrap(), Topic::new("orders".parse().unwrap()));
        assert!(topic(r#"{"name": "orders"}"#).is_ok());
        for wrong in [
            r#"{"name": "other"}"#,
            r#"{"name": 1}"#,
            r#"{"retention": {"max_age": "soon"}}"#,
            r#"{"durabilty": "os"}"#,
        ] {
            assert!(topic(wrong).unwrap_err().message.contains("orders"), "{wrong}");
        }
    }
}
