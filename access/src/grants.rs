//! What a user may do.

use std::fmt;
use std::sync::Arc;

use crossdock_config::{Name, Permission};
use crossdock_topics::{Error, ErrorCode, Result, TopicName, TopicPattern};

use crate::covers;

/// Something that needs a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// To publish to a topic.
    Publish,
    /// To read a topic, or to consume from it through a subscription.
    Consume,
    /// To ask a service.
    Invoke,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish to",
            Self::Consume => "consume",
            Self::Invoke => "invoke",
        })
    }
}

/// What all permissions of one user add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    publish: Vec<TopicPattern>,
    consume: Vec<TopicPattern>,
    invoke: Vec<TopicPattern>,
    admin: bool,
}

impl Grants {
    /// Adds what a permission grants.
    pub fn add(&mut self, permission: &Permission) {
        self.publish.extend(permission.publish.iter().cloned());
        self.consume.extend(permission.consume.iter().cloned());
        self.invoke.extend(permission.invoke.iter().cloned());
        self.admin |= permission.admin;
    }

    /// Whether the action is granted for a name.
    #[must_use]
    pub fn allow_name(&self, action: Action, name: &str) -> bool {
        self.admin || self.patterns(action).iter().any(|grant| grant.matches(name))
    }

    /// Whether the action is granted for every name that a pattern stands for, by one permission's pattern.
    #[must_use]
    pub fn allow_pattern(&self, action: Action, pattern: &TopicPattern) -> bool {
        self.admin || self.patterns(action).iter().any(|grant| covers(grant, pattern))
    }

    fn patterns(&self, action: Action) -> &[TopicPattern] {
        match action {
            Action::Publish => &self.publish,
            Action::Consume => &self.consume,
            Action::Invoke => &self.invoke,
        }
    }
}

/// Someone who has proven who they are, with what they may do as of then. Cheap to clone. Those who hold on to
/// one (a stream) prove themselves again from time to time.
#[derive(Clone, Debug)]
pub struct Principal {
    user: Name,
    grants: Arc<Grants>,
}

impl Principal {
    /// A user with these grants.
    #[must_use]
    pub fn new(user: Name, grants: Arc<Grants>) -> Self {
        Self { user, grants }
    }

    /// Who it is.
    #[must_use]
    pub fn user(&self) -> &Name {
        &self.user
    }

    /// Whether this user may do something with a topic or a service, or with all that a pattern stands for.
    /// Nobody publishes to the system's own topics.
    ///
    /// # Errors
    /// `PermissionDenied` naming user, action and name; `InvalidArgument` for what is neither a name nor a
    /// pattern.
    pub fn check(&self, action: Action, name_or_pattern: &str) -> Result<()> {
        let pattern: TopicPattern = name_or_pattern.parse()?;
        let literal = pattern.literal();
        if action == Action::Publish && literal.as_ref().is_some_and(TopicName::is_system) {
            return Err(Error::new(
                ErrorCode::PermissionDenied,
                format!(
                    "nobody can publish to {name_or_pattern}: topics that begin with '_' are the system's own"
                ),
            )
            .hint("publish to a topic of another name"));
        }
        let allowed = match &literal {
            Some(name) => self.grants.allow_name(action, name.as_str()),
            None => self.grants.allow_pattern(action, &pattern),
        };
        if allowed {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::PermissionDenied,
            format!("user {} may not {action} {name_or_pattern}", self.user),
        )
        .hint("ask an administrator for a permission that covers it"))
    }

    /// Whether this user may administer the cluster.
    ///
    /// # Errors
    /// `PermissionDenied` naming the user.
    pub fn check_admin(&self) -> Result<()> {
        if self.grants.admin {
            return Ok(());
        }
        Err(Error::new(ErrorCode::PermissionDenied, format!("user {} is not an administrator", self.user))
            .hint("ask an administrator for a permission with admin: true"))
    }
}
