//! How messages travel: straight to the broker where the context names its wire, over the Admin API otherwise.

use std::path::Path;
use std::time::Duration;

use crossdock_broker::{Remote, RemoteOptions};
use crossdock_control::api::{Message, MessagePage, PublishReceipt, PublishRequest, Published};
use crossdock_topics::{
    Backoff, Batch, Clock, Error, ErrorCode, PublishOptions, Receipts, SharedBroker, StartAt, SystemClock,
    TopicInfo, TopicName,
};
use reqwest::Method;
use tokio::time::{Instant, timeout_at};

use crate::client::Client;
use crate::follow;

/// How long the broker may take to make something durable.
const PATIENCE: Duration = Duration::from_secs(30);

/// A way to the messages of a platform.
pub(crate) enum Way {
    /// Over the Admin API.
    Http(Box<Client>),
    /// Straight to the broker.
    Wire(SharedBroker),
}

impl Way {
    /// The way that a client's context leads to.
    ///
    /// # Errors
    /// When the broker cannot be reached, or refuses whoever asks.
    pub(crate) async fn of(client: Client) -> Result<Self, Error> {
        match wire(&client).await? {
            Some(broker) => Ok(Self::Wire(broker)),
            None => Ok(Self::Http(Box::new(client))),
        }
    }

    /// What is known of a topic.
    ///
    /// # Errors
    /// `NotFound`, and those of the way.
    pub(crate) async fn topic(&self, name: &TopicName) -> Result<TopicInfo, Error> {
        match self {
            Self::Http(client) => client.get(&["topics", name.as_str()]).await,
            Self::Wire(broker) => broker.topic(name).await,
        }
    }

    /// Publishes, and again for a while when the broker is full: nothing was stored then.
    ///
    /// # Errors
    /// Those of the broker, and of the way.
    pub(crate) async fn publish(
        &self,
        topic: &TopicName,
        request: PublishRequest,
    ) -> Result<Published, Error> {
        match self {
            Self::Http(client) => publish(client, topic, &request).await,
            Self::Wire(broker) => {
                let options = PublishOptions {
                    durability: request.durability,
                    expected: request.expected.map(Into::into),
                    source: None,
                };
                let now = SystemClock.now();
                let mut batch = Batch::default();
                for message in request.messages {
                    batch.push(&message.into_message(now)?)?;
                }
                let receipts = stored(broker, topic, &batch, &options).await?;
                let receipt = |receipt: crossdock_topics::Receipt| PublishReceipt {
                    offset: receipt.offset,
                    duplicate: receipt.duplicate,
                };
                Ok(Published {
                    topic: topic.clone(),
                    durability: receipts.durability,
                    receipts: receipts.iter().map(receipt).collect(),
                })
            }
        }
    }

    /// Messages of a topic from a place on, waiting for the first one for up to `wait`.
    ///
    /// # Errors
    /// `NotFound`, and those of the way.
    pub(crate) async fn read(
        &self,
        topic: &TopicName,
        from: StartAt,
        max: usize,
        wait: Duration,
    ) -> Result<MessagePage, Error> {
        match self {
            Self::Http(client) => {
                let request = client.api(Method::GET, &["topics", topic.as_str(), "messages"]).query(&[
                    ("from", follow::place(from)),
                    ("max", max.to_string()),
                    ("wait", humantime::format_duration(wait).to_string()),
                ]);
                client.json(Client::patient(request, wait)).await
            }
            Self::Wire(broker) => {
                let page = broker.read(topic, from, max, wait).await?;
                let shown = page.messages.iter();
                let shown = shown.map(|m| Message::new(topic.clone(), m.offset, m.time, &m.record));
                Ok(MessagePage { messages: shown.collect(), next: page.next })
            }
        }
    }

    /// Ends it well.
    pub(crate) async fn close(self) {
        if let Self::Wire(broker) = self {
            broker.close().await;
        }
    }
}

/// A connection to the broker's wire, where the context names it.
///
/// # Errors
/// When the broker cannot be reached, or refuses whoever asks.
pub(crate) async fn wire(client: &Client) -> Result<Option<SharedBroker>, Error> {
    let context = client.context();
    let Some(url) = &context.broker_url else { return Ok(None) };
    let mut options = RemoteOptions::new(url)?;
    options.credentials = context.credentials();
    options.ca = client.ca().map(Path::to_owned);
    let broker: SharedBroker = Remote::connect(options).await?;
    Ok(Some(broker))
}

/// Publishes a batch over the wire; when the broker is full, once there is room.
async fn stored(
    broker: &SharedBroker,
    topic: &TopicName,
    batch: &Batch,
    options: &PublishOptions,
) -> Result<Receipts, Error> {
    if topic.is_system() {
        return Err(Error::new(
            ErrorCode::PermissionDenied,
            format!("{topic} is one of the system's own topics"),
        )
        .hint("publish to a topic that does not begin with '_'"));
    }
    let late = || {
        Error::new(ErrorCode::Timeout, format!("the broker did not answer in {PATIENCE:?}"))
            .hint("the messages may be stored or not; publish them again, with ids they are stored once")
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let publishing = broker.publish(topic, batch.clone(), options.clone());
        match timeout_at(deadline, publishing).await.map_err(|_| late())? {
            Err(error) if error.code == ErrorCode::Overloaded => {
                timeout_at(deadline, broker.room()).await.map_err(|_| error)?;
            }
            other => return other,
        }
    }
}

/// Publishes over the Admin API, and again for a while when the broker is full: nothing was stored then.
///
/// # Errors
/// The server's.
pub(crate) async fn publish(
    client: &Client,
    topic: &TopicName,
    request: &PublishRequest,
) -> Result<Published, Error> {
    let backoff = Backoff { first: Duration::from_millis(50), factor: 2.0, max: Duration::from_secs(5) };
    let mut refused = 0;
    loop {
        match client.post(&["topics", topic.as_str(), "messages"], request).await {
            Err(error) if error.code == ErrorCode::Overloaded && refused < 12 => {
                refused += 1;
                let wait = backoff.wait(refused, rand::random());
                tokio::time::sleep(error.retry_after.unwrap_or(wait).max(wait)).await;
            }
            other => return other,
        }
    }
}
