//! A server's process that is killed while a client publishes to it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crossdock_broker::remote::{ServeOptions, serve};
use crossdock_topics::{Broker, Expect, Log, Published, Shutdown, Topic};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::block_in_place;

use super::cuts::{check_stored, numbered, orders};
use super::scratch;
use super::server::{connect, soon};

const DIRECTORY: &str = "CROSSDOCK_TEST_SERVER_DIRECTORY";
const ADDRESS: &str = "CROSSDOCK_TEST_SERVER_ADDRESS";
const LISTENS: &str = "listens on ";

/// A server in a process of its own: this same binary, told so by its environment. It ends with this one.
struct Killable {
    child: Child,
    directory: PathBuf,
    address: SocketAddr,
}

impl Killable {
    fn start(directory: &Path, address: SocketAddr) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::the_server", "--include-ignored", "--nocapture"])
            .env(DIRECTORY, directory)
            .env(ADDRESS, address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let listens = lines.find_map(|line| line.split_once(LISTENS).map(|(_, address)| address.to_owned()));
        let address = listens.expect("the server ended instead of listening").parse().unwrap();
        Self { child, directory: directory.to_owned(), address }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it had ended by itself: {status}");
    }

    /// Kills it, and starts it again where it was.
    fn kill_and_start(&mut self) {
        self.kill();
        *self = Self::start(&self.directory, self.address);
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_while_the_server_is_killed_is_stored_once_and_in_order() {
    const MESSAGES: u64 = 12_000;
    const IN_FLIGHT: usize = 300;
    const KILLED_AFTER: [usize; 4] = [1, 3_000, 6_000, 9_000]; // receipts
    let directory = tempfile::tempdir().unwrap();
    let start = || Killable::start(directory.path(), "127.0.0.1:0".parse().unwrap());
    let mut server = block_in_place(start);
    let remote = connect(server.address).await;
    remote.put_topic(Topic::new(orders()), Expect::Any).await.unwrap();
    let mut under_way: VecDeque<Published> = VecDeque::new();
    let mut offsets = Vec::new();
    let mut n = 0;
    while offsets.len() < MESSAGES as usize {
        while n < MESSAGES && under_way.len() < IN_FLIGHT {
            under_way.push_back(remote.publish(&orders(), numbered(n), Default::default()));
            n += 1;
        }
        let oldest = under_way.pop_front().unwrap();
        offsets.push(soon("a receipt", oldest).await.unwrap().first);
        if KILLED_AFTER.contains(&offsets.len()) {
            block_in_place(|| server.kill_and_start());
        }
    }
    remote.close().await;
    server.kill();
    // All of it has a receipt, so all of it is there.
    check_stored(&*scratch::open(directory.path()).await.unwrap(), &offsets).await;
}

#[test]
#[ignore = "the process that is killed; the other test starts it"]
fn the_server() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let address: SocketAddr = std::env::var(ADDRESS).unwrap().parse().unwrap();
    // Whoever started it holds the other end of its standard input.
    let (orphaned, is_orphaned) = oneshot::channel();
    std::thread::spawn(|| orphaned.send(std::io::stdin().read(&mut [0]).is_err()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let broker = scratch::open(Path::new(&directory)).await.unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        println!("{LISTENS}{}", listener.local_addr().unwrap());
        let options = ServeOptions::default();
        tokio::select! {
            () = serve(options, listener, broker, None, Shutdown::new(Duration::from_secs(2))) => {}
            _ = is_orphaned => {}
        }
    });
}
