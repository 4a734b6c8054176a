//! How an exchange's inputs and outputs cross the boundary between a host and its guest: as postcard bytes.
//!
//! Both sides use these functions, so the encoding is no interface to anybody else and may change with the crate. Decoding
//! is total: any bytes give a value or an error.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use routing::{Fields, Now, RequestHead, Scheme};
use serde::de::Error as _;
use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Arrival, Entropy, Event, Step};

/// Bytes that are not what the other side would have encoded.
#[derive(Debug, thiserror::Error)]
#[error("malformed {what}: {source}")]
pub struct WireError {
    what: &'static str,
    source: postcard::Error,
}

/// Encodes an arrival; `fields` are all header fields of its head, names in any case.
#[must_use]
pub fn encode_arrival<'f>(arrival: &Arrival<'_>, fields: impl IntoIterator<Item = (&'f str, &'f [u8])>) -> Vec<u8> {
    let flat = DecodedArrival {
        method: arrival.head.method,
        scheme: arrival.head.scheme,
        authority: arrival.head.authority,
        target: arrival.head.target,
        peer: arrival.head.peer,
        has_body: arrival.has_body,
        now: arrival.now,
        entropy: arrival.entropy,
        fields: FlatFields(fields.into_iter().map(|(name, value)| (name, Octets(value))).collect()),
    };
    encode(&flat)
}

/// Decodes an arrival, which borrows from the bytes.
///
/// # Errors
/// Where the bytes are no encoded arrival.
pub fn decode_arrival(bytes: &[u8]) -> Result<DecodedArrival<'_>, WireError> {
    decode(bytes, "arrival")
}

/// Encodes what happened, and when.
#[must_use]
pub fn encode_event(event: &Event, now: Now) -> Vec<u8> {
    encode(&(event, now))
}

/// Decodes what happened, and when.
///
/// # Errors
/// Where the bytes are no encoded event.
pub fn decode_event(bytes: &[u8]) -> Result<(Event, Now), WireError> {
    decode(bytes, "event")
}

/// Encodes a step.
#[must_use]
pub fn encode_step(step: &Step) -> Vec<u8> {
    encode(step)
}

/// Decodes a step.
///
/// # Errors
/// Where the bytes are no encoded step.
pub fn decode_step(bytes: &[u8]) -> Result<Step, WireError> {
    decode(bytes, "step")
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Most heads and steps are shorter than this, so that the vector rarely grows.
    postcard::to_extend(value, Vec::with_capacity(512)).expect("writing to memory does not fail, and every length is known")
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &'static str) -> Result<T, WireError> {
    let malformed = |source| WireError { what, source };
    match postcard::take_from_bytes(bytes).map_err(malformed)? {
        (value, []) => Ok(value),
        _ => Err(malformed(postcard::Error::DeserializeBadEncoding)),
    }
}

/// An arrival as it came over the boundary.
#[derive(Debug, Serialize, Deserialize)]
pub struct DecodedArrival<'a> {
    method: &'a str,
    scheme: Scheme,
    authority: &'a str,
    target: &'a str,
    peer: Option<IpAddr>,
    has_body: bool,
    now: Now,
    entropy: Entropy,
    #[serde(borrow)]
    fields: FlatFields<'a>,
}

impl DecodedArrival<'_> {
    /// The arrival to start an exchange with.
    #[must_use]
    pub fn arrival(&self) -> Arrival<'_> {
        Arrival {
            head: RequestHead {
                method: self.method,
                scheme: self.scheme,
                authority: self.authority,
                target: self.target,
                fields: &self.fields,
                peer: self.peer,
            },
            has_body: self.has_body,
            now: self.now,
            entropy: self.entropy,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct FlatFields<'a>(#[serde(borrow)] Vec<(&'a str, Octets<'a>)>);

impl Fields for FlatFields<'_> {
    fn nth(&self, name: &str, nth: usize) -> Option<&[u8]> {
        self.0
            .iter()
            .filter(|(own, _)| own.eq_ignore_ascii_case(name))
            .nth(nth)
            .map(|(_, value)| value.0)
    }
}

/// Bytes that are written at once and not one by one.
#[derive(Debug)]
struct Octets<'a>(&'a [u8]);

impl Serialize for Octets<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Octets<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <&'a [u8]>::deserialize(from).map(Self)
    }
}

fn parsed_name<E: serde::de::Error>(name: &str) -> Result<HeaderName, E> {
    HeaderName::from_bytes(name.as_bytes()).map_err(E::custom)
}

fn parsed_value<E: serde::de::Error>(value: &[u8]) -> Result<HeaderValue, E> {
    HeaderValue::from_bytes(value).map_err(E::custom)
}

pub(super) mod name {
    use super::*;

    pub(in crate::exchange) fn serialize<S: Serializer>(name: &HeaderName, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(name.as_str())
    }

    pub(in crate::exchange) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<HeaderName, D::Error> {
        <&'de str>::deserialize(from).and_then(parsed_name)
    }
}

pub(super) mod value_of {
    use super::*;

    pub(in crate::exchange) fn serialize<S: Serializer>(value: &HeaderValue, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(value.as_bytes())
    }

    pub(in crate::exchange) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<HeaderValue, D::Error> {
        <&'de [u8]>::deserialize(from).and_then(parsed_value)
    }
}

pub(super) mod value {
    use super::*;

    pub(in crate::exchange) fn serialize<S: Serializer>(value: &Option<HeaderValue>, to: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(|value| Octets(value.as_bytes())).serialize(to)
    }

    pub(in crate::exchange) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<HeaderValue>, D::Error> {
        Option::<&'de [u8]>::deserialize(from)?.map(parsed_value).transpose()
    }
}

pub(super) mod method {
    use super::*;

    pub(in crate::exchange) fn serialize<S: Serializer>(method: &Option<Method>, to: S) -> Result<S::Ok, S::Error> {
        method.as_ref().map(Method::as_str).serialize(to)
    }

    pub(in crate::exchange) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Method>, D::Error> {
        Option::<&'de str>::deserialize(from)?
            .map(|method| Method::from_bytes(method.as_bytes()).map_err(D::Error::custom))
            .transpose()
    }
}

pub(super) mod fields {
    use super::*;

    pub(in crate::exchange) fn serialize<S: Serializer>(fields: &HeaderMap, to: S) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(Some(fields.len()))?;
        for (name, value) in fields {
            list.serialize_element(&(name.as_str(), Octets(value.as_bytes())))?;
        }
        list.end()
    }

    pub(in crate::exchange) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<HeaderMap, D::Error> {
        let list = Vec::<(&'de str, &'de [u8])>::deserialize(from)?;
        let mut fields = HeaderMap::try_with_capacity(list.len()).map_err(D::Error::custom)?;
        for (name, value) in list {
            fields
                .try_append(parsed_name(name)?, parsed_value(value)?)
                .map_err(D::Error::custom)?;
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests;
