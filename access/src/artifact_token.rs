//! Tokens by which an agent lets another one have an artifact: for one digest, for a short time, made by the master and
//! checked by every agent with a key they share.

use hmac::{Hmac, KeyInit, Mac};
use sha2_for_hmac::Sha256;

/// What the tokens are for; the same key used for something else could not make one.
const PURPOSE: &[u8] = b"tepui artifact";

/// The key of a cluster, 32 bytes that only its master and its agents know.
#[derive(Clone, PartialEq, Eq)]
pub struct ArtifactKey([u8; 32]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    #[error("the token is not one of this cluster's for this artifact")]
    Forged,
    #[error("the token has run out")]
    Expired,
}

impl std::fmt::Debug for ArtifactKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ArtifactKey(...)")
    }
}

impl ArtifactKey {
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// `None` unless it has 32 bytes.
    pub fn from_slice(key: &[u8]) -> Option<Self> {
        key.try_into().ok().map(Self)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A token for the artifact of that sha256 (in hex) until a time, in seconds since 1970.
    pub fn token(&self, sha256: &str, expires: u64) -> String {
        let code = self.code(sha256, expires).finalize().into_bytes();
        format!("{expires}.{}", hex::encode(code))
    }

    /// Whether the token lets its bearer have that artifact now, in seconds since 1970.
    pub fn check(&self, token: &str, sha256: &str, now: u64) -> Result<(), TokenRefused> {
        let parts = token.split_once('.');
        let (expires, code) = parts.ok_or(TokenRefused::Forged)?;
        let expires = expires.parse().map_err(|_| TokenRefused::Forged)?;
        let code = hex::decode(code).map_err(|_| TokenRefused::Forged)?;
        self.code(sha256, expires)
            .verify_slice(&code)
            .map_err(|_| TokenRefused::Forged)?;
        if now > expires {
            return Err(TokenRefused::Expired);
        }
        Ok(())
    }

    fn code(&self, sha256: &str, expires: u64) -> Hmac<Sha256> {
        let mut code =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        // Each part ends with what cannot be in it.
        for part in [PURPOSE, sha256.as_bytes(), expires.to_string().as_bytes()] {
            code.update(part);
            code.update(b"\0");
        }
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_one_artifact_until_its_time_with_its_clusters_key() {
        let (key, other) = (ArtifactKey::new([1; 32]), ArtifactKey::new([2; 32]));
        let (sha256, another) = ("0a".repeat(32), "0b".repeat(32));
        let token = key.token(&sha256, 100);
        assert_eq!(key.check(&token, &sha256, 100), Ok(()));
        assert_eq!(key.check(&token, &sha256, 101), Err(TokenRefused::Expired));
        assert_eq!(key.check(&token, &another, 1), Err(TokenRefused::Forged));
        assert_eq!(other.check(&token, &sha256, 1), Err(TokenRefused::Forged));
        let longer = format!("999{}", &token[3..]);
        for forged in [
            "",
            "100",
            "100.",
            "x.00",
            longer.as_str(),
            &token[..token.len() - 2],
        ] {
            assert_eq!(
                key.check(forged, &sha256, 1),
                Err(TokenRefused::Forged),
                "{forged}"
            );
        }
        assert_eq!(ArtifactKey::from_slice(key.as_bytes()), Some(key));
        assert_eq!(ArtifactKey::from_slice(&[1; 31]), None);
    }
}
