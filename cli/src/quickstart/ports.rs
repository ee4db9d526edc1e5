//! The ports a quickstart listens on.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};

use crossdock_topics::{Error, ErrorCode};
use tokio::net::TcpListener;

/// The listeners, on the loopback interface only: nothing here is encrypted.
pub(super) struct Ports {
    /// The HTTP gateway's, at the base.
    pub(super) gateway: TcpListener,
    /// The Admin API's, one above.
    pub(super) admin: TcpListener,
}

impl Ports {
    /// Binds them from `base` on; with 0, two that are free.
    ///
    /// # Errors
    /// `Conflict` when one is in use, naming it.
    pub(super) async fn bind(base: u16) -> Result<Self, Error> {
        let above = |distance| if base == 0 { 0 } else { base + distance };
        Ok(Self {
            gateway: listen(above(0), "the HTTP gateway", base).await?,
            admin: listen(above(1), "the Admin API", base).await?,
        })
    }

    /// `http://127.0.0.1:7400` and `http://127.0.0.1:7401`.
    ///
    /// # Errors
    /// When the operating system does not say where a listener is.
    pub(super) fn urls(&self) -> Result<(String, String), Error> {
        let url = |listener: &TcpListener| {
            let address = listener.local_addr();
            let address =
                address.map_err(|cause| Error::internal(format!("a listener without an address: {cause}")));
            Ok::<_, Error>(format!("http://{}", address?))
        };
        Ok((url(&self.gateway)?, url(&self.admin)?))
    }
}

async fn listen(port: u16, what: &str, base: u16) -> Result<TcpListener, Error> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.map_err(|cause| match cause.kind() {
        ErrorKind::AddrInUse => {
            let other = if base < 60_000 { base + 100 } else { base - 100 };
            Error::new(ErrorCode::Conflict, format!("port {port}, for {what}, is in use by another program"))
                .hint(format!(
                    "stop that program, or use other ports: crossdock quickstart --port-base {other}"
                ))
        }
        ErrorKind::PermissionDenied => Error::new(
            ErrorCode::PermissionDenied,
            format!("port {port}, for {what}, may not be used: {cause}"),
        )
        .hint("ports below 1024 are for root; use a larger --port-base"),
        _ => Error::new(ErrorCode::Unavailable, format!("cannot listen on {address} for {what}: {cause}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn free_ports_are_found_and_named() {
        let ports = Ports::bind(0).await.unwrap();
        let (gateway, admin) = ports.urls().unwrap();
        assert!(gateway.starts_with("http://127.0.0.1:") && admin.starts_with("http://127.0.0.1:"));
        assert_ne!(gateway, admin);
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        // Whichever of the two it is taken for, the message names it.
        for base in [port, port - 1] {
            let error = Ports::bind(base).await.err().unwrap();
            assert_eq!(error.code, ErrorCode::Conflict);
            assert!(error.message.contains(&format!("port {port},")) || base != port, "{error}");
            assert!(error.hint.unwrap().contains("--port-base"));
        }
    }
}
