//! The load itself, on a broker in this process that nothing happens to.

use std::time::Duration;

use crossdock_broker::{Embedded, EmbeddedOptions};
use crossdock_topics::{Broker, Durability};

use super::{Load, Work};
use crate::history::{Event, Reader};
use crate::judge::{Together, judge};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_left_in_peace_keeps_its_word() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Embedded::open(EmbeddedOptions::new(folder.path())).unwrap();
    let work = Work {
        brokers: vec![broker.clone()],
        seed: 7,
        round: 0,
        prefix: "verify.0".into(),
        durability: Durability::Fsync,
        together: Together::InOneWrite,
    };
    let mut load = Load::start(work).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.stop_publishing().await;
    load.drain().await.unwrap();
    let (shared, found) = load.finish().await.unwrap();
    assert!(found.freight.len() > 500 && !found.dead.is_empty(), "{} messages", found.freight.len());
    let delivered = |wanted: Reader| {
        shared.history.count(|event| matches!(event, Event::Delivered { reader, .. } if *reader == wanted))
    };
    assert!(Reader::ALL.into_iter().all(|reader| delivered(reader) > found.freight.len() as u64));
    shared.clear().await.unwrap();
    let history = std::sync::Arc::into_inner(shared).unwrap().history;
    let (events, wrong) = history.into_parts();
    assert_eq!(wrong, [""; 0]);
    let violations = judge(&events, &found, Together::InOneWrite);
    assert!(
        violations.is_empty(),
        "{} of {} events: {:#?}",
        violations.len(),
        events.len(),
        &violations[..violations.len().min(5)]
    );
    broker.close().await;
}
