//! Peers that break the rules: each is told why, as far as it listens, and none disturbs the others.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use crossdock_broker::remote::ServeOptions;
use crossdock_topics::{Broker, Log, Message};
use crossdock_wire::session::{self, ToClient, ToServer, WireError};
use crossdock_wire::{Frame, FrameCodec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::{Decoder, Encoder};

use super::server::{Server, connect, soon};

/// A client that says whatever it likes.
struct Raw {
    stream: TcpStream,
    codec: FrameCodec,
    read: BytesMut,
}

impl Raw {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self { stream, codec: session::codec(), read: BytesMut::new() }
    }

    async fn greeted(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address).await;
        raw.send(hello(session::VERSION)).await;
        assert!(matches!(raw.next().await, Some(ToClient::Welcome { .. })));
        raw
    }

    async fn send(&mut self, header: ToServer) {
        self.send_with(header, Bytes::new()).await;
    }

    async fn send_with(&mut self, header: ToServer, payload: Bytes) {
        let mut bytes = BytesMut::new();
        self.codec.encode(header.frame(payload).unwrap(), &mut bytes).unwrap();
        self.bytes(&bytes).await;
    }

    async fn bytes(&mut self, bytes: &[u8]) {
        // The server may have had enough already.
        let _ = self.stream.write_all(bytes).await;
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.codec.decode(&mut self.read).unwrap() {
                return Some(frame);
            }
            match soon("an answer, or the end", self.stream.read_buf(&mut self.read)).await {
                Ok(1..) => {}
                _ => return None,
            }
        }
    }

    async fn next(&mut self) -> Option<ToClient> {
        self.frame().await.map(|frame| frame.header().unwrap())
    }

    /// What it is told before it is cut off.
    async fn last_words(&mut self) -> Option<WireError> {
        let mut last = None;
        while let Some(header) = self.next().await {
            if let ToClient::Failed { id: 0, error } = header {
                last = Some(error);
            }
        }
        last
    }
}

fn hello(version: u32) -> ToServer {
    ToServer::Hello { id: 0, min: version, max: version, name: "raw".into(), login: None }
}

async fn refused(raw: &mut Raw, code: &str, word: &str) {
    let WireError(got, message, ..) = raw.last_words().await.expect("a reason");
    assert_eq!(got, code, "{message}");
    assert!(message.contains(word), "{message}");
}

#[tokio::test]
async fn whoever_begins_wrongly_is_told_so() {
    let server = Server::start(ServeOptions::default()).await;
    let mut raw = Raw::connect(server.address).await;
    raw.send(ToServer::Ping { id: 0 }).await;
    refused(&mut raw, "invalid_argument", "Hello").await;

    let mut raw = Raw::connect(server.address).await;
    raw.send(hello(session::VERSION + 1)).await;
    refused(&mut raw, "invalid_argument", "version").await;

    // Before the greeting little is taken, whoever announces it.
    let mut raw = Raw::connect(server.address).await;
    raw.bytes(&[0, 16, 0, 0, 0, 0, 0, 4]).await;
    refused(&mut raw, "too_large", "limit").await;

    let mut raw = Raw::connect(server.address).await;
    raw.bytes(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
    assert!(raw.last_words().await.is_some());
    server.stop().await;
}

#[tokio::test]
async fn whoever_goes_on_wrongly_is_told_so() {
    let server = Server::start(ServeOptions::default()).await;
    server.orders().await;
    let bystander = connect(server.address).await;
    let cases: [(&[u8], &str, &str); 5] = [
        (&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 4], "too_large", "limit"),
        (&[0, 0, 0, 9, 0, 0, 0, 200], "invalid_argument", "malformed"),
        (&[0, 0, 0, 7, 0, 0, 0, 3, 0x92, 99, 1], "invalid_argument", "kind 99"),
        (&[0, 0, 0, 6, 0, 0, 0, 2, 0xc1, 0xc1], "invalid_argument", "malformed"),
        (&[0, 0, 0, 7, 0, 0, 0, 3, 0x92, 10, 1], "invalid_argument", "too short"),
    ];
    for (bytes, code, word) in cases {
        let mut raw = Raw::greeted(server.address).await;
        raw.bytes(bytes).await;
        refused(&mut raw, code, word).await;
    }
    let mut raw = Raw::greeted(server.address).await;
    raw.send(hello(session::VERSION)).await;
    refused(&mut raw, "invalid_argument", "once").await;

    // What is wrong with one request concerns that request alone.
    let mut raw = Raw::greeted(server.address).await;
    let publish = |id, topic: &str, durability| ToServer::Publish {
        id,
        topic: topic.into(),
        durability,
        expected: None,
        source: None,
    };
    raw.send_with(publish(1, "orders", None), Bytes::from_static(&[9, 0, 0, 0, 1])).await;
    raw.send(publish(2, "no name", None)).await;
    raw.send_with(publish(3, "orders", Some(50)), Bytes::from_static(&[2, 0, 0, 0, 0, 0])).await;
    raw.send_with(publish(4, "orders", None), Bytes::from_static(&[2, 0, 0, 0, 0, 0])).await;
    raw.send_with(ToServer::Call { id: 5, json: 3 }, Bytes::from_static(b"{}}")).await;
    raw.send_with(ToServer::Call { id: 6, json: 300 }, Bytes::from_static(b"{}")).await;
    let settle = ToServer::Settle {
        id: 7,
        subscription: "orders".into(),
        outcomes: vec![session::OutcomeRange(0, 1, 0, 0, u32::MAX, None, String::new())],
        outputs: vec![],
        by: None,
    };
    raw.send(settle).await;
    let mut answers = std::collections::BTreeMap::new();
    while answers.len() < 7 {
        match raw.next().await.expect("it goes on") {
            ToClient::Failed { id, error } => drop(answers.insert(id, error.0)),
            ToClient::Receipts { id, .. } => drop(answers.insert(id, "stored".into())),
            _ => {}
        }
    }
    let codes: Vec<_> = answers.values().map(String::as_str).collect();
    let wrong = "invalid_argument";
    assert_eq!(codes, [wrong, wrong, wrong, "stored", wrong, wrong, "too_large"]);
    let stored = bystander.publish(
        &"orders".parse().unwrap(),
        crossdock_topics::Batch::of(&Message::new("x")).unwrap(),
        Default::default(),
    );
    assert_eq!(soon("a receipt", stored).await.unwrap().first, 1);
    server.stop().await;
}

#[tokio::test]
async fn whoever_is_slow_or_silent_is_cut_off() {
    let options = ServeOptions {
        greeting: Duration::from_millis(200),
        heartbeat: Duration::from_millis(400),
        ..ServeOptions::default()
    };
    let server = Server::start(options).await;
    server.orders().await;
    // Never a word; a word that is never finished.
    for bytes in [&[][..], &[0, 0]] {
        let mut raw = Raw::connect(server.address).await;
        raw.bytes(bytes).await;
        assert!(raw.frame().await.is_none(), "it was let in");
    }
    // Silent after the greeting.
    let mut raw = Raw::greeted(server.address).await;
    refused(&mut raw, "timeout", "not even a ping").await;

    // One that asks and never reads: its answers fill what there is room for, and then it is cut off.
    let large = vec![b'x'; 512 * 1024];
    for _ in 0..8 {
        let batch = crossdock_topics::Batch::of(&Message::new(large.clone())).unwrap();
        server.broker.publish(&"orders".parse().unwrap(), batch, Default::default()).await.unwrap();
    }
    let mut greedy = Raw::greeted(server.address).await;
    let mut id = 0;
    soon("being cut off", async {
        loop {
            id += 1;
            let read =
                ToServer::Read { id, topic: "orders".into(), place: 0, value: 0, max: 100, wait_ms: 0 };
            let mut bytes = BytesMut::new();
            session::codec().encode(read.frame(Bytes::new()).unwrap(), &mut bytes).unwrap();
            if greedy.stream.write_all(&bytes).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let bystander = connect(server.address).await;
    soon("an answer", bystander.topics()).await.unwrap();
    bystander.close().await;
    server.stop().await;
}

#[tokio::test]
async fn one_client_too_many_is_turned_away() {
    let options = ServeOptions { connections: 2, ..ServeOptions::default() };
    let server = Server::start(options).await;
    let (first, _second) = (connect(server.address).await, connect(server.address).await);
    let mut third = Raw::connect(server.address).await;
    third.send(hello(session::VERSION)).await;
    assert!(third.frame().await.is_none());
    first.close().await;
    soon("a place", async {
        while crossdock_broker::Remote::connect(super::server::url(server.address)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    server.stop().await;
}
