//! What one client may do.

use std::collections::{HashMap, HashSet};

use crossdock_access::{Access, Action, Credentials, Principal};
use crossdock_topics::{
    Batch, Broker, Error, Result, ServiceName, Subscription, SubscriptionName, TopicName,
};
use parking_lot::Mutex;

/// How many names are remembered as allowed.
const REMEMBERED: usize = 10_000;

/// What a client may do, as of when it last proved who it is. What was allowed once is remembered for as long.
pub(super) struct Gate {
    /// Nothing where everybody may do everything.
    proof: Option<(Access, Credentials, Principal)>,
    publish: Mutex<HashMap<String, TopicName>>,
    consume: Mutex<HashSet<SubscriptionName>>,
}

impl Gate {
    /// For a client that proves who it is.
    ///
    /// # Errors
    /// Those of [`Access::authenticate`].
    pub(super) async fn open(access: Access, credentials: Credentials) -> Result<Self> {
        let principal = access.authenticate(&credentials).await?;
        Ok(Self::with(Some((access, credentials, principal))))
    }

    /// For any client, where nothing needs to be proven.
    pub(super) fn wide_open() -> Self {
        Self::with(None)
    }

    fn with(proof: Option<(Access, Credentials, Principal)>) -> Self {
        Self { proof, publish: Mutex::default(), consume: Mutex::default() }
    }

    /// The gate as it is now, after the proof was made again; nothing where nothing needs to be proven.
    pub(super) async fn renewed(&self) -> Option<Result<Self>> {
        let (access, credentials, _) = self.proof.as_ref()?;
        Some(Self::open(access.clone(), credentials.clone()).await)
    }

    fn check(&self, action: Action, name: &str) -> Result<()> {
        self.proof.as_ref().map_or(Ok(()), |(.., principal)| principal.check(action, name))
    }

    /// May manage anything.
    pub(super) fn admin(&self) -> Result<()> {
        self.proof.as_ref().map_or(Ok(()), |(.., principal)| principal.check_admin())
    }

    /// May publish to a topic. To the system's own only those may who may do everything.
    pub(super) fn publish(&self, topic: &str) -> Result<TopicName> {
        if let Some(topic) = self.publish.lock().get(topic) {
            return Ok(topic.clone());
        }
        let name: TopicName = topic.parse()?;
        if name.is_system() {
            self.admin()?
        } else {
            self.check(Action::Publish, topic)?
        }
        let mut known = self.publish.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(topic.to_owned(), name.clone());
        Ok(name)
    }

    /// May publish these messages: whoever answers them does so with its own permissions, so nobody has it write where
    /// they may not themselves.
    pub(super) fn batch(&self, batch: &Batch) -> Result<()> {
        if self.proof.is_none() || !batch.has_reply_to() {
            return Ok(());
        }
        for topic in batch.records().filter_map(|record| record.reply_to()) {
            let topic = std::str::from_utf8(topic).map_err(|_| Error::invalid("a reply-to is not UTF-8"))?;
            self.publish(topic).map_err(|error| Error {
                message: format!("a message names {topic} for its reply: {}", error.message).into(),
                ..error
            })?;
        }
        Ok(())
    }

    /// May read a topic.
    pub(super) fn read(&self, topic: &TopicName) -> Result<()> {
        self.check(Action::Consume, topic.as_str())
    }

    /// May know of a topic: whoever may read it or publish to it.
    pub(super) fn know(&self, topic: &TopicName) -> Result<()> {
        self.read(topic).or_else(|error| self.check(Action::Publish, topic.as_str()).map_err(|_| error))
    }

    /// May consume through a subscription: whoever may read all its topics.
    pub(super) async fn consume(&self, broker: &dyn Broker, name: &str) -> Result<SubscriptionName> {
        let name: SubscriptionName = name.parse()?;
        if self.proof.is_some() && !self.consume.lock().contains(&name) {
            self.see(&broker.subscription(&name).await?.subscription)?;
            let mut known = self.consume.lock();
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(name.clone());
        }
        Ok(name)
    }

    /// May know of a subscription: whoever may read all its topics.
    pub(super) fn see(&self, subscription: &Subscription) -> Result<()> {
        subscription.topics.iter().try_for_each(|topic| self.check(Action::Consume, topic.as_str()))
    }

    /// May ask a service. The system's own answer only to those who may do everything.
    pub(super) fn invoke(&self, service: &ServiceName) -> Result<()> {
        if service.as_str().starts_with('_') {
            self.admin()
        } else {
            self.check(Action::Invoke, service.as_str())
        }
    }
}
