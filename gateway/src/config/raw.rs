//! The gateway's file as serde reads it.

use std::collections::BTreeMap;
use std::fmt;

use routing::config::raw::{Cors, Fault, Headers, Match, Redirect, Respond, Retry, Rewrite, Share};
use routing::config::{ByteSize, OneOrMany, Period, Spanned};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::limit::RawLimit;
use super::mirror::RawMirror;

/// `[gateway]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gateway {
    pub(super) name: Option<Spanned<String>>,
    pub(super) listen: Option<Spanned<String>>,
    pub(super) admin: Option<Spanned<String>>,
    pub(super) tls: Option<Spanned<OneOrMany<Tls>>>,
    pub(super) trusted_proxies: Option<Vec<Spanned<String>>>,
    pub(super) max_header: Option<Spanned<ByteSize>>,
    pub(super) max_uri: Option<Spanned<ByteSize>>,
    pub(super) max_body: Option<Spanned<ByteSize>>,
    pub(super) drain: Option<Spanned<Period>>,
    pub(super) default_auth: Option<Spanned<Methods>>,
    pub(super) quotas: Option<Spanned<Quotas>>,
}

/// `quotas` of `[gateway]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Quotas {
    pub(super) redis: Spanned<String>,
    pub(super) timeout: Option<Spanned<Period>>,
    pub(super) when_down: Option<Spanned<String>>,
}

/// One of `tls`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) cert_file: Spanned<String>,
    pub(super) key_file: Spanned<String>,
}

/// `[mesh]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mesh {
    pub(super) control: Option<Spanned<String>>,
    pub(super) ingress: Option<Spanned<String>>,
    pub(super) handoff_key: Option<String>,
}

/// `[auth.NAME]` with `kind = "jwt"`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Jwt {
    #[serde(rename = "kind")]
    pub(super) _kind: String,
    pub(super) issuer: Option<Spanned<String>>,
    pub(super) audiences: Option<Spanned<Vec<String>>>,
    pub(super) algorithms: Spanned<Vec<Spanned<String>>>,
    pub(super) secret: Option<Spanned<String>>,
    pub(super) jwks_file: Option<Spanned<String>>,
    pub(super) key_file: Option<Spanned<String>>,
    pub(super) jwks: Option<Spanned<String>>,
    pub(super) jwks_refresh: Option<Spanned<Period>>,
    pub(super) jwks_cooldown: Option<Spanned<Period>>,
    pub(super) jwks_timeout: Option<Spanned<Period>>,
    pub(super) leeway: Option<Spanned<Period>>,
    pub(super) max_token: Option<Spanned<ByteSize>>,
}

/// `[auth.NAME]` with `kind = "api-key"`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiKeys {
    #[serde(rename = "kind")]
    pub(super) _kind: String,
    pub(super) header: Option<Spanned<String>>,
    pub(super) query: Option<Spanned<String>>,
    pub(super) keys: Spanned<Vec<Spanned<ApiKey>>>,
}

/// One of an `[auth.NAME]`'s `keys`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiKey {
    pub(super) name: Spanned<String>,
    pub(super) sha256: Spanned<String>,
    #[serde(default)]
    pub(super) scopes: Vec<String>,
    #[serde(default)]
    pub(super) claims: BTreeMap<String, Value>,
}

/// `auth` of a route: a name, a list of which any will do, or `{ all = […] }`.
#[derive(Debug)]
pub(super) enum Methods {
    One(String),
    Any(Vec<Spanned<String>>),
    All(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for Methods {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct All {
            all: Vec<Spanned<String>>,
        }

        struct NameOrList;

        impl<'de> Visitor<'de> for NameOrList {
            type Value = Methods;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an [auth], a list of them, or { all = […] }")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Methods, E> {
                Ok(Methods::One(name.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Methods, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Methods::Any)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Methods, A::Error> {
                All::deserialize(MapAccessDeserializer::new(map)).map(|all| Methods::All(all.all))
            }
        }

        from.deserialize_any(NameOrList)
    }
}

/// `[[routes]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub(super) name: Option<Spanned<String>>,
    #[serde(rename = "match")]
    pub(super) matches: OneOrMany<Match>,
    pub(super) auth: Option<Spanned<Methods>>,
    pub(super) require: Option<Box<Spanned<Require>>>,
    pub(super) validate: Option<Box<Validate>>,
    pub(super) upstream: Option<Spanned<String>>,
    pub(super) split: Option<Spanned<Vec<Spanned<Share>>>>,
    pub(super) aggregate: Option<Box<Spanned<Aggregate>>>,
    pub(super) redirect: Option<Box<Spanned<Redirect>>>,
    pub(super) respond: Option<Box<Spanned<Respond>>>,
    pub(super) rewrite: Option<Box<Spanned<Rewrite>>>,
    pub(super) headers: Option<Box<Headers>>,
    pub(super) timeout: Option<Spanned<Period>>,
    pub(super) max_body: Option<Spanned<ByteSize>>,
    pub(super) retry: Option<Box<Spanned<Retry>>>,
    pub(super) concurrency: Option<Spanned<u32>>,
    pub(super) rate_limit: Option<OneOrMany<RawLimit>>,
    pub(super) cors: Option<Box<Cors>>,
    pub(super) fault: Option<Box<Spanned<Fault>>>,
    pub(super) mirror: Option<OneOrMany<RawMirror>>,
}

/// `require`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Require {
    #[serde(default)]
    pub(super) scopes: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) claims: BTreeMap<Spanned<String>, Spanned<Value>>,
}

/// `validate`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Validate {
    pub(super) body: Option<Spanned<String>>,
    pub(super) content_types: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) max_body: Option<Spanned<ByteSize>>,
    pub(super) openapi: Option<Spanned<String>>,
    pub(super) openapi_base: Option<Spanned<String>>,
    pub(super) response_body: Option<Spanned<String>>,
    pub(super) openapi_responses: Option<Spanned<bool>>,
}

impl Validate {
    /// Whether it says anything of requests.
    pub(super) fn judges_requests(&self) -> bool {
        self.body.is_some()
            || self.content_types.is_some()
            || self.max_body.is_some()
            || self.openapi.is_some()
            || self.openapi_base.is_some()
    }
}

/// `[routes.aggregate]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Aggregate {
    pub(super) branches: Spanned<Vec<Spanned<Branch>>>,
    pub(super) timeout: Option<Spanned<Period>>,
    pub(super) max_body: Option<Spanned<ByteSize>>,
    pub(super) max_answer: Option<Spanned<ByteSize>>,
}

/// One of `branches`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Branch {
    #[serde(rename = "as")]
    pub(super) name: Spanned<String>,
    pub(super) upstream: Spanned<String>,
    pub(super) path: Spanned<String>,
    #[serde(default)]
    pub(super) required: bool,
    pub(super) fallback: Option<Spanned<Value>>,
    pub(super) timeout: Option<Spanned<Period>>,
    pub(super) for_each: Option<Spanned<String>>,
    pub(super) max_items: Option<Spanned<u16>>,
    pub(super) pick: Option<Spanned<Pick>>,
    #[serde(default)]
    pub(super) status: BTreeMap<Spanned<String>, Spanned<StatusMeaning>>,
    #[serde(default)]
    pub(super) request_headers: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) response_headers: Vec<Spanned<String>>,
}

/// `pick` of a branch: a path, a list of paths, or names with a path each.
#[derive(Debug)]
pub(super) enum Pick {
    At(String),
    List(Vec<String>),
    Named(Vec<(String, String)>),
}

impl<'de> Deserialize<'de> for Pick {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct PathOrMore;

        impl<'de> Visitor<'de> for PathOrMore {
            type Value = Pick;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a field, a list of paths, or { NAME = \"PATH\" }")
            }

            fn visit_str<E: Error>(self, path: &str) -> Result<Pick, E> {
                Ok(Pick::At(path.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Pick, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Pick::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pick, A::Error> {
                let mut named = Vec::new();
                while let Some(member) = map.next_entry()? {
                    named.push(member);
                }
                Ok(Pick::Named(named))
            }
        }

        from.deserialize_any(PathOrMore)
    }
}

/// What a status of a branch means: a status of the answer, or a word.
#[derive(Debug)]
pub(super) enum StatusMeaning {
    Status(u16),
    Word(String),
}

impl<'de> Deserialize<'de> for StatusMeaning {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct CodeOrWord;

        impl Visitor<'_> for CodeOrWord {
            type Value = StatusMeaning;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status of the answer, 400 to 599, or \"fallback\"")
            }

            fn visit_i64<E: Error>(self, code: i64) -> Result<StatusMeaning, E> {
                // What is no status at all is told as what is none of an answer's.
                Ok(StatusMeaning::Status(u16::try_from(code).unwrap_or(0)))
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<StatusMeaning, E> {
                Ok(StatusMeaning::Word(word.to_owned()))
            }
        }

        from.deserialize_any(CodeOrWord)
    }
}
