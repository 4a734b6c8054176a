//! Several services, one answer: what an aggregate is made of.

mod pick;

pub(crate) use pick::Pick;

use std::time::Duration;

use http::HeaderName;
use routing::filter::Template;

use crate::exchange::UpstreamId;

/// An aggregate as it was compiled.
#[derive(Debug)]
pub(crate) struct Aggregate {
    /// The branches, in the order of the config, which is that of the answer's members.
    pub(crate) branches: Vec<Branch>,
    /// The longest answer of a branch that is read, in bytes.
    pub(crate) max_body: u64,
    /// The longest answer that is made of all of them, in bytes.
    pub(crate) max_answer: u64,
    /// The request's fields that some branch is sent.
    pub(crate) request_headers: Vec<HeaderName>,
}

/// One member of the answer, and where it comes from.
#[derive(Debug)]
pub(crate) struct Branch {
    /// Its name, as a JSON string with its quotes.
    pub(crate) member: String,
    /// Its name.
    pub(crate) name: Box<str>,
    /// Where it comes from.
    pub(crate) upstream: UpstreamId,
    /// Path and query there.
    pub(crate) path: Template,
    /// The list with one request for each of its items.
    pub(crate) for_each: Option<ForEach>,
    /// The branches that have to be there before this one can be asked for, as places in the list.
    pub(crate) needs: Vec<usize>,
    /// Whether another branch refers to it, so that its JSON is kept in parsed form.
    pub(crate) is_needed: bool,
    /// Whether there is no answer without it.
    pub(crate) required: bool,
    /// The JSON that stands in for it; `null` where none is configured.
    pub(crate) fallback: Option<serde_json::Value>,
    /// How long it may take.
    pub(crate) timeout: Option<Duration>,
    /// What of its JSON becomes the member.
    pub(crate) pick: Option<Pick>,
    /// What an upstream's status means, where that is not the usual.
    pub(crate) statuses: Vec<(StatusMatch, Meaning)>,
    /// The request's fields that it is sent.
    pub(crate) request_headers: Vec<HeaderName>,
    /// Its answer's fields that become the answer's.
    pub(crate) response_headers: Vec<HeaderName>,
}

/// A list in another branch's JSON.
#[derive(Debug)]
pub(crate) struct ForEach {
    /// The branch, as a place in the list.
    pub(crate) of: usize,
    /// The way to the list in it; empty where it is the list itself.
    pub(crate) path: Box<str>,
    /// The most items that are asked for.
    pub(crate) max_items: usize,
}

/// Which statuses something is said of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusMatch {
    /// This one.
    Code(u16),
    /// All of a hundred: `4xx`.
    Class(u16),
}

/// What an upstream's status means for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The answer has this status.
    Status(u16),
    /// The branch is not there, and the answer is given without it.
    Missing,
}

impl StatusMatch {
    fn matches(self, status: u16) -> bool {
        match self {
            Self::Code(code) => code == status,
            Self::Class(class) => status / 100 == class,
        }
    }
}

impl Branch {
    /// What a status means here, where the config says. A code counts before its class.
    pub(crate) fn meaning(&self, status: u16) -> Option<Meaning> {
        let of = |wanted: fn(&StatusMatch) -> bool| {
            let mut fitting = self.statuses.iter().filter(move |(on, _)| wanted(on) && on.matches(status));
            fitting.next().map(|(_, meaning)| *meaning)
        };
        of(|on| matches!(on, StatusMatch::Code(_))).or_else(|| of(|on| matches!(on, StatusMatch::Class(_))))
    }
}
