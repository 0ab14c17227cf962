//! The target of a request behind routers that take prefixes off.

use http::{Extensions, Uri};

/// Returns the target of a request. An axum router that nests another one has taken the prefix off
/// the path, and tells the whole one.
#[cfg_attr(not(feature = "axum"), allow(unused_variables))]
pub(crate) fn whole_uri<'a>(uri: &'a Uri, extensions: &'a Extensions) -> &'a Uri {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(whole)) = extensions.get() {
        return whole;
    }
    uri
}
