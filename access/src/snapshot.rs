//! Users and what they may do, as of some moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crossdock_config::{Name, Permission, UserRecord, keys};
use crossdock_topics::{Change, Entry, Revision};

use crate::Grants;

/// A user's record, when it was last written, and what the user may do.
pub(crate) struct User {
    pub(crate) record: UserRecord,
    pub(crate) revision: Revision,
    pub(crate) grants: Arc<Grants>,
}

/// All users, ready to be asked.
#[derive(Default)]
pub(crate) struct Snapshot {
    pub(crate) users: HashMap<Name, User>,
}

/// What lies in the store below `users/` and `permissions/`, kept up to date change by change.
#[derive(Default)]
pub(crate) struct Records {
    users: BTreeMap<String, (UserRecord, Revision)>,
    permissions: BTreeMap<String, Permission>,
}

impl Records {
    /// Takes a change in. What cannot be read is left out and logged: its users have no access rather than
    /// too much.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Put(entry) => self.put(&entry),
            Change::Deleted { key, .. } => {
                self.users.remove(&key);
                self.permissions.remove(&key);
            }
        }
    }

    /// Takes an entry in.
    pub(crate) fn put(&mut self, entry: &Entry) {
        let read = if entry.key.starts_with(keys::USERS) {
            self.users.remove(&entry.key);
            serde_json::from_slice(&entry.value)
                .map(|user| drop(self.users.insert(entry.key.clone(), (user, entry.revision))))
        } else if entry.key.starts_with(keys::PERMISSIONS) {
            self.permissions.remove(&entry.key);
            serde_json::from_slice(&entry.value)
                .map(|permission| drop(self.permissions.insert(entry.key.clone(), permission)))
        } else {
            Ok(())
        };
        if let Err(cause) = read {
            // The cause could quote a hash; its place says enough.
            tracing::error!(
                key = entry.key,
                line = cause.line(),
                column = cause.column(),
                "a record of the store cannot be read and is left out; apply it again"
            );
        }
    }

    /// The users with what their permissions add up to.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut grants: HashMap<&Name, Grants> = HashMap::new();
        for permission in self.permissions.values() {
            for user in &permission.users {
                grants.entry(user).or_default().add(permission);
            }
        }
        let users = self
            .users
            .values()
            .map(|(record, revision)| {
                let grants = Arc::new(grants.remove(&record.name).unwrap_or_default());
                (record.name.clone(), User { record: record.clone(), revision: *revision, grants })
            })
            .collect();
        Snapshot { users }
    }
}
