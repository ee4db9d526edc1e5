//! The embedded engine (`rocksdb:PATH`): a broker in this process, its topics in RocksDB.
//!
//! Two threads do all the writing. Commands wait in a bounded queue; the [`writer`] turns what waits into one
//! batch and writes it unsynced; the [`syncer`] makes written batches durable with one sync, then visible, then
//! answers, while the writer is already on the next. Consumers take from memory ([`crate::delivery`]), and
//! only those that catch up read the disk. [`recovery`] reads everything back; [`database`] says how a loss is
//! noticed.

mod compactor;
mod consume;
mod database;
mod dedup;
pub mod failpoints;
pub(crate) mod house;
mod keys;
mod log;
mod newest;
mod publish;
pub(crate) mod queue;
mod recall;
mod recovery;
mod requests;
mod segments;
mod shared_store;
pub(crate) mod sources;
mod syncer;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use crossdock_topics::{
    Broker, Clock, Error, ErrorCode, Health, Message, Reply, Request, Requests, Result, ServiceName,
    SubscriptionName, SystemClock, TopicName,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

#[cfg(feature = "fuzzing")]
pub use crate::delivery::block::read_block;

use crate::store_view as store;
use database::Database;
use log::TopicLog;
use queue::{Budget, Queue};
use syncer::Finishing;
use writer::{Command, Pass, Writer};

use crate::delivery::{LONGEST_WAIT, SubscriptionState};

/// How many tokens a life has, as a power of two.
const START_BITS: u32 = 44;

/// At most so many passes wait for the syncer; then the writer waits.
const WAITING_PASSES: usize = 64;

/// How an embedded broker is set up. The sizes bound its memory, together with RocksDB's write buffers (128 MiB).
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// The folder of the data. Made when it is not there.
    pub path: PathBuf,
    /// Go on without acknowledged messages that a damaged disk has lost, instead of refusing to open.
    pub accept_loss: bool,
    /// How many bytes of published messages may wait to be stored; beyond it publishing is refused.
    pub waiting_bytes: usize,
    /// How many bytes of the newest messages are kept in memory for consumers, in all topics together.
    pub recent_bytes: usize,
    /// RocksDB's cache for what is read from the disk.
    pub block_cache_bytes: usize,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

impl EmbeddedOptions {
    /// The usual settings, for this folder: 64 MiB waiting, 64 MiB of recent messages, 16 MiB of cache.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            accept_loss: false,
            waiting_bytes: 64 << 20,
            recent_bytes: 64 << 20,
            block_cache_bytes: 16 << 20,
            clock: Arc::new(SystemClock),
        }
    }
}

/// A broker in this process. Dropping the last reference closes it.
pub struct Embedded {
    shared: Arc<Shared>,
    threads: Threads,
}

/// The threads that are to be waited for. Whoever waits holds the lock, so that a second one waits with it.
type Threads = Arc<Mutex<Vec<JoinHandle<()>>>>;

/// What the threads and the callers share.
struct Shared {
    options: EmbeddedOptions,
    clock: Arc<dyn Clock>,
    /// `None` once the broker has been closed, so that its files are free whoever still holds the broker.
    database: RwLock<Option<Arc<Database>>>,
    /// What is visible: a topic is here once its making is durable.
    topics: RwLock<HashMap<TopicName, Arc<TopicLog>>>,
    subscriptions: RwLock<HashMap<SubscriptionName, Arc<SubscriptionState>>>,
    store: store::StoreView,
    requests: requests::RequestTable,
    commands: Queue<Command>,
    passes: Queue<Pass>,
    finishing: Mutex<Finishing>,
    /// Nothing is ever in it: closing it ends the compactor.
    compacting: Queue<std::convert::Infallible>,
    recalling: Queue<recall::Wanted>,
    budget: Budget,
    failure: OnceLock<Error>,
    closing: AtomicBool,
    tokens: AtomicU64,
}

impl Shared {
    /// Keeps the first reason why writes are refused from now on.
    fn fail(&self, reason: &Error) {
        let refused = Error::new(
            ErrorCode::Unavailable,
            format!("the broker takes no writes since {}", reason.message),
        )
        .hint(reason.hint.clone().unwrap_or("restart it".into()));
        if self.failure.set(refused).is_ok() {
            tracing::error!(%reason, "the broker takes no writes from now on");
            for subscription in self.subscriptions.read().values() {
                subscription.wake_all();
            }
        }
    }

    fn failure(&self) -> Option<Error> {
        self.failure.get().cloned()
    }

    /// Why the broker cannot be used, if it cannot.
    fn check_open(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) {
            return Err(closed());
        }
        self.failure().map_or(Ok(()), Err)
    }

    /// A token larger than all that were given before, in this life and earlier ones: a life has a range of 2^44, and
    /// each group of it takes one of 2^24.
    fn token(&self) -> u64 {
        self.tokens.fetch_add(1 << 24, Ordering::Relaxed)
    }

    fn database(&self) -> Result<Arc<Database>> {
        self.database.read().clone().ok_or_else(closed)
    }

    fn topic(&self, name: &TopicName) -> Result<Arc<TopicLog>> {
        self.topics.read().get(name).cloned().ok_or_else(|| {
            Error::not_found("topic", name).hint(format!("make it with `crossdock topic create {name}`"))
        })
    }

    fn subscription(&self, name: &SubscriptionName) -> Result<Arc<SubscriptionState>> {
        self.subscriptions.read().get(name).cloned().ok_or_else(|| {
            Error::not_found("subscription", name)
                .hint(format!("make it with `crossdock sub create {name} --topic TOPIC`"))
        })
    }

    fn command(&self, command: Command) -> Result<()> {
        self.commands.push(command).map_err(|_| closed())
    }

    /// Sends a command and waits for its answer.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.command(command(answer))?;
        answered.await.unwrap_or_else(|_| Err(self.failure().unwrap_or_else(closed)))
    }
}

fn closed() -> Error {
    Error::new(ErrorCode::Unavailable, "the broker is closed").hint("start it again")
}

impl Embedded {
    /// Opens the broker in a folder, or makes a new one there. Blocks while it reads what must be in memory.
    ///
    /// # Errors
    /// `Conflict` when another process uses the folder; `Internal` when its files are damaged or hold less than
    /// was acknowledged; `InvalidArgument` when the folder cannot be made.
    pub fn open(options: EmbeddedOptions) -> Result<Arc<Self>> {
        let clock = options.clock.clone();
        let database = Arc::new(Database::open(&options)?);
        if let Some(mark) = house::mark(&database)? {
            return Err(mark.refusal());
        }
        let start = recovery::begin(&database, clock.now())?;
        let tokens = AtomicU64::new(start << START_BITS);
        let state = recovery::read(&database, || tokens.fetch_add(1 << 24, Ordering::Relaxed))?;
        let shared = Arc::new(Shared {
            clock,
            database: RwLock::new(Some(database.clone())),
            topics: RwLock::new(state.topics.into_iter().map(|log| (log.name.clone(), log)).collect()),
            subscriptions: RwLock::new(
                state.subscriptions.into_iter().map(|s| (s.name.clone(), s)).collect(),
            ),
            store: store::StoreView::default(),
            requests: requests::RequestTable::default(),
            commands: Queue::new(usize::MAX),
            passes: Queue::new(WAITING_PASSES),
            finishing: Mutex::new(Finishing::new(options.recent_bytes)),
            compacting: Queue::new(1),
            recalling: Queue::new(usize::MAX),
            budget: Budget::new(options.waiting_bytes),
            failure: OnceLock::new(),
            closing: AtomicBool::new(false),
            tokens,
            options,
        });
        let entries = state.recovered.entries.iter().map(|(entry, _)| entry.clone());
        shared.store.restore(entries, state.recovered.numbers.revision);
        let writer = Writer::new(shared.clone(), database.clone(), state.recovered);
        let (compacted, recalled) = (database.clone(), database.clone());
        let threads = vec![
            spawn("broker-writer", shared.clone(), |_| writer.run(), writer::abandon)?,
            spawn(
                "broker-syncer",
                shared.clone(),
                move |shared| syncer::run(shared, &database),
                syncer::abandon,
            )?,
            spawn(
                "broker-compactor",
                shared.clone(),
                move |shared| compactor::run(shared, &compacted),
                |_| {},
            )?,
            spawn("broker-recaller", shared.clone(), move |shared| recall::run(shared, &recalled), |_| {})?,
        ];
        Ok(Arc::new(Self { shared, threads: Arc::new(Mutex::new(threads)) }))
    }

    /// Tells everybody to stop.
    fn stop(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.commands.close();
        self.shared.compacting.close();
        self.shared.recalling.close();
        self.shared.store.close();
        self.shared.requests.close();
        for subscription in self.shared.subscriptions.read().values() {
            subscription.wake_all();
        }
        for log in self.shared.topics.read().values() {
            log.moved.notify_waiters();
        }
    }
}

/// Starts a thread. If it panics the broker has failed, and `abandon` answers whoever still comes to it, so that
/// a mistake of ours is an error that everybody is told, and not a wait without end.
fn spawn(
    name: &'static str,
    shared: Arc<Shared>,
    run: impl FnOnce(&Shared) + Send + 'static,
    abandon: impl FnOnce(&Shared) + Send + 'static,
) -> Result<JoinHandle<()>> {
    let guarded = move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&shared))) {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            shared.fail(&Error::internal(format!("its thread {name} stopped on a fault of its own: {text}")));
            abandon(&shared);
        }
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(guarded)
        .map_err(|cause| Error::internal(format!("cannot start the thread {name}: {cause}")))
}

fn join(threads: &mut Vec<JoinHandle<()>>) {
    for thread in threads.drain(..) {
        let _ = thread.join();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop();
        join(&mut self.threads.lock());
        for log in self.shared.topics.read().values() {
            log.detach_all();
        }
    }
}

#[async_trait]
impl Requests for Embedded {
    async fn request(&self, service: &ServiceName, message: Message, timeout: Duration) -> Reply {
        if self.shared.closing.load(Ordering::Acquire) {
            return Err(closed());
        }
        self.shared.requests.request(service, message, timeout.min(LONGEST_WAIT)).await
    }

    async fn serve(&self, service: &ServiceName, capacity: usize) -> Result<mpsc::Receiver<Request>> {
        let requests = self.shared.requests.serve(service, capacity);
        // Looked at afterwards: closing ends those it finds, and this one finds the closing.
        if self.shared.closing.load(Ordering::Acquire) { Err(closed()) } else { Ok(requests) }
    }
}

#[async_trait]
impl Broker for Embedded {
    fn health(&self) -> Health {
        let reason = self.shared.check_open().err().map(|error| error.message.into_owned());
        let engine = format!("rocksdb:{}", self.shared.options.path.display());
        Health { ready: reason.is_none(), reason, engine, detail: None, warning: None }
    }

    async fn close(&self) {
        self.stop();
        let (threads, shared) = (self.threads.clone(), self.shared.clone());
        let closing = tokio::task::spawn_blocking(move || {
            // A second one who closes waits for all of this.
            let mut threads = threads.lock();
            join(&mut threads);
            let Some(database) = shared.database.write().take() else { return };
            // With everything in files the next start has nothing to replay.
            if shared.failure().is_none()
                && let Err(error) = database.sync(true).and_then(|()| database.flush())
            {
                tracing::error!(%error, "the last sync failed");
            }
            // Reads that are under way hold the files for a moment longer.
            let patience = Instant::now() + Duration::from_secs(5);
            while Arc::strong_count(&database) > 1 && Instant::now() < patience {
                #[allow(clippy::disallowed_methods)] // on a thread for blocking
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let _ = closing.await;
    }
}
