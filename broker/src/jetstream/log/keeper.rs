//! Retention.

use std::sync::Arc;

use super::Logs;

/// Drops what is not to be kept any more, until the engine stops.
pub(super) async fn run(logs: Arc<Logs>) {
    logs.shutdown.started().await;
}
