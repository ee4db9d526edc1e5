use bytes::Bytes;
use crossdock_topics::{Delivery, DeliveryId, Error, ErrorCode, Expect, Message, Outcome, Record, Timestamp};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::Frame;

fn word() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..20).prop_map(String::from_iter)
}

fn error() -> impl Strategy<Value = WireError> {
    (word(), word(), of(word()), any::<Option<u64>>()).prop_map(|(c, m, h, r)| WireError(c, m, h, r))
}

fn outputs() -> impl Strategy<Value = Outputs> {
    vec((word(), any::<u32>()), 0..4)
}

/// Few logs, offsets and tokens, so that many lie next to each other.
fn delivery_id() -> impl Strategy<Value = DeliveryId> {
    (0u32..2, prop_oneof![0u64..6, Just(u64::MAX)], prop_oneof![0u64..4, Just(u64::MAX)])
        .prop_map(|(log, offset, token)| DeliveryId { log, offset, token })
}

fn ids() -> impl Strategy<Value = Vec<DeliveryId>> {
    let neighbours = (0u32..2, 0u64..9, 0u64..9, 1u64..20).prop_map(|(log, offset, token, count)| {
        (0..count).map(|i| DeliveryId { log, offset: offset + i, token: token + i }).collect()
    });
    vec(prop_oneof![vec(delivery_id(), 0..6), neighbours], 0..5).prop_map(|runs| runs.concat())
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        3 => Just(Outcome::Ack),
        1 => Just(Outcome::Release),
        1 => (of(0u64..5), "[ab]{0,1}").prop_map(|(after, reason)| Outcome::Retry {
            after: after.map(std::time::Duration::from_millis),
            reason,
        }),
        1 => "[ab]{0,1}".prop_map(|reason| Outcome::Reject { reason }),
    ]
}

fn request() -> impl Strategy<Value = ToServer> {
    let id = any::<u64>;
    prop_oneof![
        (any::<(u32, u32)>(), word(), of((of(word()), word()))).prop_map(|((min, max), name, login)| {
            let login = login.map(|(user, secret)| Login(user, secret));
            ToServer::Hello { id: 0, min, max, name, login }
        }),
        id().prop_map(|id| ToServer::Ping { id }),
        id().prop_map(|id| ToServer::Drain { id }),
        id().prop_map(|id| ToServer::Cancel { id }),
        (id(), word(), of(any::<u8>()), of((of(id()), of(word()))), of(any::<(u64, u64, u64, u64)>()))
            .prop_map(|(id, topic, durability, expected, source)| ToServer::Publish {
                id,
                topic,
                durability,
                expected: expected.map(|(offset, key)| Expectation(offset, key)),
                source: source.map(|(a, b, c, d)| SourceOf(a, b, c, d)),
            }),
        (id(), word(), any::<(u8, i64, u32, u64)>()).prop_map(|(id, topic, (place, value, max, wait_ms))| {
            ToServer::Read { id, topic, place, value, max, wait_ms }
        }),
        (id(), word()).prop_map(|(id, subscription)| ToServer::Join { id, subscription }),
        (id(), word(), id()).prop_map(|(id, subscription, consumer)| ToServer::Leave {
            id,
            subscription,
            consumer
        }),
        (id(), word(), any::<(Option<u64>, u32, u64, u64, Option<u64>)>()).prop_map(
            |(id, subscription, (consumer, max, max_bytes, wait_ms, lease_ms))| ToServer::Fetch {
                id,
                subscription,
                consumer,
                max,
                max_bytes,
                wait_ms,
                lease_ms,
            }
        ),
        (id(), word(), any::<(u64, u64, Option<u64>)>()).prop_map(
            |(id, subscription, (messages, bytes, lease_ms))| ToServer::Consume {
                id,
                subscription,
                messages,
                bytes,
                lease_ms
            }
        ),
        any::<(u64, u64, u64)>().prop_map(|(id, messages, bytes)| ToServer::Credit { id, messages, bytes }),
        (id(), word(), vec((delivery_id(), outcome()), 0..20), outputs(), of(word())).prop_map(
            |(id, subscription, outcomes, outputs, by)| ToServer::Settle {
                id,
                subscription,
                outcomes: OutcomeRange::all(&outcomes),
                outputs,
                by,
            }
        ),
        (id(), word(), id(), ids()).prop_map(|(id, subscription, lease_ms, ids)| ToServer::Extend {
            id,
            subscription,
            lease_ms,
            deliveries: ids.into_iter().collect(),
        }),
        (id(), word(), id()).prop_map(|(id, service, timeout_ms)| ToServer::Invoke {
            id,
            service,
            timeout_ms
        }),
        (id(), word(), any::<u32>()).prop_map(|(id, service, capacity)| ToServer::Serve {
            id,
            service,
            capacity
        }),
        (id(), of(error()), outputs()).prop_map(|(id, error, outputs)| ToServer::Reply {
            id,
            error,
            outputs
        }),
        (id(), any::<u32>()).prop_map(|(id, json)| ToServer::Call { id, json }),
    ]
}

fn response() -> impl Strategy<Value = ToClient> {
    let id = any::<u64>;
    prop_oneof![
        (word(), any::<(u32, u64, u32, u32, u32, u32)>()).prop_map(
            |(server, (version, heartbeat_ms, max_header, max_payload, max_requests, max_deliveries))| {
                ToClient::Welcome {
                    id: 0,
                    version,
                    server,
                    heartbeat_ms,
                    max_header,
                    max_payload,
                    max_requests,
                    max_deliveries,
                }
            }
        ),
        id().prop_map(|id| ToClient::Ping { id }),
        id().prop_map(|id| ToClient::Drain { id }),
        id().prop_map(|id| ToClient::Abandoned { id }),
        (any::<bool>(), of(word()), word()).prop_map(|(ready, reason, engine)| ToClient::Health {
            id: 0,
            ready,
            reason,
            engine
        }),
        (any::<(u64, u64, u32, u8)>(), vec(any::<(u32, u64)>(), 0..4)).prop_map(
            |((id, first, count, durability), duplicates)| ToClient::Receipts {
                id,
                first,
                count,
                durability,
                duplicates
            }
        ),
        (id(), id(), vec(any::<(u64, i64, u32)>(), 0..4)).prop_map(|(id, next, runs)| ToClient::Page {
            id,
            next,
            runs: runs.into_iter().map(|(offset, time, count)| PageRun(offset, time, count)).collect(),
        }),
        any::<(u64, u64)>().prop_map(|(id, consumer)| ToClient::Joined { id, consumer }),
        (
            id(),
            vec((word(), any::<u32>(), vec(any::<(u64, u64, i64, u32, u32, u32)>(), 0..3)), 0..3),
            vec(any::<u32>(), 0..5)
        )
            .prop_map(|(id, topics, payloads)| ToClient::Deliveries {
                id,
                topics: topics
                    .into_iter()
                    .map(|(topic, log, runs)| {
                        let run = |(o, t, at, a, d, n)| Run(o, t, at, a, d, n);
                        TopicRuns(topic, log, runs.into_iter().map(run).collect())
                    })
                    .collect(),
                payloads,
            }),
        (id(), id(), ids()).prop_map(|(id, settled, stale)| ToClient::Settled {
            id,
            settled,
            stale: stale.into_iter().collect()
        }),
        any::<(u64, u32)>().prop_map(|(id, payload_bytes)| ToClient::Answer { id, payload_bytes }),
        any::<(u64, u64, u64, u32)>().prop_map(|(id, serving, budget_ms, payload_bytes)| ToClient::Request {
            id,
            serving,
            budget_ms,
            payload_bytes
        }),
        any::<(u64, u32, bool)>().prop_map(|(id, json, more)| ToClient::Done { id, json, more }),
        id().prop_map(|id| ToClient::End { id }),
        (id(), error()).prop_map(|(id, error)| ToClient::Failed { id, error }),
    ]
}

fn greeting() -> impl Strategy<Value = (process::ToProcess, process::FromProcess)> {
    use process::{FromProcess, ToProcess};
    let said = prop_oneof![
        any::<(u32, u32, bool)>().prop_map(|(version, credit, in_order)| FromProcess::Ready {
            version,
            credit,
            in_order
        }),
        any::<u32>().prop_map(|version| FromProcess::Refused { version }),
    ];
    (any::<u32>().prop_map(|version| ToProcess::Start { version }), said)
}

fn again<T: Serialize + DeserializeOwned>(header: &T) -> T {
    Frame::new(header, Bytes::new()).unwrap().header().unwrap()
}

proptest! {
    #[test]
    fn every_header_is_read_as_it_was_written(
        request in request(), response in response(), (start, ready) in greeting(),
    ) {
        prop_assert_eq!(again(&start), start);
        prop_assert_eq!(again(&ready), ready);
        prop_assert_eq!(again(&request), request);
        prop_assert_eq!(again(&response), response);
    }

    #[test]
    fn hostile_headers_never_panic(
        bytes in vec(any::<u8>(), 0..80), request in request(), response in response(), at: usize, bit in 0u8..8,
    ) {
        let frame = |header: Vec<u8>| Frame { header: header.into(), payload: Bytes::new() };
        let _ = frame(bytes.clone()).header::<ToServer>();
        let _ = frame(bytes).header::<ToClient>();
        let flip = |mut bytes: Vec<u8>| {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            frame(bytes)
        };
        let _ = flip(rmp_serde::to_vec(&request).unwrap()).header::<ToServer>();
        let _ = flip(rmp_serde::to_vec(&response).unwrap()).header::<ToClient>();
    }

    #[test]
    fn ranges_name_the_same_deliveries_in_the_same_order(ids in ids()) {
        let ranges: Ranges = ids.iter().copied().collect();
        prop_assert_eq!(ranges.len(), ids.len() as u64);
        prop_assert_eq!(ranges.ids().collect::<Vec<_>>(), ids);
    }

    #[test]
    fn outcomes_keep_their_order(outcomes in vec((delivery_id(), outcome()), 0..40)) {
        let ranges = OutcomeRange::all(&outcomes);
        let said: Vec<_> = ranges
            .iter()
            .flat_map(|range| range.range().ids().map(|id| (id, range.outcome().unwrap())))
            .collect();
        prop_assert_eq!(said, outcomes);
    }

    #[test]
    fn deliveries_survive_their_runs(ids in ids(), alike in vec((0i64..2, 1u32..3), 60)) {
        let record = Record::of(&Message::new("x")).unwrap();
        let deliveries: Vec<Delivery> = ids
            .iter()
            .zip(alike.iter().cycle())
            .map(|(id, (time, attempt))| Delivery {
                id: *id,
                topic: format!("t{}", id.log).parse().unwrap(),
                offset: id.offset,
                time: Timestamp(*time),
                attempt: *attempt,
                deliveries: 7,
                record: record.clone(),
            })
            .collect();
        let mut topics = Vec::new();
        deliveries.iter().for_each(|delivery| TopicRuns::add(&mut topics, delivery));
        let read = |delivery: &Delivery| (delivery.id, delivery.time.0, delivery.attempt, delivery.deliveries);
        let written: Vec<_> = topics
            .iter()
            .flat_map(|topic| topic.deliveries().map(|run| (run.id, run.time, run.attempt, run.deliveries)))
            .collect();
        prop_assert_eq!(written, deliveries.iter().map(read).collect::<Vec<_>>());
    }
}

#[test]
fn what_lies_one_after_another_is_one_run() {
    let ids = (0..5000).map(|i| DeliveryId { log: 3, offset: 10 + i, token: 900 + i });
    let acks: Vec<_> = ids.clone().map(|id| (id, Outcome::Ack)).collect();
    assert_eq!(ids.collect::<Ranges>().0, [DeliveryRange(3, 10, 900, 5000)]);
    assert_eq!(OutcomeRange::all(&acks), [OutcomeRange(0, 3, 10, 900, 5000, None, String::new())]);
}

#[test]
fn a_reader_passes_over_what_a_later_version_adds() {
    let frame = Frame::new(&(4, 1, "more", vec![1, 2]), Bytes::new()).unwrap();
    assert_eq!(frame.header::<ToServer>().unwrap(), ToServer::Cancel { id: 1 });
}

#[test]
fn a_header_of_an_unknown_kind_says_so() {
    let frame = Frame::new(&(99, 1), Bytes::new()).unwrap();
    assert!(frame.header::<ToServer>().unwrap_err().to_string().contains("kind 99"));
    let short = Frame::new(&(20, 1), Bytes::new()).unwrap();
    assert!(short.header::<ToClient>().unwrap_err().to_string().contains("too short"));
}

#[test]
fn errors_keep_their_code_and_a_new_code_is_none_of_the_callers() {
    let error = Error::new(ErrorCode::Overloaded, "full")
        .hint("wait")
        .retry_after(std::time::Duration::from_millis(250));
    assert_eq!(Error::from(again(&WireError::from(&error))), error);
    let unknown = WireError("quite_new".into(), "m".into(), None, None);
    assert_eq!(Error::from(unknown).code, ErrorCode::Internal);
}

#[test]
fn a_password_is_not_shown() {
    let login = Login(Some("ada".into()), "swordfish".into());
    assert!(!format!("{login:?}").contains("swordfish"));
}

#[test]
fn calls_are_json_that_can_be_written_by_hand() {
    let call = |text: &str| serde_json::from_str::<Call>(text).unwrap();
    assert_eq!(call(r#""topics""#), Call::Topics);
    assert_eq!(
        call(r#"{"purge": {"name": "orders"}}"#),
        Call::Purge { name: "orders".parse().unwrap(), before: None }
    );
    assert_eq!(
        call(r#"{"delete": {"key": "a", "expect": {"at": 7}}}"#),
        Call::Delete { key: "a".into(), expect: Expect::At(7) }
    );
    assert!(serde_json::from_str::<Call>(r#"{"purge": {"name": "no name"}}"#).is_err());
}

/// The bytes themselves, so that no change of theirs goes unseen: clients of other languages speak them.
#[test]
fn headers_are_small_arrays_of_integers() {
    let publish =
        ToServer::Publish { id: 7, topic: "a".into(), durability: None, expected: None, source: None };
    assert_eq!(&publish.frame(Bytes::new()).unwrap().header[..], [0x96, 10, 7, 0xa1, b'a', 0xc0, 0xc0, 0xc0]);
    let receipts = ToClient::Receipts { id: 7, first: 300, count: 2, durability: 2, duplicates: vec![] };
    let header = receipts.frame(Bytes::new()).unwrap().header;
    assert_eq!(&header[..], [0x96, 10, 7, 0xcd, 0x01, 0x2c, 2, 2, 0x90]);
}
