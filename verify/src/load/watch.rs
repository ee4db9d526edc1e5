//! A reader without a subscription, who sees every message as soon as it is visible.

use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::StartAt;
use tokio::sync::watch;

use super::{Phase, Shared, pause};
use crate::freight::Freight;
use crate::history::Event;

pub(super) async fn run(shared: Arc<Shared>, phase: watch::Receiver<Phase>) {
    let mut dice = shared.dice(200);
    let mut next = 0;
    while *phase.borrow() != Phase::Stop {
        let from = StartAt::Offset(next);
        match shared.broker(200).read(&shared.freight, from, 1000, Duration::from_millis(200)).await {
            Ok(page) => {
                for message in &page.messages {
                    match Freight::read(&message.record, shared.seed) {
                        Ok(freight) => shared.history.add(Event::Seen { freight, offset: message.offset }),
                        Err(wrong) => shared.history.wrong(format!("read at {}: {wrong}", message.offset)),
                    }
                }
                next = page.next.max(next);
            }
            Err(_) => pause(&mut dice).await,
        }
    }
}
