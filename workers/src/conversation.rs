//! A worker's talk with one process, from its first call to its end.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use crossdock_topics::{Batch, Broker, Error, ErrorCode, Outcome, Record, ServiceName, StartAt, TopicName};
use crossdock_wire::session::{Outputs, PageRun, ToClient, ToServer, WireError, place_of};
use crossdock_wire::{Frame, FrameCodec};
use futures::{SinkExt, StreamExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::codec::FramedWrite;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::call::{Call, Work, outputs, payload_bytes};
use crate::dispatch::{Dispatch, UnderWay};
use crate::process::Process;

/// The questions (invocations, reads) that one process may have open.
const QUESTIONS: usize = 256;
/// The longest that a process may wait for a message of a topic it reads.
const READ_WAIT: Duration = Duration::from_secs(30);
/// A process that runs calls beside each other ends those that are late itself; this long later it is ended.
const GRACE: Duration = Duration::from_secs(2);
/// Frames that are written before what is written is sent.
const WRITE_AT_ONCE: usize = 64;

/// What a conversation needs to know of its pool.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) tasks: TaskTracker,
    /// How often to look for calls that are late.
    pub(crate) glance: Duration,
    /// Cancelled when the pool is to end what it holds and go.
    pub(crate) drain: CancellationToken,
    /// Cancelled when it is to go without.
    pub(crate) kill: CancellationToken,
}

/// How a conversation ended.
#[derive(Debug)]
pub(crate) struct End {
    /// Why; nothing when the process was told to go.
    pub(crate) crash: Option<String>,
    /// How many calls it ended well.
    pub(crate) done: u64,
}

/// Hands the process calls and says what became of them, until it ends or has drained.
pub(crate) async fn converse(setting: Setting, process: Process, beacon: Option<PathBuf>) -> End {
    let Process { mut reader, writer, credit, in_order, mut life, .. } = process;
    let (out, frames) = mpsc::unbounded_channel();
    let writing = setting.tasks.spawn(write(writer, frames));
    let seat = setting.dispatch.join(out.clone(), in_order, credit);
    let desk = Desk { setting: &setting, seat, out, questions: Arc::new(Semaphore::new(QUESTIONS)) };
    let grace = if in_order { Duration::ZERO } else { GRACE };
    let mut glance = tokio::time::interval(setting.glance);
    glance.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut done, mut draining) = (0, false);
    let (crash, culprit) = loop {
        tokio::select! {
            frame = reader.next() => match frame {
                Some(Ok(frame)) => match desk.take(frame) {
                    Ok(worked) => done += u64::from(worked),
                    Err(error) => {
                        break (Some(format!("the process is not understood: {}", error.message)), None);
                    }
                },
                // It has ended, or closed its socket, which is the same to us.
                Some(Err(_)) | None => {
                    let ended = life.end().await;
                    break ((!draining).then(|| format!("the process {ended}{}", life.last_words())), None);
                }
            },
            _ = glance.tick() => {
                if let Some((call, timeout)) = setting.dispatch.overdue(seat, grace) {
                    let took = format!("the call took longer than {timeout:?}");
                    break (Some(took), Some(call));
                }
            }
            () = setting.kill.cancelled() => break (None, None),
            () = setting.drain.cancelled(), if !draining => {
                draining = true;
                if let Ok(frame) = (ToClient::Drain { id: 0 }).frame(Bytes::new()) {
                    let _ = desk.out.send(frame);
                }
            }
        }
    };
    life.kill();
    let calls = setting.dispatch.leave(seat);
    let running = culprit.or_else(|| beacon.as_deref().and_then(read_beacon));
    if let Some(reason) = &crash {
        blame(&setting, calls, in_order, running, reason);
    }
    drop(desk);
    let _ = writing.await;
    life.ended().await;
    End { crash, done }
}

/// Settles what a process held when it died: the call that it was working on fails, the ones it had not begun
/// go to another process, and the ones that it had ended but not said so are given back.
fn blame(setting: &Setting, calls: VecDeque<UnderWay>, in_order: bool, running: Option<u64>, reason: &str) {
    // A process that works in order and does not say on what dies of what it was sent first.
    let running = running.or_else(|| calls.front().filter(|_| in_order).map(|first| first.id));
    let several = running.is_none() && calls.len() > 1;
    if several {
        setting.dispatch.suspect(calls.len());
    }
    let mut unbegun = Vec::new();
    for UnderWay { id, call, .. } in calls {
        match running {
            // Beside each other all of them had begun, and any of them may have done it: their callers are
            // told, and their messages come again, one at a time.
            None if several && matches!(call.work, Work::Message { .. }) => drop(call),
            None => fail(setting, call, reason),
            Some(running) if running == id => fail(setting, call, reason),
            Some(running) if in_order && id > running => unbegun.push(call),
            Some(_) => drop(call),
        }
    }
    setting.dispatch.give_back(unbegun.into_iter());
}

fn fail(setting: &Setting, call: Call, reason: &str) {
    let code =
        if reason.starts_with("the call took") { ErrorCode::Timeout } else { ErrorCode::ServiceFailed };
    call.fail(code, reason.to_owned(), setting.dispatch.service());
}

/// The id of the call that the process was working on.
fn read_beacon(path: &std::path::Path) -> Option<u64> {
    let bytes = std::fs::read(path).ok()?;
    let id = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (id > 0).then_some(id)
}

async fn write(
    mut writer: FramedWrite<OwnedWriteHalf, FrameCodec>,
    mut frames: mpsc::UnboundedReceiver<Frame>,
) {
    let mut batch = Vec::new();
    while frames.recv_many(&mut batch, WRITE_AT_ONCE).await > 0 {
        for frame in batch.drain(..) {
            if writer.feed(frame).await.is_err() {
                return;
            }
        }
        if writer.flush().await.is_err() {
            return;
        }
    }
}

/// Where what a process says is dealt with.
struct Desk<'a> {
    setting: &'a Setting,
    seat: u64,
    /// Bounded by the process's credit and [`QUESTIONS`].
    out: mpsc::UnboundedSender<Frame>,
    questions: Arc<Semaphore>,
}

impl Desk<'_> {
    /// Gives whether a call has ended well.
    fn take(&self, frame: Frame) -> Result<bool, Error> {
        let header = frame.header().map_err(|error| Error::internal(error.to_string()))?;
        match header {
            ToServer::Settle { outcomes, outputs, .. } => {
                let [outcome] = outcomes.as_slice() else {
                    return Err(Error::internal(format!("it settled {} calls at once", outcomes.len())));
                };
                let said = outcome.outcome().filter(|_| outcome.range().3 == 1);
                let said = said.ok_or_else(|| Error::internal(format!("it settled with {outcome:?}")))?;
                self.settle(outcome.range().2, said, &outputs, frame.payload)
            }
            ToServer::Reply { id, error, outputs } => self.reply(id, error, &outputs, frame.payload),
            ToServer::Invoke { id, service, timeout_ms } => {
                self.question(id, invoke(self.setting.broker.clone(), service, timeout_ms, frame.payload));
                Ok(false)
            }
            ToServer::Read { id, topic, place, value, max, wait_ms } => {
                let from = place_of(place, value);
                self.question(id, read(self.setting.broker.clone(), topic, from, max, wait_ms));
                Ok(false)
            }
            ToServer::Ping { .. } => Ok(false),
            other => Err(Error::internal(format!("it said {other:?}, which is not for a worker"))),
        }
    }

    fn settle(&self, id: u64, outcome: Outcome, sent: &Outputs, payload: Bytes) -> Result<bool, Error> {
        let Some(call) = self.setting.dispatch.finish(self.seat, id) else {
            return Err(Error::internal(format!("it settled call {id}, which it does not have")));
        };
        let Work::Message { held, .. } = call.work else {
            return Err(Error::internal(format!("it settled call {id}, which is a request")));
        };
        let worked = outcome == Outcome::Ack;
        match outputs(sent, payload) {
            Ok((batches, _)) => held.settle(outcome, batches),
            Err(error) => {
                let reason = format!("what it published is refused: {error}");
                held.settle(Outcome::Retry { after: None, reason }, Vec::new());
            }
        }
        Ok(worked)
    }

    fn reply(
        &self,
        id: u64,
        error: Option<WireError>,
        sent: &Outputs,
        payload: Bytes,
    ) -> Result<bool, Error> {
        let Some(call) = self.setting.dispatch.finish(self.seat, id) else {
            return Err(Error::internal(format!("it answered call {id}, which it does not have")));
        };
        if let Some(error) = error {
            call.reply(Err(error.into()));
            return Ok(false);
        }
        let service = self.setting.dispatch.service();
        let (batches, record) = match outputs(sent, payload) {
            Ok(parts) => parts,
            Err(error) => {
                call.reply(Err(refused(&error, service)));
                return Ok(false);
            }
        };
        let message = match Record::from_packed(record) {
            Ok(record) => record.to_message(),
            Err(error) => {
                call.reply(Err(refused(&error, service)));
                return Ok(false);
            }
        };
        if batches.is_empty() {
            call.reply(Ok(message));
        } else {
            let (broker, service) = (self.setting.broker.clone(), service.clone());
            self.setting.tasks.spawn(async move {
                let published = publish(&*broker, batches).await;
                call.reply(published.map(|()| message).map_err(|error| refused(&error, &service)));
            });
        }
        Ok(true)
    }

    /// Answers a question when its answer is there.
    fn question(&self, id: u64, answer: impl Future<Output = Result<Answer, Error>> + Send + 'static) {
        let out = self.out.clone();
        let Ok(permit) = self.questions.clone().try_acquire_owned() else {
            let error = Error::new(ErrorCode::Overloaded, format!("{QUESTIONS} questions are open already"))
                .hint("await some before asking more");
            send(&out, id, Err(error));
            return;
        };
        self.setting.tasks.spawn(async move {
            let answer = answer.await;
            drop(permit);
            send(&out, id, answer);
        });
    }
}

fn refused(error: &Error, service: &ServiceName) -> Error {
    Error::new(ErrorCode::ServiceFailed, format!("what the service sent is refused: {error}"))
        .hint(format!("see its log: crossdock service logs {service}"))
}

async fn publish(broker: &dyn Broker, batches: Vec<(TopicName, Batch)>) -> Result<(), Error> {
    let published: Vec<_> =
        batches.into_iter().map(|(topic, batch)| broker.publish(&topic, batch, Default::default())).collect();
    for receipt in published {
        receipt.await?;
    }
    Ok(())
}

enum Answer {
    Reply(Record),
    Page { next: u64, runs: Vec<PageRun>, run: Bytes },
}

fn send(out: &mpsc::UnboundedSender<Frame>, id: u64, answer: Result<Answer, Error>) {
    let frame = match answer {
        Ok(Answer::Reply(record)) => {
            let header = ToClient::Answer { id, payload_bytes: payload_bytes(&record) };
            header.frame(record.as_bytes().clone())
        }
        Ok(Answer::Page { next, runs, run }) => ToClient::Page { id, next, runs }.frame(run),
        Err(error) => ToClient::Failed { id, error: (&error).into() }.frame(Bytes::new()),
    };
    if let Ok(frame) = frame {
        let _ = out.send(frame);
    }
}

async fn invoke(
    broker: Arc<dyn Broker>,
    service: String,
    timeout_ms: u64,
    payload: Bytes,
) -> Result<Answer, Error> {
    let service: ServiceName = service.parse()?;
    if service.as_str().starts_with('_') {
        return Err(Error::new(ErrorCode::PermissionDenied, format!("{service} is the system's own")));
    }
    let message = Record::from_packed(payload)?.to_message();
    let reply = broker.request(&service, message, Duration::from_millis(timeout_ms)).await?;
    Ok(Answer::Reply(Record::of(&reply)?))
}

async fn read(
    broker: Arc<dyn Broker>,
    topic: String,
    from: Option<StartAt>,
    max: u32,
    wait_ms: u64,
) -> Result<Answer, Error> {
    let topic: TopicName = topic.parse()?;
    let from = from.ok_or_else(|| Error::invalid("there is no such place in a topic"))?;
    let wait = Duration::from_millis(wait_ms).min(READ_WAIT);
    let page = broker.read(&topic, from, max.clamp(1, 65_536) as usize, wait).await?;
    let mut run = BytesMut::new();
    let mut runs = Vec::new();
    for stored in page.messages {
        let record = stored.record.as_bytes();
        run.put_u32_le(u32::try_from(record.len()).unwrap_or(u32::MAX));
        run.put_slice(record);
        PageRun::add(&mut runs, stored.offset, stored.time.0);
    }
    Ok(Answer::Page { next: page.next, runs, run: run.freeze() })
}
