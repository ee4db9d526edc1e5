//! The ports a server listens on.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crossdock_topics::{Error, ErrorCode};
use tokio::net::TcpListener;

use super::machine;

/// Where a server listens: nothing of HTTP is encrypted here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The first port: the HTTP gateway's. The Admin API's is the next one, the wire's the one after. 0 for any that
    /// are free.
    pub(crate) base: u16,
    /// The address of gateway and Admin API.
    pub(crate) http: IpAddr,
    /// The address of the wire, where the broker is here.
    pub(crate) wire: Option<IpAddr>,
}

impl Place {
    /// On this machine alone.
    pub(crate) fn local(base: u16) -> Self {
        Self { base, http: Ipv4Addr::LOCALHOST.into(), wire: Some(Ipv4Addr::LOCALHOST.into()) }
    }
}

/// The listeners.
pub(crate) struct Ports {
    /// The HTTP gateway's, at the base.
    pub(crate) gateway: TcpListener,
    /// The Admin API's, one above.
    pub(crate) admin: TcpListener,
    /// The wire's, two above.
    pub(crate) wire: Option<TcpListener>,
}

impl Ports {
    /// Binds them.
    ///
    /// # Errors
    /// `Conflict` when one is in use, naming it.
    pub(crate) async fn bind(place: Place) -> Result<Self, Error> {
        let above = |distance| if place.base == 0 { 0 } else { place.base + distance };
        let listen = |ip, distance, what| listen(SocketAddr::new(ip, above(distance)), what, place.base);
        let gateway = listen(place.http, 0, "the HTTP gateway").await?;
        let admin = listen(place.http, 1, "the Admin API").await?;
        let wire = match place.wire {
            Some(ip) => Some(listen(ip, 2, "the broker's wire").await?),
            None => None,
        };
        Ok(Self { gateway, admin, wire })
    }

    /// `http://127.0.0.1:7400` and `http://127.0.0.1:7401`; with another host if others reach it under that one.
    ///
    /// # Errors
    /// When the operating system does not say where a listener is.
    pub(crate) fn urls(&self, host: Option<&str>) -> Result<(String, String), Error> {
        let url = |listener: &TcpListener| Ok::<_, Error>(format!("http://{}", reached(listener, host)?));
        Ok((url(&self.gateway)?, url(&self.admin)?))
    }

    /// `crossdock://127.0.0.1:7402`; with another host if others reach it under that one.
    ///
    /// # Errors
    /// When the operating system does not say where the listener is.
    pub(crate) fn broker_url(&self, host: Option<&str>, encrypted: bool) -> Result<Option<String>, Error> {
        let scheme = if encrypted { "crossdocks" } else { "crossdock" };
        let wire = self.wire.as_ref().map(|wire| reached(wire, host)).transpose()?;
        Ok(wire.map(|reached| format!("{scheme}://{reached}")))
    }
}

/// Where a listener is.
///
/// # Errors
/// When the operating system does not say.
pub(crate) fn address(listener: &TcpListener) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(|cause| Error::internal(format!("a listener without an address: {cause}")))
}

/// Where others reach a listener: at the host that was said; else where it listens, or, if that is everywhere, under this
/// machine's name.
fn reached(listener: &TcpListener, host: Option<&str>) -> Result<String, Error> {
    let address = address(listener)?;
    Ok(match host {
        Some(host) => format!("{host}:{}", address.port()),
        None if address.ip().is_unspecified() => format!("{}:{}", machine(), address.port()),
        None => address.to_string(),
    })
}

async fn listen(address: SocketAddr, what: &str, base: u16) -> Result<TcpListener, Error> {
    let port = address.port();
    TcpListener::bind(address).await.map_err(|cause| match cause.kind() {
        ErrorKind::AddrInUse => {
            let other = if base < 60_000 { base + 100 } else { base - 100 };
            Error::new(ErrorCode::Conflict, format!("port {port}, for {what}, is in use by another program"))
                .hint(format!("stop that program, or use other ports: --port-base {other}"))
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
        let ports = Ports::bind(Place::local(0)).await.unwrap();
        let (gateway, admin) = ports.urls(None).unwrap();
        assert!(gateway.starts_with("http://127.0.0.1:") && admin.starts_with("http://127.0.0.1:"));
        assert_ne!(gateway, admin);
        assert!(ports.broker_url(None, false).unwrap().unwrap().starts_with("crossdock://127.0.0.1:"));
        let without = Ports::bind(Place { wire: None, ..Place::local(0) }).await.unwrap();
        assert_eq!(without.broker_url(None, true).unwrap(), None);
    }

    #[tokio::test]
    async fn others_are_told_where_they_reach_it() {
        let ports = Ports::bind(Place::local(0)).await.unwrap();
        let port = address(&ports.gateway).unwrap().port();
        assert_eq!(ports.urls(Some("one.example")).unwrap().0, format!("http://one.example:{port}"));
        let wire = ports.broker_url(Some("[::1]"), true).unwrap().unwrap();
        assert!(wire.starts_with("crossdocks://[::1]:"), "{wire}");
        let everywhere = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = address(&everywhere).unwrap().port();
        assert_eq!(reached(&everywhere, None).unwrap(), format!("{}:{port}", machine()));
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        // Whichever of the three it is taken for, the message names it.
        for base in [port, port - 1, port - 2] {
            let error = Ports::bind(Place::local(base)).await.err().unwrap();
            assert_eq!(error.code, ErrorCode::Conflict);
            assert!(error.message.contains(&format!("port {port},")) || base != port, "{error}");
            assert!(error.hint.unwrap().contains("--port-base"));
        }
    }
}
