//! Which process gets which call.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossdock_topics::{ErrorCode, ServiceName};
use crossdock_wire::Frame;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::call::Call;

/// The calls of one pool: each goes to the process with the least to do, or waits until one has room.
///
/// A process that works on one call at a time is handed more than one while calls are short, so that it never
/// waits for the next: about [`Pace::AHEAD`] of work. What it has not begun goes to another when it dies.
#[derive(Debug)]
pub(crate) struct Dispatch {
    service: ServiceName,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Call>,
    seats: Vec<Seat>,
    last_call: u64,
    last_seat: u64,
    /// So many calls are to be handed out one at a time.
    alone: usize,
}

#[derive(Debug)]
struct Seat {
    number: u64,
    out: mpsc::UnboundedSender<Frame>,
    in_order: bool,
    credit: usize,
    pace: Pace,
    calls: VecDeque<UnderWay>,
}

/// A call that a process has been handed.
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub(crate) id: u64,
    /// Since when it has been worked on; of several in order, the first one's counts.
    since: Instant,
    pub(crate) call: Call,
}

impl Dispatch {
    pub(crate) fn new(service: ServiceName) -> Self {
        Self { service, state: Mutex::default(), changed: Notify::new() }
    }

    /// Whose calls they are.
    pub(crate) fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Hands a call to a process, or lets it wait. Whoever calls this for calls of the outside waits for
    /// [`Dispatch::room`] first.
    pub(crate) fn submit(&self, call: Call) {
        let mut state = self.state.lock();
        state.waiting.push_back(call);
        state.hand_out(Instant::now(), &self.service);
    }

    /// Resolves when fewer calls wait than the processes could have at once.
    pub(crate) async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state.lock();
                if state.waiting.len() < state.capacity() {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Resolves when no call waits or is under way.
    pub(crate) async fn idle(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state.lock();
                if state.waiting.is_empty() && state.seats.iter().all(|seat| seat.calls.is_empty()) {
                    return;
                }
            }
            changed.await;
        }
    }

    /// How many calls the processes could have at once, as things go.
    pub(crate) fn capacity(&self) -> usize {
        self.state.lock().capacity()
    }

    /// A process takes its seat: calls are written to `out`, of which it takes `credit` at once or, in order,
    /// one. What `out` holds is bounded by that.
    pub(crate) fn join(&self, out: mpsc::UnboundedSender<Frame>, in_order: bool, credit: usize) -> u64 {
        let mut state = self.state.lock();
        state.last_seat += 1;
        let number = state.last_seat;
        let seat = Seat { number, out, in_order, credit, pace: Pace::default(), calls: VecDeque::new() };
        state.seats.push(seat);
        state.hand_out(Instant::now(), &self.service);
        self.changed.notify_waiters();
        number
    }

    /// A process has died: gives what it had been handed, the oldest first.
    pub(crate) fn leave(&self, seat: u64) -> VecDeque<UnderWay> {
        let mut state = self.state.lock();
        let at = state.seats.iter().position(|s| s.number == seat);
        let calls = at.map(|at| state.seats.swap_remove(at).calls).unwrap_or_default();
        self.changed.notify_waiters();
        calls
    }

    /// Calls that a dead process had not begun, to be handed out before any other.
    pub(crate) fn give_back(&self, calls: impl DoubleEndedIterator<Item = Call>) {
        let mut state = self.state.lock();
        for call in calls.rev() {
            state.waiting.push_front(call);
        }
        state.hand_out(Instant::now(), &self.service);
    }

    /// One of several calls that ran beside each other has killed their process, and which one is not known. For
    /// about as many calls a process gets one at a time, so that it is known when it happens again.
    pub(crate) fn suspect(&self, calls: usize) {
        let mut state = self.state.lock();
        state.alone = state.alone.max(2 * calls);
    }

    /// A process has ended a call; gives it, if the process had it.
    pub(crate) fn finish(&self, seat: u64, id: u64) -> Option<Call> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let place = state.seats.iter_mut().find(|s| s.number == seat)?;
        let at = place.calls.iter().position(|under_way| under_way.id == id)?;
        let ended = place.calls.remove(at)?;
        place.pace.add(now.saturating_duration_since(ended.since));
        if place.in_order
            && let Some(next) = place.calls.front_mut()
        {
            next.since = now;
        }
        state.alone = state.alone.saturating_sub(1);
        state.hand_out(now, &self.service);
        drop(state);
        self.changed.notify_waiters();
        Some(ended.call)
    }

    /// The first call of a process that has taken longer than it may, by `grace` or more.
    pub(crate) fn overdue(&self, seat: u64, grace: Duration) -> Option<(u64, Duration)> {
        let now = Instant::now();
        let state = self.state.lock();
        let seat = state.seats.iter().find(|s| s.number == seat)?;
        let candidates = if seat.in_order { 1 } else { seat.calls.len() };
        let mut calls = seat.calls.iter().take(candidates);
        let late = calls.find(|u| now.saturating_duration_since(u.since) > u.call.timeout + grace)?;
        Some((late.id, late.call.timeout))
    }

    /// Fails every call that waits: there are no processes any more.
    pub(crate) fn clear(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        self.changed.notify_waiters();
        drop(waiting);
    }
}

impl State {
    fn capacity(&self) -> usize {
        self.seats.iter().map(|seat| seat.depth(self.alone > 0)).sum()
    }

    fn hand_out(&mut self, now: Instant, service: &ServiceName) {
        while !self.waiting.is_empty() {
            let alone = self.alone > 0;
            let free = self.seats.iter_mut().filter(|seat| seat.calls.len() < seat.depth(alone));
            let Some(seat) = free.min_by_key(|seat| seat.calls.len()) else { return };
            let Some(call) = self.waiting.pop_front() else { return };
            if call.is_pointless(now) {
                continue;
            }
            self.last_call += 1;
            match call.frame(self.last_call, now) {
                // A process that has gone gives its calls back when its seat is cleared away.
                Ok(frame) => {
                    let _ = seat.out.send(frame);
                    seat.calls.push_back(UnderWay { id: self.last_call, since: now, call });
                }
                Err(error) => call.fail(ErrorCode::Internal, error.to_string(), service),
            }
        }
    }
}

impl Seat {
    fn depth(&self, alone: bool) -> usize {
        match (self.in_order, alone) {
            (true, _) => self.pace.depth(),
            (false, true) => 1,
            (false, false) => self.credit,
        }
    }
}

/// How long calls have taken lately.
#[derive(Debug)]
struct Pace {
    average: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { average: Self::AHEAD }
    }
}

impl Pace {
    /// How much work lies with a process beyond the call it is working on.
    const AHEAD: Duration = Duration::from_millis(2);
    /// The most calls that lie with a process.
    const DEEPEST: u128 = 32;

    fn add(&mut self, took: Duration) {
        self.average = (self.average * 7 + took.min(Duration::from_secs(60))) / 8;
    }

    fn depth(&self) -> usize {
        let depth = Self::AHEAD.as_nanos() / self.average.as_nanos().max(1);
        usize::try_from(depth.clamp(1, Self::DEEPEST)).unwrap_or(1)
    }
}

#[cfg(test)]
mod tests;
