//! How a NATS cluster is reached, and what is kept there.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::ServerAddr;
use crossdock_topics::{Error, Result};
use percent_encoding::percent_decode_str;
use secrecy::SecretString;

/// How a NATS cluster is reached, and what is kept there. The sizes bound what this process holds for it.
#[derive(Clone, Debug)]
pub struct JetStreamOptions {
    /// Where its servers are; one that answers is enough.
    pub servers: Vec<ServerAddr>,
    /// Who is asking.
    pub login: Option<NatsLogin>,
    /// The certificates (a PEM file) to trust besides those that this machine trusts. Only with TLS.
    pub ca: Option<PathBuf>,
    /// What this client calls itself, as `nats server list connections` shows it.
    pub name: String,
    /// What every stream, bucket and subject of this cluster begins with, so that several can share one NATS.
    pub prefix: String,
    /// How many servers keep each message (1, 3 or 5); by default 3 where NATS is a cluster of 3 or more, else 1. What
    /// is there already keeps its number.
    pub replicas: Option<usize>,
    /// Whether its servers have each message on the disk before they acknowledge it (`sync_interval: always` in their
    /// configuration): a client cannot learn it. Without it a topic on one server gives `os` at most.
    pub sync_always: bool,
    /// How long NATS may take to answer before what was asked fails with `Unavailable`.
    pub patience: Duration,
    /// How many bytes of published messages may wait for their receipts; beyond it publishing is refused.
    pub waiting_bytes: usize,
    /// How many bytes of the newest messages are kept in memory for consumers, in all topics together.
    pub recent_bytes: usize,
}

/// Who is asking NATS.
#[derive(Clone, Debug)]
pub enum NatsLogin {
    /// A user and a password.
    Password(String, SecretString),
    /// A token.
    Token(SecretString),
    /// A credentials file, as `nsc generate creds` writes it.
    File(PathBuf),
}

impl JetStreamOptions {
    /// The usual settings for `nats://HOST:PORT,HOST:PORT,...`, or `tls://` for TLS; the port is 4222 where none is
    /// given, `USER:PASSWORD@` or `TOKEN@` before the first host says who is asking, `?sync=always` behind the last one that the servers sync before
    /// they acknowledge. Prefix `crossdock`, 10 s of
    /// patience, 64 MiB waiting, 64 MiB of recent messages.
    ///
    /// # Errors
    /// `InvalidArgument` for another URL.
    pub fn new(url: &str) -> Result<Self> {
        // The URL may hold a password and is never repeated.
        let wrong = || {
            Error::invalid("that is not the address of a NATS cluster")
                .hint("write it like nats://a.example:4222,b.example:4222, or tls:// with TLS")
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        if !matches!(scheme, "nats" | "tls") {
            return Err(wrong());
        }
        let (rest, sync_always) = match rest.split_once('?') {
            Some((rest, "sync=always")) => (rest, true),
            Some(_) => return Err(wrong()),
            None => (rest, false),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (mut servers, mut login) = (Vec::new(), None);
        for host in rest.split(',') {
            let host = match host.rsplit_once('@') {
                Some((who, host)) => {
                    login.get_or_insert(parse_login(who).ok_or_else(wrong)?);
                    host
                }
                None => host,
            };
            let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
            if host.is_empty() || !host.chars().all(fine) {
                return Err(wrong());
            }
            servers.push(format!("{scheme}://{host}").parse::<ServerAddr>().map_err(|_| wrong())?);
        }
        Ok(Self {
            servers,
            login,
            ca: None,
            name: concat!("crossdock/", env!("CARGO_PKG_VERSION")).to_owned(),
            prefix: "crossdock".into(),
            replicas: None,
            sync_always,
            patience: Duration::from_secs(10),
            waiting_bytes: 64 << 20,
            recent_bytes: 64 << 20,
        })
    }

    /// The servers as a URL without a login.
    #[must_use]
    pub fn shown(&self) -> String {
        let scheme = self.servers.first().map_or("nats", ServerAddr::scheme);
        let one = |server: &ServerAddr| match server.host() {
            host if host.contains(':') => format!("[{host}]:{}", server.port()),
            host => format!("{host}:{}", server.port()),
        };
        let hosts: Vec<String> = self.servers.iter().map(one).collect();
        format!("{scheme}://{}", hosts.join(","))
    }

    /// The first server that what says who is asking would be sent to where others can read it: beyond this machine, and not
    /// encrypted. A credentials file proves who asks without being sent.
    #[must_use]
    pub fn exposed_to(&self) -> Option<&str> {
        let secret = matches!(self.login, Some(NatsLogin::Password(..) | NatsLogin::Token(_)));
        let near = |host: &str| {
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        };
        let open = |server: &&ServerAddr| server.scheme() != "tls" && !near(server.host());
        self.servers.iter().filter(|_| secret).find(open).map(ServerAddr::host)
    }

    /// What the type cannot say.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(super) fn check(&self) -> Result<()> {
        let prefix = &self.prefix;
        let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(fine) {
            return Err(Error::invalid(format!("{prefix:?} is not a prefix for names in NATS"))
                .hint("use 1 to 64 letters, digits, - and _"));
        }
        if let Some(replicas) = self.replicas
            && !matches!(replicas, 1 | 3 | 5)
        {
            return Err(Error::invalid(format!("{replicas} replicas cannot be"))
                .hint("1, 3 or 5: an even number survives no more than the odd one below it"));
        }
        Ok(())
    }
}

fn parse_login(text: &str) -> Option<NatsLogin> {
    let decode = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    match text.split_once(':') {
        Some((user, password)) if !user.is_empty() => {
            Some(NatsLogin::Password(decode(user)?, decode(password)?.into()))
        }
        None if !text.is_empty() => Some(NatsLogin::Token(decode(text)?.into())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn urls_are_read_and_shown_without_their_login() {
        for (url, shown) in [
            ("nats://localhost", "nats://localhost:4222"),
            ("nats://a:1,b,[::1]:3/", "nats://a:1,b:4222,[::1]:3"),
            ("tls://user:p%40ss@a.example,b.example:1", "tls://a.example:4222,b.example:1"),
            ("nats://s3cret@a", "nats://a:4222"),
        ] {
            assert_eq!(JetStreamOptions::new(url).unwrap().shown(), shown);
        }
        for bad in [
            "",
            "localhost",
            "http://a",
            "nats://",
            "nats://a,",
            "nats://a:x",
            "nats://:p@a",
            "nats://@a",
            "nats://a/b",
        ] {
            assert!(JetStreamOptions::new(bad).unwrap_err().hint.is_some(), "{bad}");
        }
    }

    #[test]
    fn the_first_login_is_the_one_for_all() {
        let Some(NatsLogin::Password(user, password)) =
            JetStreamOptions::new("nats://us%3Aer:p%40ss@a,other:x@b").unwrap().login
        else {
            panic!("no user and password")
        };
        assert_eq!((user.as_str(), password.expose_secret()), ("us:er", "p@ss"));
        let token = JetStreamOptions::new("nats://tok@a").unwrap().login;
        assert!(matches!(token, Some(NatsLogin::Token(token)) if token.expose_secret() == "tok"));
    }

    #[test]
    fn a_password_is_not_sent_about_in_the_open() {
        let to = |url: &str| JetStreamOptions::new(url).unwrap().exposed_to().map(str::to_owned);
        assert_eq!(to("nats://u:p@127.0.0.1,a.example"), Some("a.example".into()));
        assert_eq!(to("nats://t@10.0.0.1"), Some("10.0.0.1".into()));
        for fine in ["nats://a.example", "tls://u:p@a.example", "nats://u:p@localhost,[::1]:4"] {
            assert_eq!(to(fine), None, "{fine}");
        }
    }

    #[test]
    fn what_cannot_be_a_name_in_nats_is_refused() {
        let mut options = JetStreamOptions::new("nats://a").unwrap();
        options.check().unwrap();
        for prefix in ["", "a.b", "a b", "a*", &"x".repeat(65)] {
            options.prefix = prefix.into();
            assert!(options.check().unwrap_err().hint.is_some(), "{prefix}");
        }
        options.prefix = "a-b_9".into();
        options.replicas = Some(2);
        assert!(options.check().is_err());
    }
}
