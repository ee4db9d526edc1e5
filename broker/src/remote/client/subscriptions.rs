//! Subscriptions, as [`Subscriptions`] has them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use crossdock_topics::{
    Backoff, ConsumerId, DeadLetter, Delivery, DeliveryId, Error, ErrorCode, Expect, Explanation, Fetch,
    Message, Outcome, ParkedKey, Record, Redrive, Result, Revision, Selection, Settled, Settlement, StartAt,
    Subscription, SubscriptionInfo, SubscriptionName, Subscriptions, Timestamp, TopicName,
};
use crossdock_wire::session::{Call, Letter, OutcomeRange, ToClient, ToServer};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Remote;
use super::link::{Answer, Link, Trouble, Waiting, strange};
use super::log::{LONGEST_WAIT, millis, records};
use super::store::{Repeat, call, call_with};

/// How long to wait before joining again, when an exclusive place is still taken by the lost connection.
const REJOIN: Backoff =
    Backoff { first: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(2) };

/// Those who have joined. Their names here outlive the connection; the server gives each a new one for each.
pub(super) struct Consumers {
    joined: Mutex<HashMap<ConsumerId, Consumer>>,
    changed: watch::Sender<()>,
}

#[derive(Clone)]
struct Consumer {
    subscription: SubscriptionName,
    /// What the server calls it; nothing until it has joined again.
    current: Option<u64>,
}

impl Default for Consumers {
    fn default() -> Self {
        Self { joined: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Consumers {
    pub(super) fn is_empty(&self) -> bool {
        self.joined.lock().is_empty()
    }

    /// The connection is gone, and with it what the server called them.
    pub(super) fn lose(&self) {
        self.joined.lock().values_mut().for_each(|consumer| consumer.current = None);
    }

    /// After a new connection: all join again.
    pub(super) fn join_again(&self, link: &Arc<Link>, connection: u64) {
        for (consumer, known) in self.joined.lock().iter().filter(|(_, known)| known.current.is_none()) {
            link.tasks.spawn(join_again(link.clone(), connection, *consumer, known.subscription.clone()));
        }
    }

    /// What the server calls a consumer now; waits while it joins again. `None` for one that has left, or has never
    /// joined here.
    async fn current(&self, consumer: ConsumerId) -> Option<u64> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            match self.joined.lock().get(&consumer) {
                None => return None,
                Some(Consumer { current: Some(current), .. }) => return Some(*current),
                Some(_) => {}
            }
            changed.changed().await.ok()?;
        }
    }

    /// What this side calls a consumer of the server's.
    fn known(&self, current: ConsumerId) -> ConsumerId {
        let joined = self.joined.lock();
        let mine = joined.iter().find(|(_, consumer)| consumer.current == Some(current.0));
        mine.map_or(current, |(known, _)| *known)
    }
}

async fn join(link: &Link, connection: u64, name: &SubscriptionName) -> Result<u64, Trouble> {
    let request = |id| ToServer::Join { id, subscription: name.as_str().to_owned() };
    let answer = link.ask_over(Some(connection), request, Bytes::new()).await?;
    match answer.header {
        ToClient::Joined { consumer, .. } => Ok(consumer),
        other => Err(Trouble::Failed(strange(&other))),
    }
}

/// Joins again over a new connection, for as long as it lasts.
async fn join_again(link: Arc<Link>, connection: u64, consumer: ConsumerId, subscription: SubscriptionName) {
    let mut failures = 0;
    loop {
        match join(&link, connection, &subscription).await {
            Ok(current) => {
                let mut joined = link.consumers.joined.lock();
                match joined.get_mut(&consumer) {
                    // It has left with its connection; whoever has the next one joins again.
                    Some(_) if !link.is_still(connection) => return,
                    Some(known) => known.current = Some(current),
                    // It has left meanwhile.
                    None => link.tell(&leaving(&subscription, current), Bytes::new()),
                }
                break;
            }
            // Another connection, another attempt.
            Err(Trouble::Lost) => return,
            Err(Trouble::Failed(error)) if error.code == ErrorCode::Conflict && failures < 20 => {
                failures += 1;
                tokio::time::sleep(REJOIN.wait(failures, consumer.0)).await;
            }
            Err(Trouble::Failed(error)) => {
                tracing::warn!(%subscription, %error, "a consumer could not join again");
                link.consumers.joined.lock().remove(&consumer);
                break;
            }
        }
    }
    link.consumers.changed.send_replace(());
}

fn leaving(subscription: &SubscriptionName, consumer: u64) -> ToServer {
    ToServer::Leave { id: 0, subscription: subscription.as_str().to_owned(), consumer }
}

/// Gives back what nobody waits for any more: deliveries, or the place of a consumer.
pub(super) fn give_back(link: &Link, subscription: &str, answer: &Answer) {
    let topics = match &answer.header {
        ToClient::Deliveries { topics, .. } => topics,
        ToClient::Joined { consumer, .. } => {
            let leave = ToServer::Leave { id: 0, subscription: subscription.to_owned(), consumer: *consumer };
            return link.tell(&leave, Bytes::new());
        }
        _ => return,
    };
    let outcomes: Vec<_> = topics
        .iter()
        .flat_map(|topic| topic.deliveries().map(|delivery| (delivery.id, Outcome::Release)))
        .collect();
    if outcomes.is_empty() {
        return;
    }
    let id = {
        let mut state = link.state.lock();
        state.ids += 1;
        let id = state.ids;
        state.waiting.insert(id, Waiting::Nobody(None));
        id
    };
    let settle = ToServer::Settle {
        id,
        subscription: subscription.to_owned(),
        outcomes: OutcomeRange::all(&outcomes),
        outputs: Vec::new(),
        by: None,
    };
    link.tell(&settle, Bytes::new());
}

fn deliveries(answer: &Answer) -> Result<Vec<Delivery>> {
    let ToClient::Deliveries { topics, .. } = &answer.header else { return Err(strange(&answer.header)) };
    let mut records = records(&answer.payload);
    let mut deliveries = Vec::new();
    for topic in topics {
        let name: TopicName = topic.0.parse()?;
        for one in topic.deliveries() {
            let record = records.next().ok_or_else(|| strange(&answer.header))??;
            deliveries.push(Delivery {
                id: one.id,
                topic: name.clone(),
                offset: one.id.offset,
                time: Timestamp(one.time),
                attempt: one.attempt,
                deliveries: one.deliveries,
                record,
            });
        }
    }
    Ok(deliveries)
}

fn settled(answer: &Answer) -> Result<Settled> {
    let ToClient::Settled { settled, stale, .. } = &answer.header else {
        return Err(strange(&answer.header));
    };
    Ok(Settled { settled: usize::try_from(*settled).unwrap_or(usize::MAX), stale: stale.ids().collect() })
}

#[async_trait]
impl Subscriptions for Remote {
    async fn put_subscription(&self, subscription: Subscription, expect: Expect) -> Result<Revision> {
        let repeat = if expect == Expect::Any { Repeat::Harmless } else { Repeat::Never };
        call(&self.link, repeat, Call::PutSubscription { subscription, expect }).await
    }

    async fn delete_subscription(&self, name: &SubscriptionName) -> Result<()> {
        call(&self.link, Repeat::Never, Call::DeleteSubscription { name: name.clone() }).await
    }

    async fn subscription(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        call(&self.link, Repeat::Harmless, Call::Subscription { name: name.clone() }).await
    }

    async fn subscriptions(&self) -> Result<Vec<SubscriptionInfo>> {
        call(&self.link, Repeat::Harmless, Call::Subscriptions).await
    }

    async fn join(&self, name: &SubscriptionName) -> Result<ConsumerId> {
        loop {
            self.link.connected().await?;
            let connection = self.link.connection();
            match join(&self.link, connection, name).await {
                Ok(current) => {
                    let consumer = ConsumerId(current);
                    let known = Consumer { subscription: name.clone(), current: Some(current) };
                    let mut joined = self.link.consumers.joined.lock();
                    // Otherwise it has left with its connection already.
                    if self.link.is_still(connection) {
                        joined.insert(consumer, known);
                        return Ok(consumer);
                    }
                }
                // One that nobody knows of has left with its connection.
                Err(Trouble::Lost) => {}
                Err(Trouble::Failed(error)) => return Err(error),
            }
        }
    }

    fn leave(&self, name: &SubscriptionName, consumer: ConsumerId) {
        let left = self.link.consumers.joined.lock().remove(&consumer);
        if let Some(current) = left.and_then(|consumer| consumer.current) {
            self.link.tell(&leaving(name, current), Bytes::new());
        }
        self.link.consumers.changed.send_replace(());
    }

    async fn fetch(&self, name: &SubscriptionName, fetch: Fetch) -> Result<Vec<Delivery>> {
        let deadline = Instant::now() + fetch.wait.min(LONGEST_WAIT);
        loop {
            self.link.connected().await?;
            let connection = self.link.connection();
            let consumer = match fetch.consumer {
                None => None,
                Some(consumer) => {
                    let patience = self.link.patience;
                    let current = tokio::time::timeout(patience, self.link.consumers.current(consumer)).await;
                    let current = current.map_err(|_| {
                        Error::new(
                            ErrorCode::Unavailable,
                            format!("the consumer could not join {name} again"),
                        )
                    })?;
                    // The server knows best what to say of one that has left.
                    Some(current.unwrap_or(consumer.0))
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let request = |id| ToServer::Fetch {
                id,
                subscription: name.as_str().to_owned(),
                consumer,
                max: u32::try_from(fetch.max).unwrap_or(u32::MAX),
                max_bytes: fetch.max_bytes as u64,
                wait_ms: millis(left),
                lease_ms: fetch.lease.map(millis),
            };
            // What the consumer is called counts over this connection only.
            let connection_of_it = fetch.consumer.map(|_| connection);
            match self.link.ask_over(connection_of_it, request, Bytes::new()).await {
                Ok(answer) => {
                    let fetched = deliveries(&answer)?;
                    // A server that goes away ends its fetches early.
                    if !fetched.is_empty() || Instant::now() + Duration::from_millis(1) >= deadline {
                        return Ok(fetched);
                    }
                }
                // What the lost connection may have brought is given back by the server.
                Err(Trouble::Lost) => {}
                // It had another name over the connection before.
                Err(Trouble::Failed(error))
                    if error.code == ErrorCode::NotFound && connection != self.link.connection() => {}
                Err(Trouble::Failed(error)) => return Err(error),
            }
        }
    }

    async fn settle(&self, name: &SubscriptionName, settlement: Settlement) -> Result<Settled> {
        let Settlement { outcomes, outputs, by } = settlement;
        let mut sizes = Vec::with_capacity(outputs.len());
        let mut payload = BytesMut::new();
        let single = outputs.len() == 1;
        let mut shared = Bytes::new();
        for (topic, batch) in outputs {
            let bytes = batch.into_bytes();
            sizes.push((topic.as_str().to_owned(), u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
            if single { shared = bytes } else { payload.put_slice(&bytes) }
        }
        let payload = if single { shared } else { payload.freeze() };
        let outcomes = OutcomeRange::all(&outcomes);
        let subscription = name.as_str().to_owned();
        let request = |id| ToServer::Settle { id, subscription, outcomes, outputs: sizes, by };
        settled(&self.link.ask_settling(request, payload).await?)
    }

    async fn extend(
        &self,
        name: &SubscriptionName,
        deliveries: &[DeliveryId],
        lease: Duration,
    ) -> Result<Settled> {
        let request = |id| ToServer::Extend {
            id,
            subscription: name.as_str().to_owned(),
            lease_ms: millis(lease),
            deliveries: deliveries.iter().copied().collect(),
        };
        settled(&self.link.ask_settling(request, Bytes::new()).await?)
    }

    async fn dead_letters(
        &self,
        name: &SubscriptionName,
        after: Option<(TopicName, u64)>,
        max: usize,
    ) -> Result<Vec<DeadLetter>> {
        let (mut letters, mut after) = (Vec::new(), after);
        while letters.len() < max {
            let max = u32::try_from(max - letters.len()).unwrap_or(u32::MAX);
            let list = Call::DeadLetters { name: name.clone(), after: after.take(), max };
            let (listed, mut rest): (Vec<Letter>, Bytes) =
                call_with(&self.link, Repeat::Harmless, &list, &Bytes::new()).await?;
            let Some(last) = listed.last() else { break };
            // One answer holds only so many.
            after = Some((last.topic.clone(), last.offset));
            for letter in listed {
                letters.push(read_letter(letter, &mut rest)?);
            }
        }
        Ok(letters)
    }

    async fn redrive(&self, name: &SubscriptionName, redrive: Redrive) -> Result<usize> {
        // What is no number cannot be sent as one.
        redrive.check()?;
        let repeat = if redrive.dry_run { Repeat::Harmless } else { Repeat::Never };
        call(&self.link, repeat, Call::Redrive { name: name.clone(), redrive }).await
    }

    async fn discard(&self, name: &SubscriptionName, selection: Selection, dry_run: bool) -> Result<usize> {
        let repeat = if dry_run { Repeat::Harmless } else { Repeat::Never };
        call(&self.link, repeat, Call::Discard { name: name.clone(), selection, dry_run }).await
    }

    async fn edit_dead_letter(
        &self,
        name: &SubscriptionName,
        topic: &TopicName,
        offset: u64,
        message: Message,
    ) -> Result<()> {
        let edit = Call::EditDeadLetter { name: name.clone(), topic: topic.clone(), offset };
        let record = Record::of(&message)?;
        let ((), _) = call_with(&self.link, Repeat::Harmless, &edit, record.as_bytes()).await?;
        Ok(())
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        call(&self.link, Repeat::Harmless, Call::SetPaused { name: name.clone(), paused }).await
    }

    async fn seek(&self, name: &SubscriptionName, topic: Option<&TopicName>, to: StartAt) -> Result<()> {
        call(&self.link, Repeat::Never, Call::Seek { name: name.clone(), topic: topic.cloned(), to }).await
    }

    async fn parked_keys(&self, name: &SubscriptionName, max: usize) -> Result<Vec<ParkedKey>> {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        call(&self.link, Repeat::Harmless, Call::ParkedKeys { name: name.clone(), max }).await
    }

    async fn release_key(&self, name: &SubscriptionName, key: &str, give_up: bool) -> Result<usize> {
        let release = Call::ReleaseKey { name: name.clone(), key: key.to_owned(), give_up };
        call(&self.link, Repeat::Never, release).await
    }

    async fn explain(&self, topic: &TopicName, offset: u64) -> Result<Explanation> {
        let explain = Call::Explain { topic: topic.clone(), offset };
        let mut explanation: Explanation = call(&self.link, Repeat::Harmless, explain).await?;
        for situation in &mut explanation.subscriptions {
            situation.consumer = situation.consumer.map(|consumer| self.link.consumers.known(consumer));
        }
        Ok(explanation)
    }
}

fn read_letter(letter: Letter, rest: &mut Bytes) -> Result<DeadLetter> {
    let message = match letter.time {
        Some(time) if letter.bytes as usize <= rest.len() => {
            Some((time, Record::from_packed(rest.split_to(letter.bytes as usize))?))
        }
        Some(_) => return Err(Error::internal("the server announced more than it sent")),
        None => None,
    };
    Ok(DeadLetter {
        topic: letter.topic,
        offset: letter.offset,
        reason: letter.reason,
        failures: letter.failures,
        deliveries: letter.deliveries,
        by: letter.by,
        at: letter.at,
        message,
    })
}

#[cfg(test)]
mod tests;
