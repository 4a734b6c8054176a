//! The pieces of raw config that routes and upstreams are made of, as serde reads them.
//!
//! A consumer's raw route is a struct of its own, with `deny_unknown_fields` and these as its fields (`serde(flatten)` would lose
//! the places). Each piece has a `compile` that validates it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::{Period, PeriodRange};

/// One table, or a list of them.
#[derive(Debug, Clone)]
pub struct OneOrMany<T>(pub Vec<Spanned<T>>);

/// `match`: what a request has to look like.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Host patterns, any of which has to match; any host where there are none.
    pub hosts: Option<Spanned<Vec<Spanned<String>>>>,
    /// A path template that matches the whole path.
    pub path: Option<Spanned<String>>,
    /// A path template that matches the first segments of the path.
    pub path_prefix: Option<Spanned<String>>,
    /// Methods; any method where there are none.
    pub methods: Option<Spanned<Vec<Spanned<String>>>>,
    /// Header fields, all of which have to match.
    #[serde(default)]
    pub headers: BTreeMap<Spanned<String>, Value>,
    /// Query parameters, all of which have to match.
    #[serde(default)]
    pub query: BTreeMap<Spanned<String>, Value>,
}

/// What a header field or query parameter has to be: `"text"`, `{ regex = "…" }` or `{ present = true }`.
#[derive(Debug, Clone)]
pub enum Value {
    /// This text.
    Text(String),
    /// Whatever the regular expression matches as a whole.
    Regex(Spanned<String>),
    /// There, or not there.
    Present(bool),
}

/// An upstream: `[upstreams.NAME]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// The mesh service that it is.
    pub mesh: Option<Spanned<String>>,
    /// The endpoints that it is.
    pub endpoints: Option<Spanned<Vec<Spanned<Endpoint>>>>,
    /// How an endpoint is chosen.
    pub balance: Option<Spanned<String>>,
    /// What of a request `ring-hash` goes by.
    pub hash: Option<Spanned<String>>,
    /// When an endpoint is ejected.
    pub outlier: Option<Spanned<Outlier>>,
    /// How much may be under way.
    pub breaker: Option<Breaker>,
    /// For how long an endpoint that joins others gets less than its share.
    pub slow_start: Option<Spanned<Period>>,
}

/// The keys by which the endpoints of something are used, wherever they stand: of an upstream of the gateway, or of a service of the mesh.
#[derive(Debug, Clone, Copy, Default)]
pub struct Connection<'r> {
    /// How an endpoint is chosen.
    pub balance: Option<&'r Spanned<String>>,
    /// What of a request `ring-hash` goes by.
    pub hash: Option<&'r Spanned<String>>,
    /// When an endpoint is ejected.
    pub outlier: Option<&'r Outlier>,
    /// How much may be under way.
    pub breaker: Option<&'r Breaker>,
    /// For how long an endpoint that joins others gets less than its share.
    pub slow_start: Option<&'r Spanned<Period>>,
    /// Whether endpoints of one's own zone come first.
    pub zone: Option<&'r Spanned<Zone>>,
}

/// Zone preference of a service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// Whether endpoints of one's own zone come first.
    pub prefer: Option<bool>,
    /// With how many requests under way at one of them others are asked.
    pub overflow: Option<Spanned<u32>>,
}

/// An endpoint of an upstream.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// `http://host:port`.
    pub url: Spanned<String>,
    /// Its share of the requests.
    pub weight: Option<Spanned<u32>>,
}

/// Outlier ejection of an upstream.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outlier {
    /// How many failures in a row eject an endpoint.
    pub consecutive_failures: Option<Spanned<u32>>,
    /// For how long, the first time.
    pub ejection: Option<Spanned<Period>>,
    /// Which fraction of the endpoints may be ejected at once.
    pub max_ejected: Option<Spanned<f64>>,
    /// Whether those are ejected that serve less than the others do.
    pub success_rate: Option<SuccessRate>,
}

/// `success_rate` of outlier ejection.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuccessRate {
    /// How often rates are compared.
    pub interval: Option<Spanned<Period>>,
    /// With how many requests an endpoint is looked at.
    pub min_requests: Option<Spanned<u32>>,
    /// How many endpoints are enough to compare.
    pub min_endpoints: Option<Spanned<u32>>,
    /// How many standard deviations below the mean are too far.
    pub deviations: Option<Spanned<f64>>,
}

/// Circuit breaker of an upstream.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// How many requests may be under way.
    pub max_requests: Option<Spanned<u32>>,
    /// How many requests may wait for a connection.
    pub max_pending: Option<Spanned<u32>>,
    /// How many connections there may be.
    pub max_connections: Option<Spanned<u32>>,
}

/// One share of a split.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The upstream's name.
    pub upstream: Spanned<String>,
    /// Its share of the requests.
    pub weight: Spanned<u32>,
    /// Edits of its requests' and answers' header fields, after the route's own.
    #[serde(default)]
    pub headers: Headers,
}

/// `rewrite`: what the upstream sees instead.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// The path.
    pub path: Option<Spanned<String>>,
    /// The host.
    pub host: Option<Spanned<String>>,
}

/// `headers`: edits of the request's and the response's header fields.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headers {
    /// Of the request, before it goes upstream.
    #[serde(default)]
    pub request: HeaderEdits,
    /// Of the response, before it goes downstream.
    #[serde(default)]
    pub response: HeaderEdits,
}

/// Edits of one message's header fields: first `remove`, then `set`, then `add`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderEdits {
    /// Fields to replace.
    #[serde(default)]
    pub set: BTreeMap<Spanned<String>, Spanned<String>>,
    /// Values to add.
    #[serde(default)]
    pub add: BTreeMap<Spanned<String>, Spanned<String>>,
    /// Fields to remove.
    #[serde(default)]
    pub remove: Vec<Spanned<String>>,
}

/// `retry`: whether and how a failed attempt is repeated.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// How many attempts, the first included.
    pub attempts: Option<Spanned<u32>>,
    /// After what.
    pub on: Option<Spanned<Vec<Spanned<String>>>>,
    /// How long one attempt may take.
    pub per_try_timeout: Option<Spanned<Period>>,
    /// How long to wait before the next one.
    pub backoff: Option<Spanned<PeriodRange>>,
    /// Which fraction of the requests may be retried.
    pub budget: Option<Spanned<f64>>,
}

/// `fault`: what goes wrong on purpose.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Some requests wait.
    pub delay: Option<Delay>,
    /// Some requests are refused.
    pub abort: Option<Abort>,
}

/// `delay` of a fault.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// For how long.
    pub duration: Spanned<Period>,
    /// How many requests; every one where nothing is said.
    pub percent: Option<Spanned<f64>>,
}

/// `abort` of a fault.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    /// The status of the answer.
    pub status: Spanned<u16>,
    /// How many requests; every one where nothing is said.
    pub percent: Option<Spanned<f64>>,
}

/// `redirect`: answer with another place.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The path there.
    pub path: Option<Spanned<String>>,
    /// The status code.
    pub status: Option<Spanned<u16>>,
    /// `http` or `https`.
    pub scheme: Option<Spanned<String>>,
    /// The host there.
    pub host: Option<Spanned<String>>,
    /// The port there.
    pub port: Option<Spanned<u16>>,
}

/// `cors`: which other sites' pages may use the route.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Where the pages come from.
    pub origins: Spanned<Vec<Spanned<String>>>,
    /// The methods that they may use; the route's where none is named.
    pub methods: Option<Vec<Spanned<String>>>,
    /// The header fields that they may send.
    pub headers: Option<Vec<Spanned<String>>>,
    /// The header fields of answers that they may read.
    pub expose: Option<Vec<Spanned<String>>>,
    /// Whether their requests may carry cookies and the like.
    pub credentials: Option<Spanned<bool>>,
    /// For how long a browser need not ask again.
    pub max_age: Option<Spanned<Period>>,
}

/// `respond`: a fixed answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// The status code.
    pub status: Spanned<u16>,
    /// The body.
    pub body: Option<String>,
    /// Header fields.
    #[serde(default)]
    pub headers: BTreeMap<Spanned<String>, Spanned<String>>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let read = Spanned::<Either<T>>::deserialize(from)?;
        let span = read.span();
        Ok(match read.into_inner() {
            Either::One(one) => Self(vec![Spanned::new(span, one)]),
            Either::Many(many) => Self(many),
        })
    }
}

/// What [`OneOrMany`] reads. A visitor and not an untagged enum, which would lose the places of its content.
enum Either<T> {
    One(T),
    Many(Vec<Spanned<T>>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Either<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TableOrList<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for TableOrList<T> {
            type Value = Either<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table or a list of tables")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Either::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Either::Many)
            }
        }

        from.deserialize_any(TableOrList(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            regex: Option<Spanned<String>>,
            present: Option<bool>,
        }

        struct TextOrTable;

        impl<'de> Visitor<'de> for TextOrTable {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, { regex = \"…\" } or { present = true }")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
                Ok(Value::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
                match Table::deserialize(MapAccessDeserializer::new(map))? {
                    Table {
                        regex: Some(regex),
                        present: None,
                    } => Ok(Value::Regex(regex)),
                    Table {
                        regex: None,
                        present: Some(present),
                    } => Ok(Value::Present(present)),
                    _ => Err(A::Error::custom("expected one of `regex` and `present`")),
                }
            }
        }

        from.deserialize_any(TextOrTable)
    }
}
