//! Requests to services by name, with a reply.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;

use super::steps::{eventually, name, refused, soon};
use super::{Harness, PATIENCE};
use crate::{Error, ErrorCode, Message, Reply, Request, ServiceName, SharedBroker};

/// Asks in a task of its own.
fn ask(broker: &SharedBroker, text: &str) -> tokio::task::JoinHandle<Reply> {
    let (broker, message) = (broker.clone(), Message::new(text.to_owned()));
    tokio::spawn(async move { broker.request(&service(), message, PATIENCE).await })
}

fn service() -> ServiceName {
    name("pricing")
}

async fn next(requests: &mut Receiver<Request>) -> Request {
    soon("a request", requests.recv()).await.expect("it goes on serving")
}

pub(super) async fn a_request_gets_its_reply(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut requests = broker.serve(&service(), 10).await.unwrap();
    let question = Message::json("{\"n\":1}").with_header("x", "y").with_key("k");
    let asked = tokio::spawn({
        let (broker, question) = (broker.clone(), question.clone());
        async move { broker.request(&service(), question, PATIENCE).await }
    });
    let request = next(&mut requests).await;
    assert_eq!(request.message, question);
    assert!(request.deadline <= Instant::now() + PATIENCE && !request.responder.is_abandoned());
    let answer = Message::json("{\"price\":2}").with_header(":status", "200");
    request.responder.reply(Ok(answer.clone()));
    assert_eq!(soon("a reply", asked).await.unwrap().unwrap(), answer);
}

pub(super) async fn many_at_once_each_get_their_own(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut requests = broker.serve(&service(), 100).await.unwrap();
    let asked: Vec<_> = (0..50).map(|n| ask(&broker, &n.to_string())).collect();
    let mut waiting = Vec::new();
    for _ in 0..50 {
        waiting.push(next(&mut requests).await);
    }
    for request in waiting.into_iter().rev() {
        let payload = request.message.payload.clone();
        request.responder.reply(Ok(Message::new(payload)));
    }
    for (n, asked) in asked.into_iter().enumerate() {
        assert_eq!(soon("a reply", asked).await.unwrap().unwrap().payload, n.to_string());
    }
}

pub(super) async fn an_error_arrives_as_it_was_sent(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut requests = broker.serve(&service(), 10).await.unwrap();
    let asked = ask(&broker, "?");
    let error = Error::new(ErrorCode::ServiceFailed, "division by zero").hint("do not");
    next(&mut requests).await.responder.reply(Err(error.clone()));
    assert_eq!(soon("a reply", asked).await.unwrap().unwrap_err(), error);
}

pub(super) async fn nobody_there_is_said_at_once(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let error = refused(soon("an answer", ask(&broker, "?")).await.unwrap(), ErrorCode::Unavailable);
    assert!(error.to_string().contains("pricing"), "the error names the service: {error}");
    drop(broker.serve(&service(), 10).await.unwrap());
    refused(soon("an answer", ask(&broker, "?")).await.unwrap(), ErrorCode::Unavailable);
}

pub(super) async fn a_caller_waits_until_its_time_is_up(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut requests = broker.serve(&service(), 10).await.unwrap();
    let began = Instant::now();
    let wait = Duration::from_millis(100);
    let service = service();
    let asked = broker.request(&service, Message::new("?"), wait);
    refused(soon("an answer", asked).await, ErrorCode::Timeout);
    assert!(began.elapsed() >= wait, "gave up after {:?}", began.elapsed());
    // The server may see a request whose caller has gone, and can tell.
    if let Ok(request) = requests.try_recv() {
        eventually("it can tell", async || {
            request.responder.is_abandoned() && request.deadline <= Instant::now()
        })
        .await;
        request.responder.reply(Ok(Message::new("too late")));
    }
    let asked = ask(&broker, "again");
    let mut request = next(&mut requests).await;
    if request.message.payload == "?" {
        // It took longer than its caller waited.
        request = next(&mut requests).await;
    }
    request.responder.reply(Ok(Message::new("in time")));
    assert_eq!(soon("a reply", asked).await.unwrap().unwrap().payload, "in time");
}

pub(super) async fn a_server_that_goes_away_is_noticed(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut requests = broker.serve(&service(), 10).await.unwrap();
    let (one, two) = (ask(&broker, "1"), ask(&broker, "2"));
    drop(next(&mut requests).await);
    let second = next(&mut requests).await;
    let first = tokio::select! {
        answer = one => answer, answer = two => answer,
        () = tokio::time::sleep(PATIENCE) => panic!("a caller was left waiting for a request that was dropped"),
    };
    refused(first.unwrap(), ErrorCode::Unavailable);
    drop(second);
}

pub(super) async fn what_waits_with_one_who_stops_is_handed_on_or_refused(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let first = broker.serve(&service(), 10).await.unwrap();
    let asked: Vec<_> = (0..5).map(|n| ask(&broker, &n.to_string())).collect();
    eventually("all wait", async || first.len() == 5).await;
    let mut second = broker.serve(&service(), 10).await.unwrap();
    drop(first);
    let serving = tokio::spawn(async move {
        while let Some(request) = second.recv().await {
            request.responder.reply(Ok(Message::new("from the second")));
        }
    });
    for asked in asked {
        match soon("an answer", asked).await.unwrap() {
            Ok(message) => assert_eq!(message.payload, "from the second"),
            Err(error) => assert_eq!(error.code, ErrorCode::Unavailable, "{error}"),
        }
    }
    serving.abort();
}

pub(super) async fn full_queues_refuse(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut requests = broker.serve(&service(), 2).await.unwrap();
    let waiting = [ask(&broker, "1"), ask(&broker, "2")];
    super::steps::eventually("both wait", async || requests.len() == 2).await;
    let error = refused(soon("an answer", ask(&broker, "3")).await.unwrap(), ErrorCode::Overloaded);
    assert!(error.retry_after.is_some(), "overloaded says when it is worth trying again");
    for _ in 0..2 {
        next(&mut requests).await.responder.reply(Ok(Message::new("done")));
    }
    for asked in waiting {
        soon("a reply", asked).await.unwrap().unwrap();
    }
    let asked = ask(&broker, "4");
    next(&mut requests).await.responder.reply(Ok(Message::new("done")));
    soon("a reply", asked).await.unwrap().unwrap();
}

pub(super) async fn several_servers_share_the_work(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(broker.serve(&service(), 2).await.unwrap());
    }
    // Six requests fit only when each server takes two.
    let asked: Vec<_> = (0..6).map(|n| ask(&broker, &n.to_string())).collect();
    super::steps::eventually("each has two", async || servers.iter().all(|server| server.len() == 2)).await;
    refused(soon("an answer", ask(&broker, "7")).await.unwrap(), ErrorCode::Overloaded);
    for (n, server) in servers.iter_mut().enumerate() {
        for _ in 0..2 {
            next(server).await.responder.reply(Ok(Message::new(n.to_string())));
        }
    }
    let mut answered = BTreeSet::new();
    for asked in asked {
        answered.insert(soon("a reply", asked).await.unwrap().unwrap().payload);
    }
    assert_eq!(answered.len(), 3);
}

pub(super) async fn a_caller_that_goes_away_is_noticed(harness: Arc<dyn Harness>) {
    let broker = harness.open().await;
    let mut requests = broker.serve(&service(), 10).await.unwrap();
    let asked = ask(&broker, "?");
    let request = next(&mut requests).await;
    assert!(!request.responder.is_abandoned());
    asked.abort();
    super::steps::eventually("the server can tell", async || request.responder.is_abandoned()).await;
    request.responder.reply(Ok(Message::new("to nobody")));
}
