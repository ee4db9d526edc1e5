use crossdock_topics::{Message, Record, Responder};
use tokio::sync::oneshot;

use super::*;
use crate::call::Work;

fn call(handler: u32) -> (Call, oneshot::Receiver<crossdock_topics::Reply>) {
    let (responder, reply) = Responder::pair();
    let work = Work::Request {
        record: Record::of(&Message::new("x")).unwrap(),
        deadline: Instant::now() + Duration::from_secs(60),
        responder: Some(responder),
    };
    (Call { handler, timeout: Duration::from_millis(50), work }, reply)
}

struct Desk {
    dispatch: Dispatch,
    replies: Vec<oneshot::Receiver<crossdock_topics::Reply>>,
}

impl Desk {
    fn new() -> Self {
        Self { dispatch: Dispatch::new("s".parse().unwrap()), replies: Vec::new() }
    }

    fn submit(&mut self, count: u32) {
        for handler in 0..count {
            let (call, reply) = call(handler);
            self.dispatch.submit(call);
            self.replies.push(reply);
        }
    }

    fn join(&self, in_order: bool, credit: usize) -> (u64, mpsc::UnboundedReceiver<Frame>) {
        let (out, frames) = mpsc::unbounded_channel();
        (self.dispatch.join(out, in_order, credit), frames)
    }
}

#[tokio::test]
async fn calls_wait_for_a_process_and_go_to_the_one_with_the_least_to_do() {
    let mut desk = Desk::new();
    desk.submit(3);
    assert_eq!(desk.dispatch.capacity(), 0);
    let (_, mut first) = desk.join(false, 2);
    assert_eq!(first.len(), 2);
    let (_, mut second) = desk.join(false, 2);
    assert_eq!(second.len(), 1);
    desk.submit(1);
    assert_eq!((first.len(), second.len()), (2, 2));
    assert!(first.recv().await.is_some() && second.recv().await.is_some());
    tokio::time::timeout(Duration::from_secs(1), desk.dispatch.room()).await.unwrap();
}

#[tokio::test]
async fn a_process_in_order_is_handed_more_when_calls_are_short_and_one_when_they_are_long() {
    let mut desk = Desk::new();
    let (seat, frames) = desk.join(true, 1);
    assert_eq!(desk.dispatch.capacity(), 1);
    desk.submit(200);
    assert_eq!(frames.len(), 1);
    for id in 1..=100 {
        assert!(desk.dispatch.finish(seat, id).is_some(), "{id}");
    }
    let deep = desk.dispatch.capacity();
    assert!(deep > 8 && deep <= 32, "{deep}");
    for id in 101..=130 {
        tokio::time::sleep(Duration::from_millis(6)).await;
        assert!(desk.dispatch.finish(seat, id).is_some(), "{id}");
    }
    assert_eq!(desk.dispatch.capacity(), 1);
}

#[tokio::test]
async fn what_a_dead_process_had_not_begun_goes_to_the_next_in_its_order() {
    let mut desk = Desk::new();
    let (seat, _frames) = desk.join(false, 3);
    desk.submit(4);
    let held = desk.dispatch.leave(seat);
    assert_eq!(held.iter().map(|u| u.id).collect::<Vec<_>>(), [1, 2, 3]);
    desk.dispatch.give_back(held.into_iter().map(|u| u.call).skip(1));
    let (seat, _frames) = desk.join(false, 8);
    let handlers: Vec<_> = desk.dispatch.leave(seat).iter().map(|u| u.call.handler).collect();
    assert_eq!(handlers, [1, 2, 3]);
    assert!(desk.replies[0].try_recv().is_err(), "the first one was dropped, and its caller hears so");
}

#[tokio::test]
async fn only_the_first_of_calls_in_order_can_be_late() {
    let mut desk = Desk::new();
    let (ordered, _a) = desk.join(true, 1);
    desk.submit(1);
    assert!(desk.dispatch.overdue(ordered, Duration::ZERO).is_none());
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(desk.dispatch.overdue(ordered, Duration::ZERO).map(|(id, _)| id), Some(1));
    assert!(desk.dispatch.overdue(ordered, Duration::from_secs(1)).is_none());
    desk.dispatch.finish(ordered, 1);
    assert!(desk.dispatch.overdue(ordered, Duration::ZERO).is_none());
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_is_not_handed_out() {
    let mut desk = Desk::new();
    desk.submit(2);
    desk.replies.remove(0);
    let (_seat, frames) = desk.join(false, 8);
    assert_eq!(frames.len(), 1);
}
