//! Origins: who acted, and by which request.

use serde::{Deserialize, Serialize};

use crate::model::labels::is_text;
use crate::model::{KeyId, Subject, Token};

/// Where a change or a refusal came from: who acted, and by which request.
///
/// ```
/// use agentkey::model::{Actor, Origin};
///
/// let origin = Origin::by(Actor::principal("ops@acme")).request_id("8f2c").route("/admin/keys");
/// assert_eq!(origin.request_id.as_deref(), Some("8f2c"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Origin {
    /// Who acted.
    #[serde(default)]
    pub actor: Actor,
    /// The id of the request: its `x-request-id`.
    #[serde(default)]
    pub request_id: Option<String>,
    /// The route of the request.
    #[serde(default)]
    pub route: Option<String>,
}

/// Who acted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Actor {
    /// The application's own code, without a word on whose behalf.
    #[default]
    Application,
    /// The ledger itself: a hold expired, or a session reached its spend cap.
    Ledger,
    /// A login of the application.
    Principal {
        /// Its name, if the application gave one.
        name: Option<String>,
    },
    /// A client without a key, which signed up.
    Signup,
    /// A key.
    Key {
        /// Its id.
        id: KeyId,
    },
    /// A session.
    Session {
        /// The id of its key.
        id: KeyId,
    },
    /// An identity that another service issued.
    Subject {
        /// The id of its key.
        id: KeyId,
        /// Who it is.
        #[serde(flatten)]
        subject: Subject,
    },
}

impl Origin {
    const MAX_REQUEST_ID: usize = 128;
    const MAX_ROUTE: usize = 255;

    /// Returns the origin of a change by the application's own code.
    pub const fn new() -> Self {
        Self { actor: Actor::Application, request_id: None, route: None }
    }

    /// Returns the origin of what this actor does.
    pub const fn by(actor: Actor) -> Self {
        Self { actor, request_id: None, route: None }
    }

    /// Sets the id of the request. What is not 1 to 128 visible ASCII characters is no id, and a
    /// token is none.
    pub fn request_id(mut self, id: &str) -> Self {
        self.request_id = Self::checked_request_id(id).map(str::to_owned);
        self
    }

    /// Sets the route of the request. It is cut to its first 255 bytes, and a segment of it that is
    /// a token becomes `{token}`.
    pub fn route(mut self, route: &str) -> Self {
        self.route = Some(Self::cut_route(route));
        self
    }

    pub(crate) fn checked_request_id(id: &str) -> Option<&str> {
        let is_id = (1..=Self::MAX_REQUEST_ID).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_graphic())
            && !is_token(id);
        is_id.then_some(id)
    }

    fn cut_route(route: &str) -> String {
        let mut cut = String::new();
        for (n, segment) in route.split('/').enumerate() {
            cut.push_str(if n == 0 { "" } else { "/" });
            match is_token(segment) {
                true => cut.push_str("{token}"),
                false => cut.extend(segment.chars().filter(|c| !c.is_control())),
            }
        }
        cut.truncate(cut.floor_char_boundary(Self::MAX_ROUTE));
        cut
    }
}

impl Actor {
    /// Returns a login of the application with this name, which is cut to its first 255 characters.
    pub fn principal(name: &str) -> Self {
        let name = name.chars().filter(|c| !c.is_control()).take(255).collect();
        Self::Principal { name: Some(name) }
    }
}

/// Returns whether a text is a token of a key, or looks like that of a session.
fn is_token(text: &str) -> bool {
    Token::parse(text).is_ok() || text.starts_with("eyJ") && text.contains('.')
}

/// Returns whether a text fits into a label as it is.
pub(super) fn fits_label(text: &str) -> bool {
    is_text(text, Origin::MAX_ROUTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_gets_into_an_origin() {
        let token = Token::generate(&"ak".parse().unwrap()).unwrap();
        let origin = Origin::new()
            .route(&format!("/reset/{}/now", token.expose()))
            .request_id(token.expose());
        assert_eq!(origin.route.as_deref(), Some("/reset/{token}/now"));
        assert_eq!(origin.request_id, None);
        assert_eq!(Origin::new().route("/a/eyJh.b.c").route.as_deref(), Some("/a/{token}"));
    }

    #[test]
    fn what_a_client_sends_is_bounded() {
        for bad in ["", "a b", "ä", "a\n", &"x".repeat(129)] {
            assert_eq!(Origin::new().request_id(bad).request_id, None, "{bad:?}");
        }
        assert!(Origin::new().request_id(&"x".repeat(128)).request_id.is_some());
        let route = Origin::new().route(&format!("/{}", "ä".repeat(200))).route.unwrap();
        assert_eq!(route.len(), 255);
    }
}
