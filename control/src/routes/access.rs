//! Users, permissions and REST channels: listed and removed. They are made by applying a configuration.

use axum::extract::State;
use crossdock_config::{Name, Permission, RestChannel, UserRecord, keys};
use crossdock_http::{Json, Result};
use crossdock_topics::{Error, ErrorCode, Expect};
use http::StatusCode;
use serde::de::DeserializeOwned;

use crate::api::{PermissionList, RestChannelList, UserList};
use crate::extract::Named;
use crate::server::Server;
use crate::{administrators, apply, records};

/// Lists users
///
/// Neither passwords nor keys nor their hashes are shown, only whether there are any.
#[utoipa::path(get, path = "/users", tag = "access", operation_id = "list_users",
    responses((status = 200, body = UserList)))]
pub(super) async fn users(State(server): State<Server>) -> Result<Json<UserList>> {
    let users: Vec<UserRecord> = all(&server, keys::USERS).await?;
    Ok(Json(UserList { users: users.into_iter().map(Into::into).collect() }))
}

/// Removes a user
///
/// Refused with `conflict` while a permission names them, and for the last administrator.
#[utoipa::path(delete, path = "/users/{name}", tag = "access", operation_id = "delete_user",
    params(("name" = String, Path, description = "The user.")),
    responses((status = 204, description = "They are gone.")))]
pub(super) async fn delete_user(
    State(server): State<Server>,
    Named(name): Named<Name>,
) -> Result<StatusCode> {
    let state = apply::current(server.store()).await?;
    let naming = state.permissions.values().filter(|permission| permission.users.contains(&name));
    let naming: Vec<String> = naming.map(|permission| permission.name.to_string()).collect();
    let exists = state.users.contains_key(&name);
    administrators::without_user(state, &name)?;
    if exists && !naming.is_empty() {
        // Left there, the name would give these rights to whoever is called so next.
        return Err(Error::new(
            ErrorCode::Conflict,
            format!("user {name} is named by permission {}", naming.join(", ")),
        )
        .hint("apply that permission without the user, or remove it, and then remove the user")
        .into());
    }
    delete::<UserRecord>(&server, "user", &name, &keys::user(&name)).await
}

/// Lists permissions
#[utoipa::path(get, path = "/permissions", tag = "access", operation_id = "list_permissions",
    responses((status = 200, body = PermissionList)))]
pub(super) async fn permissions(State(server): State<Server>) -> Result<Json<PermissionList>> {
    Ok(Json(PermissionList { permissions: all(&server, keys::PERMISSIONS).await? }))
}

/// Removes a permission
///
/// Its users lose what it gave them, at once. Refused with `conflict` for the last one that makes somebody an
/// administrator.
#[utoipa::path(delete, path = "/permissions/{name}", tag = "access", operation_id = "delete_permission",
    params(("name" = String, Path, description = "The permission.")),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete_permission(
    State(server): State<Server>,
    Named(name): Named<Name>,
) -> Result<StatusCode> {
    administrators::without_permission(apply::current(server.store()).await?, &name)?;
    delete::<Permission>(&server, "permission", &name, &keys::permission(&name)).await
}

/// Lists REST channels
#[utoipa::path(get, path = "/rest-channels", tag = "access", operation_id = "list_rest_channels",
    responses((status = 200, body = RestChannelList)))]
pub(super) async fn rest_channels(State(server): State<Server>) -> Result<Json<RestChannelList>> {
    Ok(Json(RestChannelList { rest_channels: all(&server, keys::REST_CHANNELS).await? }))
}

/// Removes a REST channel
///
/// Its path leads nowhere from then on. The service or topic behind it stays.
#[utoipa::path(delete, path = "/rest-channels/{name}", tag = "access", operation_id = "delete_rest_channel",
    params(("name" = String, Path, description = "The channel.")),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn delete_rest_channel(
    State(server): State<Server>,
    Named(name): Named<Name>,
) -> Result<StatusCode> {
    delete::<RestChannel>(&server, "REST channel", &name, &keys::rest_channel(&name)).await
}

async fn all<T: DeserializeOwned>(server: &Server, prefix: &str) -> crossdock_topics::Result<Vec<T>> {
    let found = records::list::<T>(server.store(), prefix).await?.0;
    Ok(found.into_iter().map(|(value, _)| value).collect())
}

/// Deletes a record as it was found: whoever changed it meanwhile meant it to be there.
async fn delete<T: DeserializeOwned>(
    server: &Server,
    kind: &str,
    name: &Name,
    key: &str,
) -> Result<StatusCode> {
    let found = records::get::<T>(server.store(), key).await?;
    let (_, revision) = found.ok_or_else(|| Error::not_found(kind, name))?;
    server.store().delete(key, Expect::At(revision)).await?;
    Ok(StatusCode::NO_CONTENT)
}
