//! What is asked rarely.

use std::time::Duration;

use bytes::Bytes;
use crossdock_topics::{Error, LeaseId, Record, Result};
use crossdock_wire::session::{Call, Letter, ToServer, Written};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::consume::Desk;
use super::frames;
use super::session::{Answered, Flowing, Session};
use crate::remote::pieces::Pieces;

/// The most dead letters and parked keys in one answer, so that it fits a frame whatever they say.
const MAX_LISTED: u32 = 1000;
/// About how many bytes of dead letters' messages are in one answer.
const LETTERS: usize = 1 << 20;

impl Session {
    pub(super) fn serve_or_call(&mut self, header: ToServer, payload: Bytes) {
        match header {
            ToServer::Invoke { id, service, timeout_ms } => {
                let desk = self.desk();
                self.run(id, None, |mut stop| async move {
                    let timeout = Duration::from_millis(timeout_ms);
                    let answer = tokio::select! {
                        answer = desk.invoke(id, &service, timeout, payload) => answer,
                        () = stop.cancelled() => Err(cancel()),
                    };
                    Answered::from(id, answer)
                });
            }
            ToServer::Serve { id, service, capacity } => self.serve(id, service, capacity),
            ToServer::Reply { id, error, outputs } => self.reply(id, error, outputs, payload),
            ToServer::Call { id, json } => {
                let (desk, flowing) = (self.desk(), self.flowing.clone());
                self.run(id, None, |mut stop| async move {
                    let drain = stop.drain.clone();
                    let answer = tokio::select! {
                        answer = desk.call(id, json, payload, flowing, drain) => answer,
                        () = stop.cancelled() => Err(cancel()),
                    };
                    Answered::from(id, answer)
                });
            }
            // All other kinds have been dealt with.
            other => {
                self.end(Err(Error::internal(format!("a frame of a kind nobody deals with: {other:?}"))))
            }
        }
    }
}

fn answer(id: u64, value: &impl Serialize) -> Pieces {
    frames::done(id, value, false, [])
}

fn cancel() -> Error {
    Error::new(crossdock_topics::ErrorCode::Unavailable, "the request was cancelled")
}

impl Desk {
    async fn call(
        &self,
        id: u64,
        json: u32,
        mut payload: Bytes,
        flowing: mpsc::Sender<Flowing>,
        drain: CancellationToken,
    ) -> Result<Pieces> {
        if json as usize > payload.len() {
            return Err(Error::invalid("the JSON is longer than the payload"));
        }
        let call = payload.split_to(json as usize);
        let call: Call = serde_json::from_slice(&call)
            .map_err(|error| Error::invalid(format!("the call is not understood: {error}")))?;
        let (broker, gate) = (&*self.broker, &*self.gate);
        if !is_open(&call) {
            gate.admin()?;
        }
        Ok(match call {
            Call::Topic { name } => {
                gate.know(&name)?;
                answer(id, &broker.topic(&name).await?)
            }
            Call::Topics => {
                let mut topics = broker.topics().await?;
                topics.retain(|info| gate.know(&info.topic.name).is_ok());
                answer(id, &topics)
            }
            Call::Room => {
                broker.room().await;
                answer(id, &())
            }
            Call::Subscription { name } => {
                let info = broker.subscription(&name).await?;
                gate.see(&info.subscription)?;
                answer(id, &info)
            }
            Call::Subscriptions => {
                let mut subscriptions = broker.subscriptions().await?;
                subscriptions.retain(|info| gate.see(&info.subscription).is_ok());
                answer(id, &subscriptions)
            }
            Call::DeadLetters { name, after, max } => {
                gate.consume(broker, name.as_str()).await?;
                let max = max.min(MAX_LISTED) as usize;
                let (mut listed, mut records, mut bytes) = (Vec::new(), Vec::new(), 0);
                for letter in broker.dead_letters(&name, after, max).await? {
                    if bytes > LETTERS {
                        break;
                    }
                    listed.push(Letter::from(&letter));
                    if let Some((_, record)) = letter.message {
                        bytes += record.size();
                        records.push(record.as_bytes().clone());
                    }
                }
                frames::done(id, &listed, false, records)
            }
            Call::ParkedKeys { name, max } => {
                gate.consume(broker, name.as_str()).await?;
                answer(id, &broker.parked_keys(&name, max.min(MAX_LISTED) as usize).await?)
            }
            Call::Explain { topic, offset } => {
                gate.read(&topic)?;
                answer(id, &broker.explain(&topic, offset).await?)
            }
            Call::PutTopic { topic, expect } => answer(id, &broker.put_topic(topic, expect).await?),
            Call::DeleteTopic { name } => answer(id, &broker.delete_topic(&name).await?),
            Call::Purge { name, before } => answer(id, &broker.purge(&name, before).await?),
            Call::PutSubscription { subscription, expect } => {
                answer(id, &broker.put_subscription(subscription, expect).await?)
            }
            Call::DeleteSubscription { name } => answer(id, &broker.delete_subscription(&name).await?),
            Call::Redrive { name, redrive } => answer(id, &broker.redrive(&name, redrive).await?),
            Call::Discard { name, selection, dry_run } => {
                answer(id, &broker.discard(&name, selection, dry_run).await?)
            }
            Call::EditDeadLetter { name, topic, offset } => {
                let message = Record::from_packed(payload)?.to_message();
                answer(id, &broker.edit_dead_letter(&name, &topic, offset, message).await?)
            }
            Call::SetPaused { name, paused } => answer(id, &broker.set_paused(&name, paused).await?),
            Call::Seek { name, topic, to } => answer(id, &broker.seek(&name, topic.as_ref(), to).await?),
            Call::ReleaseKey { name, key, give_up } => {
                answer(id, &broker.release_key(&name, &key, give_up).await?)
            }
            Call::Get { key } => match broker.get(&key).await? {
                None => answer(id, &()),
                Some(entry) => {
                    let bytes = u32::try_from(entry.value.len()).unwrap_or(u32::MAX);
                    let written = Written { key: entry.key, revision: entry.revision, bytes: Some(bytes) };
                    frames::done(id, &written, false, [entry.value])
                }
            },
            Call::Put { key, expect, lease } => {
                answer(id, &broker.put(&key, payload, expect, lease.map(LeaseId)).await?)
            }
            Call::Delete { key, expect } => answer(id, &broker.delete(&key, expect).await?),
            Call::List { prefix } => self.list(id, &prefix).await?,
            Call::Watch { prefix, after } => tokio::select! {
                ended = self.watch(id, &prefix, after, flowing) => ended?,
                // Not its end: it can go on elsewhere.
                () = drain.cancelled() => return Err(cancel()),
            },
            Call::Grant { ttl_ms } => answer(id, &broker.grant(Duration::from_millis(ttl_ms)).await?.0),
            Call::KeepAlive { lease } => answer(id, &broker.keep_alive(LeaseId(lease)).await?),
            Call::Revoke { lease } => answer(id, &broker.revoke(LeaseId(lease)).await?),
        })
    }
}

/// Whether anybody may ask for it who may use what it is about; everything else is for administrators.
fn is_open(call: &Call) -> bool {
    matches!(
        call,
        Call::Topic { .. }
            | Call::Topics
            | Call::Room
            | Call::Subscription { .. }
            | Call::Subscriptions
            | Call::DeadLetters { .. }
            | Call::ParkedKeys { .. }
            | Call::Explain { .. }
    )
}
