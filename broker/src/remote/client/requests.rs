//! Requests to services, as [`Requests`] has them.

use std::time::Duration;

use async_trait::async_trait;
use crossdock_topics::{Error, ErrorCode, Message, Record, Reply, Request, Requests, Result, ServiceName};
use crossdock_wire::session::{ToClient, ToServer};
use tokio::sync::mpsc;

use super::Remote;
use super::link::{Trouble, strange};
use super::log::millis;
use super::serving;

#[async_trait]
impl Requests for Remote {
    async fn request(&self, service: &ServiceName, message: Message, timeout: Duration) -> Reply {
        let record = Record::of(&message)?;
        let asking = async {
            self.link.connected().await?;
            let request = |id| ToServer::Invoke {
                id,
                service: service.as_str().to_owned(),
                timeout_ms: millis(timeout),
            };
            match self.link.ask(request, record.as_bytes().clone()).await {
                Ok(answer) => match answer.header {
                    ToClient::Answer { .. } => Ok(Record::from_packed(answer.payload)?.to_message()),
                    other => Err(strange(&other)),
                },
                Err(Trouble::Failed(error)) => Err(error),
                Err(Trouble::Lost) => Err(Error::new(
                    ErrorCode::Unavailable,
                    format!(
                        "the connection was lost before {service} answered; it may have done its work or not"
                    ),
                )
                .hint("ask again if doing it twice is harmless")),
            }
        };
        // The server looks at the time itself, and knows better why there is no reply.
        let patience = timeout.saturating_add(Duration::from_millis(500));
        tokio::time::timeout(patience, asking).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorCode::Timeout,
                format!("service {service} did not answer within {}", humantime::format_duration(timeout)),
            ))
        })
    }

    async fn serve(&self, service: &ServiceName, capacity: usize) -> Result<mpsc::Receiver<Request>> {
        serving::serve(&self.link, service, capacity).await
    }
}
