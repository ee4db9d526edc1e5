//! Users, what they may do, and the paths that lead in.

use crossdock_config::{Name, Permission, RestChannel, UserRecord};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

/// A user. Secrets and their hashes are never shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserInfo {
    /// The user's name.
    #[schema(value_type = String)]
    pub name: Name,
    /// Whether the user can log in with a password.
    pub has_password: bool,
    /// Whether the user can log in with an API key.
    pub has_api_key: bool,
}

impl From<UserRecord> for UserInfo {
    fn from(user: UserRecord) -> Self {
        Self { has_password: user.password.is_some(), has_api_key: user.api_key.is_some(), name: user.name }
    }
}

/// All users, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserList {
    /// The users.
    pub users: Vec<UserInfo>,
}

/// All permissions, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PermissionList {
    /// The permissions.
    #[schema(value_type = Vec<schema::Permission>)]
    pub permissions: Vec<Permission>,
}

/// All REST channels, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RestChannelList {
    /// The channels.
    #[schema(value_type = Vec<schema::RestChannel>)]
    pub rest_channels: Vec<RestChannel>,
}
