//! Secrets that let somebody in: made here, handed out once, kept only as their SHA-256.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use mesh_api::{JoinToken, Pin};

use super::CaError;

/// 256 bits, as nobody guesses them.
const SECRET_BYTES: usize = 32;
/// How much of the hash names the token: enough that no two of them meet, too little to be worth comparing.
const ID_BYTES: usize = 8;

/// The SHA-256 of a secret as it travels (base64url text).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretHash([u8; 32]);

impl SecretHash {
    pub(crate) fn of(secret: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
        Self(hash)
    }

    /// What a token is found by, and called in logs.
    pub(crate) fn id(&self) -> String {
        self.0.iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// Whether `other` is the same hash; how long that takes says nothing of where they differ.
    pub(crate) fn matches(&self, other: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, other).is_ok()
    }
}

/// A new token for a mesh whose root has this pin, and the hash to keep of it.
pub(crate) fn new_token(pin: Pin) -> Result<(JoinToken, SecretHash), CaError> {
    let mut secret = vec![0; SECRET_BYTES];
    rand::fill(&mut secret).map_err(|_| CaError::Random)?;
    let token = JoinToken::new(secret, pin).expect("32 bytes are a secret's length");
    let hash = SecretHash::of(&token.secret());
    Ok((token, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_matches_its_hash() {
        let (token, hash) = new_token(Pin::of_spki(b"key")).unwrap();
        let (other, _) = new_token(Pin::of_spki(b"key")).unwrap();
        assert!(hash.matches(&SecretHash::of(&token.secret()).to_vec()));
        assert!(!hash.matches(&SecretHash::of(&other.secret()).to_vec()));
        assert!(!hash.matches(&hash.to_vec()[..8]));
        assert!(!hash.matches(&[]));
    }

    #[test]
    fn the_hash_does_not_show_the_secret() {
        let (token, hash) = new_token(Pin::of_spki(b"key")).unwrap();
        assert!(!format!("{hash:?} {}", hash.id()).contains(&token.secret()));
    }
}
