//! How a broker elsewhere is reached.

use std::path::PathBuf;
use std::time::Duration;

use crossdock_access::Credentials;
use crossdock_topics::{Error, Result};

/// The port that is meant when a URL names none.
pub const DEFAULT_PORT: u16 = 7402;

/// How a broker elsewhere is reached. The sizes bound what this process holds for it.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    /// Where it is.
    pub address: Address,
    /// Who is asking.
    pub credentials: Option<Credentials>,
    /// What this client calls itself, for the server's logs.
    pub name: String,
    /// The certificates (a PEM file) to trust, instead of those that this machine trusts. Only with TLS.
    pub ca: Option<PathBuf>,
    /// Whether credentials may be sent over a connection that is not encrypted and leaves this machine.
    pub plain_credentials: bool,
    /// How long a lost connection may stay away before what waits for it fails.
    pub patience: Duration,
    /// How many bytes of published messages may wait for their receipts; beyond it publishing is refused.
    pub waiting_bytes: usize,
}

/// A broker's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The host's name or IP address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl RemoteOptions {
    /// The usual settings for `crossdock://HOST:PORT`, or `crossdocks://HOST:PORT` for TLS: 30 s of patience, 64 MiB
    /// waiting.
    ///
    /// # Errors
    /// `InvalidArgument` for another URL.
    pub fn new(url: &str) -> Result<Self> {
        Ok(Self {
            address: Address::parse(url)?,
            credentials: None,
            name: concat!("crossdock/", env!("CARGO_PKG_VERSION")).to_owned(),
            ca: None,
            plain_credentials: false,
            patience: Duration::from_secs(30),
            waiting_bytes: 64 << 20,
        })
    }

    /// Whether credentials may be sent as things are.
    ///
    /// # Errors
    /// `InvalidArgument` saying how to go on.
    pub(super) fn check_credentials(&self) -> Result<()> {
        let host = &self.address.host;
        let near = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if self.credentials.is_none() || self.address.tls || self.plain_credentials || near {
            return Ok(());
        }
        Err(Error::invalid(format!("the credentials would be sent to {host} where others can read them"))
            .hint("use crossdocks:// for an encrypted connection, or allow plain credentials if the network is your own"))
    }
}

impl Address {
    fn parse(url: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!("{url:?} is not the address of a broker"))
                .hint("write it like crossdock://broker.example:7402, or crossdocks:// with TLS")
        };
        let (tls, rest) = match url.split_once("://") {
            Some(("crossdock", rest)) => (false, rest),
            Some(("crossdocks", rest)) => (true, rest),
            _ => return Err(wrong()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            // The colons of an IPv6 address stand within brackets.
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (rest, DEFAULT_PORT),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || port == 0 || !host.chars().all(fine) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "crossdocks" } else { "crossdock" };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown() {
        for (url, shown) in [
            ("crossdock://localhost:7701", "crossdock://localhost:7701"),
            ("crossdocks://broker.example", "crossdocks://broker.example:7402"),
            ("crossdock://[::1]:9/", "crossdock://[::1]:9"),
            ("crossdock://[::1]", "crossdock://[::1]:7402"),
            ("crossdock://10.0.0.1:1", "crossdock://10.0.0.1:1"),
        ] {
            assert_eq!(RemoteOptions::new(url).unwrap().address.to_string(), shown);
        }
        for bad in [
            "",
            "localhost:1",
            "http://x:1",
            "crossdock://",
            "crossdock://:1",
            "crossdock://x:y",
            "crossdock://x:0",
            "crossdock://a,b:1",
            "crossdock://user:pw@host:1",
            "crossdock://x:70000",
        ] {
            assert!(RemoteOptions::new(bad).unwrap_err().hint.is_some(), "{bad}");
        }
    }

    #[test]
    fn credentials_do_not_travel_in_the_open_unless_allowed() {
        let with = |url: &str| {
            let mut options = RemoteOptions::new(url).unwrap();
            options.credentials = Some(Credentials::ApiKey(String::from("ada.x").into()));
            options
        };
        for fine in [
            "crossdocks://example.org:1",
            "crossdock://127.0.0.1:1",
            "crossdock://[::1]:1",
            "crossdock://localhost:1",
        ] {
            with(fine).check_credentials().unwrap();
        }
        let mut options = with("crossdock://example.org:1");
        assert!(options.check_credentials().unwrap_err().hint.is_some());
        options.plain_credentials = true;
        options.check_credentials().unwrap();
    }
}
