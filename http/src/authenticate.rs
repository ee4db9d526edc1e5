//! Who is asking.

use axum::extract::{FromRef, FromRequestParts};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossdock_access::{Access, Credentials, Principal};
use crossdock_topics::{Error, ErrorCode};
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use crate::{Problem, Result};

/// Whoever asks, known by `Authorization: Basic`, `Authorization: Bearer <API key>`, or `X-API-Key`. A handler
/// that takes this is not reached by anybody else.
#[derive(Clone, Debug)]
pub struct Authenticated(pub Principal);

impl<S> FromRequestParts<S> for Authenticated
where
    S: Send + Sync,
    Access: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Parts, state: &S) -> Result<Self> {
        authenticate(&head.headers, &Access::from_ref(state)).await.map(Self)
    }
}

/// The one whose credentials are in these headers.
///
/// # Errors
/// `Unauthenticated` without credentials, with malformed ones, or wrong ones; `PermissionDenied` for a password
/// that a browser sent for a page of another site; `Overloaded` when too many are being checked.
pub async fn authenticate(headers: &HeaderMap, access: &Access) -> Result<Principal> {
    Ok(access.authenticate(&credentials(headers)?).await?)
}

fn credentials(headers: &HeaderMap) -> Result<Credentials> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let value = value.to_str().map_err(|_| refuse("the Authorization header is not text"))?;
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("basic") {
            refuse_other_sites(headers)?;
            return basic(rest);
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Credentials::ApiKey(rest.into()));
        }
        return Err(refuse("the scheme in the Authorization header is neither Basic nor Bearer"));
    }
    let Some(key) = headers.get("x-api-key") else { return Err(refuse("nobody said who is asking")) };
    Ok(Credentials::ApiKey(key.to_str().map_err(|_| refuse("X-API-Key is not text"))?.into()))
}

fn basic(encoded: &str) -> Result<Credentials> {
    let wrong = |_| refuse("the Basic credentials are not base64 of USER:PASSWORD in UTF-8");
    let decoded =
        String::from_utf8(STANDARD.decode(encoded).map_err(|_| wrong(()))?).map_err(|_| wrong(()))?;
    let (user, password) = decoded.split_once(':').ok_or(()).map_err(wrong)?;
    Ok(Credentials::Basic { user: user.to_owned(), password: password.into() })
}

/// Refuses what a page of another site has a browser do. Once a browser knows a password it sends it along with
/// every request to where it belongs, whoever makes it; API keys are sent by nobody who does not know them.
fn refuse_other_sites(headers: &HeaderMap) -> Result<()> {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|sent| sent == value);
    let (origin, host) = (headers.get(ORIGIN), headers.get(HOST));
    // `http://HOST` or `https://HOST`, or `null` for a page that is nowhere. It comes with all that changes things.
    let other_origin = origin.is_some_and(|origin| {
        let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        authority.map(|(_, authority)| authority.as_bytes()) != host.map(HeaderValue::as_bytes)
    });
    // Following a link to here is fine.
    let other_site = is("sec-fetch-site", "cross-site") || is("sec-fetch-site", "same-site");
    if other_origin || other_site && !is("sec-fetch-mode", "navigate") {
        return Err(Error::new(
            ErrorCode::PermissionDenied,
            "a page of another site makes this request, with a password that the browser knows",
        )
        .hint("a page of yours sends an API key")
        .into());
    }
    Ok(())
}

fn refuse(why: &'static str) -> Problem {
    Error::new(ErrorCode::Unauthenticated, why)
        .hint("send a user and password (Basic), or an API key as X-API-Key or Authorization: Bearer")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &'static str, value: &str) -> Result<Credentials> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        credentials(&headers)
    }

    #[test]
    fn credentials_come_in_three_ways() {
        // "alice:pass:word": only the first colon divides
        let basic = of("authorization", "basic YWxpY2U6cGFzczp3b3Jk").unwrap();
        assert!(matches!(&basic, Credentials::Basic { user, .. } if user == "alice"));
        assert!(matches!(of("authorization", "Bearer alice.s3cret").unwrap(), Credentials::ApiKey(_)));
        assert!(matches!(of("x-api-key", "alice.s3cret").unwrap(), Credentials::ApiKey(_)));
    }

    #[test]
    fn anything_else_is_refused_without_repeating_it() {
        for (name, value) in [
            ("authorization", "Basic !!!"),
            ("authorization", "Basic YWxpY2U="), // no colon
            ("authorization", "Basic /zo="),     // not UTF-8
            ("authorization", "Digest s3cret"),
            ("cookie", "s3cret"),
        ] {
            let problem = of(name, value).err().unwrap();
            assert_eq!(problem.status().as_u16(), 401, "{value}");
            assert!(!format!("{problem:?}").contains("s3cret"));
        }
    }

    #[test]
    fn a_page_of_another_site_does_nothing_with_a_password_that_the_browser_knows() {
        let status = |sent: &[(&'static str, &'static str)], credentials: (&'static str, &'static str)| {
            let all = [credentials, ("host", "localhost:7401")];
            let headers = all
                .iter()
                .chain(sent)
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            super::credentials(&headers.collect()).map_or_else(|problem| problem.status().as_u16(), |_| 200)
        };
        let basic = ("authorization", "Basic YWxpY2U6cGFzcw==");
        for other in [
            &[("origin", "https://evil.example")][..],
            &[("origin", "http://localhost:3000")],
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
            &[("sec-fetch-site", "same-site")],
        ] {
            assert_eq!(status(other, basic), 403, "{other:?}");
            assert_eq!(status(other, ("x-api-key", "alice.s3cret")), 200, "{other:?}");
            assert_eq!(status(other, ("authorization", "Bearer alice.s3cret")), 200, "{other:?}");
        }
        for own in [
            &[][..],
            &[("origin", "http://localhost:7401"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
        ] {
            assert_eq!(status(own, basic), 200, "{own:?}");
        }
    }
}
