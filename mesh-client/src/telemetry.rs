//! W3C Trace Context: continuing a trace from a request that came to the requests that it makes.
//!
//! ```
//! use mesh_client::telemetry::propagate;
//!
//! fn call_for(incoming: &http::HeaderMap) -> http::HeaderMap {
//!     let mut outgoing = http::HeaderMap::new();
//!     propagate(incoming, &mut outgoing);
//!     outgoing
//! }
//! assert!(call_for(&http::HeaderMap::new()).contains_key("traceparent"));
//! ```

use std::fmt;
use std::str::FromStr;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Where the context of a trace stands.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What vendors add to it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The `traceparent` of a request (Trace Context §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Which trace; never 0.
    pub trace: u128,
    /// Which span of it made the request; never 0.
    pub span: u64,
    /// Bit 0: whether the caller records the trace.
    pub flags: u8,
}

impl TraceParent {
    /// A new trace, recorded by nobody yet.
    #[must_use]
    pub fn start() -> Self {
        Self {
            trace: rand::random::<u128>().max(1),
            span: rand::random::<u64>().max(1),
            flags: 0,
        }
    }

    /// A new span of the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span: rand::random::<u64>().max(1),
            ..self
        }
    }

    /// The context of a request, where it has a valid one.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let first = values.next()?;
        // Two say nothing that could be trusted (§3.2).
        values.next().is_none().then(|| first.to_str().ok()?.parse().ok()).flatten()
    }
}

/// Gives `outgoing` the context of the request whose headers are `incoming`, as a new span of it; without one, a new trace.
pub fn propagate(incoming: &HeaderMap, outgoing: &mut HeaderMap) {
    let known = TraceParent::of(incoming);
    let next = known.map_or_else(TraceParent::start, TraceParent::child);
    outgoing.insert(
        TRACEPARENT,
        HeaderValue::from_str(&next.to_string()).expect("hex digits and hyphens"),
    );
    outgoing.remove(TRACESTATE);
    // Without a valid parent the state belongs to nothing (§3.3).
    if known.is_some() {
        for state in incoming.get_all(TRACESTATE) {
            outgoing.append(TRACESTATE, state.clone());
        }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = NotTraceParent;

    fn from_str(text: &str) -> Result<Self, NotTraceParent> {
        read(text).ok_or(NotTraceParent)
    }
}

/// Lower-case hex in fields of fixed width. A version above 00 may have more fields after these; ff is none (§3.2.2.1, §4.3).
fn read(text: &str) -> Option<TraceParent> {
    let mut fields = text.split('-');
    let mut field = |width: usize| {
        let field = fields.next()?;
        let hex = field.len() == width && field.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        u128::from_str_radix(field, 16).ok().filter(|_| hex)
    };
    let version = field(2)?;
    let (trace, span, flags) = (field(32)?, u64::try_from(field(16)?).ok()?, u8::try_from(field(2)?).ok()?);
    let whole = version != 0 || fields.next().is_none();
    (version != 0xff && trace != 0 && span != 0 && whole).then_some(TraceParent { trace, span, flags })
}

/// The text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent, which is 00-TRACE-SPAN-FLAGS in lower-case hex")]
pub struct NotTraceParent;

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_context_is_continued_with_its_state() {
        let mut incoming = HeaderMap::new();
        incoming.insert(TRACEPARENT, VALID.parse().unwrap());
        incoming.insert(TRACESTATE, "a=1".parse().unwrap());
        let mut outgoing = HeaderMap::new();
        propagate(&incoming, &mut outgoing);
        let (from, to) = (TraceParent::of(&incoming).unwrap(), TraceParent::of(&outgoing).unwrap());
        assert_eq!((from.trace, from.flags, to.trace, to.flags), (to.trace, 1, from.trace, 1));
        assert_ne!(from.span, to.span);
        assert_eq!(outgoing[TRACESTATE], "a=1");
    }

    #[test]
    fn a_malformed_context_starts_a_new_trace_without_its_state() {
        for malformed in [
            "",
            "00-0-0-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let mut incoming = HeaderMap::new();
            incoming.insert(TRACEPARENT, malformed.parse().unwrap());
            incoming.insert(TRACESTATE, "a=1".parse().unwrap());
            let mut outgoing = HeaderMap::new();
            propagate(&incoming, &mut outgoing);
            assert!(
                TraceParent::of(&incoming).is_none() && TraceParent::of(&outgoing).is_some(),
                "{malformed}"
            );
            assert!(!outgoing.contains_key(TRACESTATE));
        }
    }

    #[test]
    fn a_later_version_may_say_more() {
        let later = format!("01{}-more", &VALID[2..]);
        assert_eq!(
            later.parse::<TraceParent>().map(|parent| parent.to_string()),
            Ok(VALID.to_owned())
        );
    }
}
