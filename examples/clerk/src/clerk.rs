//! A verifier for the opaque machine-to-machine tokens of Clerk, on agentkey's trait.
//!
//! What it sends and reads is as Clerk documents `POST /m2m_tokens/verify`:
//! <https://clerk.com/docs/reference/backend/m2m-tokens/verify> and
//! <https://clerk.com/docs/reference/backend/types/backend-m2m-token>. The prefix `mt_` is `M2M_TOKEN_PREFIX` of
//! Clerk's package `@clerk/backend`. Clerk's tokens in the form of a JWT need no request: they are for a `JwtVerifier`.

use std::fmt;
use std::time::Duration;

use agentkey::identity::{Subject, Verified, Verifier, VerifyError, VerifyFuture};
use reqwest::{Client, StatusCode, redirect};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The issuer in subjects. Clerk's tokens name none, so it is the API that vouches for them.
pub(crate) const ISSUER: &str = "https://api.clerk.com";

/// Asks Clerk about each token.
pub(crate) struct ClerkVerifier {
    http: Client,
    url: String,
    secret: String,
}

/// The members of Clerk's answer that decide. Its `scopes` are ids of machines that the token may talk to, and no scopes
/// of OAuth, so they do not narrow here.
#[derive(Deserialize)]
struct M2mToken {
    subject: String,
    claims: Option<Map<String, Value>>,
    revoked: bool,
    expired: bool,
}

impl ClerkVerifier {
    /// Returns a verifier that asks the API at `api`, as the machine with this secret.
    pub(crate) fn new(api: &str, secret: &str) -> Result<Self, reqwest::Error> {
        let http = Client::builder()
            .timeout(Duration::from_secs(5))
            .redirect(redirect::Policy::none())
            .build()?;
        Ok(Self { http, url: format!("{api}/v1/m2m_tokens/verify"), secret: secret.to_owned() })
    }

    async fn ask(&self, token: &str) -> Result<Verified, VerifyError> {
        let request =
            self.http.post(&self.url).bearer_auth(&self.secret).json(&json!({ "token": token }));
        let response =
            request.send().await.map_err(|error| unavailable(&error.without_url().to_string()))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
                return Err(VerifyError::Invalid("Clerk does not know the token".into()));
            }
            // Also 401: then the secret of this service is wrong, and not the token.
            status => return Err(unavailable(&format!("Clerk answered {status}"))),
        }
        let found: M2mToken =
            response.json().await.map_err(|error| unavailable(&error.to_string()))?;
        if found.revoked {
            return Err(VerifyError::Invalid("Clerk says that the token is revoked".into()));
        }
        if found.expired {
            return Err(VerifyError::Expired);
        }
        let subject = Subject::new(ISSUER, found.subject);
        let mut verified =
            Verified::new(subject.map_err(|error| VerifyError::Invalid(error.to_string()))?);
        verified.claims = found.claims.unwrap_or_default();
        Ok(verified)
    }
}

impl Verifier for ClerkVerifier {
    fn accepts(&self, credential: &str) -> bool {
        credential.starts_with("mt_") && credential.len() <= 512
    }

    fn verify<'a>(&'a self, credential: &'a str) -> VerifyFuture<'a> {
        Box::pin(self.ask(credential))
    }
}

/// Shows no secret.
impl fmt::Debug for ClerkVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClerkVerifier").field("url", &self.url).finish_non_exhaustive()
    }
}

fn unavailable(reason: &str) -> VerifyError {
    VerifyError::Unavailable { reason: reason.to_owned(), retry_after: Duration::from_secs(5) }
}
