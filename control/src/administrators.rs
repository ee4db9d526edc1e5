//! Who can administer the cluster. There is always somebody: nobody else could let them in again.

use std::collections::BTreeSet;

use crossdock_config::{Document, Name, State};
use crossdock_topics::{Error, ErrorCode, Result};

/// Refuses a document after which nobody could administer the cluster.
///
/// # Errors
/// `Conflict`.
pub(crate) fn after_applying(state: &State, document: &Document) -> Result<()> {
    let mut after =
        State { users: state.users.clone(), permissions: state.permissions.clone(), ..State::default() };
    let mut able = able(&after);
    let given = document.users.iter().filter(|user| user.password.is_some() || user.api_key.is_some());
    able.extend(given.map(|user| user.name.clone()));
    for permission in &document.permissions {
        after.permissions.insert(permission.name.clone(), permission.clone());
    }
    remains(&after, &able)
}

/// Refuses that a user is removed who is the last one to administer the cluster.
///
/// # Errors
/// `Conflict`.
pub(crate) fn without_user(mut state: State, name: &Name) -> Result<()> {
    state.users.remove(name);
    remains(&state, &able(&state))
}

/// Refuses that a permission is removed which is the last one to let somebody administer the cluster.
///
/// # Errors
/// `Conflict`.
pub(crate) fn without_permission(mut state: State, name: &Name) -> Result<()> {
    state.permissions.remove(name);
    remains(&state, &able(&state))
}

/// Those who can log in.
fn able(state: &State) -> BTreeSet<Name> {
    let users = state.users.values().filter(|user| user.password.is_some() || user.api_key.is_some());
    users.map(|user| user.name.clone()).collect()
}

fn remains(state: &State, able: &BTreeSet<Name>) -> Result<()> {
    let admin = state.permissions.values().filter(|permission| permission.admin);
    if admin.flat_map(|permission| &permission.users).any(|user| able.contains(user)) {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::Conflict,
        "after this nobody who can log in would be an administrator; nothing was done",
    )
    .hint("keep a permission with `admin: true` for a user that has a password or an API key"))
}
