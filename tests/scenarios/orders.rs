//! Orders that become shipments: the service that does it on several servers, and whoever publishes.

use std::time::Duration;

use crossdock_tests::{Client, eventually};

const PATIENCE: Duration = Duration::from_secs(90);

/// Turns orders into shipments, and says which process it is.
pub(crate) const SERVICE: &str = r#"
import os
from crossdock import Context, consume, serve

@consume("orders")
def ship(number: int, ctx: Context):
    ctx.publish("shipments", {"number": number, "by": os.getpid()})

@serve()
def route():
    return {"by": os.getpid()}
"#;

/// Publishes through a gateway, until it is acknowledged: under an id of its own, so that it is stored once.
pub(crate) async fn publish(gateway: &Client, number: u32) {
    eventually("a receipt", PATIENCE, || async {
        let id = format!("order-{number}");
        let headers = [("content-type", "application/json"), ("x-message-id", id.as_str())];
        let sent = gateway.send("POST", "/topics/orders/messages", &headers, number.to_string()).await;
        sent.ok().filter(|answer| answer.status == 201).map(drop)
    })
    .await;
}
