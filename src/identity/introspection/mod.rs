//! Opaque tokens, about which the issuer is asked (token introspection, RFC 7662).

mod builder;
mod cache;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
pub use builder::IntrospectionVerifierBuilder;
use cache::{Answer, Asked, Cache};
use reqwest::Url;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use zeroize::Zeroizing;

use super::claims::{ClaimRules, invalid};
use super::fetch::{FetchError, Fetcher};
use super::json::parse_object;
use super::verifier::{Verified, Verifier, VerifyError, VerifyFuture};
use crate::model::TokenHash;
use crate::model::clock::{Clock, later};

/// A longer credential is refused without a question.
const MAX_LEN: usize = 16 * 1024;
/// The most bytes of an answer.
const MAX_ANSWER_LEN: usize = 256 * 1024;
/// When a client should try again that got no answer.
const RETRY: Duration = Duration::from_secs(5);

/// Verifies opaque tokens of one issuer by asking it: token introspection (RFC 7662).
///
/// It decides about credentials with a [prefix](IntrospectionVerifierBuilder::prefix), or for which a
/// [function](IntrospectionVerifierBuilder::accept_if) says so. Requests with one token at the same
/// time share one question. An answer is used again only with
/// [`cache_for`](IntrospectionVerifierBuilder::cache_for).
///
/// ```
/// use agentkey::identity::{IntrospectionVerifier, Verifier};
///
/// let verifier = IntrospectionVerifier::builder(
///     "https://issuer.example",
///     "https://issuer.example/oauth2/introspect",
///     "my-service",
///     "its secret at the issuer",
/// )
/// .prefix("opq_")
/// .build()?;
/// assert!(verifier.accepts("opq_F3dbn2"));
/// assert!(!verifier.accepts("eyJhbGciOi"));
/// # Ok::<(), agentkey::identity::VerifierBuildError>(())
/// ```
#[derive(Clone)]
pub struct IntrospectionVerifier(Arc<Shared>);

struct Shared {
    endpoint: Url,
    client: ClientCredentials,
    form: Form,
    claims: ClaimRules,
    fetcher: Fetcher,
    timeout: Duration,
    /// Zero where answers are not kept.
    cache_for: Duration,
    cache: Cache,
    /// One place for each question that is under way.
    places: Semaphore,
    clock: Clock,
}

/// Which credentials are tokens of the issuer.
enum Form {
    Prefixes(Vec<String>),
    Predicate(Box<dyn Fn(&str) -> bool + Send + Sync>),
}

/// How the service shows who it is (RFC 6749 §2.3.1).
struct ClientCredentials {
    id: String,
    secret: Zeroizing<String>,
    are_in_form: bool,
}

impl IntrospectionVerifier {
    /// Returns the builder of a verifier that asks the endpoint of an issuer, as this client.
    pub fn builder(
        issuer: impl Into<String>,
        endpoint: impl Into<String>,
        client_id: impl Into<String>,
        client_secret: impl Into<String>,
    ) -> IntrospectionVerifierBuilder {
        let client = ClientCredentials {
            id: client_id.into(),
            secret: Zeroizing::new(client_secret.into()),
            are_in_form: false,
        };
        IntrospectionVerifierBuilder::new(issuer.into(), endpoint.into(), client)
    }

    async fn judge(&self, credential: &str) -> Result<Verified, VerifyError> {
        let now = self.0.clock.now();
        let digest = TokenHash::digest(credential);
        let (mut answer, question) = match self.0.cache.ask(&digest, now) {
            Asked::Kept(verified) => return Ok((*verified).clone()),
            Asked::UnderWay(answer) => (answer, None),
            Asked::First(answer, question) => (answer, Some(question)),
            Asked::TooMany => return Err(unavailable("too many tokens wait for an answer")),
        };
        if let Some(question) = question {
            self.ask(credential, digest, question)?;
        }
        // Closed without an answer where the task was ended, such as with its runtime.
        let answered = answer.wait_for(Option::is_some).await;
        let answered = answered.ok().and_then(|answer| answer.clone());
        let verified = answered.unwrap_or_else(|| Err(unavailable("the question was given up")))?;
        Ok((*verified).clone())
    }

    /// Asks in a task of its own, which no client that leaves can end.
    fn ask(
        &self,
        credential: &str,
        digest: TokenHash,
        question: watch::Sender<Answer>,
    ) -> Result<(), VerifyError> {
        let runtime =
            Handle::try_current().map_err(|_| unavailable("there is no tokio runtime"))?;
        let (shared, token) = (self.0.clone(), Zeroizing::new(credential.to_owned()));
        runtime.spawn(async move {
            // What the issuer says may be no longer true from the question on.
            let bound = later(shared.clock.now(), shared.cache_for);
            let answer = shared.question(&token).await.map(Arc::new);
            let kept_until = answer
                .as_ref()
                .ok()
                .map(|verified| verified.expires_at.map_or(bound, |end| end.min(bound)));
            let kept = answer.as_ref().ok().cloned().zip(kept_until);
            let kept = kept.filter(|_| !shared.cache_for.is_zero());
            shared.cache.answered(&digest, kept, shared.clock.now());
            question.send_replace(Some(answer));
        });
        Ok(())
    }
}

impl Shared {
    async fn question(&self, token: &str) -> Result<Verified, VerifyError> {
        let asked = async {
            let _place = self.places.acquire().await;
            self.post(token).await
        };
        let answer = match tokio::time::timeout(self.timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(FetchError::Unreadable("it did not answer in time".to_owned())),
        };
        let claims = answer.map_err(|error| {
            let issuer = &self.claims.issuer;
            tracing::warn!(issuer, %error, "an issuer was asked about a token in vain");
            unavailable("the issuer gave no answer")
        })?;
        match claims.get("active") {
            Some(Value::Bool(true)) => self.claims.judge(claims, self.clock.now()),
            _ => Err(invalid("its issuer says that it is not active")),
        }
    }

    async fn post(&self, token: &str) -> Result<Map<String, Value>, FetchError> {
        let mut form = Zeroizing::new(format!("token={}", form_encoded(token)));
        if self.client.are_in_form {
            form.push_str("&client_id=");
            form.push_str(&form_encoded(&self.client.id));
            form.push_str("&client_secret=");
            form.push_str(&Zeroizing::new(form_encoded(&self.client.secret)));
        }
        let mut request = self.fetcher.post_form(&self.endpoint, form.to_string());
        if !self.client.are_in_form {
            request = request.header("authorization", self.client.basic()?);
        }
        let answer = Fetcher::body(request, MAX_ANSWER_LEN).await?;
        parse_object(&answer)
            .filter(|answer| answer.get("active").is_some_and(Value::is_boolean))
            .ok_or_else(|| FetchError::Unreadable("its answer has no `active`".to_owned()))
    }
}

impl ClientCredentials {
    /// Returns the header of HTTP Basic, of which both parts are encoded before (RFC 6749 §2.3.1).
    fn basic(&self) -> Result<reqwest::header::HeaderValue, FetchError> {
        let secret = Zeroizing::new(form_encoded(&self.secret));
        let pair = Zeroizing::new(format!("{}:{}", form_encoded(&self.id), *secret));
        let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut value = reqwest::header::HeaderValue::try_from(text.as_str())
            .map_err(|error| FetchError::Unreadable(error.to_string()))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl Verifier for IntrospectionVerifier {
    fn accepts(&self, credential: &str) -> bool {
        credential.len() <= MAX_LEN
            && match &self.0.form {
                Form::Prefixes(prefixes) => prefixes.iter().any(|one| credential.starts_with(one)),
                Form::Predicate(accepts) => accepts(credential),
            }
    }

    fn verify<'a>(&'a self, credential: &'a str) -> VerifyFuture<'a> {
        Box::pin(async move {
            if !self.accepts(credential) {
                return Err(invalid("it is no token of this issuer"));
            }
            self.judge(credential).await
        })
    }
}

/// Shows no secret.
impl fmt::Debug for IntrospectionVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntrospectionVerifier")
            .field("issuer", &self.0.claims.issuer)
            .finish_non_exhaustive()
    }
}

fn unavailable(reason: &str) -> VerifyError {
    VerifyError::Unavailable { reason: reason.to_owned(), retry_after: RETRY }
}

/// Encodes a text as a value of `application/x-www-form-urlencoded`.
fn form_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => {
                encoded.push(char::from(byte));
            }
            b' ' => encoded.push('+'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::form_encoded;

    #[test]
    fn a_form_is_encoded_as_browsers_do() {
        assert_eq!(form_encoded("a b+c%&=:é~"), "a+b%2Bc%25%26%3D%3A%C3%A9%7E");
    }
}
