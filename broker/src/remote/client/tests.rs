//! Connecting, and giving up.

use std::future::ready;
use std::sync::atomic::{AtomicU32, Ordering};

use crossdock_topics::{Error, ErrorCode, SharedBroker, Shutdown};
use crossdock_wire::session::Login;
use futures::future::poll_immediate;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::*;
use crate::remote::{Host, ServeOptions, Stream};
use crate::{Embedded, EmbeddedOptions};

/// A broker that is reached through memory.
#[derive(Clone)]
struct Near(Arc<Inner>);

struct Inner {
    host: Arc<Host>,
    calls: AtomicU32,
    attending: Mutex<Vec<JoinHandle<()>>>,
}

#[async_trait]
impl Peer for Near {
    fn shown(&self) -> String {
        "a broker that is near".into()
    }

    fn asking(&self) -> (String, Option<Login>) {
        ("test".into(), None)
    }

    async fn dial(&self) -> Result<Box<dyn Stream>> {
        if self.0.calls.fetch_add(1, Ordering::SeqCst) > 0 {
            return Err(Error::new(ErrorCode::Unavailable, "whoever has given up calls again"));
        }
        let (one, other) = tokio::io::duplex(1 << 16);
        let host = self.0.host.clone();
        let attending =
            async move { host.attend(ready(Ok(Box::new(other) as Box<dyn Stream>)), "test").await };
        self.0.attending.lock().push(tokio::spawn(attending));
        Ok(Box::new(one))
    }
}

#[tokio::test]
async fn whoever_gives_up_connecting_at_any_moment_leaves_no_connection_behind() {
    let folder = tempfile::tempdir().unwrap();
    let broker: SharedBroker = Embedded::open(EmbeddedOptions::new(folder.path())).unwrap();
    let host =
        Arc::new(Host::new(ServeOptions::default(), broker.clone(), None, Shutdown::new(Duration::ZERO)));
    for steps in 0.. {
        let near = Near(Arc::new(Inner { host: host.clone(), calls: 0.into(), attending: Mutex::default() }));
        let mut connecting = Box::pin(Remote::to(near.clone(), Duration::from_secs(1), 1 << 20));
        let mut connected = None;
        for _ in 0..=steps {
            connected = poll_immediate(&mut connecting).await;
            tokio::task::yield_now().await;
        }
        drop(connecting);
        let attending: Vec<_> = near.0.attending.lock().drain(..).collect();
        if let Some(remote) = connected {
            remote.unwrap().close().await;
            assert!(steps > 0, "there were no moments to give up at");
            break;
        }
        for attending in attending {
            let gone = tokio::time::timeout(Duration::from_secs(20), attending).await;
            gone.expect("a connection that nobody has").unwrap();
        }
        assert!(near.0.calls.load(Ordering::SeqCst) <= 1, "it was made again after {steps} steps");
    }
    broker.close().await;
}
