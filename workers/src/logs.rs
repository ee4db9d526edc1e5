//! What services print, line by line, on its way to their logs.

mod lines;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossdock_topics::{
    Batch, Durability, ErrorCode, Expect, Log, Message, Result, Retention, ServiceName, Shutdown, Topic,
    TopicName,
};
use parking_lot::Mutex;
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use lines::{LEFT_WITHIN, read_lines};

/// Lines that wait to be published; what comes on top of them is dropped and counted.
const QUEUE: usize = 4096;
/// The lines and bytes that a service may print per second, in the long run and at once.
const LINES: Rate = Rate { per_second: 1000.0, burst: 4000.0 };
const BYTES: Rate = Rate { per_second: 512.0 * 1024.0, burst: 4.0 * 1024.0 * 1024.0 };
/// Lines are gathered this long, so that a chatty service costs few publishes.
const GATHER: Duration = Duration::from_millis(50);
/// The lines of standard error that are kept to explain why a process ended.
const LAST_LINES: usize = 20;
/// What a process ends a line of its standard error with where what the next call writes begins.
const MARK: &str = "\u{1e}";

/// The log of one service on this server: the topic `_logs.SERVICE`, one message a line. Printing is never
/// slowed down by it: what is too much is dropped, and a line says how much that was.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    lines: mpsc::Sender<Line>,
    dropped: Arc<AtomicU64>,
    shutdown: Shutdown,
}

#[derive(Debug)]
struct Line {
    stream: &'static str,
    version: Arc<str>,
    text: String,
}

/// The topic that holds what a service prints.
///
/// # Errors
/// `InvalidArgument` when the service's name is too long for it.
pub(crate) fn topic(service: &ServiceName) -> Result<TopicName> {
    format!("_logs.{service}").parse()
}

fn definition(name: &TopicName) -> Topic {
    let mut definition = Topic::new(name.clone());
    definition.durability = Durability::Os;
    definition.dedup_window = Duration::ZERO;
    definition.retention =
        Retention { max_bytes: Some(16 * 1024 * 1024), drop_unread: true, ..Retention::default() };
    definition
}

impl Logs {
    /// A log that is written to its topic until the last clone is dropped.
    pub(crate) async fn open(
        log: Arc<dyn Log>,
        service: &ServiceName,
        server: &str,
        shutdown: &Shutdown,
    ) -> Result<Self> {
        let name = topic(service)?;
        log.put_topic(definition(&name), Expect::Any).await?;
        let (lines, queue) = mpsc::channel(QUEUE);
        let dropped = Arc::<AtomicU64>::default();
        let writer = Writer { log, topic: name, server: server.into(), dropped: dropped.clone() };
        shutdown.tasks().spawn(writer.run(queue));
        Ok(Self { lines, dropped, shutdown: shutdown.clone() })
    }

    /// A log that leads nowhere, for code that is only being looked at.
    pub(crate) fn nowhere(shutdown: &Shutdown) -> Self {
        Self { lines: mpsc::channel(1).0, dropped: Arc::default(), shutdown: shutdown.clone() }
    }

    /// A line of the system's own.
    pub(crate) fn system(&self, version: &str, text: String) {
        self.add(Line { stream: "system", version: version.into(), text });
    }

    /// Reads what a process prints until it has ended, which `ended` tells.
    pub(crate) fn follow(
        &self,
        version: &str,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
        ended: CancellationToken,
    ) -> Tail {
        let version: Arc<str> = version.into();
        let tail = Tail::default();
        let tasks = self.shutdown.tasks();
        if let Some(stdout) = stdout {
            let (logs, version) = (self.clone(), version.clone());
            tasks.spawn(read_lines(stdout, ended.clone(), move |text| {
                logs.add(Line { stream: "stdout", version: version.clone(), text });
            }));
        }
        if let Some(stderr) = stderr {
            let (logs, tail) = (self.clone(), tail.clone());
            let complete = tail.complete.clone();
            let line = move |text: String| {
                let (text, begins) = match text.strip_suffix(MARK) {
                    Some(before) => (before.to_owned(), true),
                    None => (text, false),
                };
                if begins {
                    tail.lines.lock().clear();
                } else {
                    tail.add(&text);
                }
                if !begins || !text.is_empty() {
                    logs.add(Line { stream: "stderr", version: version.clone(), text });
                }
            };
            tasks.spawn(async move {
                read_lines(stderr, ended, line).await;
                complete.cancel();
            });
        }
        tail
    }

    fn add(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The last lines of a process's standard error, since its last call began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    lines: Arc<Mutex<VecDeque<String>>>,
    complete: CancellationToken,
}

impl Tail {
    fn add(&self, line: &str) {
        let mut lines = self.lines.lock();
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line.chars().take(500).collect());
    }

    /// Waits, but not for long, until everything that a process that has ended wrote is read.
    pub(crate) async fn complete(&self) {
        let _ = tokio::time::timeout(LEFT_WITHIN, self.complete.cancelled()).await;
    }

    pub(crate) fn text(&self) -> String {
        let lines = self.lines.lock();
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: f64,
    burst: f64,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    left: f64,
    filled: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, left: rate.burst, filled: now }
    }

    fn take(&mut self, amount: f64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.left = (self.left + since * self.rate.per_second).min(self.rate.burst);
        self.filled = now;
        if self.left < amount {
            return false;
        }
        self.left -= amount;
        true
    }
}

/// Publishes the lines.
struct Writer {
    log: Arc<dyn Log>,
    topic: TopicName,
    server: String,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    async fn run(self, mut queue: mpsc::Receiver<Line>) {
        let now = Instant::now();
        let (mut lines, mut bytes) = (Bucket::new(LINES, now), Bucket::new(BYTES, now));
        let mut gathered = Vec::new();
        while queue.recv_many(&mut gathered, QUEUE).await > 0 {
            let now = Instant::now();
            let mut batch = Batch::default();
            for line in gathered.drain(..) {
                #[allow(clippy::cast_precision_loss)] // a line has at most a few KiB
                let size = line.text.len() as f64;
                if !(lines.take(1.0, now) && bytes.take(size, now) && batch.push(&self.message(line)).is_ok())
                {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                let text =
                    format!("{dropped} lines were dropped: the service prints more than its log takes");
                let _ = batch.push(&self.message(Line { stream: "system", version: "".into(), text }));
            }
            if !batch.is_empty()
                && let Err(error) = self.publish(batch).await
            {
                tracing::warn!(topic = %self.topic, %error, "a service's output is lost");
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Publishes, and makes the topic again should someone have deleted it.
    async fn publish(&self, batch: Batch) -> Result<()> {
        match self.log.publish(&self.topic, batch.clone(), Default::default()).await {
            Err(error) if error.code == ErrorCode::NotFound => {
                self.log.put_topic(definition(&self.topic), Expect::Any).await?;
                self.log.publish(&self.topic, batch, Default::default()).await.map(drop)
            }
            published => published.map(drop),
        }
    }

    fn message(&self, line: Line) -> Message {
        let mut message = Message::new(line.text)
            .with_header("stream", line.stream)
            .with_header("server", self.server.as_str());
        if !line.version.is_empty() {
            message = message.with_header("version", &*line.version);
        }
        message.content_type = Some("text/plain; charset=utf-8".into());
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Rate { per_second: 10.0, burst: 20.0 }, now);
        assert_eq!((0..100).filter(|_| bucket.take(1.0, now)).count(), 20);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| bucket.take(1.0, later)).count(), 10);
    }
}
