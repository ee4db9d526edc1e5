//! Connections that follow each other faster than what is done over them.

use futures::FutureExt;

use super::*;
use crate::remote::client::driver::{attach, detach};
use crate::remote::client::options::RemoteOptions;

const MINE: ConsumerId = ConsumerId(7);

/// What a caller and the connection's task share, without that task; and one consumer who had joined.
fn link() -> Arc<Link> {
    let link = Arc::new(Link::new(
        RemoteOptions::new("crossdock://127.0.0.1:1").unwrap(),
        Duration::from_secs(30),
        1 << 20,
    ));
    let joined = Consumer { subscription: "s".parse().unwrap(), current: None };
    link.consumers.joined.lock().insert(MINE, joined);
    link
}

/// The requests that wait for an answer, once everything that was begun has gone as far as it can.
async fn asked(link: &Link) -> Vec<u64> {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    link.state.lock().waiting.keys().copied().collect()
}

fn let_join(link: &Link, id: u64, consumer: u64) {
    let Some(Waiting::One(sender)) = link.state.lock().waiting.remove(&id) else { panic!("nobody waits") };
    let answer = Answer { header: ToClient::Joined { id, consumer }, payload: Bytes::new() };
    assert!(sender.send(Ok(answer)).is_ok());
}

fn current(link: &Link) -> Option<u64> {
    link.consumers.joined.lock()[&MINE].current
}

#[tokio::test]
async fn a_consumer_joins_once_over_a_connection_however_soon_it_follows_the_last_one() {
    let link = link();
    // Nothing that these begin goes on before the next await.
    attach(&link);
    detach(&link, "cut");
    attach(&link);
    let asked_for = asked(&link).await;
    assert_eq!(asked_for.len(), 1, "what was begun over the first connection is not asked over the second");
    let_join(&link, asked_for[0], 3);
    assert!(asked(&link).await.is_empty());
    assert_eq!(current(&link), Some(3));
}

#[tokio::test]
async fn what_was_asked_over_a_lost_connection_is_not_sent_over_the_next() {
    let link = link();
    attach(&link);
    assert_eq!(asked(&link).await.len(), 1);
    detach(&link, "cut");
    assert!(asked(&link).await.is_empty());
    assert!(link.state.lock().output.is_empty());
    let name = "s".parse().unwrap();
    attach(&link);
    let late = join(&link, link.connection() - 1, &name).now_or_never();
    assert!(matches!(late, Some(Err(Trouble::Lost))), "{late:?}");
    assert_eq!(asked(&link).await.len(), 1, "only what the consumer asks over the new one");
}

#[tokio::test]
async fn a_place_that_was_got_over_a_connection_that_is_gone_counts_for_nothing() {
    let link = link();
    attach(&link);
    let asked_for = asked(&link).await;
    let_join(&link, asked_for[0], 3);
    detach(&link, "cut");
    attach(&link);
    let asked_for = asked(&link).await;
    assert_eq!(current(&link), None, "the server has given that one up");
    let_join(&link, asked_for[0], 4);
    asked(&link).await;
    assert_eq!(current(&link), Some(4));
}
