//! The user `admin`, whom whoever starts a broker of their own can come as.

use bytes::Bytes;
use crossdock_access::{hash_password, matches};
use crossdock_config::{Name, Permission, UserRecord, keys};
use crossdock_topics::{Error, Expect, Revision, Store};
use rand::RngExt;
use secrecy::SecretString;
use serde::Serialize;

/// The user's name.
pub(crate) const ADMIN: &str = "admin";

/// The user's permission where the usual name is taken.
const INSTEAD: &str = "admin-of-quickstart";

/// Letters and digits that nobody mistakes for each other; 20 of them hold 116 bits.
const ALPHABET: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const LENGTH: usize = 20;

/// What is to be done about the password.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Password {
    /// The user is new: this one was made, and is shown once.
    Made(String),
    /// This one was given in the environment, and becomes the user's.
    Given(String),
    /// It stays as it is; known if the directory's context still has it.
    Kept(Option<String>),
}

impl Password {
    /// The password, if it is known.
    pub(crate) fn known(&self) -> Option<&str> {
        match self {
            Self::Made(password) | Self::Given(password) => Some(password),
            Self::Kept(password) => password.as_deref(),
        }
    }
}

/// The user as the store has it.
pub(crate) struct Admin {
    name: Name,
    record: Option<(UserRecord, Revision)>,
}

impl Admin {
    /// Reads it.
    ///
    /// # Errors
    /// Those of the store; `Internal` for a record that cannot be read.
    pub(crate) async fn load(store: &dyn Store) -> Result<Self, Error> {
        let name: Name = ADMIN.parse()?;
        let record = match store.get(&keys::user(&name)).await? {
            Some(entry) => {
                let record = serde_json::from_slice(&entry.value).map_err(|cause| {
                    Error::internal(format!("the record of the user admin is damaged: {cause}"))
                })?;
                Some((record, entry.revision))
            }
            None => None,
        };
        Ok(Self { name, record })
    }

    /// Decides, from the password the directory's context holds and the one given in the environment.
    pub(crate) fn decide(&self, saved: Option<String>, given: Option<String>) -> Password {
        match (&self.record, given) {
            (Some(_), Some(given)) if saved.as_ref() == Some(&given) => Password::Kept(Some(given)),
            (_, Some(given)) => Password::Given(given),
            (Some(_), None) => Password::Kept(saved),
            // A start that was cut off after it had written the context, or the first one.
            (None, None) => Password::Made(saved.unwrap_or_else(generate)),
        }
    }

    /// Sees to it that the user may do everything: whoever starts a directory owns it, and is not locked out
    /// of it by what its permissions were made since. Gives the name of the permission that was missing. It
    /// comes before the user: a start that is cut off between the two makes the user the next time.
    ///
    /// # Errors
    /// Those of the store; `Internal` for a permission that cannot be read.
    pub(crate) async fn permit(&self, store: &dyn Store) -> Result<Option<Name>, Error> {
        let mut taken = false;
        for entry in store.list(keys::PERMISSIONS).await?.0 {
            let permission: Permission = serde_json::from_slice(&entry.value).map_err(|cause| {
                Error::internal(format!("{} in the store is damaged: {cause}", entry.key))
            })?;
            if permission.admin && permission.users.contains(&self.name) {
                return Ok(None);
            }
            taken |= permission.name == self.name;
        }
        // What somebody else has made of the usual one is theirs: it would give all of it to its users.
        let name = if taken { INSTEAD.parse()? } else { self.name.clone() };
        let permission = Permission {
            name: name.clone(),
            users: vec![self.name.clone()],
            publish: Vec::new(),
            consume: Vec::new(),
            invoke: Vec::new(),
            admin: true,
        };
        store.put(&keys::permission(&name), json(&permission)?, Expect::Any, None).await?;
        Ok(Some(name))
    }

    /// Whether the user is there already.
    pub(crate) fn exists(&self) -> bool {
        self.record.is_some()
    }

    /// Makes the password so in the store.
    ///
    /// # Errors
    /// Those of the store, and of hashing.
    pub(crate) async fn set(self, store: &dyn Store, password: &Password) -> Result<(), Error> {
        let (Password::Made(new) | Password::Given(new)) = password else { return Ok(()) };
        let (old, expect) = match self.record {
            Some((record, revision)) => (Some(record), Expect::At(revision)),
            None => (None, Expect::Absent),
        };
        let (secret, old_hash) =
            (SecretString::from(new.clone()), old.as_ref().and_then(|r| r.password.clone()));
        let hashed = tokio::task::spawn_blocking(move || {
            // The same one again is no change, even when the context was lost.
            let same = old_hash.is_some_and(|hash| matches(&secret, &hash));
            if same { Ok(None) } else { hash_password(&secret).map(Some) }
        })
        .await
        .map_err(|cause| Error::internal(format!("hashing the password failed: {cause}")))??;
        let Some(hash) = hashed else { return Ok(()) };
        let api_key = old.and_then(|record| record.api_key);
        let record = UserRecord { name: self.name.clone(), password: Some(hash), api_key };
        store.put(&keys::user(&self.name), json(&record)?, expect, None).await.map(drop)
    }
}

fn json(value: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|cause| Error::internal(format!("cannot write JSON: {cause}")))
}

/// A secret that nobody guesses.
pub(crate) fn generate() -> String {
    let mut random = rand::rng();
    (0..LENGTH).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(exists: bool) -> Admin {
        let name: Name = ADMIN.parse().unwrap();
        let record = UserRecord { name: name.clone(), password: None, api_key: None };
        Admin { name, record: exists.then_some((record, 7)) }
    }

    fn text(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    #[test]
    fn a_first_start_makes_a_password_and_a_later_one_keeps_it() {
        let Password::Made(made) = admin(false).decide(None, None) else { panic!("none was made") };
        assert_eq!(made.len(), LENGTH);
        assert_ne!(admin(false).decide(None, None), Password::Made(made.clone()), "two are never the same");
        assert_eq!(admin(true).decide(text(&made), None), Password::Kept(Some(made)));
        assert_eq!(admin(true).decide(None, None), Password::Kept(None));
    }

    #[test]
    fn a_start_that_was_cut_off_goes_on_with_the_password_it_had_written() {
        assert_eq!(admin(false).decide(text("written"), None), Password::Made("written".into()));
    }

    #[test]
    fn one_that_is_given_is_taken_and_the_same_one_again_changes_nothing() {
        assert_eq!(admin(false).decide(None, text("mine")), Password::Given("mine".into()));
        assert_eq!(admin(true).decide(text("old"), text("mine")), Password::Given("mine".into()));
        assert_eq!(admin(true).decide(text("mine"), text("mine")), Password::Kept(text("mine")));
    }
}
