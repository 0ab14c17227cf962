//! The client's `Idempotency-Key`, as in draft-ietf-httpapi-idempotency-key-header.

use http::Request;
use http::header::HeaderName;
use sha2::{Digest, Sha256};

use crate::http::whole_uri::whole_uri;
use crate::ledger::IdempotencyKey;
use crate::model::Refusal;

static HEADER: HeaderName = HeaderName::from_static("idempotency-key");
const MAX_LEN: usize = 255;

/// Returns the `Idempotency-Key` of a request, if it has one, without the quotes of a
/// structured-field string.
///
/// It is bound to the method, path and query.
pub(super) fn claim<B>(request: &Request<B>) -> Result<Option<IdempotencyKey>, Refusal> {
    let mut values = request.headers().get_all(&HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().map_err(|_| Refusal::InvalidIdempotencyKey)?.trim();
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let visible = key.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if values.next().is_some() || key.is_empty() || key.len() > MAX_LEN || !visible {
        return Err(Refusal::InvalidIdempotencyKey);
    }
    let mut digest = Sha256::new();
    digest.update(request.method().as_str());
    digest.update(b" ");
    let target = whole_uri(request.uri(), request.extensions()).path_and_query();
    digest.update(target.map_or("/", |target| target.as_str()));
    Ok(Some(IdempotencyKey::new(key, digest.finalize().into())))
}
