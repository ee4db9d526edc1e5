//! A listener and peers that do not behave, over real sockets.

#![allow(clippy::unwrap_used)] // also in what tests share

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use crossdock_http::{Limits, read_body, serve};
use crossdock_topics::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

const LIMITS: Limits = Limits {
    connections: 8,
    head: Duration::from_millis(300),
    body: Duration::from_millis(300),
    stall: Duration::from_millis(300),
    max_body: 1000,
};

struct Server {
    address: std::net::SocketAddr,
    shutdown: Shutdown,
    ended: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(router: Router, limits: Limits, grace: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new(grace);
        let stop = shutdown.clone();
        let ended = tokio::spawn(async move { serve(listener, router, limits, &stop).await });
        Self { address, shutdown, ended }
    }

    async fn echo() -> Self {
        let echo = |body: Body| read_body(body, LIMITS.max_body, LIMITS.body);
        let slow = || async {
            sleep(Duration::from_millis(300)).await;
            "done"
        };
        let router = Router::new().route("/", post(echo).get(|| async { "hello" })).route("/slow", get(slow));
        Self::start(router, LIMITS, Duration::from_secs(5)).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// All that comes until the other side closes, which it must do within 5 s.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes)).await;
    read.expect("the connection stays open").ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn ask(server: &Server, request: &str) -> String {
    let mut stream = server.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    rest(&mut stream).await
}

#[tokio::test]
async fn a_half_sent_head_is_cut() {
    let server = Server::echo().await;
    let began = Instant::now();
    ask(&server, "POST / HTTP/1.1\r\nhost: x\r\nx-slo").await;
    ask(&server, "").await;
    assert!(began.elapsed() > LIMITS.head, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_half_sent_body_is_answered_and_cut() {
    let server = Server::echo().await;
    let answer = ask(&server, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("did not arrive within"), "{answer}");
    let answer = ask(&server, "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_the_sender_learns_why() {
    let server = Server::echo().await;
    let mut stream = server.connect().await;
    let length = 3 * 1024 * 1024;
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // It goes on sending, as clients do: were the connection reset, the answer would be lost.
    stream.write_all(&vec![b'x'; length]).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("application/problem+json") && answer.contains("1000 bytes"), "{answer}");
}

#[tokio::test]
async fn a_response_says_whether_the_connection_goes_on() {
    let server = Server::echo().await;
    let mut stream = server.connect().await;
    let body = |length: usize| {
        format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{}", "x".repeat(length))
    };
    let chunked =
        "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n1\r\nx\r\n0\r\n\r\n";
    for request in [body(3), chunked.to_owned(), body(900), body(0), body(1001)] {
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    let answers = rest(&mut stream).await;
    let answers: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(
        answers.iter().map(|answer| &answer[..3]).collect::<Vec<_>>(),
        ["200", "200", "200", "200", "413"]
    );
    let closing: Vec<bool> = answers.iter().map(|answer| answer.contains("connection: close")).collect();
    assert_eq!(closing, [false, false, false, false, true], "{answers:?}");
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let server = Server::echo().await;
    for bad in [
        "\x16\x03\x01\x02\x00 hello in TLS",
        "GET / HTTP/1.1\r\nbad header: x\r\n\r\n",
        "GET / HTTP/1.1\r\nx: \x00\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
    ] {
        let answer = ask(&server, bad).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{bad:?}: {answer}");
    }
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200 * 1024));
    let answer = ask(&server, &long).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(ask(&server, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ends_with("hello"));
}

/// Tells when it is dropped.
struct Held(Option<oneshot::Sender<()>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.take().and_then(|sender| sender.send(()).ok());
    }
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_and_costs_little() {
    let (dropped, is_dropped) = oneshot::channel();
    let held = Arc::new(std::sync::Mutex::new(Some(Held(Some(dropped)))));
    let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = made.clone();
    let endless = move || {
        let (held, count) = (held.lock().unwrap().take(), count.clone());
        async move {
            Body::from_stream(futures::stream::unfold(held, move |held| {
                count.fetch_add(64 * 1024, std::sync::atomic::Ordering::Relaxed);
                async move { Some((Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 64 * 1024])), held)) }
            }))
        }
    };
    let server = Server::start(Router::new().route("/", get(endless)), LIMITS, Duration::from_secs(5)).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    timeout(Duration::from_secs(5), is_dropped).await.expect("the stream is kept").unwrap();
    // What the two sockets hold, and a buffer: nothing that grows with time.
    assert!(made.load(std::sync::atomic::Ordering::Relaxed) < 32 * 1024 * 1024);
}

#[tokio::test]
async fn a_peer_that_leaves_is_noticed_at_once() {
    let (dropped, is_dropped) = oneshot::channel();
    let held = Arc::new(std::sync::Mutex::new(Some(Held(Some(dropped)))));
    let waits = move || {
        let held = held.lock().unwrap().take();
        async move {
            sleep(Duration::from_secs(60)).await;
            drop(held);
        }
    };
    let server = Server::start(Router::new().route("/", get(waits)), LIMITS, Duration::from_secs(5)).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    drop(stream);
    timeout(Duration::from_secs(2), is_dropped).await.expect("nobody noticed").unwrap();
}

#[tokio::test]
async fn shutdown_finishes_what_is_under_way_and_takes_nothing_new() {
    let server = Server::echo().await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut idle = server.connect().await;
    sleep(Duration::from_millis(100)).await;
    server.shutdown.begin();
    assert!(rest(&mut busy).await.ends_with("done"));
    assert_eq!(rest(&mut idle).await, "");
    timeout(Duration::from_secs(2), server.ended).await.expect("it does not end").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn what_does_not_finish_within_the_grace_is_cut() {
    let forever = || async { std::future::pending::<()>().await };
    let router = Router::new().route("/", get(forever));
    let server = Server::start(router, LIMITS, Duration::from_millis(200)).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(100)).await;
    server.shutdown.begin();
    timeout(Duration::from_secs(2), server.ended).await.expect("it does not end").unwrap();
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn connections_over_the_bound_wait_for_their_turn() {
    let router = Router::new().route("/", get(|| async { "hello" }));
    let limits = Limits { connections: 1, head: Duration::from_secs(30), ..LIMITS };
    let server = Server::start(router, limits, Duration::from_secs(1)).await;
    let first = server.connect().await;
    sleep(Duration::from_millis(100)).await;
    let mut second = server.connect().await;
    second.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut byte = [0];
    assert!(timeout(Duration::from_millis(200), second.read(&mut byte)).await.is_err(), "it was served");
    drop(first);
    assert!(rest(&mut second).await.ends_with("hello"));
}
