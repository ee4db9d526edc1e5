//! The bytes in docs/PROTOCOL.md are those that the code writes.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use crossdock_topics::{Batch, Message};
use crossdock_wire::Frame;
use crossdock_wire::session::{self, Login, SourceOf, ToClient, ToServer};
use tokio_util::codec::Encoder;

/// What is said in the example, and what is said about it.
fn example() -> Vec<(&'static str, &'static str, Frame)> {
    let client = |header: ToServer, payload| header.frame(payload).expect("a small header");
    let server = |header: ToClient| header.frame(Bytes::new()).expect("a small header");
    let run = Batch::of(&Message::new("hi")).expect("a small message").into_bytes();
    let login = Some(Login(Some("ada".into()), "secret".into()));
    vec![
        (
            "client",
            "Hello: versions 1 to 1, called demo, user ada",
            client(ToServer::Hello { id: 0, min: 1, max: 1, name: "demo".into(), login }, Bytes::new()),
        ),
        (
            "server",
            "Welcome: version 1, heartbeat 5000 ms, limits",
            server(ToClient::Welcome {
                id: 0,
                version: 1,
                server: "crossdock".into(),
                heartbeat_ms: 5000,
                max_header: u32::try_from(session::MAX_HEADER).expect("it fits"),
                max_payload: u32::try_from(session::MAX_PAYLOAD).expect("it fits"),
                max_requests: 4096,
                max_deliveries: u32::try_from(session::MAX_DELIVERIES).expect("it fits"),
            }),
        ),
        (
            "client",
            "Publish: request 1, topic orders, first batch of publisher 7; one record of 4 bytes: no fields, hi",
            client(
                ToServer::Publish {
                    id: 1,
                    topic: "orders".into(),
                    durability: None,
                    expected: None,
                    source: Some(SourceOf(0, 7, 0, 0)),
                },
                run,
            ),
        ),
        (
            "server",
            "Receipts: request 1, stored at offset 300, one message, fsync, no duplicates",
            server(ToClient::Receipts { id: 1, first: 300, count: 1, durability: 2, duplicates: vec![] }),
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_example_is_what_travels() {
    let mut lines = Vec::new();
    for (who, says, frame) in example() {
        let (header, payload) = (hex(&frame.header), hex(&frame.payload));
        let mut stream = BytesMut::new();
        session::codec().encode(frame, &mut stream).expect("a small frame");
        lines.push(format!("# {who}: {says}"));
        lines.push(format!("{}   lengths", hex(&stream[..8])));
        lines.push(format!("{header}   header"));
        if !payload.is_empty() {
            lines.push(format!("{payload}   payload"));
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PROTOCOL.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let shown =
        page.split("```hex\n").nth(1).and_then(|rest| rest.split("\n```").next()).expect("an example");
    let should = lines.join("\n");
    assert!(shown == should, "the page should say:\n{should}");
}

#[test]
fn the_page_names_every_kind() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PROTOCOL.md");
    let page = std::fs::read_to_string(path).expect("the page");
    for source in ["requests.rs", "responses.rs", "process.rs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/session").join(source);
        let source = std::fs::read_to_string(path).expect("the headers");
        let kinds = source.lines().filter_map(|line| line.trim().split_once(" {")?.0.split_once(" = "));
        let mut seen = 0;
        for (number, name) in kinds.filter(|(number, _)| number.parse::<u8>().is_ok()) {
            assert!(
                page.contains(&format!("`{name} [{number}, ")),
                "docs/PROTOCOL.md does not name {name} ({number})"
            );
            seen += 1;
        }
        assert!(seen > 0, "no kinds were found");
    }
}
