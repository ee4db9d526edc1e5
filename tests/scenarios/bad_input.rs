//! Requests that are wrong in every way, each of which gets a clear answer and harms nobody else.

use std::time::{Duration, Instant};

use crossdock_tests::{Sandbox, exchange, open};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::sandbox;

async fn with_orders() -> Sandbox {
    let sandbox = sandbox().start().await;
    let _ = sandbox.admin().put("/api/v1/topics/orders", &json!({})).await;
    let _ = sandbox.admin().get("/api/v1/topics/orders").await.expect(200);
    sandbox
}

/// Whatever was done before, the next one is served.
async fn is_well(sandbox: &Sandbox) {
    let _ = sandbox.gateway().publish("orders", &json!({ "still": "well" })).await;
    assert!(sandbox.admin().get("/api/v1/status").await.expect(200).json()["health"]["ready"] == true);
}

#[tokio::test]
async fn given_malformed_bodies_when_published_should_be_refused_with_the_place() {
    let sandbox = with_orders().await;
    let gateway = sandbox.gateway();
    let path = "/topics/orders/messages";

    let broken = gateway.post_as("application/json", path, "{\"a\": 1,\n \"b\": }").await;
    let problem = broken.problem(400, "invalid_argument");
    assert!(problem.contains("line") && problem.contains('2'), "{problem}");
    let not_text = gateway.post_as("application/json", path, b"{\"a\": \"\xff\xfe\"}".to_vec()).await;
    let _ = not_text.problem(400, "invalid_argument");
    let line = gateway.post_as("application/x-ndjson", path, "{\"a\": 1}\n{\"b\": \n{\"c\": 3}\n").await;
    let problem = line.problem(400, "invalid_argument");
    assert!(problem.contains('2'), "it names the line: {problem}");
    assert!(
        sandbox.admin().read_topic("orders").await.is_empty(),
        "nothing of a batch is stored when a part is wrong"
    );

    let large = vec![b'x'; 1024 * 1024 + 1];
    let _ = gateway.post_as("application/octet-stream", path, large).await.problem(413, "too_large");
    assert!(sandbox.admin().read_topic("orders").await.is_empty());

    // Any other content is taken as it is.
    let _ = gateway.post_as("application/octet-stream", path, b"\xff\x00".to_vec()).await.expect(201);
    is_well(&sandbox).await;
}

#[tokio::test]
async fn given_wrong_headers_when_published_should_be_refused_by_name() {
    let sandbox = with_orders().await;
    let gateway = sandbox.gateway();
    let long = "k".repeat(2000);
    for (header, value, code, status) in [
        ("x-expires-in", "soon", "invalid_argument", 400),
        ("x-deliver-at", "tomorrow", "invalid_argument", 400),
        ("x-message-id", "", "invalid_argument", 400),
        ("x-key", long.as_str(), "too_large", 413),
    ] {
        let headers = [("content-type", "application/json"), (header, value)];
        let sent = gateway.send("POST", "/topics/orders/messages", &headers, "1").await.expect("an answer");
        let problem = sent.problem(status, code).to_lowercase();
        let name = header.trim_start_matches("x-").replace("message-id", "id");
        assert!(problem.contains(&name) || problem.contains(&name.replace('-', " ")), "{header}: {problem}");
    }
    assert!(sandbox.admin().read_topic("orders").await.is_empty());
    is_well(&sandbox).await;
}

#[tokio::test]
async fn given_names_that_are_not_there_when_used_should_be_not_found() {
    let sandbox = with_orders().await;
    let gateway = sandbox.gateway();
    let admin = sandbox.admin();
    let unknown = gateway.post("/topics/nowhere/messages", &json!(1)).await.problem(404, "not_found");
    assert!(unknown.contains("nowhere"), "{unknown}");
    let _ = gateway.get("/subscriptions/nobody/messages?max=1&wait=0s").await.problem(404, "not_found");
    let _ = gateway.get("/no/such/path").await.problem(404, "not_found");
    let _ = gateway.post("/topics/not%20a%20name/messages", &json!(1)).await.problem(400, "invalid_argument");
    let _ = admin.get("/api/v1/topics/nowhere").await.problem(404, "not_found");
    let _ = admin.get("/api/v1/services/nobody").await.problem(404, "not_found");
    // A service that is not there now may be served by a server that comes: nobody can say that it never will.
    let nobody = admin.post("/api/v1/services/nobody/invoke?timeout=2s", &json!({})).await;
    assert!(nobody.problem(503, "unavailable").contains("nobody"));
    let subscription = json!({ "topics": ["nowhere"] });
    let _ = admin.put("/api/v1/subscriptions/lost", &subscription).await.problem(404, "not_found");

    // A pattern that matches nothing yet is none of these: it waits for topics to come.
    let patient = admin.put("/api/v1/subscriptions/patient", &json!({ "topics": ["later.**"] })).await;
    assert!(patient.status < 300, "{}", patient.text());
    assert!(
        gateway.get("/subscriptions/patient/messages?max=1&wait=0s").await.expect(200).json()["messages"]
            == json!([])
    );
    let _ = admin.put("/api/v1/topics/later.on", &json!({})).await;
    let _ = gateway.publish("later.on", &json!("here")).await;
    let messages = gateway.fetch("patient", 10).await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0]["data"], "here");
}

#[tokio::test]
async fn given_stale_or_made_up_deliveries_when_settled_should_change_nothing() {
    let sandbox = with_orders().await;
    let gateway = sandbox.gateway();
    let _ = sandbox.admin().put("/api/v1/subscriptions/billing", &json!({ "topics": ["orders"] })).await;
    let _ = gateway.publish("orders", &json!(1)).await;
    let messages = gateway.fetch("billing", 1).await;
    let _ = gateway.ack("billing", &messages).await;
    let again = gateway.ack("billing", &messages).await.json();
    assert_eq!(again["settled"], 0, "{again}");
    assert_eq!(again["stale"].as_array().map(Vec::len), Some(1), "{again}");
    let made_up = gateway.post("/subscriptions/billing/settle", &json!({ "ack": ["what?"] })).await;
    assert!(made_up.status == 400 || made_up.status == 422, "{}", made_up.text());
    let misspelt = gateway.post("/subscriptions/billing/settle", &json!({ "acks": [] })).await;
    let _ = misspelt.problem(400, "invalid_argument");
}

#[tokio::test]
async fn given_bad_yaml_when_applied_should_point_at_it_and_change_nothing() {
    let sandbox = with_orders().await;
    for (yaml, line, what) in [
        ("topics:\n  - name: a\n  - nmae: b\n", "3", "nmae"),
        ("topics:\n  - name: a\n    durability: maybe\n", "3", "maybe"),
        ("topics: [\n", "", ""),
        ("users:\n  - name: bob\n    password: literal\n", "3", "env:"),
        ("rest_channels:\n  - name: x\n    path: no-slash\n    service: s\n", "3", "path"),
        ("services:\n  - name: x\n    source: ./missing.py\n", "", "missing.py"),
    ] {
        sandbox.write("bad.yaml", yaml);
        let refused = sandbox.cli(&["apply", "bad.yaml"]).await.expect(2);
        let said = &refused.stderr;
        assert!(said.contains(line) && said.contains(what), "{yaml}\n{said}");
        assert!(refused.stdout.is_empty(), "nothing on stdout: {}", refused.stdout);
    }
    let topics = sandbox.cli(&["topic", "ls", "-o", "name"]).await.expect(0).stdout;
    assert_eq!(topics.split_whitespace().collect::<Vec<_>>(), ["orders"]);
    let control =
        sandbox.admin().post_as("application/yaml", "/api/v1/apply", b"topics: \xff".to_vec()).await;
    let _ = control.problem(400, "invalid_argument");
}

#[tokio::test]
async fn given_requests_that_never_end_when_they_pile_up_should_be_cut_off_and_others_served() {
    let sandbox = with_orders().await;
    let address = sandbox.gateway().address();
    let authorization = sandbox.gateway().authorization();

    // Half a head, half a body, and a body that is shorter than promised.
    let mut half_sent = Vec::new();
    for number in 0..50 {
        let mut stream = open(&address).await;
        let text = if number % 2 == 0 {
            "POST /topics/orders/messages HTTP/1.1\r\nHost: x\r\nX-Ke".to_owned()
        } else {
            format!(
                "POST /topics/orders/messages HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\
                 Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{\"a\": "
            )
        };
        stream.write_all(text.as_bytes()).await.expect("to send");
        half_sent.push(stream);
    }
    is_well(&sandbox).await;

    // Each is cut off within a bound.
    let start = Instant::now();
    for mut stream in half_sent {
        let mut rest = Vec::new();
        let left = Duration::from_secs(90).saturating_sub(start.elapsed());
        let ended = tokio::time::timeout(left, stream.read_to_end(&mut rest)).await;
        assert!(
            ended.is_ok(),
            "a request that never ends was still being waited for after {:?}",
            start.elapsed()
        );
        let text = String::from_utf8_lossy(&rest);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    }
    // One "well" was stored, and nothing of the halves.
    assert_eq!(sandbox.admin().read_topic("orders").await.len(), 1);
}

#[tokio::test]
async fn given_bytes_that_are_no_http_when_sent_should_be_refused() {
    let sandbox = with_orders().await;
    let address = sandbox.gateway().address();
    let patience = Duration::from_secs(5);
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
    ] {
        let answer = exchange(&address, bytes, patience).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let many = "X-A: b\r\n".repeat(20_000);
    let answer =
        exchange(&address, format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes(), patience).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let huge = format!(
        "POST /topics/orders/messages HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n",
        sandbox.gateway().authorization()
    );
    let answer = exchange(&address, huge.as_bytes(), patience).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "refused by its length, before any of it is read: {answer}");
    is_well(&sandbox).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_readers_that_stop_reading_when_much_is_sent_to_them_should_cost_little_and_lose_nothing() {
    let sandbox = with_orders().await;
    let _ = sandbox.admin().put("/api/v1/subscriptions/stuck", &json!({ "topics": ["orders"] })).await;
    let payload = json!({ "text": "x".repeat(100_000) });
    for _ in 0..200 {
        let _ = sandbox.gateway().publish("orders", &payload).await;
    }
    let before = resident_megabytes(sandbox.pid());
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut stream = open(&sandbox.gateway().address()).await;
        let request = format!(
            "GET /subscriptions/stuck/stream HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nAccept: text/event-stream\r\n\r\n",
            sandbox.gateway().authorization()
        );
        stream.write_all(request.as_bytes()).await.expect("to send");
        readers.push(stream); // and never read from it
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = resident_megabytes(sandbox.pid()).saturating_sub(before);
    assert!(grown < 200, "readers that read nothing made the server grow by {grown} MB");
    is_well(&sandbox).await;

    // What they held comes back to others when they go.
    drop(readers);
    let mut offsets = std::collections::BTreeSet::new();
    let end = Instant::now() + Duration::from_secs(60);
    while offsets.len() < 201 && Instant::now() < end {
        let messages = sandbox.gateway().fetch("stuck", 100).await;
        offsets.extend(messages.iter().filter_map(|message| message["offset"].as_u64()));
        let _ = sandbox.gateway().ack("stuck", &messages).await;
    }
    assert_eq!(offsets.len(), 201, "every message was delivered to those who read");
}

fn resident_megabytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024
}
