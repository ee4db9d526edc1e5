//! What only a worker and the processes of a service say to each other, before they speak as everybody does.
//!
//! The process's standard input is one end of a Unix stream socket, the worker's end is the server. The worker begins:
//!
//! ```text
//! worker                              process
//! Start, payload: a Start as JSON
//!                                     Ready, payload: the manifest as JSON   (or Refused, payload: why)
//! ```
//!
//! From then on it is a session. The process has opened a flow for each handler of its manifest without saying so: the
//! handler at index `i` has the flow `i + 1`, which carries `Deliveries` or `Request`s. Its credit is what `Ready` says,
//! for all flows together, and each `Settle` or `Reply` gives one back. The budget of a delivery is its handler's
//! timeout. The process invokes services and reads topics; it publishes with its outcomes alone. A `Settle` has the id
//! 0 and is not answered, and names one delivery, by the token that the worker gave it; tokens and the ids of `Request`s
//! are one count. There are no heartbeats. `Drain` from the worker says that no more calls will come: the process
//! finishes what it holds, and ends.

use serde::{Deserialize, Serialize};

use super::header::headers;

headers! {
    /// What a worker says first.
    pub enum ToProcess {
        /// `[60, version]`, payload: a [`Start`] as JSON.
        60 = Start {
            /// The worker's [`super::VERSION`].
            version: u32,
        },
    }
}

headers! {
    /// What a process says first.
    pub enum FromProcess {
        /// `[60, version, credit, in_order]`, payload: the manifest as JSON.
        60 = Ready {
            /// The process's [`super::VERSION`], which is the worker's.
            version: u32,
            /// How many calls it takes at once.
            credit: u32,
            /// Whether it works on them one at a time, in the order in which they came; its credit then only lets the
            /// next ones wait nearby.
            in_order: bool,
        },
        /// `[61, version]`, payload: why the code could not be loaded, such as its traceback.
        61 = Refused {
            /// The process's [`super::VERSION`].
            version: u32,
        },
    }
}

/// What a process is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The service's name.
    pub service: String,
    /// The version of its code.
    pub version: String,
    /// The file that holds its code.
    pub path: String,
    /// How long a call may take, in milliseconds, if its handler does not say.
    pub timeout_ms: u64,
    /// How many bytes of address space the process may have.
    pub memory: u64,
    /// A file of 8 bytes in which the process keeps the id or token of the call it is working on (little-endian, 0 for
    /// none), for whoever must know when it has died; only with a process that works in order.
    pub beacon: Option<String>,
    /// Whether to end after `Ready`: the code is only being looked at.
    pub inspect: bool,
}
