//! What it takes to make a cluster what a document says.

use std::collections::BTreeMap;
use std::fmt;

use crossdock_topics::{Error, Subscription};
use serde::{Deserialize, Serialize};

use crate::diff::changes;
use crate::service::version;
use crate::{Document, SecretRef, ServiceRecord, ServiceSpec, State, UserRecord, UserSpec};

/// One step, of one thing that the document names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What is to be done.
    pub action: Action,
    /// To what kind of thing.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Which fields change, and how where that is no secret: `retention.max_age: 7d -> 1d, durability: fsync -> os`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is not there.
    Create,
    /// It is there and differs.
    Update,
    /// It is there as the document says.
    Unchanged,
}

/// The kinds of things that a document names, in the order in which they are applied: what others refer to
/// comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A topic.
    Topic,
    /// A subscription.
    Subscription,
    /// A service.
    Service,
    /// A user.
    User,
    /// A permission.
    Permission,
    /// A REST channel.
    RestChannel,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Topic => "topic",
            Self::Subscription => "subscription",
            Self::Service => "service",
            Self::User => "user",
            Self::Permission => "permission",
            Self::RestChannel => "rest_channel",
        })
    }
}

/// The steps from what a cluster is to what a document says: one for each thing that it names, also those that
/// stay as they are, in the order to take them in. Nothing is ever deleted.
///
/// Pure, but for `matches`: whether the secret that a reference leads to is the one behind a hash. It is asked
/// for each user's secret that is referred to and has a hash, and takes the time of an argon2 check.
///
/// # Errors
/// Those of `matches`.
pub fn plan(
    current: &State,
    desired: &Document,
    matches: &mut dyn FnMut(&SecretRef, &str) -> Result<bool, Error>,
) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    for topic in &desired.topics {
        let changes = current.topics.get(&topic.name).map(|now| changes(now, topic));
        steps.push(step(Kind::Topic, &topic.name, changes));
    }
    for subscription in &desired.subscriptions {
        let changes = current.subscriptions.get(&subscription.name).map(|now| {
            // Where it starts counts when it is made, and never again.
            changes(now, &Subscription { start: now.start, ..subscription.clone() })
        });
        steps.push(step(Kind::Subscription, &subscription.name, changes));
    }
    for service in &desired.services {
        let changes = current.services.get(&service.name).map(|now| service_changes(now, service));
        steps.push(step(Kind::Service, &service.name, changes));
    }
    for user in &desired.users {
        let changes = match current.users.get(&user.name) {
            Some(now) => Some(user_changes(now, user, matches)?),
            None => None,
        };
        steps.push(step(Kind::User, &user.name, changes));
    }
    for permission in &desired.permissions {
        let changes = current.permissions.get(&permission.name).map(|now| changes(now, permission));
        steps.push(step(Kind::Permission, &permission.name, changes));
    }
    for channel in &desired.rest_channels {
        let changes = current.rest_channels.get(&channel.name).map(|now| changes(now, channel));
        steps.push(step(Kind::RestChannel, &channel.name, changes));
    }
    Ok(steps)
}

/// The step for a thing that is not there, or is with these changes to make.
fn step(kind: Kind, name: &dyn fmt::Display, changes: Option<Vec<String>>) -> Step {
    let (action, detail) = match changes {
        None => (Action::Create, None),
        Some(changes) if changes.is_empty() => (Action::Unchanged, None),
        Some(changes) => (Action::Update, Some(changes.join(", "))),
    };
    Step { action, kind, name: name.to_string(), detail }
}

fn service_changes(now: &ServiceRecord, service: &ServiceSpec) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(code) = &service.code {
        let wanted = version(code);
        if wanted != now.current {
            all.push(format!("code: {} -> {wanted}", now.current));
        }
    }
    let (mut before, mut after) = (now.settings.clone(), service.settings());
    let (env_before, env_after) = (std::mem::take(&mut before.env), std::mem::take(&mut after.env));
    all.extend(changes(&before, &after));
    // People write secrets into the environment in spite of all, so its values are not shown.
    let names: BTreeMap<_, _> = env_before.iter().chain(&env_after).collect();
    for name in names.into_keys().filter(|name| env_before.get(*name) != env_after.get(*name)) {
        all.push(format!("env.{name}"));
    }
    all
}

fn user_changes(
    now: &UserRecord,
    user: &UserSpec,
    matches: &mut dyn FnMut(&SecretRef, &str) -> Result<bool, Error>,
) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    let secrets = [("password", &user.password, &now.password), ("api_key", &user.api_key, &now.api_key)];
    for (field, wanted, hash) in secrets {
        let Some(wanted) = wanted else { continue };
        let same = match hash {
            Some(hash) => matches(wanted, hash)?,
            None => false,
        };
        if !same {
            all.push(field.to_owned());
        }
    }
    Ok(all)
}
