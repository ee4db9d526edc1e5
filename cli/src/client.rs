//! A client of the Admin API: one method for each way of asking, errors as the server said them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crossdock_broker::remote::{trusting, trusting_nobody};
use crossdock_topics::{Error, ErrorCode};
use reqwest::{Method, RequestBuilder, Response, Url, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::refusal::Refusal;

/// How long a call may take, beside what the server is asked to wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to one server, as one user.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    context: Context,
    base: Url,
    /// The certificates to trust, instead of those that this machine trusts.
    ca: Option<PathBuf>,
    /// Contexts that lead elsewhere, for whoever finds nobody here.
    others: Vec<String>,
}

impl Client {
    /// A client for this context, which with `https` trusts the certificates of this PEM file, or those that this
    /// machine trusts. Nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidArgument` for a URL that cannot be used, and for a file of certificates that is none.
    pub(crate) fn new(context: Context, ca: Option<PathBuf>) -> Result<Self, Error> {
        let base = base(&context.url)?;
        let http = http(&base, ca.as_deref())?;
        Ok(Self { http, context, base, ca, others: Vec::new() })
    }

    /// The same, knowing of other saved contexts: `NAME (URL)`.
    pub(crate) fn beside(self, others: Vec<String>) -> Self {
        Self { others, ..self }
    }

    /// The same user and connections at another server, such as the gateway.
    ///
    /// # Errors
    /// `InvalidArgument` for a URL that cannot be used.
    pub(crate) fn at(&self, url: &str) -> Result<Self, Error> {
        let base = base(url)?;
        if base.scheme() == self.base.scheme() {
            return Ok(Self { base, ..self.clone() });
        }
        Ok(Self { http: http(&base, self.ca.as_deref())?, base, ..self.clone() })
    }

    /// What it connects to, and as whom.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// The certificates it trusts, where they are its own.
    pub(crate) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// A request to a path given by its segments, each encoded as needed.
    pub(crate) fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        self.request_url(method, url)
    }

    /// A request to a path as it is written, query included.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no path.
    pub(crate) fn request_path(&self, method: Method, path: &str) -> Result<RequestBuilder, Error> {
        let url = self
            .base
            .join(path)
            .map_err(|cause| Error::invalid(format!("{path:?} is not the path of a URL: {cause}")))?;
        Ok(self.request_url(method, url))
    }

    fn request_url(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url).timeout(PATIENCE);
        match (&self.context.api_key, &self.context.user) {
            (Some(key), _) => request.header("x-api-key", key),
            (None, Some(user)) => request.basic_auth(user, self.context.password.as_deref()),
            (None, None) => request,
        }
    }

    /// A request to the Admin API: `api(GET, &["topics", "orders"])`.
    pub(crate) fn api(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let path: Vec<&str> = ["api", "v1"].iter().chain(path).copied().collect();
        self.request(method, &path)
    }

    /// Sends a request whose answer may come `wait` later than others.
    pub(crate) fn patient(request: RequestBuilder, wait: Duration) -> RequestBuilder {
        request.timeout(wait.saturating_add(PATIENCE))
    }

    /// Sends, and gives the answer of a request that went well.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout` when there is no answer; otherwise the server's own error.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        self.try_send(request).await.map_err(|refusal| refusal.error)
    }

    /// The same, for requests whose refusal says more than an error does.
    ///
    /// # Errors
    /// Those of [`Client::send`], with what else the server said.
    pub(crate) async fn try_send(&self, request: RequestBuilder) -> Result<Response, Refusal> {
        let response = request.send().await.map_err(|cause| Refusal::from(self.unanswered(&cause)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    /// Sends, and reads the answer to its end without looking at it.
    ///
    /// # Errors
    /// Those of [`Client::send`].
    pub(crate) async fn drained(&self, request: RequestBuilder) -> Result<(), Error> {
        let response = self.send(request).await?;
        response.bytes().await.map(drop).map_err(|cause| self.unanswered(&cause))
    }

    /// Sends, and reads the answer as JSON.
    ///
    /// # Errors
    /// Those of [`Client::send`]; `Internal` for an answer that is something else.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        self.read(self.send(request).await?).await
    }

    /// Reads an answer as JSON.
    ///
    /// # Errors
    /// `Unavailable` when it breaks off; `Internal` for an answer that is something else.
    pub(crate) async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, Error> {
        let body = response.bytes().await.map_err(|cause| self.unanswered(&cause))?;
        serde_json::from_slice(&body).map_err(|cause| {
            Error::internal(format!("the answer of {} is not understood: {cause}", self.base))
                .hint("is it Crossdock's Admin API, and of this version? See `crossdock --version`")
        })
    }

    /// GET, with the answer as JSON.
    ///
    /// # Errors
    /// Those of [`Client::json`].
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Error> {
        self.json(self.api(Method::GET, path)).await
    }

    /// POST of JSON, with the answer as JSON.
    ///
    /// # Errors
    /// Those of [`Client::json`].
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.json(self.api(Method::POST, path).json(body)).await
    }

    /// DELETE.
    ///
    /// # Errors
    /// Those of [`Client::send`].
    pub(crate) async fn delete(&self, path: &[&str]) -> Result<(), Error> {
        self.send(self.api(Method::DELETE, path)).await.map(drop)
    }

    /// What to say when there is no answer.
    fn unanswered(&self, cause: &reqwest::Error) -> Error {
        if cause.is_timeout() && !cause.is_connect() {
            return Error::new(ErrorCode::Timeout, format!("{} did not answer in time", self.base))
                .hint("it may have been done or not; see `crossdock status`");
        }
        let reason = root(cause);
        if cause.is_connect() || cause.is_timeout() {
            let error =
                Error::new(ErrorCode::Unavailable, format!("cannot connect to {}: {reason}", self.base));
            if self.base.scheme() == "https" {
                return error.hint(
                    "does it run there, with a certificate for this name? Name the CA that signed it with --ca if it is \
                     your own",
                );
            }
            return error.hint(if self.others.is_empty() {
                "is it running? Start it with `crossdock quickstart`, or point CROSSDOCK_URL elsewhere".into()
            } else {
                format!(
                    "is it running? Start it with `crossdock quickstart`, or choose another with \
                     `crossdock context use`: {}",
                    self.others.join(", ")
                )
            });
        }
        Error::new(ErrorCode::Unavailable, format!("the connection to {} broke: {reason}", self.base))
            .hint("it may have been done or not; see `crossdock status`")
    }

    /// What an unsuccessful answer means.
    async fn refusal(&self, response: Response) -> Refusal {
        let status = response.status();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let body = response.bytes().await.unwrap_or_default();
        let mut refusal = Refusal::read(&body).unwrap_or_else(|| Refusal::of_a_stranger(&self.base, status));
        let error = &mut refusal.error;
        error.retry_after = error.retry_after.or(retry_after);
        if error.code == ErrorCode::Unauthenticated && error.hint.is_none() {
            error.hint = Some("set CROSSDOCK_USER and CROSSDOCK_PASSWORD, or CROSSDOCK_API_KEY".into());
        }
        refusal
    }
}

fn http(base: &Url, ca: Option<&Path>) -> Result<reqwest::Client, Error> {
    let mut http = reqwest::Client::builder()
        .user_agent(concat!("crossdock/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(5))
        .redirect(reqwest::redirect::Policy::none());
    http = match base.scheme() {
        "https" => http.tls_backend_preconfigured(trusting(ca)?),
        // Nobody has to be trusted then, and reading whom this machine trusts takes a while.
        _ => http.tls_backend_preconfigured(trusting_nobody()?),
    };
    http.build().map_err(|cause| Error::internal(format!("cannot make an HTTP client: {cause}")))
}

fn base(url: &str) -> Result<Url, Error> {
    let wrong = |why: String| {
        Error::invalid(format!("{url:?} cannot be connected to: {why}"))
            .hint("write it like http://127.0.0.1:7401")
    };
    let parsed = Url::parse(url).map_err(|cause| wrong(cause.to_string()))?;
    match parsed.scheme() {
        "http" | "https" if parsed.has_host() => Ok(parsed),
        other => Err(wrong(format!("{other} is not http or https"))),
    }
}

/// The innermost reason, which is the one a person can act on.
fn root(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(deeper) = reason.source() {
        reason = deeper;
    }
    reason.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Result<Client, Error> {
        let context = Context {
            url: url.into(),
            gateway_url: None,
            broker_url: None,
            user: Some("admin".into()),
            password: Some("pw".into()),
            api_key: None,
        };
        Client::new(context, None)
    }

    #[test]
    fn names_are_encoded_into_the_path_and_a_base_path_is_kept() {
        let client = client("http://h:1/crossdock/").unwrap();
        let request = client.api(Method::GET, &["topics", "a/b ?"]).build().unwrap();
        assert_eq!(request.url().as_str(), "http://h:1/crossdock/api/v1/topics/a%2Fb%20%3F");
        assert!(request.headers()[header::AUTHORIZATION].is_sensitive());
    }

    #[test]
    fn urls_that_cannot_be_used_are_refused_with_an_example() {
        for url in ["", "127.0.0.1:7401", "ftp://h"] {
            let error = client(url).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.to_string().contains("http://127.0.0.1:7401"), "{error}");
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_unavailable_and_says_what_to_do() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = client(&url).unwrap().get::<serde_json::Value>(&["status"]).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert!(error.to_string().contains("crossdock quickstart"), "{error}");
    }

    #[tokio::test]
    async fn an_error_keeps_its_code_and_hint_and_a_stranger_is_recognised() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let answer = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        };
        let answers = [
            answer("409 Conflict", r#"{"code":"already_exists","detail":"taken","hint":"h","status":409}"#),
            answer("403 Forbidden", "<html>proxy</html>"),
            answer("200 OK", "not json"),
        ];
        let server = tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let ask = || client.get::<serde_json::Value>(&["x"]);
        let error = ask().await.unwrap_err();
        assert_eq!((error.code, error.to_string().as_str()), (ErrorCode::AlreadyExists, "taken; h"));
        assert_eq!(ask().await.unwrap_err().code, ErrorCode::PermissionDenied);
        assert_eq!(ask().await.unwrap_err().code, ErrorCode::Internal);
        server.await.unwrap();
    }
}
