//! Requests to issuers: bounded in time and in size, without redirects.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, StatusCode, Url, redirect};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;

use super::build::{VerifierBuildError, is_loopback};

/// Sends requests to an issuer.
#[derive(Clone)]
pub(super) struct Fetcher {
    client: Client,
}

/// Why an issuer gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{}", Causes(.0))]
    Request(reqwest::Error),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer has more than {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Unreadable(String),
}

/// An error with its causes, of which reqwest shows the first alone.
struct Causes<'a>(&'a reqwest::Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Fetcher {
    /// Returns a client for the issuer at a URL, whose requests end within `timeout`.
    pub(super) fn new(url: &Url, timeout: Duration) -> Result<Self, VerifierBuildError> {
        let is_local = is_loopback(url);
        let builder = Client::builder()
            .tls_backend_preconfigured(tls(is_local)?)
            .redirect(redirect::Policy::none())
            .referer(false)
            .timeout(timeout)
            .connect_timeout(timeout)
            .user_agent(concat!("agentkey/", env!("CARGO_PKG_VERSION")));
        // A proxy of the environment is for other machines.
        let builder = if is_local { builder.no_proxy() } else { builder };
        let client = builder.build();
        Ok(Self { client: client.map_err(|error| VerifierBuildError::Tls(error.to_string()))? })
    }

    /// Returns the body at a URL.
    pub(super) async fn get(&self, url: &Url, max_len: usize) -> Result<Vec<u8>, FetchError> {
        let request = self.client.get(url.clone()).header("accept", "application/json");
        Self::body(request, max_len).await
    }

    /// Returns a request whose body is a form.
    pub(super) fn post_form(&self, url: &Url, form: String) -> RequestBuilder {
        self.client
            .post(url.clone())
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
    }

    /// Sends a request, and returns the body of its answer.
    pub(super) async fn body(
        request: RequestBuilder,
        max_len: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let without_url = |error: reqwest::Error| FetchError::Request(error.without_url());
        let mut response = request.send().await.map_err(without_url)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let is_too_large =
            |len: usize| if len > max_len { Err(FetchError::TooLarge(max_len)) } else { Ok(()) };
        let announced = response.content_length().unwrap_or_default();
        is_too_large(usize::try_from(announced).unwrap_or(usize::MAX))?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(without_url)? {
            is_too_large(body.len() + chunk.len())?;
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Returns TLS by the provider that the application installed, else by ring. None is installed.
fn tls(is_local: bool) -> Result<ClientConfig, VerifierBuildError> {
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
    let failed = |error: rustls::Error| VerifierBuildError::Tls(error.to_string());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    match builder.clone().with_platform_verifier() {
        Ok(builder) => Ok(builder.with_no_client_auth()),
        // An issuer on this machine may do without the certificates of authorities.
        Err(_) if is_local => {
            Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
        }
        Err(error) => Err(failed(error)),
    }
}
