//! Whatever a peer says about an end user, as it came and as base64url of it: never a panic, and whoever is read is somebody.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use mesh_client::Caller;

fuzz_target!(|bytes: &[u8]| {
    let encoded = URL_SAFE_NO_PAD.encode(bytes);
    for field in [HeaderValue::from_bytes(bytes), HeaderValue::from_str(&encoded)] {
        let Ok(field) = field else { continue };
        let Ok(caller) = Caller::parse(&field) else { continue };
        assert!(!caller.subject().is_empty() && !caller.subject().chars().any(char::is_control));
        assert_eq!(caller.claim("sub").and_then(|subject| subject.as_str()), Some(caller.subject()));
        assert_eq!(caller.claim("exp").and_then(|end| end.as_u64()), Some(caller.expires_at()));
        assert_eq!(Caller::parse(&field).as_ref(), Ok(&caller));
    }
});
