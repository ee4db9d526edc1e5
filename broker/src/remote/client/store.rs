//! The store, as [`Store`] has it, and how rare things are asked.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use crossdock_topics::{Change, Entry, Error, ErrorCode, Expect, LeaseId, Result, Revision, Store, Watch};
use crossdock_wire::session::{Call, Keys, ToClient, ToServer, Written};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::Remote;
use super::link::{Answer, Flow, Flowing, Link, Trouble, strange};
use super::log::millis;

/// How many changes wait for a watcher at most.
const CHANGES: usize = 4096;

/// Whether a call may be made again when nobody knows whether it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    Harmless,
    Never,
}

/// Makes a call whose answer is JSON alone.
pub(super) async fn call<T: DeserializeOwned>(link: &Link, repeat: Repeat, call: Call) -> Result<T> {
    Ok(call_with(link, repeat, &call, &Bytes::new()).await?.0)
}

/// Makes a call with bytes beside it; gives the answer with the bytes beside it.
pub(super) async fn call_with<T: DeserializeOwned>(
    link: &Link,
    repeat: Repeat,
    call: &Call,
    rest: &Bytes,
) -> Result<(T, Bytes)> {
    let (json, payload) = encode(call, rest)?;
    let request = |id| ToServer::Call { id, json };
    let answer = match repeat {
        Repeat::Harmless => link.ask_again(request, payload).await?,
        Repeat::Never => link.ask_once(request, payload).await?,
    };
    decode(answer)
}

fn encode(call: &Call, rest: &Bytes) -> Result<(u32, Bytes)> {
    let json = serde_json::to_vec(call).map_err(|error| Error::internal(error.to_string()))?;
    let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
    if rest.is_empty() {
        return Ok((length, json.into()));
    }
    let mut payload = BytesMut::with_capacity(json.len() + rest.len());
    payload.put_slice(&json);
    payload.put_slice(rest);
    Ok((length, payload.freeze()))
}

fn decode<T: DeserializeOwned>(answer: Answer) -> Result<(T, Bytes)> {
    let ToClient::Done { json, .. } = answer.header else { return Err(strange(&answer.header)) };
    let mut rest = answer.payload;
    if json as usize > rest.len() {
        return Err(Error::internal("the server announced more than it sent"));
    }
    let json = rest.split_to(json as usize);
    let value = serde_json::from_slice(&json)
        .map_err(|error| Error::internal(format!("the server's answer is not understood: {error}")))?;
    Ok((value, rest))
}

/// The values that follow a list of keys.
fn values(written: Vec<Written>, mut rest: Bytes) -> Result<Vec<Change>> {
    let mut changes = Vec::with_capacity(written.len());
    for Written { key, revision, bytes } in written {
        changes.push(match bytes {
            None => Change::Deleted { key, revision },
            Some(bytes) if bytes as usize <= rest.len() => {
                Change::Put(Entry { key, value: rest.split_to(bytes as usize), revision })
            }
            Some(_) => return Err(Error::internal("the server announced more than it sent")),
        });
    }
    Ok(changes)
}

/// The next answer of a flow of calls; `Lost` also when the server ends the flow because it goes away.
async fn next(flow: &mut Flow) -> Result<Answer, Trouble> {
    match flow.receiver.recv().await {
        Some(Flowing::Answer(answer)) => Ok(answer),
        Some(Flowing::Ended(Err(error))) if error.code == ErrorCode::Unavailable => Err(Trouble::Lost),
        Some(Flowing::Ended(Err(error))) => Err(Trouble::Failed(error)),
        Some(Flowing::Request(..) | Flowing::Ended(Ok(()))) | None => Err(Trouble::Lost),
    }
}

/// Opens a watch and takes its first answer.
async fn open(link: &Arc<Link>, prefix: &str, after: Revision) -> Result<(Flow, Answer), Trouble> {
    let watch = Call::Watch { prefix: prefix.to_owned(), after };
    let (json, payload) = encode(&watch, &Bytes::new()).map_err(Trouble::Failed)?;
    let mut flow = link.flow(|id| ToServer::Call { id, json }, payload)?;
    let begun = next(&mut flow).await?;
    Ok((flow, begun))
}

#[async_trait]
impl Store for Remote {
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        let get = Call::Get { key: key.to_owned() };
        let (found, value): (Option<Written>, _) =
            call_with(&self.link, Repeat::Harmless, &get, &Bytes::new()).await?;
        Ok(found.map(|Written { key, revision, .. }| Entry { key, value, revision }))
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect, lease: Option<LeaseId>) -> Result<Revision> {
        let repeat = if expect == Expect::Any { Repeat::Harmless } else { Repeat::Never };
        let put = Call::Put { key: key.to_owned(), expect, lease: lease.map(|lease| lease.0) };
        Ok(call_with(&self.link, repeat, &put, &value).await?.0)
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<Revision> {
        let repeat = if expect == Expect::Any { Repeat::Harmless } else { Repeat::Never };
        call(&self.link, repeat, Call::Delete { key: key.to_owned(), expect }).await
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision)> {
        let (json, payload) = encode(&Call::List { prefix: prefix.to_owned() }, &Bytes::new())?;
        'again: loop {
            self.link.connected().await?;
            let flow = self.link.flow(|id| ToServer::Call { id, json }, payload.clone());
            let mut flow = match flow {
                Ok(flow) => flow,
                Err(Trouble::Lost) => continue 'again,
                Err(Trouble::Failed(error)) => return Err(error),
            };
            let mut listed = Vec::new();
            loop {
                let answer = match next(&mut flow).await {
                    Ok(answer) => answer,
                    Err(Trouble::Lost) => continue 'again,
                    Err(Trouble::Failed(error)) => return Err(error),
                };
                let more = matches!(answer.header, ToClient::Done { more: true, .. });
                let (keys, rest): (Keys, _) = decode(answer)?;
                for change in values(keys.entries, rest)? {
                    if let Change::Put(entry) = change {
                        listed.push(entry);
                    }
                }
                if !more {
                    return Ok((listed, keys.revision));
                }
            }
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        let (sender, receiver) = mpsc::channel(CHANGES);
        loop {
            self.link.connected().await?;
            match open(&self.link, prefix, after).await {
                Ok((flow, begun)) => {
                    let watching =
                        Watching { flow, prefix: prefix.to_owned(), after, sender, first: Some(begun) };
                    self.link.tasks.spawn(watching.go_on(self.link.clone()));
                    return Ok(Watch(receiver));
                }
                Err(Trouble::Lost) => {}
                Err(Trouble::Failed(error)) => return Err(error),
            }
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        // One that nobody knows of runs out by itself.
        call(&self.link, Repeat::Harmless, Call::Grant { ttl_ms: millis(ttl) }).await.map(LeaseId)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        call(&self.link, Repeat::Harmless, Call::KeepAlive { lease: lease.0 }).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        call(&self.link, Repeat::Harmless, Call::Revoke { lease: lease.0 }).await
    }
}

/// A watch that goes on over connections.
struct Watching {
    flow: Flow,
    prefix: String,
    /// The last revision that the watcher was told of.
    after: Revision,
    sender: mpsc::Sender<Change>,
    first: Option<Answer>,
}

impl Watching {
    async fn go_on(mut self, link: Arc<Link>) {
        loop {
            let answer = match self.first.take() {
                Some(first) => Ok(first),
                None => tokio::select! {
                    answer = next(&mut self.flow) => answer,
                    () = self.sender.closed() => return,
                },
            };
            match answer {
                Ok(answer) => {
                    let more = matches!(answer.header, ToClient::Done { more: true, .. });
                    // The end, or a watcher that is too slow: it is told by the end of its channel.
                    if self.tell(answer).is_none() || !more {
                        return;
                    }
                }
                Err(Trouble::Failed(_)) => return,
                Err(Trouble::Lost) => {
                    let reopening = async {
                        loop {
                            link.connected_within(Duration::MAX).await.ok()?;
                            match open(&link, &self.prefix, self.after).await {
                                Ok(opened) => return Some(opened),
                                Err(Trouble::Lost) => {}
                                Err(Trouble::Failed(_)) => return None,
                            }
                        }
                    };
                    let opened = tokio::select! {
                        opened = reopening => opened,
                        () = self.sender.closed() => return,
                    };
                    let Some((reopened, first)) = opened else { return };
                    self.flow = reopened;
                    self.first = Some(first);
                }
            }
        }
    }

    fn tell(&mut self, answer: Answer) -> Option<()> {
        let (written, rest): (Vec<Written>, _) = decode(answer).ok()?;
        for change in values(written, rest).ok()? {
            self.after = self.after.max(change.revision());
            self.sender.try_send(change).ok()?;
        }
        Some(())
    }
}
