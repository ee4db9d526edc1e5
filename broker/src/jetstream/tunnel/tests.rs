use crossdock_tests::Nats;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::jetstream::JetStreamOptions;

const ONE: &str = "0000000000000001";
const TWO: &str = "0000000000000002";

async fn connection(nats: &Nats) -> Connection {
    Connection::open(JetStreamOptions::new(&nats.url()).unwrap()).await.unwrap()
}

/// Both ends, and what they go over.
async fn pair(nats: &Nats) -> (Tunnel, Tunnel, [Connection; 2]) {
    let (one, two) = (connection(nats).await, connection(nats).await);
    let mut calls = one.client.subscribe(subject(&one, ONE)).await.unwrap();
    // Until the nats-server knows that somebody listens there.
    let calling = async {
        loop {
            if let Ok(called) = Tunnel::call(&two, ONE, TWO).await {
                return called;
            }
        }
    };
    let answering = async { Tunnel::answer(&one, &calls.next().await.unwrap(), ONE).await.unwrap() };
    let (called, (caller, answered)) = soon(async { tokio::join!(calling, answering) }).await;
    assert_eq!(caller, TWO);
    (answered, called, [one, two])
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it took longer than 20 s")
}

/// Writes all of it, and only then begins to read, as far as the window allows; then the rest, in turn.
async fn exchange(mut end: Tunnel, bytes: &[u8]) -> Tunnel {
    let (mut written, mut read) = (0, vec![0; bytes.len()]);
    let mut filled = 0;
    std::future::poll_fn(|cx| {
        loop {
            let mut moved = false;
            while written < bytes.len()
                && let Poll::Ready(count) = Pin::new(&mut end).poll_write(cx, &bytes[written..])
            {
                written += count.unwrap();
                moved = true;
            }
            let mut buf = ReadBuf::new(&mut read[filled..]);
            if buf.remaining() > 0 && Pin::new(&mut end).poll_read(cx, &mut buf).is_ready() {
                filled += buf.filled().len();
                moved = true;
            }
            if written == bytes.len() && filled == bytes.len() {
                return Pin::new(&mut end).poll_flush(cx);
            }
            if !moved {
                return Poll::Pending;
            }
        }
    })
    .await
    .unwrap();
    assert!(read == bytes);
    end
}

#[tokio::test]
async fn more_than_a_window_passes_both_ways_in_order() {
    let nats = Nats::single().await;
    let (one, two, _connections) = pair(&nats).await;
    let bytes: Vec<u8> = (0..3 * WINDOW as u32).map(|n| (n / 7) as u8).collect();
    // Both are held until both have all.
    let ends = soon(async { tokio::join!(exchange(one, &bytes), exchange(two, &bytes)) }).await;
    drop(ends);
}

#[tokio::test]
async fn whoever_does_not_read_is_sent_no_more_than_a_window() {
    let nats = Nats::single().await;
    let (mut one, mut two, _connections) = pair(&nats).await;
    let chunk = vec![7; CHUNK];
    let mut written = 0;
    while let Ok(count) = tokio::time::timeout(Duration::from_millis(500), one.write(&chunk)).await {
        written += count.unwrap();
        assert!(written <= WINDOW as usize + CHUNK);
    }
    // What it does not read does not keep it from writing, nor the other one from reading.
    two.write_all(b"words").await.unwrap();
    let mut words = [0; 5];
    soon(one.read_exact(&mut words)).await.unwrap();
    let mut read = vec![0; written];
    soon(two.read_exact(&mut read)).await.unwrap();
    assert!(read.iter().all(|byte| *byte == 7));
    soon(one.write_all(&chunk)).await.unwrap();
}

#[tokio::test]
async fn one_end_closing_or_dropped_is_the_end_at_the_other() {
    let nats = Nats::single().await;
    for closes in [true, false] {
        let (mut one, mut two, _connections) = pair(&nats).await;
        one.write_all(b"last words").await.unwrap();
        if closes {
            one.shutdown().await.unwrap();
        } else {
            drop(one);
        }
        let mut read = Vec::new();
        soon(two.read_to_end(&mut read)).await.unwrap();
        assert_eq!(read, b"last words");
        assert!(two.write(b"nobody hears that").await.is_err());
    }
}

#[tokio::test]
async fn what_is_missing_breaks_it() {
    let nats = Nats::single().await;
    let (one, mut two, _connections) = pair(&nats).await;
    let (own, stranger) = (one.other.clone(), connection(&nats).await);
    for (number, byte) in [(0, b'a'), (2, b'c')] {
        let mut payload = message(BYTES, number, 1);
        payload.put_u8(byte);
        stranger.client.publish(own.clone(), payload.freeze()).await.unwrap();
    }
    let mut read = Vec::new();
    let error = soon(two.read_to_end(&mut read)).await.unwrap_err();
    assert_eq!((error.kind(), read.as_slice()), (ErrorKind::ConnectionReset, &b"a"[..]));
}

#[tokio::test]
async fn nobody_there_is_said_at_once_and_what_is_no_call_is_refused() {
    let nats = Nats::single().await;
    let connection = connection(&nats).await;
    let error = soon(Tunnel::call(&connection, ONE, TWO)).await.err().unwrap();
    assert_eq!(error.code, ErrorCode::Unavailable);
    let end = format!("crossdock.p.{ONE}.{TWO}");
    assert!(end_of(&connection, end.as_bytes()).is_some());
    for strange in ["", "crossdock.p.1.2", "crossdock.t.1.x", &format!("crossdock.p.{ONE}.*"), &end[1..]] {
        assert!(end_of(&connection, strange.as_bytes()).is_none(), "{strange}");
    }
}
