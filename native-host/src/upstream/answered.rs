//! An upstream's answer, whichever codec read it.

use std::sync::Arc;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, response};
use http1::ResponseHead;

use super::UpstreamBody;
use crate::inbound::map;

/// An upstream's answer, its body still to come.
pub(crate) struct Answered {
    /// Its head.
    pub(crate) head: Head,
    /// Its body.
    pub(crate) body: UpstreamBody,
    /// The endpoint that gave it.
    pub(crate) endpoint: Arc<str>,
}

/// An answer's head.
pub(crate) enum Head {
    /// As it came, with an index over it.
    Raw(Box<ResponseHead>),
    /// As hyper takes it apart.
    Parsed(Box<response::Parts>),
}

impl Head {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Raw(head) => head.status(),
            Self::Parsed(head) => head.status.as_u16(),
        }
    }

    /// For how long the endpoint asks to be left alone, where that is what the status is about.
    pub(super) fn retry_after(&self) -> Option<HeaderValue> {
        if !matches!(self.status(), 429 | 503) {
            return None;
        }
        match self {
            Self::Raw(head) => map(head.fields()).get(RETRY_AFTER).cloned(),
            Self::Parsed(head) => head.headers.get(RETRY_AFTER).cloned(),
        }
    }
}

impl Answered {
    pub(crate) fn status(&self) -> u16 {
        self.head.status()
    }

    /// All fields as a map.
    pub(crate) fn fields(&self) -> HeaderMap {
        match &self.head {
            Head::Raw(head) => map(head.fields()),
            Head::Parsed(head) => head.headers.clone(),
        }
    }

    /// Status, fields and body, for who does not speak by our codec.
    pub(crate) fn into_parts(self) -> (u16, HeaderMap, UpstreamBody) {
        let status = self.status();
        let fields = match self.head {
            Head::Raw(head) => map(head.fields()),
            Head::Parsed(head) => head.headers,
        };
        (status, fields, self.body)
    }
}
