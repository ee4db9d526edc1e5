use std::collections::VecDeque;

use crossdock_topics::{Message, Published};
use futures::FutureExt;
use tokio_util::codec::Decoder;

use super::*;

/// Lanes, and the server's end of the connection.
struct Bench {
    lanes: Lanes,
    now: Instant,
    ids: u64,
}

/// A frame as the server gets it.
#[derive(Clone, Debug)]
struct Got {
    id: u64,
    source: Option<Source>,
    texts: Vec<String>,
}

impl Bench {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static PUBLISHERS: AtomicU64 = AtomicU64::new(1);
        let lanes = Lanes::new(|| u128::from(PUBLISHERS.fetch_add(1, Ordering::Relaxed)));
        Self { lanes, now: Instant::now(), ids: 0 }
    }

    fn publish_with(&mut self, topic: &str, text: &str, options: PublishOptions) -> Published {
        let (waiter, published) = Published::pending();
        let batch = Batch::of(&Message::new(text.to_owned())).unwrap();
        self.lanes.publish(&topic.parse().unwrap(), batch, options, waiter, self.now);
        published
    }

    fn publish(&mut self, text: &str) -> Published {
        self.publish_with("orders", text, PublishOptions::default())
    }

    fn sent(&mut self) -> Vec<Got> {
        let mut output = Pieces::default();
        while self.lanes.fill(&mut output, usize::MAX, self.now, &mut self.ids) {}
        let mut stream = bytes::BytesMut::from(&output.flat()[..]);
        let mut frames = Vec::new();
        while let Some(frame) = session::codec().decode(&mut stream).unwrap() {
            let ToServer::Publish { id, source, .. } = frame.header().unwrap() else { panic!("{frame:?}") };
            let texts = super::super::log::records(&frame.payload)
                .map(|record| String::from_utf8(record.unwrap().payload().to_vec()).unwrap())
                .collect();
            frames.push(Got { id, source: source.map(Into::into), texts });
        }
        frames
    }

    fn answer(&mut self, id: u64, answer: Result<Receipts>) {
        let mut told = Vec::new();
        self.lanes.answer(id, answer, self.now, &mut told);
        for (waiter, answer) in told {
            waiter.send(answer);
        }
    }

    fn store(&mut self, got: &Got, first: u64) {
        let count = u32::try_from(got.texts.len()).unwrap();
        let receipts = Receipts { first, count, durability: Durability::Fsync, duplicates: vec![] };
        self.answer(got.id, Ok(receipts));
    }

    /// Has the topic take small messages, so that they are put together from now on.
    fn warm(&mut self) {
        let published = self.publish("warm");
        let sent = self.sent();
        self.store(&sent[0], 0);
        assert_eq!(offset(published), 0);
    }
}

fn offset(published: Published) -> u64 {
    published.now_or_never().expect("an answer").unwrap().first
}

fn failure(published: Published) -> ErrorCode {
    published.now_or_never().expect("an answer").unwrap_err().code
}

fn refusal(code: ErrorCode) -> Result<Receipts> {
    Err(Error::new(code, "no"))
}

#[test]
fn what_waits_together_leaves_together_and_each_gets_its_own_receipt() {
    let mut bench = Bench::new();
    bench.warm();
    let published: Vec<_> = ["a", "b", "c"].iter().map(|text| bench.publish(text)).collect();
    let sent = bench.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].texts, ["a", "b", "c"]);
    let receipts = Receipts { first: 7, count: 3, durability: Durability::Fsync, duplicates: vec![(1, 3)] };
    bench.answer(sent[0].id, Ok(receipts));
    let receipts: Vec<_> =
        published.into_iter().map(|p| p.now_or_never().unwrap().unwrap().iter().next().unwrap()).collect();
    assert_eq!(
        receipts.iter().map(|r| (r.offset, r.duplicate)).collect::<Vec<_>>(),
        [(7, false), (3, true), (8, false)]
    );
    assert!(bench.lanes.is_empty() && bench.lanes.bytes() == 0);
}

#[test]
fn a_payload_larger_than_any_that_was_taken_travels_alone() {
    let mut bench = Bench::new();
    bench.warm();
    for text in ["a", "much larger than warm", "b"] {
        drop(bench.publish(text));
    }
    let texts: Vec<_> = bench.sent().into_iter().map(|got| got.texts).collect();
    assert_eq!(texts, [vec!["a"], vec!["much larger than warm"], vec!["b"]]);
}

#[test]
fn what_was_too_large_for_the_topic_refuses_nothing_but_itself() {
    let mut bench = Bench::new();
    bench.warm();
    let (small, large) = (bench.publish("a"), bench.publish("larg"));
    let sent = bench.sent();
    bench.answer(sent[0].id, refusal(ErrorCode::TooLarge));
    let sent = bench.sent();
    assert_eq!(sent.iter().map(|got| got.texts.clone()).collect::<Vec<_>>(), [["a"], ["larg"]]);
    bench.store(&sent[0], 9);
    bench.answer(sent[1].id, refusal(ErrorCode::TooLarge));
    assert_eq!((offset(small), failure(large)), (9, ErrorCode::TooLarge));
    assert_eq!(bench.lanes.bytes(), 0);
}

#[test]
fn each_frame_names_its_place_and_what_has_been_answered() {
    let mut bench = Bench::new();
    bench.warm();
    let mut sent = Vec::new();
    for text in ["a", "b", "c"] {
        drop(bench.publish(text));
        sent.extend(bench.sent());
    }
    bench.store(&sent[0], 1);
    drop(bench.publish("d"));
    sent.extend(bench.sent());
    let sources: Vec<_> = sent.iter().map(|got| got.source.unwrap()).collect();
    assert!(sources.iter().all(|source| source.publisher == sources[0].publisher));
    let numbers: Vec<_> = sources.iter().map(|source| (source.sequence, source.answered)).collect();
    assert_eq!(numbers, [(1, 1), (2, 1), (3, 1), (4, 2)]);
}

#[test]
fn no_more_frames_are_under_way_than_servers_remember() {
    let mut bench = Bench::new();
    bench.warm();
    let mut sent = VecDeque::new();
    for n in 0..WINDOW + 10 {
        drop(bench.publish(&n.to_string()));
        sent.extend(bench.sent());
    }
    assert_eq!(sent.len(), WINDOW);
    let first = sent.pop_front().unwrap();
    bench.store(&first, 1);
    let next = bench.sent();
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].texts.len(), 10, "those that waited leave together");
}

#[test]
fn after_a_lost_connection_the_same_frames_are_sent_again_in_their_order() {
    let mut bench = Bench::new();
    bench.warm();
    let mut published = Vec::new();
    let mut before = Vec::new();
    for text in ["a", "b"] {
        published.push(bench.publish(text));
        before.extend(bench.sent());
    }
    published.push(bench.publish("c"));
    bench.lanes.lose();
    let after = bench.sent();
    assert_eq!(after.iter().map(|got| got.texts.concat()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(after[0].source.unwrap().sequence, before[0].source.unwrap().sequence);
    assert_eq!(after[1].source.unwrap().sequence, before[1].source.unwrap().sequence);
    // An answer to a frame of the lost connection means nothing.
    bench.store(&before[0], 1);
    for (n, got) in after.iter().enumerate() {
        bench.store(got, 10 + n as u64);
    }
    assert_eq!(published.into_iter().map(offset).collect::<Vec<_>>(), [10, 11, 12]);
}

#[test]
fn a_server_that_has_forgotten_the_publisher_gets_a_new_one_and_the_order_stays() {
    let mut bench = Bench::new();
    bench.warm();
    let (a, b) = (bench.publish("a"), {
        let a = bench.sent();
        assert_eq!(a.len(), 1);
        bench.publish("b")
    });
    let second = bench.sent();
    let c = bench.publish("c");
    let first_id = second[0].id - 1;
    bench.answer(first_id, refusal(ErrorCode::Conflict));
    assert!(bench.sent().is_empty(), "nothing overtakes what is still to come back");
    bench.answer(second[0].id, refusal(ErrorCode::Conflict));
    let again = bench.sent();
    assert_eq!(again.iter().map(|got| got.texts.concat()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let sequences: Vec<_> = again.iter().map(|got| got.source.unwrap().sequence).collect();
    assert_eq!(sequences, [0, 1, 2]);
    assert_ne!(again[0].source.unwrap().publisher, second[0].source.unwrap().publisher);
    for (n, got) in again.iter().enumerate() {
        bench.store(got, n as u64);
    }
    assert_eq!([a, b, c].map(offset), [0, 1, 2]);
}

#[test]
fn what_may_be_stored_is_not_sent_under_another_number() {
    let mut bench = Bench::new();
    bench.warm();
    let published = bench.publish("a");
    assert_eq!(bench.sent().len(), 1);
    bench.lanes.lose();
    let again = bench.sent();
    bench.answer(again[0].id, refusal(ErrorCode::Conflict));
    assert_eq!(failure(published), ErrorCode::Unavailable);
    assert!(bench.sent().is_empty());
}

#[test]
fn after_a_pause_it_begins_anew() {
    let mut bench = Bench::new();
    bench.warm();
    drop(bench.publish("a"));
    let before = bench.sent();
    bench.store(&before[0], 1);
    bench.now += IDLE * 2;
    drop(bench.publish("b"));
    let after = bench.sent();
    assert_ne!(after[0].source.unwrap().publisher, before[0].source.unwrap().publisher);
    assert_eq!(after[0].source.unwrap().sequence, 0);
}

#[test]
fn what_a_caller_asks_for_itself_is_left_as_it_is() {
    let mut bench = Bench::new();
    bench.warm();
    let source = Source { publisher: 77, sequence: 5, answered: 2 };
    let expected = Expected::Last(Some(0));
    let mine =
        bench.publish_with("orders", "a", PublishOptions { source: Some(source), ..Default::default() });
    let careful =
        bench.publish_with("orders", "b", PublishOptions { expected: Some(expected), ..Default::default() });
    let plain = bench.publish("c");
    let sent = bench.sent();
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[0].source, Some(source));
    assert_eq!(sent[1].source.unwrap().sequence, 1);
    // What is expected, and the caller's own numbers, are the caller's affair.
    bench.answer(sent[0].id, refusal(ErrorCode::Conflict));
    bench.answer(sent[1].id, refusal(ErrorCode::Conflict));
    bench.store(&sent[2], 4);
    assert_eq!(
        (failure(mine), failure(careful), offset(plain)),
        (ErrorCode::Conflict, ErrorCode::Conflict, 4)
    );
}

#[test]
fn what_waits_too_long_is_given_up_and_says_what_is_known() {
    let mut bench = Bench::new();
    bench.warm();
    let sent = bench.publish("a");
    assert_eq!(bench.sent().len(), 1);
    let unsent = bench.publish("b");
    bench.lanes.lose();
    let mut told = Vec::new();
    let refusal = Error::new(ErrorCode::Unavailable, "nothing of this was stored");
    bench.lanes.give_up(Some(bench.now), &refusal, &mut told);
    for (waiter, answer) in told {
        waiter.send(answer);
    }
    let messages = [sent, unsent].map(|p| p.now_or_never().unwrap().unwrap_err().to_string());
    assert!(messages[0].contains("may be stored or not"), "{}", messages[0]);
    assert!(messages[1].contains("nothing of this was stored"), "{}", messages[1]);
    // What comes later does not use the numbers of what may be stored.
    drop(bench.publish("c"));
    assert_eq!(bench.sent()[0].source.unwrap().sequence, 0);
    assert!(bench.lanes.is_waiting());
}
