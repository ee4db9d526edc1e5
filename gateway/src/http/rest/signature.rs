//! The proof that a body comes from someone who knows the secret.

use crossdock_config::Name;
use crossdock_http::Result;
use crossdock_topics::{Error, ErrorCode};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// What a channel asks of its requests' signatures.
pub(super) enum Signature {
    /// None is asked for.
    None,
    /// `HEADER: PREFIX` and the HMAC-SHA-256 of the body in hexadecimal.
    HmacSha256 { header: HeaderName, prefix: String, keyed: Box<Hmac<Sha256>> },
    /// One is asked for, but the secret could not be read: every request is refused.
    Unreadable,
}

impl Signature {
    /// A signature with this secret, or with the reason why there is none, which operators are told.
    pub(super) fn new(
        channel: &Name,
        header: HeaderName,
        prefix: String,
        secret: Result<SecretString, Error>,
    ) -> Self {
        let keyed = secret.and_then(|secret| {
            Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes())
                .map_err(|_| Error::invalid("the secret cannot be a key"))
        });
        match keyed {
            Ok(keyed) => Self::HmacSha256 { header, prefix, keyed: Box::new(keyed) },
            Err(error) => {
                tracing::error!(%channel, %error, "requests are refused: the channel's secret cannot be read");
                Self::Unreadable
            }
        }
    }

    /// Checks a request, in time that does not depend on how much of the signature is right.
    ///
    /// # Errors
    /// `Unauthenticated` when it is missing, malformed or wrong; `Unavailable` when it cannot be checked.
    pub(super) fn check(&self, headers: &HeaderMap, body: &[u8]) -> Result<()> {
        let (header, prefix, keyed) = match self {
            Self::None => return Ok(()),
            Self::HmacSha256 { header, prefix, keyed } => (header, prefix, keyed),
            Self::Unreadable => {
                return Err(Error::new(ErrorCode::Unavailable, "signatures cannot be checked at present")
                    .hint("an operator finds the reason in the server's log")
                    .into());
            }
        };
        let refuse = |why: String| {
            Error::new(ErrorCode::Unauthenticated, why)
                .hint(format!("send {header}: {prefix}HEX, the HMAC-SHA-256 of the exact body"))
        };
        let Some(value) = headers.get(header) else {
            return Err(refuse(format!("the request has no {header}")).into());
        };
        let digest = value.as_bytes().strip_prefix(prefix.as_bytes()).and_then(hex);
        let Some(digest) = digest else {
            return Err(refuse(format!("{header} is malformed")).into());
        };
        let mut mac = Hmac::clone(keyed);
        mac.update(body);
        mac.verify_slice(&digest)
            .map_err(|_| refuse(format!("{header} does not fit the body and the secret")).into())
    }
}

fn hex(text: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(secret: &str) -> Signature {
        let header = HeaderName::from_static("x-hub-signature-256");
        Signature::new(&"hook".parse().unwrap(), header, "sha256=".into(), Ok(secret.into()))
    }

    fn status(signature: &Signature, value: Option<&str>, body: &[u8]) -> u16 {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert("x-hub-signature-256", value.parse().unwrap());
        }
        signature.check(&headers, body).map_or_else(|problem| problem.status().as_u16(), |()| 200)
    }

    #[test]
    fn only_the_right_signature_of_the_exact_body_passes() {
        // The example of GitHub's documentation on validating webhook deliveries.
        let right = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let signature = signature("It's a Secret to Everybody");
        assert_eq!(status(&signature, Some(right), b"Hello, World!"), 200);
        assert_eq!(
            status(&signature, Some(&right.to_uppercase().replace("SHA", "sha")), b"Hello, World!"),
            200
        );
        assert_eq!(status(&signature, Some(right), b"Hello, World?"), 401);
        assert_eq!(status(&self::signature("another"), Some(right), b"Hello, World!"), 401);
        for wrong in
            [None, Some(""), Some("sha256="), Some(&right[7..]), Some(&right[..70]), Some("sha256=zz")]
        {
            assert_eq!(status(&signature, wrong, b"Hello, World!"), 401, "{wrong:?}");
        }
    }

    #[test]
    fn without_its_secret_a_channel_refuses_everything() {
        let missing = Err(Error::invalid("not set"));
        let header = HeaderName::from_static("x");
        let signature = Signature::new(&"hook".parse().unwrap(), header, String::new(), missing);
        assert_eq!(status(&signature, None, b""), 503);
    }
}
