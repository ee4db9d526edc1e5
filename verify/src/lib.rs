//! Torture for a broker on the user's own disk, and the judgement of what it did.
//!
//! [`run`] starts a broker in a process of its own on a scratch folder, puts publishers and consumers to work on it,
//! kills it, stops it, takes its disk away and damages copies of its data, all as a seed decides. Everything that the
//! load sees is written down as a [`history`], and [`judge`] holds it against what is there in the end. What kind of
//! broker it is, and how it is reached, is the caller's to say.

mod child;
mod damage;
mod disk;
mod faults;
pub mod freight;
mod histogram;
pub mod history;
pub mod judge;
mod load;
mod observe;
mod pace;
mod rate;
mod report;
mod round;
mod run;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossdock_topics::{Result, SharedBroker};
use futures::future::BoxFuture;

pub use child::Launch;
pub use damage::Damages;
pub use faults::Faults;
pub use histogram::Histogram;
pub use observe::{Observed, Observing, Pace, observe};
pub use report::{Counts, Report};
pub use run::{Progress, run};

/// How the broker of a process that was started is reached.
pub type Connect = Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, Result<SharedBroker>> + Send + Sync>;

/// What is verified, and how.
#[derive(Clone)]
pub struct Options {
    /// A folder for the data, on the disk in question. Made, and removed when nothing was wrong.
    pub folder: PathBuf,
    /// What all choices come from.
    pub seed: u64,
    /// How long it may take, but for the end of the last round.
    pub length: Duration,
    /// What happens to the broker.
    pub faults: Faults,
    /// How it is started.
    pub launch: Launch,
    /// How it is reached.
    pub connect: Connect,
}
