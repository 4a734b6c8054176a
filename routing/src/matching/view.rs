//! What a table reads of a head: its parts taken apart once.

use std::borrow::Cow;

use memchr::memchr;

use super::{PathError, normalise, split_authority};
use crate::{Fields, RequestHead};

/// A request's head, taken apart and normalised.
#[derive(Clone)]
pub struct View<'a> {
    /// The method.
    pub method: &'a str,
    /// The host in lower case, without port and trailing dot; empty where there was none.
    pub host: Cow<'a, str>,
    /// The path in its one spelling: what policies judge and what goes upstream.
    pub path: Cow<'a, str>,
    /// The query as it came, without its `?`.
    pub query: Option<&'a str>,
    /// The header fields.
    pub fields: &'a dyn Fields,
}

/// Why a head cannot be routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// Its path is none.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Its query has a control character, a space or a `#`.
    #[error("the query has a character that no query may have")]
    Query,
    /// Its `Host` or `:authority` is none.
    #[error("the host is not a host name")]
    Host,
}

impl<'a> View<'a> {
    /// Takes a head apart.
    ///
    /// # Errors
    ///
    /// Where path, query or host are not what they have to be; the answer to that is 400.
    pub fn of(head: &RequestHead<'a>) -> Result<Self, ViewError> {
        // Not by `split_once`, whose searcher takes longer to set up than most targets to read.
        let (path, query) = match memchr(b'?', head.target.as_bytes()) {
            Some(at) => (&head.target[..at], Some(&head.target[at + 1..])),
            None => (head.target, None),
        };
        if query.is_some_and(|query| query.bytes().any(|byte| matches!(byte, 0..=b' ' | 0x7f | b'#'))) {
            return Err(ViewError::Query);
        }
        Ok(Self {
            method: head.method,
            host: split_authority(head.authority).ok_or(ViewError::Host)?,
            path: normalise(path)?,
            query,
            fields: head.fields,
        })
    }
}
