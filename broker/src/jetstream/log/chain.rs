//! What becomes of a chain of which something was not stored, or not answered.

use std::collections::VecDeque;

use crossdock_topics::Error;
use tokio::time::Instant;

use super::group::{Group, Known};
use super::publisher::{CAREFUL, Publisher};
use super::sending::Answer;
use super::topic::Queued;

/// A part of a chain, its last message's place in it, and what NATS said to that. What was sent on its own has no place.
pub(super) type Link = (Group, Option<u64>, Answer);

impl Publisher {
    /// Brings a chain to its end of which the first part was not simply stored. Nothing else is under way.
    pub(super) async fn broken(&mut self, mut chain: VecDeque<Link>) {
        let deadline = Instant::now() + self.logs.patience();
        // Each was only stored behind the one before it.
        let last = chain.iter().rposition(|(.., answer)| matches!(answer, Answer::Stored(_)));
        for (group, place, answer) in chain.drain(..last.map_or(0, |last| last + 1)) {
            match (answer, place) {
                (Answer::Stored(sequence), _) | (_, Some(sequence)) => self.stored(group, sequence),
                (answer, None) => drop(self.settle(group, answer, deadline).await),
            }
        }
        let mut chain: VecDeque<Link> = chain.into_iter().flat_map(|link| self.one_by_one(link)).collect();
        if chain.iter().any(|(.., answer)| matches!(answer, Answer::WrongLast(_))) {
            self.state.careful = CAREFUL;
        }
        let of_run = self.naming.all_of_run();
        self.state.run.broken();
        if chain.iter().any(|(_, place, answer)| place.is_some() && matches!(answer, Answer::Unknown(_))) {
            self.state.run.renew();
            while self.find_stored(&mut chain, &of_run).await {
                let Some((group, _, answer)) = chain.pop_front() else { return };
                if self.settle(group, answer, deadline).await {
                    // Where the next ones would have had to lie is something else.
                    break;
                }
                if Instant::now() >= deadline {
                    chain.drain(..).for_each(|(group, ..)| self.give_up(group, "NATS does not answer", true));
                }
            }
        } else if let Some((group, _, answer)) = chain.pop_front() {
            self.settle(group, answer, deadline).await;
        }
        // None of them is stored, or will be.
        let mut queue = self.log.queue.lock();
        for (group, ..) in chain.into_iter().rev() {
            for waiting in group.into_waiting().rev() {
                if let Some(source) = &waiting.source {
                    self.sources.remove(&(source.publisher, source.sequence));
                }
                queue.waiting.push_front(Queued::Batch(waiting));
            }
        }
    }

    /// The messages of a part of a chain by themselves: only the last one's answer was asked for.
    fn one_by_one(&self, (group, place, answer): Link) -> VecDeque<Link> {
        let Some(end) = place.filter(|_| group.length() > 1) else {
            return VecDeque::from([(group, place, answer)]);
        };
        let first = end + 1 - group.length() as u64;
        let messages = (first..).zip(group.into_waiting());
        let unknown = || Answer::Unknown("nobody has asked".into());
        let mut links: VecDeque<Link> = messages
            .map(|(place, waiting)| (self.group(vec![waiting], &Known::new()), Some(place), unknown()))
            .collect();
        if let Some((.., last)) = links.back_mut() {
            *last = answer;
        }
        links
    }

    /// Answers what is stored of a chain; gives whether some of the rest may still be.
    async fn find_stored(&mut self, chain: &mut VecDeque<Link>, of_run: &str) -> bool {
        let found = async {
            // In this order: what is stored of the chain while the first is asked is seen by the second.
            let info = self.logs.streams.info(self.log.number).await?;
            let last = self.logs.streams.last_on(self.log.number, of_run).await?;
            Ok::<_, Error>((
                info.map_or(0, |info| info.state.tail()),
                last.map_or(0, |(offset, _)| offset + 1),
            ))
        };
        // Where NATS cannot be asked, each will be looked for.
        let Ok((end, last)) = found.await else { return true };
        while chain.front().is_some_and(|(_, place, _)| place.is_some_and(|place| place <= last)) {
            if let Some((group, Some(place), _)) = chain.pop_front() {
                self.answer(group, |length| place.saturating_sub(length));
            }
        }
        chain.front().is_some_and(|(_, place, _)| place.is_none_or(|place| end < place))
    }
}
