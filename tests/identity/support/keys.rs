//! Keys that sign tokens.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPair as RsaKeyPair, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use serde_json::{Value, json};

/// A key of an issuer, with its `kid`.
pub(crate) struct Signer {
    pub(crate) kid: String,
    key: PrivateKey,
}

enum PrivateKey {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair, &'static str),
    Ed25519(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl Signer {
    /// The one RSA key of the tests.
    pub(crate) fn rsa(kid: &str) -> Self {
        let text: String = include_str!("../keys/rsa.pkcs8.base64").split_whitespace().collect();
        let pair = RsaKeyPair::from_pkcs8(&STANDARD.decode(text).unwrap()).unwrap();
        Self { kid: kid.to_owned(), key: PrivateKey::Rsa(Box::new(pair)) }
    }

    pub(crate) fn p256(kid: &str) -> Self {
        Self::ec(kid, &ECDSA_P256_SHA256_FIXED_SIGNING, "P-256")
    }

    pub(crate) fn p384(kid: &str) -> Self {
        Self::ec(kid, &ECDSA_P384_SHA384_FIXED_SIGNING, "P-384")
    }

    fn ec(kid: &str, algorithm: &'static EcdsaSigningAlgorithm, curve: &'static str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        Self { kid: kid.to_owned(), key: PrivateKey::Ec(pair, curve) }
    }

    pub(crate) fn ed25519(kid: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        Self { kid: kid.to_owned(), key: PrivateKey::Ed25519(pair) }
    }

    pub(crate) fn secret(kid: &str, secret: &[u8]) -> Self {
        Self { kid: kid.to_owned(), key: PrivateKey::Secret(secret.to_vec()) }
    }

    /// The algorithm that it signs with, unless told otherwise.
    pub(crate) fn algorithm(&self) -> &'static str {
        match &self.key {
            PrivateKey::Rsa(_) => "RS256",
            PrivateKey::Ec(_, "P-256") => "ES256",
            PrivateKey::Ec(..) => "ES384",
            PrivateKey::Ed25519(_) => "EdDSA",
            PrivateKey::Secret(_) => "HS256",
        }
    }

    /// Its public key as an entry of a key set.
    pub(crate) fn jwk(&self) -> Value {
        let (kid, alg) = (&self.kid, self.algorithm());
        match &self.key {
            PrivateKey::Rsa(pair) => {
                let PublicKeyComponents::<Vec<u8>> { n, e } = pair.public().into();
                let (n, e) = (URL_SAFE_NO_PAD.encode(n), URL_SAFE_NO_PAD.encode(e));
                json!({ "kty": "RSA", "use": "sig", "alg": alg, "kid": kid, "n": n, "e": e })
            }
            PrivateKey::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
                json!({ "kty": "EC", "crv": curve, "alg": alg, "kid": kid, "x": x, "y": y })
            }
            PrivateKey::Ed25519(pair) => {
                let x = URL_SAFE_NO_PAD.encode(pair.public_key());
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x })
            }
            PrivateKey::Secret(secret) => {
                json!({ "kty": "oct", "alg": alg, "kid": kid, "k": URL_SAFE_NO_PAD.encode(secret) })
            }
        }
    }

    /// Its public key with some members that are others, or are left out where they are null.
    pub(crate) fn jwk_with(&self, others: Value) -> Value {
        let mut jwk = self.jwk();
        for (name, value) in others.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        jwk
    }

    /// A token with these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm(), "kid": self.kid }), &claims.to_string())
    }

    /// A token with this header, and with this text as its claims.
    pub(crate) fn token_with(&self, header: &Value, claims: &str) -> String {
        let message = format!("{}.{}", encode(&header.to_string()), encode(claims));
        let uses_pss = header["alg"].as_str().is_some_and(|alg| alg.starts_with("PS"));
        let signature = self.sign(message.as_bytes(), uses_pss);
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, message: &[u8], uses_pss: bool) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            PrivateKey::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let signed = if uses_pss {
                    pair.sign(&RSA_PSS_SHA256, &random, message, &mut signature)
                } else {
                    pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                };
                signed.unwrap();
                signature
            }
            PrivateKey::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            PrivateKey::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            PrivateKey::Secret(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, message).as_ref().to_vec()
            }
        }
    }
}

pub(crate) fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}
