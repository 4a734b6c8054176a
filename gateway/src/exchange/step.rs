//! What an exchange asks of its driver.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use routing::filter::HeaderEdit;
use routing::policy::{LimitKey, Take};
use routing::{Moment, Reason};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A route's place in [`Gateway::routes`](crate::Gateway::routes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteId(pub u32);

/// An upstream's place in [`Gateway::upstreams`](crate::Gateway::upstreams).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UpstreamId(pub u32);

/// A set's place in [`Gateway::key_sets`](crate::Gateway::key_sets).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeySetId(pub u32);

/// A key's place in [`Gateway::keys`](crate::Gateway::keys).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyId(pub u32);

/// An attempt, numbered within its exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId(pub u32);

/// What the driver has to do next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// Read the request's body, up to `limit` bytes, keep it for the attempts, and tell [`Event::Body`](super::Event::Body).
    Read {
        /// The longest body that is accepted, in bytes.
        limit: u64,
    },
    /// Check a signature and tell [`Event::Verified`](super::Event::Verified).
    Verify(Verify),
    /// Say which keys an issuer has, fetching them where that is due, and tell [`Event::Keys`](super::Event::Keys).
    Fetch(Fetch),
    /// Count the request among those under way for this key, until its answer's body has ended, unless `limit` of them are there
    /// already; tell [`Event::Entered`](super::Event::Entered).
    Enter {
        /// Whose.
        key: LimitKey,
        /// How many there may be.
        limit: u32,
    },
    /// Take one request from each of these quotas, or from none where one refuses, and tell [`Event::Taken`](super::Event::Taken). A
    /// driver without a store for the quotas that are shared does not know what becomes of those.
    Take(Vec<Take>),
    /// Make these attempts, beside those under way. Those whose answer is to be [discarded](Answer::Discard) come last.
    Send {
        /// The route that matched.
        route: RouteId,
        /// One, or the branches of an aggregate that are ready.
        attempts: Vec<Attempt>,
    },
    /// Tell [`Event::Time`](super::Event::Time) at this moment, unless something else happens first. An answer that was told by
    /// [`Event::Head`](super::Event::Head) and is not forwarded by the step that follows can be dropped.
    Wait {
        /// The moment.
        until: Moment,
    },
    /// Nothing until one of the attempts under way has something to tell.
    Pending,
    /// Forward this attempt's answer with these edits; the exchange is over.
    Forward {
        /// The attempt whose answer it is.
        attempt: AttemptId,
        /// Edits of its header fields.
        edits: Vec<Edit>,
        /// How it is judged on its way.
        observe: Option<Observe>,
    },
    /// Answer with this and drop the attempts under way; the exchange is over.
    Respond(Respond),
}

/// A signature to check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// The key, chosen by the machine.
    pub key: VerifyKey,
    /// The algorithm, pinned by the config and not by the token (RFC 8725 §3.1).
    pub algorithm: jsonwebtoken::Algorithm,
    /// The signed bytes: a JWS signing input (RFC 7515 §5.2).
    pub message: String,
    /// The signature, base64url without padding.
    pub signature: String,
}

/// A key that checks a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifyKey {
    /// One of the config.
    Known(KeyId),
    /// One that its issuer publishes.
    Fetched {
        /// The place of its `[auth]`, whose algorithms bind it.
        auth: u32,
        /// The key, as a JWK (RFC 7517).
        jwk: String,
    },
}

/// An issuer's keys that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The set.
    pub set: KeySetId,
    /// The version that is here already; see [`version`](crate::keys::version).
    pub known: Option<u64>,
    /// Whether a key is missing in that version, so that it is worth fetching the set anew.
    pub anew: bool,
    /// When the request is over.
    pub deadline: Moment,
}

/// One try at an upstream. What it does not name stays as the request brought it; the driver strips the hop-by-hop fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number.
    pub id: AttemptId,
    /// Where it goes; the endpoint is chosen by the upstream's balancer.
    pub upstream: UpstreamId,
    /// By which the upstream's balancer chooses instead of by chance, where it goes by something of the request.
    pub affinity: Option<u64>,
    /// Another method than the request's.
    #[serde(with = "super::wire::method")]
    pub method: Option<http::Method>,
    /// Another path and query than the request's.
    pub target: Option<String>,
    /// The `Host` to send, where it is not the endpoint's own authority.
    #[serde(with = "super::wire::value")]
    pub host: Option<HeaderValue>,
    /// Which header fields the edits start from.
    pub inherit: Inherit,
    /// Edits of the header fields, in order.
    pub edits: Edits,
    /// The body to send.
    pub body: AttemptBody,
    /// The longest body to send, in bytes, where its length is not known before it ends: a longer one is
    /// [`Failure::BodyTooLarge`](super::Failure::BodyTooLarge), or breaks off the answer that came first. It is the client's fault and not
    /// the endpoint's.
    pub max_body: Option<u64>,
    /// When it counts as [`Failure::Timeout`](super::Failure::Timeout): where its head did not come by then, or, where its answer is
    /// read, its body.
    pub deadline: Moment,
    /// What to do with its answer.
    pub answer: Answer,
}

/// Which header fields an attempt starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inherit {
    /// The request's, less the hop-by-hop ones.
    Request,
    /// None.
    Nothing,
}

/// The body that an attempt sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptBody {
    /// The request's: streamed, or as it was read.
    Request,
    /// None.
    Empty,
}

/// What becomes of an attempt's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// Forward it with these edits without telling the exchange, which is over then; unless its status is listed: then tell
    /// [`Event::Head`](super::Event::Head).
    Forward {
        /// Edits of its header fields.
        edits: Vec<Edit>,
        /// The status codes that the exchange wants to judge.
        judge: Vec<u16>,
        /// How one that is forwarded is judged on its way.
        observe: Option<Observe>,
    },
    /// Nothing: read it to its end and drop it. Neither the exchange nor its client waits for it, or hears of it, and it outlives both.
    Discard,
    /// Read it: tell [`Event::Head`](super::Event::Head), then [`Event::UpstreamBody`](super::Event::UpstreamBody).
    Read {
        /// The longest body that is accepted, in bytes.
        limit: u64,
    },
}

/// An answer that is judged while it is forwarded, which changes nothing about it: keep a copy of its body as it goes by, and ask
/// [`Gateway::judge_answer`](crate::Gateway::judge_answer) when it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observe {
    /// The route.
    pub route: RouteId,
    /// The operation of the route's description that was asked for.
    pub operation: Option<u32>,
    /// The longest body to keep a copy of, in bytes; one that is longer is [`BodyRead::TooLarge`](super::BodyRead::TooLarge).
    pub max_body: u64,
}

/// One change of a message's header fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edit {
    /// Replace every value of the field.
    Set(
        #[serde(with = "super::wire::name")] HeaderName,
        #[serde(with = "super::wire::value_of")] HeaderValue,
    ),
    /// Add a value.
    Add(
        #[serde(with = "super::wire::name")] HeaderName,
        #[serde(with = "super::wire::value_of")] HeaderValue,
    ),
    /// Remove the field.
    Remove(#[serde(with = "super::wire::name")] HeaderName),
}

/// Edits that the attempts of a request share: a retry has those of the attempt before it, and to copy seven edits and drop them took
/// 2 % of a proxied request's instructions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits(Arc<Vec<Edit>>);

impl Deref for Edits {
    type Target = [Edit];

    fn deref(&self) -> &[Edit] {
        &self.0
    }
}

impl From<Vec<Edit>> for Edits {
    fn from(edits: Vec<Edit>) -> Self {
        Self(Arc::new(edits))
    }
}

impl Serialize for Edits {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.as_slice().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Edits {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Vec::deserialize(from).map(Self::from)
    }
}

impl From<HeaderEdit> for Edit {
    fn from(edit: HeaderEdit) -> Self {
        match edit {
            HeaderEdit::Set(name, value) => Self::Set(name, value),
            HeaderEdit::Add(name, value) => Self::Add(name, value),
            HeaderEdit::Remove(name) => Self::Remove(name),
        }
    }
}

/// An answer that Heddle makes itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Respond {
    /// The route that matched, if one did.
    pub route: Option<RouteId>,
    /// The status code.
    pub status: u16,
    /// The header fields, without `content-length`.
    #[serde(with = "super::wire::fields")]
    pub fields: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Why Heddle answered itself; none where that is the route's purpose (`respond`, `redirect`, a whole aggregate).
    pub reason: Option<Reason>,
}
