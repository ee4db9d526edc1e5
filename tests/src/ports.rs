//! Ports that are free.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Where the next one in this process looks: what was given out may not be used yet.
static GIVEN: AtomicU16 = AtomicU16::new(0);

/// A port with so many after it (itself included) that nobody listens on now. They are below those that the system gives
/// out by itself, so that only another test can take them before they are used.
///
/// # Panics
/// When there are none.
pub(crate) fn free(count: u16) -> u16 {
    // Tests that run side by side, in one process or several, look in different places.
    let given = GIVEN.fetch_add(count, Ordering::Relaxed);
    let start = 10_000 + ((std::process::id() as u16 % 1000) * 20 + given) % 20_000;
    let bases = (start..32_000).chain(10_000..start).step_by(usize::from(count) + 2);
    let free = |base: &u16| (*base..*base + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    bases.into_iter().find(free).expect("free ports")
}
