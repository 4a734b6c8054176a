//! Tokens as people and programs pass them on: `hm1.<base64url secret>.<base64url SHA-256 of the root's key>`.
//!
//! A token says two things: the secret lets its bearer in, and the pin lets the bearer know whom it is talking to before
//! it has any other root of trust. A join token and an operator's credential have the same form; what a secret is good
//! for is known to the control plane alone.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

const VERSION: &str = "hm1";
/// 128 bits is the least that nobody guesses; the control plane makes 256.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// The SHA-256 of a root certificate's `SubjectPublicKeyInfo` (DER): it names a root and outlives its renewal under the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a root whose `SubjectPublicKeyInfo` is `spki` (DER, with the outer SEQUENCE).
    #[must_use]
    pub fn of_spki(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }

    /// The 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Pin {
    fn from(hash: [u8; 32]) -> Self {
        Self(hash)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// A secret and the pin of the root that its bearer is to trust.
///
/// `Display` writes the whole token, secret included; `Debug` hides the secret, so that a logged config leaks nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    secret: Vec<u8>,
    pin: Pin,
}

impl JoinToken {
    /// A token of `secret` (16 to 64 bytes) for the mesh whose root is named by `pin`.
    ///
    /// # Errors
    /// [`TokenError::SecretLength`] where the secret is shorter or longer than that.
    pub fn new(secret: Vec<u8>, pin: Pin) -> Result<Self, TokenError> {
        if !SECRET_BYTES.contains(&secret.len()) {
            return Err(TokenError::SecretLength(secret.len()));
        }
        Ok(Self { secret, pin })
    }

    /// The secret as `JoinRequest.secret` and `authorization: Bearer` carry it: base64url without padding.
    #[must_use]
    pub fn secret(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.secret)
    }

    /// The same secret for a mesh whose root is named by `pin`.
    #[must_use]
    pub fn pinned_to(&self, pin: Pin) -> Self {
        Self {
            secret: self.secret.clone(),
            pin,
        }
    }

    /// The root to trust.
    #[must_use]
    pub const fn pin(&self) -> Pin {
        self.pin
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.split('.');
        let (Some(version), Some(secret), Some(pin), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(TokenError::Form);
        };
        if version != VERSION {
            return Err(TokenError::Version);
        }
        let secret = URL_SAFE_NO_PAD.decode(secret).map_err(|_| TokenError::Encoding("secret"))?;
        let pin = URL_SAFE_NO_PAD.decode(pin).map_err(|_| TokenError::Encoding("pin"))?;
        let pin: [u8; 32] = pin.as_slice().try_into().map_err(|_| TokenError::PinLength(pin.len()))?;
        Self::new(secret, Pin(pin))
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}.{}.{}", self.secret(), self.pin)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("secret", &"hidden")
            .field("pin", &self.pin)
            .finish()
    }
}

/// Why a text is not a token. No message repeats the text: it may be a secret with a slip of the pen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not three parts.
    #[error("a token has three parts, `hm1.SECRET.PIN`; was it cut off when it was copied?")]
    Form,
    /// Another version than `hm1`.
    #[error("the token does not begin with `hm1.`; it is no mesh token, or one of another version")]
    Version,
    /// A part that is not base64url without padding.
    #[error("the {0} of the token is not base64url without padding; was it cut off when it was copied?")]
    Encoding(&'static str),
    /// A secret that is too short to be one, or too long.
    #[error("the secret of the token has {0} bytes, which must be 16 to 64")]
    SecretLength(usize),
    /// A pin that is no SHA-256.
    #[error("the pin of the token has {0} bytes, not the 32 of a SHA-256")]
    PinLength(usize),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken::new(vec![7; 32], Pin::of_spki(b"a root's key")).unwrap()
    }

    #[test]
    fn what_is_written_reads_back() {
        assert_eq!(token().to_string().parse(), Ok(token()));
    }

    #[test]
    fn debug_hides_the_secret() {
        assert!(!format!("{:?}", token()).contains(&token().secret()));
        assert!(!format!("{:?}", token()).contains("7, 7"));
    }

    #[test]
    fn each_malformed_token_is_refused_for_its_own_reason() {
        let (secret, pin) = (token().secret(), token().pin().to_string());
        for (text, error) in [
            (String::new(), TokenError::Form),
            (format!("hm1.{secret}"), TokenError::Form),
            (format!("hm1.{secret}.{pin}.x"), TokenError::Form),
            (format!("hm2.{secret}.{pin}"), TokenError::Version),
            (format!("hm1.{secret}=.{pin}"), TokenError::Encoding("secret")),
            (format!("hm1.{secret}.{pin} "), TokenError::Encoding("pin")),
            (format!("hm1.AAAA.{pin}"), TokenError::SecretLength(3)),
            (format!("hm1..{pin}"), TokenError::SecretLength(0)),
            (format!("hm1.{secret}.AAAA"), TokenError::PinLength(3)),
        ] {
            assert_eq!(text.parse::<JoinToken>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".*") {
            let _ = text.parse::<JoinToken>();
        }

        #[test]
        fn a_text_that_reads_is_written_the_same(secret in proptest::collection::vec(any::<u8>(), 16..=64), pin: [u8; 32]) {
            let text = JoinToken::new(secret, pin.into()).unwrap().to_string();
            prop_assert_eq!(text.parse::<JoinToken>().unwrap().to_string(), text);
        }
    }
}
