//! From the requests to a name to the processes.

use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Broker, ErrorCode, Record, Request, Result, ServiceName};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::call::{Call, Work};
use crate::dispatch::Dispatch;

/// How many requests wait in front of a service on one server; more are refused as overloaded.
const QUEUE: usize = 1024;

/// One name that a service answers to.
pub(crate) struct Intake {
    dispatch: Arc<Dispatch>,
    requests: mpsc::Receiver<Request>,
    handler: u32,
    timeout: Duration,
    stop: CancellationToken,
}

impl Intake {
    /// Begins to serve the name.
    ///
    /// # Errors
    /// Those of [`crossdock_topics::Requests::serve`].
    pub(crate) async fn open(
        broker: &dyn Broker,
        name: &ServiceName,
        dispatch: Arc<Dispatch>,
        handler: u32,
        timeout: Duration,
        stop: CancellationToken,
    ) -> Result<Self> {
        let requests = broker.serve(name, QUEUE).await?;
        Ok(Self { dispatch, requests, handler, timeout, stop })
    }

    /// Hands requests out until it is stopped; those that still wait then go to another server.
    pub(crate) async fn run(mut self) {
        loop {
            let request = tokio::select! {
                request = self.requests.recv() => request,
                () = self.stop.cancelled() => return,
            };
            let Some(Request { message, deadline, responder }) = request else { return };
            let record = match Record::of(&message) {
                Ok(record) => record,
                Err(error) => {
                    responder.reply(Err(error));
                    continue;
                }
            };
            let call = Call {
                handler: self.handler,
                timeout: self.timeout,
                work: Work::Request { record, deadline, responder: Some(responder) },
            };
            tokio::select! {
                () = self.dispatch.room() => self.dispatch.submit(call),
                () = self.stop.cancelled() => {
                    let reason = "the service is being stopped or replaced".into();
                    call.fail(ErrorCode::Unavailable, reason, self.dispatch.service());
                    return;
                }
            }
        }
    }
}
