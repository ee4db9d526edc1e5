//! The two bounded queues of the way in: commands to the writer, and written passes to the syncer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

/// A queue that one thread empties whole. Closing it lets that thread finish what is in it.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    emptied: Condvar,
    /// At most so many entries for those who [`Queue::push_waiting`].
    capacity: usize,
}

struct State<T> {
    entries: Vec<T>,
    closed: bool,
    /// Whether the emptying thread sleeps; nobody else needs waking.
    sleeping: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::new(State { entries: Vec::new(), closed: false, sleeping: false }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            capacity,
        }
    }

    /// Adds an entry at once; gives it back when the queue is closed. Whoever calls bounds what it adds.
    pub(super) fn push(&self, entry: T) -> Result<(), T> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(entry);
        }
        state.entries.push(entry);
        if std::mem::take(&mut state.sleeping) {
            drop(state);
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Adds an entry when there is room. For threads only: it blocks.
    pub(super) fn push_waiting(&self, entry: T) {
        let mut state = self.state.lock();
        while state.entries.len() >= self.capacity {
            self.emptied.wait(&mut state);
        }
        state.entries.push(entry);
        if std::mem::take(&mut state.sleeping) {
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Moves all entries to `into`, waiting for the first one until `patience` is over. `false` when the queue
    /// is closed and empty.
    pub(super) fn take(&self, into: &mut Vec<T>, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.entries.is_empty() && !state.closed {
            state.sleeping = true;
            if self.filled.wait_until(&mut state, deadline).timed_out() {
                state.sleeping = false;
                break;
            }
        }
        std::mem::swap(&mut state.entries, into);
        let open = !state.closed || !into.is_empty();
        drop(state);
        self.emptied.notify_one();
        open
    }

    /// Whether the emptying thread sleeps, and so has done with all that it took. Nothing wakes it before the next
    /// entry.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.sleeping && state.entries.is_empty()
    }

    /// Refuses what comes from now on.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_one();
    }
}

/// A bound on the bytes that wait to be stored.
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
    room: Notify,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit, room: Notify::new() }
    }

    /// Takes `bytes`, or says that there is no room. One larger than the whole budget fits when it is alone.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::AcqRel);
        if before > 0 && before + bytes > self.limit {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
            return false;
        }
        true
    }

    /// Whether there is room for `bytes` at the moment.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let used = self.used.load(Ordering::Acquire);
        used == 0 || used + bytes <= self.limit
    }

    /// Gives `bytes` back, and wakes who waits for room when there is enough to be worth it.
    pub(crate) fn give(&self, bytes: usize) {
        if bytes > 0 {
            let before = self.used.fetch_sub(bytes, Ordering::AcqRel);
            if before - bytes <= self.limit / 2 {
                self.room.notify_waiters();
            }
        }
    }

    /// Resolves when at most half of it is used, or soon after.
    pub(crate) async fn wait(&self) {
        let room = self.room.notified();
        tokio::pin!(room);
        room.as_mut().enable();
        if self.used.load(Ordering::Acquire) > self.limit / 2 {
            // The bound covers the moment between the check and the last give.
            let _ = tokio::time::timeout(Duration::from_millis(100), room).await;
        }
    }
}
