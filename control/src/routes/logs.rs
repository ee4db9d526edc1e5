//! What services have written.

use std::time::Duration;

use axum::extract::State;
use crossdock_http::{Json, Result};
use crossdock_topics::{Error, ErrorCode, ServiceName, StartAt, Stored, TopicName};

use super::messages::{MAX_WAIT, Reading};
use super::services::find;
use crate::api::{LogLine, LogPage};
use crate::extract::{Named, Query, duration, page_size};
use crate::server::Server;

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
    let info = match server.broker.topic(&topic).await {
        Ok(info) => info,
        Err(error) if error.code == ErrorCode::NotFound => {
            find(server.store(), &name).await?;
            return Err(
                Error::new(ErrorCode::NotFound, format!("service {name} has written nothing yet")).into()
            );
        }
        Err(error) => return Err(error.into()),
    };
    let last = StartAt::Offset(info.tail.saturating_sub(max as u64).max(info.head));
    let page = server.read(&topic, from.unwrap_or(last), max, wait).await?;
    Ok(Json(LogPage { lines: page.messages.iter().map(line).collect(), next: page.next }))
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
