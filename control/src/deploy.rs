//! A service's code on its way to the workers, who check it and write it down.

use std::time::Duration;

use crossdock_config::{Manifest, ServiceSettings};
use crossdock_topics::{Error, ErrorCode, Message, Requests, ServiceName};
use serde::{Deserialize, Serialize};

/// The largest source of a service, in bytes.
const MAX_SOURCE: usize = 8 * 1024 * 1024;
/// How long a worker may take to import a source and read its manifest.
const VALIDATION: Duration = Duration::from_secs(60);

/// What a worker is told to deploy, in JSON.
#[derive(Serialize)]
pub(crate) struct Order<'a> {
    pub(crate) name: &'a ServiceName,
    pub(crate) source: &'a str,
    pub(crate) settings: &'a ServiceSettings,
    pub(crate) by: &'a str,
}

/// What a worker has deployed, in JSON.
#[derive(Deserialize)]
pub(crate) struct Done {
    pub(crate) version: String,
    pub(crate) manifest: Manifest,
    pub(crate) changed: bool,
}

impl Order<'_> {
    /// Has it done by any server's workers.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty source, `TooLarge`, `Unavailable` when there are no workers, and
    /// `ServiceFailed` with the traceback when the source is not a service.
    pub(crate) async fn send(&self, requests: &dyn Requests) -> crossdock_topics::Result<Done> {
        if self.name.as_str().starts_with('_') {
            return Err(Error::invalid(format!("{:?} is kept for the system's own services", self.name))
                .hint("choose a name that does not begin with '_'"));
        }
        if self.source.trim().is_empty() {
            return Err(Error::invalid("the source is empty").hint("send the Python code of the service"));
        }
        if self.source.len() > MAX_SOURCE {
            let length = self.source.len();
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!("the source has {length} bytes, the limit is {MAX_SOURCE}"),
            ));
        }
        let body = serde_json::to_vec(self).map_err(|cause| Error::internal(cause.to_string()))?;
        let reply = requests
            .request(&"_workers.deploy".parse()?, Message::json(body), VALIDATION)
            .await
            .map_err(|error| match error.code {
                ErrorCode::Unavailable => {
                    Error::new(error.code, "there is no worker that could check the service")
                        .hint("start a server with workers, see GET /api/v1/status")
                }
                _ => error,
            })?;
        serde_json::from_slice(&reply.payload)
            .map_err(|cause| Error::internal(format!("a worker answered what is not understood: {cause}")))
    }
}
