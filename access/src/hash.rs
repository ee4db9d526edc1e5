//! Secrets at rest: argon2id.

use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};
use argon2::{Algorithm, Argon2, Params, Version};
use crossdock_config::Name;
use crossdock_topics::{Error, Result};
use secrecy::{ExposeSecret, SecretString};

use crate::Credentials;

/// The cost of one hash: 9 MiB, four passes, one lane, one of the equally strong settings that OWASP's password
/// storage cheat sheet lists; of these it is one that needs little memory, because every check takes it anew.
const COST: (u32, u32, u32) = (9 * 1024, 4, 1);

/// The shortest secret part of an API key, in bytes.
const MIN_KEY_SECRET: usize = 16;

fn argon2() -> Result<Argon2<'static>> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None)
        .map_err(|cause| Error::internal(format!("argon2 refuses its settings: {cause}")))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(secret: &str) -> Result<String> {
    let hash: PasswordHash = argon2()?
        .hash_password(secret.as_bytes())
        .map_err(|cause| Error::internal(format!("a secret cannot be hashed: {cause}")))?;
    Ok(hash.to_string())
}

/// The hash of a password to keep in [`crossdock_config::UserRecord::password`], salted anew each time. Takes
/// tens of milliseconds of a core and 9 MiB: call it where blocking is allowed.
///
/// # Errors
/// `InvalidArgument` for a password that is empty or longer than [`Credentials::MAX`] bytes.
pub fn hash_password(password: &SecretString) -> Result<String> {
    let length = password.expose_secret().len();
    if !(1..=Credentials::MAX).contains(&length) {
        return Err(Error::invalid(format!(
            "a password can have 1 to {} bytes, this one has {length}",
            Credentials::MAX
        ))
        .hint("choose another password"));
    }
    hash(password.expose_secret())
}

/// The hash of an API key to keep in [`crossdock_config::UserRecord::api_key`]; as costly as
/// [`hash_password`].
///
/// # Errors
/// `InvalidArgument` for a key that is not `<user>.<secret>` with a secret of at least 16 bytes and no `.`.
pub fn hash_api_key(user: &Name, key: &SecretString) -> Result<String> {
    let key = key.expose_secret();
    let secret = key.rsplit_once('.').and_then(|(named, secret)| (named == user.as_str()).then_some(secret));
    if secret.is_none_or(|secret| secret.len() < MIN_KEY_SECRET) || key.len() > Credentials::MAX {
        return Err(Error::invalid(format!(
            "the API key of user {user} does not have the form it must have"
        ))
        .hint(format!(
            "write it as {user}.SECRET, with a SECRET of {MIN_KEY_SECRET} or more bytes and no '.'"
        )));
    }
    hash(key)
}

/// Whether this is the secret that was hashed; as costly as [`hash_password`]. A text that is no hash
/// matches nothing.
#[must_use]
pub fn matches(secret: &SecretString, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(secret.expose_secret().as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_matches_its_secret_alone_and_differs_each_time() {
        let secret = SecretString::from("correct horse");
        let first = hash_password(&secret).unwrap();
        assert!(first.starts_with("$argon2id$v=19$m=9216,t=4,p=1$"), "{first}");
        assert!(matches(&secret, &first));
        assert!(!matches(&SecretString::from("wrong horse"), &first));
        assert_ne!(first, hash_password(&secret).unwrap());
        for broken in ["", "plain", "$argon2id$v=19$m=9216", &first[..first.len() - 4]] {
            assert!(!matches(&secret, broken), "{broken}");
        }
    }

    #[test]
    fn secrets_of_a_wrong_form_are_refused_without_being_shown() {
        assert!(hash_password(&SecretString::from("")).is_err());
        assert!(hash_password(&SecretString::from("x".repeat(1025))).is_err());
        let alice: Name = "alice".parse().unwrap();
        assert!(hash_api_key(&alice, &SecretString::from("alice.0123456789abcdef")).is_ok());
        for bad in ["alice.short", "bob.0123456789abcdef", "0123456789abcdef", "alice.0123456789abcdef.x"] {
            let error = hash_api_key(&alice, &SecretString::from(bad)).unwrap_err().to_string();
            assert!(!error.contains("0123456789abcdef"), "{error}");
        }
    }
}
