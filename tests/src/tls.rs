//! Encryption in front of a server that has none, as a proxy in front of it would do.

use std::path::Path;
use std::sync::{Arc, Once};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// An HTTP client to be made.
pub(crate) fn http() -> reqwest::ClientBuilder {
    static ONCE: Once = Once::new();
    // One that cannot encrypt cannot be made. Somebody may have said how before.
    ONCE.call_once(|| drop(ring::default_provider().install_default()));
    reqwest::Client::builder()
}

/// Ends TLS for `localhost` in front of a server of this machine, with a certificate of its own. Gone when dropped.
#[derive(Debug)]
pub struct Encrypted {
    port: u16,
    serving: JoinHandle<()>,
}

impl Encrypted {
    /// Goes in front of `to`, which is `host:port`, and writes the certificate to trust to this file.
    ///
    /// # Panics
    /// When it cannot listen or write.
    pub async fn in_front_of(to: &str, certificate: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(certificate, made.cert.pem()).expect("to write the certificate");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(vec![made.cert.into()], key))
            .expect("a server's certificate");
        let (acceptor, to) = (TlsAcceptor::from(Arc::new(config)), to.to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let serving = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (acceptor, to) = (acceptor.clone(), to.clone());
                tokio::spawn(async move {
                    // A client that does not trust this goes again.
                    let Ok(mut near) = acceptor.accept(near).await else { return };
                    let Ok(mut far) = TcpStream::connect(to).await else { return };
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { port, serving }
    }

    /// Where it is reached.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
