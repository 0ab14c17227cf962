//! A key with its token, in the one answer that shows it.

use serde::{Deserialize, Serialize};

use crate::model::{Key, Token};

/// A key that was just created or rotated, with its token, which is never shown again.
///
/// Its serialised form contains the secret: it is the answer that shows the token once.
#[derive(Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Created {
    /// The record.
    pub key: Key,
    /// The secret.
    #[serde(with = "exposed")]
    pub token: Token,
}

/// Serialises a token with its secret, for the one answer that shows it.
mod exposed {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::model::Token;

    pub(super) fn serialize<S: Serializer>(
        token: &Token,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(token.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Token, D::Error> {
        Token::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
