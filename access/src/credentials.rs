//! What a caller says of itself.

use secrecy::{ExposeSecret, SecretString};

/// What a caller says of itself, to be proven by [`crate::Access::authenticate`].
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A user and a password.
    Basic {
        /// The user's name.
        user: String,
        /// The password.
        password: SecretString,
    },
    /// An API key, `<user>.<secret>`: what stands before the last `.` names the user.
    ApiKey(SecretString),
}

impl Credentials {
    /// The longest name or secret that is looked at, in bytes.
    pub const MAX: usize = 1024;

    /// The user that is named, and what shall prove it. `None` when nobody could be meant.
    pub(crate) fn parts(&self) -> Option<(&str, &str)> {
        let (user, secret) = match self {
            Self::Basic { user, password } => (user.as_str(), password.expose_secret()),
            Self::ApiKey(key) => (key.expose_secret().rsplit_once('.')?.0, key.expose_secret()),
        };
        (user.len() <= Self::MAX && secret.len() <= Self::MAX).then_some((user, secret))
    }
}
