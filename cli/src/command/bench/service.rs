//! Calling a service, or a REST channel.

use bytes::Bytes;
use clap::Args;
use crossdock_topics::{Error, ServiceName};
use reqwest::{Method, header};

use super::load::{self, Step};
use super::{Amount, Report, gateway};
use crate::client::Client;
use crate::failure::Result;
use crate::message::guess_content_type;

/// Call a service through the Admin API, or a REST channel through the gateway
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  crossdock bench service route --data '{\"id\": \"1\"}' --in-flight 1
  crossdock bench service /stats/octocat/hello --method GET --in-flight 64")]
pub(super) struct Arguments {
    /// The service, or the path of a REST channel, which begins with /
    #[arg(value_name = "NAME|/PATH", value_parser = target)]
    target: Target,
    #[command(flatten)]
    amount: Amount,
    /// The payload
    #[arg(long, default_value = "{}")]
    data: String,
    /// The media type of the payload; JSON and text are recognised
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// The method, for a path
    #[arg(long, default_value = "POST")]
    method: Method,
}

#[derive(Clone, Debug)]
enum Target {
    Service(ServiceName),
    Path(String),
}

fn target(text: &str) -> Result<Target, Error> {
    if text.starts_with('/') { Ok(Target::Path(text.into())) } else { text.parse().map(Target::Service) }
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<Report> {
        let payload = Bytes::from(self.data);
        let kind = self.content_type.or_else(|| guess_content_type(&payload)).unwrap_or_default();
        let (client, name) = match &self.target {
            Target::Service(name) => (client.clone(), name.to_string()),
            Target::Path(path) => (gateway(client).await?, path.clone()),
        };
        let size = payload.len();
        let (target, method) = (self.target, self.method);
        let step = move || {
            let request = match &target {
                Target::Service(name) => Ok(client.api(Method::POST, &["services", name.as_str(), "invoke"])),
                Target::Path(path) => client.request_path(method.clone(), path),
            };
            let (client, kind, payload) = (client.clone(), kind.clone(), payload.clone());
            async move {
                client.drained(request?.header(header::CONTENT_TYPE, kind).body(payload)).await?;
                Ok(Step::Done(1))
            }
        };
        let measured = load::run(self.amount, "calls", step).await?;
        Ok(Report {
            work: "call",
            target: name,
            in_flight: self.amount.in_flight,
            batch: 1,
            size,
            durability: "none, a call is not stored".into(),
            ..measured.into()
        })
    }
}
