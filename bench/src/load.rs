//! The load generator for what is measured over HTTP: keep-alive connections, each with one request under way.
//!
//! It runs in a process and on a thread of its own, and prints what it saw as one line of JSON. The machine's
//! cores are shared with the server: what it takes is part of every figure.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Failure;
use crate::samples::Latencies;

/// What to send. The credentials come in the environment, as `CROSSDOCK_BENCH_AUTHORIZATION`, so that no list of
/// processes shows them.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// host:port
    #[arg(long)]
    pub(crate) address: String,
    /// How many connections
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// For how many seconds
    #[arg(long, default_value_t = 1.0)]
    pub(crate) seconds: f64,
    /// No more requests than this, however much time is left
    #[arg(long)]
    pub(crate) requests: Option<u64>,
    /// What to ask for
    #[arg(long)]
    pub(crate) path: String,
    /// How many bytes each message has
    #[arg(long, default_value_t = 128)]
    pub(crate) size: usize,
    /// How many messages each request carries: more than one are sent as NDJSON
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,
    /// Instead of publishing: take messages of the subscription at this path and acknowledge them
    #[arg(long)]
    pub(crate) consume: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// How many messages were sent or taken.
    pub(crate) messages: u64,
    /// In how many seconds.
    pub(crate) seconds: f64,
    /// Latencies of requests, in milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Generates the load and prints the outcome.
pub(crate) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let authorization = std::env::var("CROSSDOCK_BENCH_AUTHORIZATION")?;
    let share = arguments.requests.map(|all| all.div_ceil(arguments.connections as u64));
    let mut connections = JoinSet::new();
    let mut ready = Vec::new();
    for _ in 0..arguments.connections {
        ready.push(Connection::open(&arguments.address, &authorization).await?);
    }
    let start = Instant::now();
    let end = start + Duration::try_from_secs_f64(arguments.seconds)?;
    for connection in ready {
        let arguments = arguments.clone();
        connections.spawn(async move {
            if arguments.consume {
                consume(connection, &arguments.path, end).await
            } else {
                publish(connection, &arguments, end, share.unwrap_or(u64::MAX)).await
            }
        });
    }
    let mut all = Latencies::default();
    let mut messages = 0;
    while let Some(done) = connections.join_next().await {
        let (count, latencies) = done??;
        messages += count;
        all.merge(&latencies);
    }
    let seconds = start.elapsed().as_secs_f64();
    let outcome = Outcome { messages, seconds, p50: all.quantile(0.5), p99: all.quantile(0.99) };
    let line = serde_json::to_string(&outcome)? + "\n";
    std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes())?;
    Ok(())
}

async fn publish(
    mut connection: Connection,
    arguments: &Arguments,
    end: Instant,
    most: u64,
) -> Result<(u64, Latencies), Failure> {
    let (content_type, body) = if arguments.batch > 1 {
        // A JSON text of exactly that size: quotes and what is between them.
        let line = format!("\"{}\"\n", "x".repeat(arguments.size.saturating_sub(2)));
        ("application/x-ndjson", Bytes::from(line.repeat(arguments.batch)))
    } else {
        ("application/octet-stream", Bytes::from(vec![b'x'; arguments.size]))
    };
    let mut latencies = Latencies::default();
    let mut requests = 0;
    while requests < most && Instant::now() < end {
        let begin = Instant::now();
        connection.ask("POST", &arguments.path, content_type, body.clone()).await?;
        latencies.add(begin.elapsed());
        requests += 1;
    }
    Ok((requests * arguments.batch as u64, latencies))
}

#[derive(Deserialize)]
struct Taken {
    messages: Vec<TakenMessage>,
}

#[derive(Deserialize)]
struct TakenMessage {
    delivery: String,
}

async fn consume(mut connection: Connection, path: &str, end: Instant) -> Result<(u64, Latencies), Failure> {
    let (fetch, settle) = (format!("{path}/messages?max=1000&wait=0s"), format!("{path}/settle"));
    let mut latencies = Latencies::default();
    let mut count = 0;
    while Instant::now() < end {
        let begin = Instant::now();
        let body = connection.ask("GET", &fetch, "application/json", Bytes::new()).await?;
        let taken: Taken = serde_json::from_slice(&body)?;
        if taken.messages.is_empty() {
            break;
        }
        let deliveries: Vec<_> = taken.messages.into_iter().map(|message| message.delivery).collect();
        count += deliveries.len() as u64;
        let settlement = json!({ "ack": deliveries }).to_string();
        connection.ask("POST", &settle, "application/json", Bytes::from(settlement)).await?;
        latencies.add(begin.elapsed());
    }
    Ok((count, latencies))
}

/// A connection that is kept.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    authorization: String,
}

impl Connection {
    async fn open(address: &str, authorization: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends when the sender is dropped.
        tokio::spawn(connection);
        Ok(Self { sender, host: address.to_owned(), authorization: authorization.to_owned() })
    }

    /// Sends a request and gives the body of its answer, which must be a good one.
    async fn ask(&mut self, method: &str, path: &str, kind: &str, body: Bytes) -> Result<Bytes, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("authorization", &self.authorization)
            .header("content-type", kind)
            .body(Full::new(body))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            return Err(format!("{method} {path}: {status}: {}", String::from_utf8_lossy(&body)).into());
        }
        Ok(body)
    }
}
