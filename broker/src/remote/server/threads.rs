//! The threads that serve connections, each with an executor of its own.
//!
//! A connection stays on one of them: what comes for it, bytes or a receipt, wakes that thread and no other. An executor
//! that several threads share wakes a second one each time, to look for more to do; with few messages under way that
//! costs more than serving them.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// No more threads than this, however many processors there are.
const MOST: usize = 16;

/// The threads. They end when this is dropped, and what is left on them is dropped with them.
pub(super) struct Threads {
    places: Vec<Place>,
    ends: Vec<oneshot::Sender<()>>,
    running: Vec<JoinHandle<()>>,
}

/// Where a connection is served; for as long as somebody has it, it counts for one.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) executor: Handle,
    connections: Arc<()>,
}

impl Threads {
    /// One for each processor. Where none can be had, connections are served by whoever starts this.
    pub(super) fn start() -> Self {
        let mut threads = Self { places: Vec::new(), ends: Vec::new(), running: Vec::new() };
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
        for _ in 0..count {
            if let Err(error) = threads.add() {
                tracing::warn!(%error, "a thread for connections could not be started");
                break;
            }
        }
        if threads.places.is_empty() {
            threads.places.push(Place { executor: Handle::current(), connections: Arc::default() });
        }
        threads
    }

    fn add(&mut self) -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let place = Place { executor: runtime.handle().clone(), connections: Arc::default() };
        let (end, ended) = oneshot::channel::<()>();
        let run = move || drop(runtime.block_on(ended));
        self.running.push(std::thread::Builder::new().name("broker-wire".to_owned()).spawn(run)?);
        self.places.push(place);
        self.ends.push(end);
        Ok(())
    }

    /// The one that has the fewest connections.
    pub(super) fn place(&self) -> Place {
        let least = self.places.iter().min_by_key(|place| Arc::strong_count(&place.connections));
        least.unwrap_or(&self.places[0]).clone()
    }

    /// Ends them, and waits until they have ended.
    pub(super) async fn end(mut self) {
        self.ends.clear();
        let running = std::mem::take(&mut self.running);
        let ending = tokio::task::spawn_blocking(move || {
            for thread in running {
                let _ = thread.join();
            }
        });
        let _ = ending.await;
    }
}
