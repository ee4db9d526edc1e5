//! Encrypted connections, by rustls.

use std::path::Path;
use std::sync::Arc;

use crossdock_topics::{Error, ErrorCode, Result};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::client::RemoteOptions;
use super::pipe::Stream;

/// What a server proves itself by. Cheap to clone; the key is not shown.
#[derive(Clone)]
pub struct ServerTls(TlsAcceptor);

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Reads a certificate with its chain, and its private key, from PEM files.
    ///
    /// # Errors
    /// `InvalidArgument` naming the file and what is wrong with it.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self> {
        let chain = certificates(certificate)?;
        let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, "private key", &error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key_der))
            .map_err(|error| {
                Error::invalid(format!(
                    "{} and {} do not make a server's certificate: {error}",
                    certificate.display(),
                    key.display()
                ))
                .hint("see that the key belongs to the certificate")
            })?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Greets a client.
    ///
    /// # Errors
    /// `InvalidArgument` for one that speaks something else.
    pub(super) async fn accept(&self, stream: TcpStream) -> Result<Box<dyn Stream>> {
        let stream = self.0.accept(stream).await;
        Ok(Box::new(stream.map_err(|error| Error::invalid(format!("it does not speak TLS: {error}")))?))
    }
}

/// Which servers a client trusts: those that the certificates of a PEM file vouch for, or those that this machine
/// trusts. Blocks while it reads them.
///
/// # Errors
/// `InvalidArgument` for a file of certificates that is none.
pub fn trusting(ca: Option<&Path>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| wrong(path, "certificate", &error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    client(roots)
}

/// For a client that needs to be able to encrypt, but has nobody to: no server is trusted.
///
/// # Errors
/// None that can be foreseen.
pub fn trusting_nobody() -> Result<ClientConfig> {
    client(RootCertStore::empty())
}

fn client(roots: RootCertStore) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Encrypts a connection to a server, which has to prove that it is who it should be.
///
/// # Errors
/// `Unavailable` saying why it is not trusted; `InvalidArgument` for a file of certificates that is none.
pub(super) async fn encrypt(options: &RemoteOptions, stream: TcpStream) -> Result<Box<dyn Stream>> {
    let ca = options.ca.clone();
    let config = tokio::task::spawn_blocking(move || trusting(ca.as_deref())).await;
    let config = config.map_err(|error| Error::internal(error.to_string()))??;
    let host = options.address.host.clone();
    let name = ServerName::try_from(host)
        .map_err(|_| Error::invalid(format!("{} is no name of a host", options.address.host)))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| {
        Error::new(ErrorCode::Unavailable, format!("{} is not trusted: {error}", options.address))
            .hint("see that the server has a certificate for this name, and give the CA that signed it if it is your own")
    })?;
    Ok(Box::new(stream))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| wrong(path, "certificate", &error))?;
    if found.is_empty() {
        return Err(wrong(path, "certificate", &"there is none in it"));
    }
    Ok(found)
}

fn wrong(path: &Path, what: &str, why: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("{} holds no {what}: {why}", path.display())).hint("give a PEM file")
}
