//! Calling a service.

use std::time::Duration;

use clap::Args;
use crossdock_topics::time::human;
use crossdock_topics::{Error, ErrorCode, ServiceName};
use reqwest::{Method, header};

use super::Caller;
use crate::client::Client;
use crate::failure::Result;
use crate::message::{Input, guess_content_type};
use crate::output::print_bytes;

/// Call a service by name and print its reply
#[derive(Debug, Args)]
#[command(after_help = "\
The reply's payload is printed as it is, whatever the format.

Examples:
  crossdock service invoke price '{\"item\": 7}'
  crossdock service invoke resize --file cat.png --content-type image/png > small.png")]
pub(super) struct Arguments {
    /// The service
    name: ServiceName,
    #[command(flatten)]
    input: Input,
    /// The media type of the payload; JSON and text are recognised
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// How long to wait for the reply
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = human::parse)]
    timeout: Duration,
}

impl Arguments {
    pub(super) async fn run(self, caller: &Caller) -> Result<()> {
        let client = caller.connect()?;
        let payload = self.input.whole()?;
        let mut request = client
            .api(Method::POST, &["services", self.name.as_str(), "invoke"])
            .query(&[("timeout", humantime::format_duration(self.timeout).to_string())]);
        if let Some(kind) = self.content_type.or_else(|| guess_content_type(&payload)) {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let response = client.send(Client::patient(request.body(payload), self.timeout)).await?;
        let mut reply: Vec<u8> = response
            .bytes()
            .await
            .map_err(|cause| Error::new(ErrorCode::Unavailable, format!("the reply broke off: {cause}")))?
            .into();
        let text = std::str::from_utf8(&reply).is_ok();
        if caller.for_people() && text && !reply.is_empty() && !reply.ends_with(b"\n") {
            reply.push(b'\n');
        }
        print_bytes(&reply)
    }
}
