use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use serde::de::DeserializeOwned;

use super::*;

fn word() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..20).prop_map(String::from_iter)
}

fn error() -> impl Strategy<Value = Option<WireError>> {
    of((word(), word(), of(word()), any::<Option<u64>>()))
}

fn outputs() -> impl Strategy<Value = Outputs> {
    vec((word(), any::<u32>()), 0..4)
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Ack),
        (any::<Option<u64>>(), word()).prop_map(|(after_ms, reason)| Verdict::Retry { after_ms, reason }),
        word().prop_map(|reason| Verdict::Reject { reason }),
    ]
}

prop_compose! {
    fn consume()(
        id: u64, handler: u32, budget_ms: u64, payload_bytes: u32, topic in word(), offset: u64, time_ms: i64,
        attempt: u32, deliveries: u32,
    ) -> ToProcess {
        ToProcess::Consume {
            id, handler, budget_ms, payload_bytes, topic, offset, time_ms, attempt, deliveries,
        }
    }
}

fn to_process() -> impl Strategy<Value = ToProcess> {
    prop_oneof![
        any::<u32>().prop_map(|protocol| ToProcess::Hello { protocol }),
        consume(),
        any::<(u64, u32, u64, u32)>().prop_map(|(id, handler, budget_ms, payload_bytes)| {
            ToProcess::Serve { id, handler, budget_ms, payload_bytes }
        }),
        (any::<u64>(), error()).prop_map(|(id, error)| ToProcess::Answer { id, error }),
        (any::<u64>(), error(), any::<u64>(), vec(any::<(u64, i64)>(), 0..5))
            .prop_map(|(id, error, next, places)| ToProcess::Page { id, error, next, places }),
        Just(ToProcess::Drain),
    ]
}

fn from_process() -> impl Strategy<Value = FromProcess> {
    prop_oneof![
        any::<(u32, u32, bool)>().prop_map(|(protocol, credit, in_order)| FromProcess::Ready {
            protocol,
            credit,
            in_order
        }),
        any::<u32>().prop_map(|protocol| FromProcess::Refused { protocol }),
        (any::<u64>(), verdict(), outputs()).prop_map(|(id, verdict, outputs)| FromProcess::Settle {
            id,
            verdict,
            outputs
        }),
        (any::<u64>(), error(), outputs()).prop_map(|(id, error, outputs)| FromProcess::Reply {
            id,
            error,
            outputs
        }),
        (any::<u64>(), word(), any::<u64>()).prop_map(|(id, service, timeout_ms)| FromProcess::Invoke {
            id,
            service,
            timeout_ms
        }),
        (any::<u64>(), word(), any::<i64>(), any::<u32>(), any::<u64>())
            .prop_map(|(id, topic, from, max, wait_ms)| FromProcess::Read { id, topic, from, max, wait_ms }),
    ]
}

fn again<T: Serialize + DeserializeOwned>(header: &T) -> T {
    Frame::new(header, Bytes::new()).unwrap().header().unwrap()
}

proptest! {
    #[test]
    fn every_header_is_read_as_it_was_written(to in to_process(), from in from_process()) {
        prop_assert_eq!(again(&to), to);
        prop_assert_eq!(again(&from), from);
    }

    #[test]
    fn hostile_headers_never_panic(bytes in vec(any::<u8>(), 0..80), from in from_process(), at: usize, bit in 0u8..8) {
        let frame = |header: Vec<u8>| Frame { header: header.into(), payload: Bytes::new() };
        let _ = frame(bytes.clone()).header::<FromProcess>();
        let _ = frame(bytes).header::<ToProcess>();
        let mut bytes = rmp_serde::to_vec(&from).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let _ = frame(bytes).header::<FromProcess>();
    }
}

#[test]
fn a_reader_passes_over_what_a_later_version_adds() {
    let frame = Frame::new(&(2, 1, "more", vec![1, 2]), Bytes::new()).unwrap();
    assert_eq!(frame.header::<FromProcess>().unwrap(), FromProcess::Refused { protocol: 1 });
}

#[test]
fn a_header_of_an_unknown_kind_says_so() {
    let frame = Frame::new(&(99, 1), Bytes::new()).unwrap();
    assert!(frame.header::<FromProcess>().unwrap_err().to_string().contains("kind 99"));
    let short = Frame::new(&(3, 1), Bytes::new()).unwrap();
    assert!(short.header::<ToProcess>().unwrap_err().to_string().contains("too short"));
}

/// The bytes themselves, so that no change of theirs goes unseen: processes of an older SDK speak them.
#[test]
fn headers_are_small_arrays_of_integers() {
    let serve = ToProcess::Serve { id: 7, handler: 0, budget_ms: 10_000, payload_bytes: 2 };
    assert_eq!(&serve.frame(Bytes::new()).unwrap().header[..], [0x95, 3, 7, 0, 0xcd, 0x27, 0x10, 2]);
    let reply = FromProcess::Reply { id: 7, error: None, outputs: vec![("a".into(), 3)] };
    let bytes = rmp_serde::to_vec(&reply).unwrap();
    assert_eq!(bytes, [0x94, 4, 7, 0xc0, 0x91, 0x92, 0xa1, b'a', 3]);
}
