//! Registration entries: which process of this machine may be which service.
//!
//! The form of the selectors is SPIRE's. They are facts that the kernel tells about whoever connects to the local socket; a process that
//! is what every selector of an entry says gets the identity that the entry names.

use std::fmt;
use std::str::FromStr;

use super::{hex, unhex};

/// One fact about a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Selector {
    /// The effective user.
    Uid(u32),
    /// The effective group.
    Gid(u32),
    /// The file of its program, absolute.
    Path(String),
    /// The SHA-256 of that file.
    Sha256([u8; 32]),
}

/// What the kernel tells about a process. What it does not tell matches nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) path: Option<String>,
    pub(crate) sha256: Option<[u8; 32]>,
}

impl Selector {
    pub(crate) fn matches(&self, facts: &Facts) -> bool {
        match self {
            Self::Uid(uid) => facts.uid == *uid,
            Self::Gid(gid) => facts.gid == *gid,
            Self::Path(path) => facts.path.as_ref() == Some(path),
            Self::Sha256(sha256) => facts.sha256.as_ref() == Some(sha256),
        }
    }

    pub(crate) const fn is_hash(&self) -> bool {
        matches!(self, Self::Sha256(_))
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let wrong = || SelectorError(text.chars().take(100).collect());
        let (kind, value) = text
            .strip_prefix("unix:")
            .and_then(|rest| rest.split_once(':'))
            .ok_or_else(wrong)?;
        match kind {
            "uid" => number(value).map(Self::Uid).ok_or_else(wrong),
            "gid" => number(value).map(Self::Gid).ok_or_else(wrong),
            "path" if value.starts_with('/') && value.len() <= MAX_PATH && !value.chars().any(char::is_control) => {
                Ok(Self::Path(value.to_owned()))
            }
            "sha256" => unhex(value)
                .and_then(|bytes| bytes.try_into().ok())
                .map(Self::Sha256)
                .ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }
}

/// Linux' own limit on a path.
const MAX_PATH: usize = 4096;

/// Decimal digits and nothing else: `+1` and `01` would be other texts for the same number.
fn number(text: &str) -> Option<u32> {
    let number = text.parse().ok()?;
    (u32::to_string(&number) == text).then_some(number)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "unix:uid:{uid}"),
            Self::Gid(gid) => write!(f, "unix:gid:{gid}"),
            Self::Path(path) => write!(f, "unix:path:{path}"),
            Self::Sha256(sha256) => write!(f, "unix:sha256:{}", hex(sha256)),
        }
    }
}

/// Not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no selector; write unix:uid:1000, unix:gid:1000, unix:path:/usr/bin/accounts or unix:sha256:HEX")]
pub(crate) struct SelectorError(String);

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str) -> Result<Selector, SelectorError> {
        text.parse()
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in [
            "unix:uid:0".to_owned(),
            "unix:gid:4294967295".to_owned(),
            "unix:path:/usr/bin/a b:c".to_owned(),
            format!("unix:sha256:{HASH}"),
        ] {
            assert_eq!(parse(&text).unwrap().to_string(), text);
        }
        assert_eq!(
            parse(&format!("unix:sha256:{}", HASH.to_uppercase())),
            parse(&format!("unix:sha256:{HASH}"))
        );
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in [
            "",
            "uid:1",
            "unix:uid",
            "unix:uid:",
            "unix:uid:-1",
            "unix:uid:+1",
            "unix:uid:01",
            "unix:uid:4294967296",
            "unix:user:me",
            "unix:path:bin/a",
            "unix:path:/a\nb",
            "unix:sha256:",
            "unix:sha256:e3b0",
            &format!("unix:sha256:{}ü", &HASH[..62]),
            &format!("k8s:uid:{HASH}"),
        ] {
            assert!(parse(text).unwrap_err().to_string().contains("unix:uid:1000"), "{text:?}");
        }
    }

    #[test]
    fn each_selector_looks_at_its_own_fact() {
        let hash = [7; 32];
        let facts = Facts {
            uid: 1,
            gid: 2,
            path: Some("/bin/a".to_owned()),
            sha256: Some(hash),
        };
        let unknown = Facts {
            path: None,
            sha256: None,
            ..facts.clone()
        };
        for (right, wrong) in [
            (Selector::Uid(1), Selector::Uid(2)),
            (Selector::Gid(2), Selector::Gid(1)),
            (Selector::Path("/bin/a".to_owned()), Selector::Path("/bin/ab".to_owned())),
            (Selector::Sha256(hash), Selector::Sha256([8; 32])),
        ] {
            assert!(right.matches(&facts) && !wrong.matches(&facts), "{right}");
        }
        assert!(!Selector::Path("/bin/a".to_owned()).matches(&unknown));
        assert!(!Selector::Sha256(hash).matches(&unknown), "what is not told matches nothing");
    }
}
