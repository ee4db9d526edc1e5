//! What services have written.

use std::time::Duration;

use axum::extract::State;
use crossdock_http::{Json, Result};
use crossdock_topics::{Error, ErrorCode, ServiceName, StartAt, Stored, TopicInfo, TopicName};
use tokio::time::Instant;

use super::messages::{MAX_WAIT, Reading};
use super::services::find;
use crate::api::{LogLine, LogPage};
use crate::extract::{Named, Query, duration, page_size};
use crate::server::Server;

/// How often to look whether a log has been begun.
const GLANCE: Duration = Duration::from_millis(250);

/// Reads a service's log
///
/// What it wrote to its standard output and error on all servers, and what they say about it. Unless `from` is
/// said, its last `max` lines. Go on at `next`.
#[utoipa::path(get, path = "/services/{name}/logs", tag = "services", operation_id = "read_service_logs",
    params(("name" = String, Path, description = "The service."), Reading),
    responses((status = 200, body = LogPage)))]
pub(super) async fn logs(
    State(server): State<Server>,
    Named(name): Named<ServiceName>,
    Query(reading): Query<Reading>,
) -> Result<Json<LogPage>> {
    let max = page_size(reading.max)?;
    let wait = duration("wait", reading.wait.as_deref(), Duration::ZERO, MAX_WAIT)?;
    let from: Option<StartAt> = reading.from.as_deref().map(str::parse).transpose()?;
    let topic: TopicName = format!("_logs.{name}").parse()?;
    let Some(info) = written(&server, &name, &topic, wait).await? else {
        return Ok(Json(LogPage { lines: Vec::new(), next: 0 }));
    };
    let last = StartAt::Offset(info.tail.saturating_sub(max as u64).max(info.head));
    let page = server.read(&topic, from.unwrap_or(last), max, wait).await?;
    Ok(Json(LogPage { lines: page.messages.iter().map(line).collect(), next: page.next }))
}

/// The log's topic, once the service has written something: it is made with the first line.
async fn written(
    server: &Server,
    name: &ServiceName,
    topic: &TopicName,
    wait: Duration,
) -> Result<Option<TopicInfo>, Error> {
    let deadline = Instant::now() + wait;
    loop {
        match server.broker.topic(topic).await {
            Ok(info) => return Ok(Some(info)),
            Err(error) if error.code == ErrorCode::NotFound => drop(find(server.store(), name).await?),
            Err(error) => return Err(error),
        }
        if Instant::now() >= deadline || server.shutdown.has_started() {
            return Ok(None);
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + GLANCE)).await;
    }
}

fn line(stored: &Stored) -> LogLine {
    let header = |name| stored.record.header(name).map(str::to_owned);
    LogLine {
        offset: stored.offset,
        time: stored.time,
        stream: header("stream"),
        server: header("server"),
        version: header("version"),
        line: String::from_utf8_lossy(&stored.record.payload()).into_owned(),
    }
}
