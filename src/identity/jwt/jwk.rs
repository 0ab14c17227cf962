//! Keys that verify signatures, and how a JWK (RFC 7517) is read.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, UnparsedPublicKey,
    VerificationAlgorithm,
};
use ring::{error::Unspecified, hmac};
use serde_json::Value;

use super::algorithm::JwtAlgorithm;
use super::token::Token;

/// A key that verifies signatures of the algorithms of its type.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) kid: Option<String>,
    /// The only algorithm that the key is for. Some issuers do not say it.
    algorithm: Option<JwtAlgorithm>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa(PublicKeyComponents<Vec<u8>>),
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    Secret(Vec<hmac::Key>),
}

/// Why an entry of a key set is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It is for something else than signatures.
    OtherUse,
    /// It cannot be read, or is of a type that is not accepted.
    Faulty(&'static str),
}

impl Key {
    /// Returns the secret of an issuer that shares one. It is for each length of HMAC.
    pub(super) fn secret(secret: &[u8]) -> Self {
        let key = |algorithm| hmac::Key::new(algorithm, secret);
        let keys = [hmac::HMAC_SHA256, hmac::HMAC_SHA384, hmac::HMAC_SHA512].map(key);
        Self { kid: None, algorithm: None, material: Material::Secret(keys.into()) }
    }

    /// Reads an entry of a key set. A shared secret is none: who reads the set could sign with it.
    pub(super) fn from_jwk(jwk: &Value) -> Result<Self, Unusable> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if jwk.get("use").is_some_and(|value| value != "sig") || !may_verify(jwk.get("key_ops")) {
            return Err(Unusable::OtherUse);
        }
        let bytes = |name: &str| {
            let decoded = URL_SAFE_NO_PAD.decode(text(name).unwrap_or_default()).ok();
            decoded.filter(|bytes| !bytes.is_empty())
        };
        let material = match (text("kty"), text("crv")) {
            (Some("RSA"), _) => {
                rsa(bytes("n"), bytes("e")).ok_or("it has no modulus of 2048 to 8192 bits")
            }
            (Some("EC"), Some("P-256")) => {
                point(bytes("x"), bytes("y"), 32).map(Material::P256).ok_or("it is no point")
            }
            (Some("EC"), Some("P-384")) => {
                point(bytes("x"), bytes("y"), 48).map(Material::P384).ok_or("it is no point")
            }
            (Some("OKP"), Some("Ed25519")) => {
                let key = bytes("x").filter(|x| x.len() == 32);
                key.map(Material::Ed25519).ok_or("it is no Ed25519 key")
            }
            _ => Err("its type is not accepted"),
        };
        let algorithm = match jwk.get("alg") {
            None => None,
            Some(alg) => {
                let named = alg.as_str().and_then(JwtAlgorithm::from_name);
                Some(named.ok_or(Unusable::Faulty("its algorithm is not accepted"))?)
            }
        };
        let key = Self {
            kid: text("kid").map(str::to_owned),
            algorithm: None,
            material: material.map_err(Unusable::Faulty)?,
        };
        match algorithm {
            Some(named) if !key.fits(named) => {
                Err(Unusable::Faulty("its algorithm is not one of its type"))
            }
            algorithm => Ok(Self { algorithm, ..key }),
        }
    }

    /// Returns whether the key is for this algorithm, by its type and by what it says.
    pub(super) fn fits(&self, algorithm: JwtAlgorithm) -> bool {
        use JwtAlgorithm::*;
        let is_of_type = match self.material {
            Material::Rsa(_) => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            Material::P256(_) => algorithm == Es256,
            Material::P384(_) => algorithm == Es384,
            Material::Ed25519(_) => algorithm == EdDsa,
            Material::Secret(_) => matches!(algorithm, Hs256 | Hs384 | Hs512),
        };
        is_of_type && self.algorithm.is_none_or(|own| own == algorithm)
    }

    /// Returns whether this key signed a token, by an algorithm that it [fits](Self::fits).
    pub(super) fn has_signed(&self, token: &Token<'_>) -> bool {
        let (message, signature) = (token.message, token.signature.as_slice());
        let by = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature)
        };
        let verified = match &self.material {
            _ if !self.fits(token.algorithm) => Err(Unspecified),
            Material::Rsa(key) => rsa_parameters(token.algorithm)
                .ok_or(Unspecified)
                .and_then(|parameters| key.verify(parameters, message, signature)),
            Material::P256(key) => by(&ECDSA_P256_SHA256_FIXED, key),
            Material::P384(key) => by(&ECDSA_P384_SHA384_FIXED, key),
            Material::Ed25519(key) => by(&ED25519, key),
            Material::Secret(keys) => keys
                .iter()
                .find(|key| Some(key.algorithm()) == hmac_algorithm(token.algorithm))
                .ok_or(Unspecified)
                .and_then(|key| hmac::verify(key, message, signature)),
        };
        verified.is_ok()
    }
}

fn may_verify(key_ops: Option<&Value>) -> bool {
    match key_ops {
        None => true,
        Some(Value::Array(ops)) => ops.iter().any(|op| op == "verify"),
        Some(_) => false,
    }
}

fn rsa(n: Option<Vec<u8>>, e: Option<Vec<u8>>) -> Option<Material> {
    // ring takes both without leading zeros, which some issuers send.
    let n: Vec<u8> = n?.into_iter().skip_while(|byte| *byte == 0).collect();
    let e: Vec<u8> = e?.into_iter().skip_while(|byte| *byte == 0).collect();
    let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
    ((2_048..=8_192).contains(&bits) && (1..=4).contains(&e.len()))
        .then_some(Material::Rsa(PublicKeyComponents { n, e }))
}

/// Returns the uncompressed form of a point.
fn point(x: Option<Vec<u8>>, y: Option<Vec<u8>>, len: usize) -> Option<Vec<u8>> {
    let (x, y) = (x.filter(|x| x.len() == len)?, y.filter(|y| y.len() == len)?);
    Some([&[4], x.as_slice(), y.as_slice()].concat())
}

fn rsa_parameters(algorithm: JwtAlgorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        JwtAlgorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        JwtAlgorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
        JwtAlgorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
        JwtAlgorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
        JwtAlgorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
        JwtAlgorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn hmac_algorithm(algorithm: JwtAlgorithm) -> Option<hmac::Algorithm> {
    Some(match algorithm {
        JwtAlgorithm::Hs256 => hmac::HMAC_SHA256,
        JwtAlgorithm::Hs384 => hmac::HMAC_SHA384,
        JwtAlgorithm::Hs512 => hmac::HMAC_SHA512,
        _ => return None,
    })
}
