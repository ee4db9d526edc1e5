//! Writes the seeds: a few well-formed inputs for each target, made by the code that writes such bytes for real.
//!
//! `cargo run --example seeds` in this folder, after a format has changed.

use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use crossdock_broker::group::{Dead, Facts, KeyHash, ParkedSince, Place, Waiting};
use crossdock_topics::{Batch, Message, Record, Timestamp};
use crossdock_wire::FrameCodec;
use crossdock_wire::session::{OutcomeRange, PageRun, ToClient, ToServer, WireError};
use tokio_util::codec::Encoder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let full = Message {
        correlation_id: Some("c".into()),
        content_type: Some("text/plain".into()),
        reply_to: Some("r".into()),
        traceparent: Some("00-a-b-01".into()),
        expires_at: Some(Timestamp(2)),
        deliver_at: Some(Timestamp(1)),
        priority: 9,
        headers: vec![("a".into(), "1".into()), ("b".into(), "".into())],
        ..Message::new("payload").with_key("k").with_id("i")
    };
    let mut batch = Batch::of(&Message::new("plain"))?;
    batch.push(&full)?;
    seed("records", "batch", batch.as_bytes())?;
    seed("records", "single", Record::of(&full)?.as_bytes())?;
    seed("blocks", "block", &block(&batch))?;

    let frames = [
        ToServer::Hello { id: 0, min: 1, max: 1, name: "seed".into(), login: None }.frame(Bytes::new())?,
        ToClient::Failed { id: 1, error: WireError("timeout".into(), "late".into(), None, Some(1)) }
            .frame(Bytes::new())?,
        ToClient::Page { id: 2, next: 3, runs: vec![PageRun(1, 2, 2)] }
            .frame(Bytes::copy_from_slice(batch.as_bytes()))?,
        ToServer::Settle {
            id: 1,
            subscription: "billing".into(),
            outcomes: vec![OutcomeRange(1, 2, 3, 4, 5, Some(5), "no".into())],
            outputs: vec![("orders".into(), 7)],
            by: Some("s".into()),
        }
        .frame(Bytes::from_static(b"outputs"))?,
    ];
    let mut stream = BytesMut::from(&[5][..]);
    for frame in frames {
        FrameCodec::new(1024, 4096).encode(frame, &mut stream)?;
    }
    seed("frames", "conversation", &stream)?;

    seed("places", "place", &Place { next: 300, open: [1, 2, 200].into_iter().collect() }.encode())?;
    let facts = Facts { key: Some(KeyHash::of("k")), size: 7, priority: 1 };
    let waiting = Waiting {
        due: Timestamp(1),
        deliveries: 2,
        failures: 1,
        reason: "r".into(),
        facts,
        parked: Some(ParkedSince(Timestamp(1))),
        by: None,
    };
    seed("places", "waiting", &waiting.encode()?)?;
    let dead = Dead {
        reason: "r".into(),
        failures: 3,
        deliveries: 3,
        by: Some("s".into()),
        at: Timestamp(1),
        facts,
    };
    seed("places", "dead", &dead.encode()?)?;

    seed("patterns", "many", b"a.**\na.*.b\na.x.b\na.x\n_logs.a\n")?;
    seed("patterns", "hard", b"**.a.**\n*.**.a.b.**\nx.a.b\nb.a.b.a\n")?;
    for (name, yaml) in [("guide", GUIDE), ("wrong", WRONG)] {
        seed("documents", name, yaml.as_bytes())?;
    }
    Ok(())
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

/// A block as `broker/src/delivery/block.rs` describes it.
fn block(batch: &Batch) -> Vec<u8> {
    let mut rest = 7u64.to_le_bytes().to_vec();
    rest.extend_from_slice(&(batch.len() as u32).to_le_bytes());
    rest.extend_from_slice(&u32::from(batch.has_ids()).to_le_bytes());
    rest.extend_from_slice(&42i64.to_le_bytes());
    rest.extend_from_slice(batch.as_bytes());
    let mut block = vec![1, 0, 0, 0];
    block.extend_from_slice(&crc32c::crc32c(&rest).to_le_bytes());
    block.extend(rest);
    block
}

const GUIDE: &str = r#"topics:
  - name: orders
    durability: os
    retention: {max_age: 7d, max_bytes: 1GiB, drop_unread: true}
    dedup_window: 5m
subscriptions:
  - name: audit
    topics: [orders, "github.**"]
    start: end
    max_failures: 3
    backoff: {first: 1s, factor: 2, max: 1m}
services:
  - name: fulfil
    code: |
      from crossdock import consume
      print("${NAME:-x}")
    processes: 2
    memory: 128MiB
    env: {TOKEN: env:TOKEN, PLAIN: "a$b"}
users:
  - name: ci
    password: file:/run/secrets/ci
permissions:
  - name: ci
    users: [ci]
    publish: ["orders.*"]
rest_channels:
  - {name: orders, path: "/orders/{id}", methods: [POST], topic: "orders"}
"#;

const WRONG: &str = r#"a: &a {b: [1, 0x1f, -2.5e3, ~, true, 'it''s']}
topics: [*a, {name: "x y", name: z}, {name: ${NAME}}]
subscriptions: {}
"#;
