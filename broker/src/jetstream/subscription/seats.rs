//! Consumers that have joined here, and as whom they sit where their subscription is.
//!
//! A subscription may go from one engine to another. Whoever had joined keeps the name it has here, and joins again
//! under another one where the subscription is now.

use std::collections::HashMap;
use std::sync::Arc;

use crossdock_topics::{ConsumerId, Error, ErrorCode, Result, SubscriptionName, Subscriptions};
use parking_lot::{Mutex, RwLock};

use super::owned::Owned;
use crate::delivery::Engine;
use crate::remote::Remote;

/// Where a subscription is.
#[derive(Clone)]
pub(super) enum Place {
    /// In this engine.
    Here(Arc<Owned>),
    /// In another one.
    There(Arc<Remote>),
}

impl Place {
    /// Whether whoever has joined the one has joined the other.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Here(one), Self::Here(other)) => Arc::ptr_eq(one, other),
            (Self::There(one), Self::There(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Whether the same engine is asked in both.
    pub(super) fn asks_the_same_as(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Here(_), Self::Here(_))) || self.is(other)
    }

    fn leave(&self, name: &SubscriptionName, called: ConsumerId) {
        match self {
            Self::Here(owned) => owned.state.leave(called, owned.now()),
            Self::There(remote) => remote.leave(name, called),
        }
    }
}

/// Those who have joined here.
#[derive(Default)]
pub(super) struct Seats(RwLock<HashMap<ConsumerId, Arc<Seat>>>);

/// One of them.
struct Seat {
    name: SubscriptionName,
    /// It joins once at a time.
    joining: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

struct State {
    has_left: bool,
    /// Where it has joined, and what it is called there.
    at: Option<(Place, ConsumerId)>,
}

impl Seat {
    fn leave(&self) {
        let at = {
            let mut state = self.state.lock();
            state.has_left = true;
            state.at.take()
        };
        if let Some((place, called)) = at {
            place.leave(&self.name, called);
        }
    }

    fn called(&self, place: &Place) -> Option<ConsumerId> {
        self.state.lock().at.as_ref().filter(|(at, _)| at.is(place)).map(|(_, called)| *called)
    }
}

impl Seats {
    /// One that has joined; gives its name here, which is the one it has there unless that is another one's here.
    pub(super) fn add(
        &self,
        name: &SubscriptionName,
        place: Place,
        called: ConsumerId,
        otherwise: impl FnOnce() -> ConsumerId,
    ) -> ConsumerId {
        let state = State { has_left: false, at: Some((place, called)) };
        let seat = Seat { name: name.clone(), joining: Default::default(), state: Mutex::new(state) };
        let mut seats = self.0.write();
        let consumer = if seats.contains_key(&called) { otherwise() } else { called };
        seats.insert(consumer, Arc::new(seat));
        consumer
    }

    /// It leaves; what it holds is given back.
    pub(super) fn remove(&self, consumer: ConsumerId) {
        let seat = self.0.write().remove(&consumer);
        if let Some(seat) = seat {
            seat.leave();
        }
    }

    /// All leave.
    pub(super) fn clear(&self) {
        let seats = std::mem::take(&mut *self.0.write());
        seats.values().for_each(|seat| seat.leave());
    }

    /// What it is called where its subscription is; joins there if it has not.
    ///
    /// # Errors
    /// `NotFound` for one that has left; those of [`Subscriptions::join`].
    pub(super) async fn sit(
        &self,
        consumer: ConsumerId,
        place: &Place,
        at: Arc<dyn Subscriptions>,
    ) -> Result<ConsumerId> {
        let seat = self.0.read().get(&consumer).cloned().ok_or_else(|| has_left(consumer))?;
        if let Some(called) = seat.called(place) {
            return Ok(called);
        }
        let _one = seat.joining.lock().await;
        if let Some(called) = seat.called(place) {
            return Ok(called);
        }
        let before = seat.state.lock().at.take();
        if let Some((place, called)) = before {
            place.leave(&seat.name, called);
        }
        let called = at.join(&seat.name).await?;
        let mut state = seat.state.lock();
        if state.has_left {
            drop(state);
            place.leave(&seat.name, called);
            return Err(has_left(consumer));
        }
        state.at = Some((place.clone(), called));
        Ok(called)
    }

    /// It is not known any more where it had joined; gives whether it has not left itself.
    pub(super) fn stands(&self, consumer: ConsumerId, place: &Place) -> bool {
        let Some(seat) = self.0.read().get(&consumer).cloned() else { return false };
        seat.state.lock().at.take_if(|(at, _)| at.is(place));
        true
    }

    /// Who is called so where its subscription is, by the name it has here.
    pub(super) fn known(&self, called: ConsumerId, name: &SubscriptionName) -> ConsumerId {
        let is_it = |seat: &Seat| {
            seat.name == *name && seat.state.lock().at.as_ref().is_some_and(|(_, it)| *it == called)
        };
        let seats = self.0.read();
        let found = seats.iter().find(|(_, seat)| is_it(seat));
        found.map_or(called, |(consumer, _)| *consumer)
    }
}

fn has_left(consumer: ConsumerId) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no consumer {}", consumer.0))
        .hint("join first; whoever has left gets nothing")
}
