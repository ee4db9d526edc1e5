//! Users and what they may do.

use std::fmt;

use crossdock_topics::TopicPattern;
use serde::{Deserialize, Serialize};

use crate::Name;

/// A user as the store keeps it: argon2 hashes, never a password or a key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserRecord {
    /// The user's name.
    pub name: Name,
    /// The hash of the password, as a PHC string. Without one there is no login by password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The hash of the whole API key (`<user>.<secret>`), as a PHC string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
}

impl fmt::Debug for UserRecord {
    // A hash is not the secret, but it is what one would guess at.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserRecord")
            .field("name", &self.name)
            .field("password", &self.password.is_some())
            .field("api_key", &self.api_key.is_some())
            .finish()
    }
}

/// What some users may do: names and patterns of topics they publish to and consume from, and of services they
/// invoke (with the same wildcards). Several permissions of one user add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permission {
    /// Its name.
    pub name: Name,
    /// Whose it is.
    #[serde(default)]
    pub users: Vec<Name>,
    /// Topics they may publish to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<TopicPattern>,
    /// Topics they may read and consume from, also through subscriptions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consume: Vec<TopicPattern>,
    /// Services they may invoke.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invoke: Vec<TopicPattern>,
    /// Whether they may do everything, the administration included.
    #[serde(default)]
    pub admin: bool,
}
