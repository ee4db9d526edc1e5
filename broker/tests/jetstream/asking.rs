//! Requests: another server answers when one has gone, and nobody waits for one that will not answer.

use std::sync::Arc;
use std::time::Duration;

use crossdock_broker::JetStream;
use crossdock_tests::{Line, Nats, eventually};
use crossdock_topics::{Broker, ErrorCode, Message, Reply, Requests, ServiceName, Store};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{PATIENCE, open};

fn service() -> ServiceName {
    "pricing".parse().unwrap()
}

/// An hour is far longer than any test waits.
fn ask(broker: &Arc<JetStream>) -> JoinHandle<Reply> {
    let broker = broker.clone();
    tokio::spawn(
        async move { broker.request(&service(), Message::new("?"), Duration::from_secs(3600)).await },
    )
}

/// Answers everything with its name.
async fn answering(broker: &Arc<JetStream>, name: &'static str) -> JoinHandle<()> {
    let mut requests = broker.serve(&service(), 100).await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            request.responder.reply(Ok(Message::new(name)));
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_servers_are_asked_in_turn_and_one_that_closes_no_more() {
    let nats = Nats::single().await;
    let (one, two, caller) = (open(&nats.url()).await, open(&nats.url()).await, open(&nats.url()).await);
    let serving = [answering(&one, "one").await, answering(&two, "two").await];
    eventually("both to answer", PATIENCE, || async {
        let mut names = Vec::new();
        for _ in 0..2 {
            names.push(ask(&caller).await.unwrap().unwrap().payload);
        }
        (names[0] != names[1]).then_some(())
    })
    .await;
    one.close().await;
    for _ in 0..20 {
        assert_eq!(ask(&caller).await.unwrap().unwrap().payload, "two");
    }
    two.close().await;
    let error = timeout(PATIENCE, ask(&caller)).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    for serving in serving {
        timeout(PATIENCE, serving).await.unwrap().unwrap();
    }
    caller.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_is_told_that_its_server_has_gone_long_before_its_time_is_up() {
    let nats = Nats::single().await;
    let line = Line::to(&nats.url()).await;
    let (server, caller) = (open(&line.url()).await, open(&nats.url()).await);
    let mut requests = server.serve(&service(), 10).await.unwrap();
    // What it reads is not older than what was served before.
    caller.list("").await.unwrap();
    let asked = ask(&caller);
    let taken = timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
    line.cut();
    let error = timeout(PATIENCE, asked).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    drop(taken);
    // It comes back, is known again, and answers.
    line.mend();
    let answering = tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            request.responder.reply(Ok(Message::new("again")));
        }
    });
    eventually("an answer", PATIENCE, || async { ask(&caller).await.unwrap().ok() }).await;
    for broker in [caller, server] {
        broker.close().await;
    }
    timeout(PATIENCE, answering).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_was_lost_with_a_connection_is_no_wait_without_end() {
    let nats = Nats::single().await;
    let line = Line::to(&nats.url()).await;
    let (server, caller) = (open(&nats.url()).await, open(&line.url()).await);
    let mut requests = server.serve(&service(), 10).await.unwrap();
    // What it reads is not older than what was served before.
    caller.list("").await.unwrap();
    let asked = ask(&caller);
    let taken = timeout(PATIENCE, requests.recv()).await.unwrap().unwrap();
    line.cut();
    eventually("the caller to be cut off", PATIENCE, || async { (!caller.health().ready).then_some(()) })
        .await;
    taken.responder.reply(Ok(Message::new("to nobody")));
    tokio::time::sleep(Duration::from_millis(200)).await;
    line.mend();
    let error = timeout(PATIENCE, asked).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    for broker in [caller, server] {
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_go_on_while_nats_servers_are_restarted_one_after_the_other() {
    let mut nats = Nats::cluster(3).await;
    let (server, caller) = (open(&nats.url()).await, open(&nats.url()).await);
    let serving = answering(&server, "here").await;
    eventually("an answer", PATIENCE, || async { ask(&caller).await.unwrap().ok() }).await;
    let (mut answered, mut failed) = (0, 0);
    for node in 0..3 {
        nats.kill(node).await;
        for _ in 0..50 {
            match timeout(PATIENCE, ask(&caller)).await.expect("an answer or an error").unwrap() {
                Ok(_) => answered += 1,
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
                    failed += 1;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        nats.restart(node).await;
    }
    eprintln!("{answered} requests were answered, {failed} failed");
    assert!(answered > failed, "{answered} answered, {failed} failed");
    for broker in [caller, server] {
        broker.close().await;
    }
    timeout(PATIENCE, serving).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nats_cannot_carry_is_refused_with_what_to_do() {
    let nats = Nats::single().await;
    let broker = open(&nats.url()).await;
    let mut requests = broker.serve(&service(), 10).await.unwrap();
    // More than the 16 MB that these servers take.
    let large = Message::new(vec![0; 17 << 20]);
    let error = broker.request(&service(), large.clone(), PATIENCE).await.unwrap_err();
    assert_eq!((error.code, error.hint.is_some()), (ErrorCode::TooLarge, true), "{error}");
    let asked = ask(&broker);
    timeout(PATIENCE, requests.recv()).await.unwrap().unwrap().responder.reply(Ok(large));
    let error = timeout(PATIENCE, asked).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::TooLarge, "{error}");
    broker.close().await;
}
