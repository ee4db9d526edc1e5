//! The examples of docs/HTTP.md, run as they stand there.

#![allow(clippy::unwrap_used)]

mod sandbox;

use std::path::Path;

use sandbox::{ADMIN, Sandbox};

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_the_documentation_works() {
    let sandbox = Sandbox::start().await;
    sandbox.topic("orders").await;
    sandbox.subscription("billing", "orders").await;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/HTTP.md");
    let text = std::fs::read_to_string(page).unwrap();
    let examples: Vec<_> =
        text.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0).collect();
    assert!(examples.len() >= 6, "{} examples", examples.len());
    for example in examples {
        let script =
            format!("set -euo pipefail\ncurl() {{ command curl --fail-with-body -sS \"$@\"; }}\n{example}");
        let run = tokio::process::Command::new("bash")
            .args(["-c", &script])
            .env("CROSSDOCK", sandbox.url(""))
            .env("AUTH", format!("{}:{}", ADMIN.0, ADMIN.1))
            .output();
        let output = run.await.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{example}\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
        if example.contains("\\\"ack\\\"") {
            assert_eq!(said, r#"{"settled":1,"extended":0,"stale":[]}"#);
        }
        if example.contains("/stream") {
            assert!(
                said.starts_with("retry: 1000\n\nid: ") && said.contains("\nevent: message\ndata: {"),
                "{said}"
            );
        }
    }
    // one, the CSV, two of the batch, the event
    assert_eq!(sandbox.stored("orders").await.len(), 5);
    sandbox.stop().await;
}
