//! What a request has to look like for a route to take it: one matcher a file.

mod header;
mod host;
mod method;
mod normalise;
mod path;
mod query;
mod value;
mod view;

use std::fmt;

pub use header::HeaderMatch;
pub use host::{HostError, HostPattern, HostRank, split_authority};
pub use method::MethodMatch;
pub(crate) use method::MethodSet;
pub use normalise::{PathError, normalise};
pub use path::{MAX_PARAMS, MAX_SEGMENTS, Params, PathKind, PathPattern, PathPatternError, PathRank, Segment, offset_after};
pub use query::{QueryMatch, decode_query, query_pairs};
pub use value::{RegexError, ValueMatch};
pub use view::{View, ViewError};

/// One `match` table: every part of it has to match.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Any of these hosts; any host at all where there are none.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathPattern,
    /// The method.
    pub methods: MethodMatch,
    /// Every one of these header fields.
    pub headers: Vec<HeaderMatch>,
    /// Every one of these query parameters.
    pub query: Vec<QueryMatch>,
}

impl Rule {
    /// A rule for every request whose path matches.
    #[must_use]
    pub fn path(path: PathPattern) -> Self {
        Self {
            hosts: Vec::new(),
            path,
            methods: MethodMatch::default(),
            headers: Vec::new(),
            query: Vec::new(),
        }
    }

    /// Whether header fields and query parameters match; host, path and method are looked up by the table.
    pub(crate) fn fields_match(&self, view: &View<'_>) -> bool {
        self.headers.iter().all(|header| header.matches(view.fields))
            && self.query.iter().all(|query| query.matches(view.query))
    }

    /// Everything about the request that does not match; nothing where the rule matches.
    #[must_use]
    pub fn mismatches(&self, view: &View<'_>) -> Vec<Mismatch> {
        let mut found = Vec::new();
        if !self.hosts.is_empty() && !self.hosts.iter().any(|host| host.matches(&view.host)) {
            found.push(Mismatch::Host);
        }
        if !self.path.matches(&view.path) {
            found.push(Mismatch::Path);
        }
        if !self.methods.matches(view.method) {
            found.push(Mismatch::Method);
        }
        let headers = self.headers.iter().filter(|header| !header.matches(view.fields));
        found.extend(headers.map(|header| Mismatch::Header(header.name.as_str().to_owned())));
        let query = self.query.iter().filter(|query| !query.matches(view.query));
        found.extend(query.map(|query| Mismatch::Query(query.name.to_string())));
        found
    }
}

/// Why a rule does not match a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// None of its hosts is the request's.
    Host,
    /// Its path is another one.
    Path,
    /// It is for other methods.
    Method,
    /// This header field is not as it has to be.
    Header(String),
    /// This query parameter is not as it has to be.
    Query(String),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host does not match"),
            Self::Path => f.write_str("the path does not match"),
            Self::Method => f.write_str("the method does not match"),
            Self::Header(name) => write!(f, "the header field `{name}` does not match"),
            Self::Query(name) => write!(f, "the query parameter `{name}` does not match"),
        }
    }
}
