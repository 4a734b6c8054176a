//! What a request is answered with, and how that is put into the words of the protocol that carries it to the client.

use bytes::Bytes;
use gateway::exchange::{Edit, Respond};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use http1::{Answer, Asked, BodyEncoder, EncodeError, Framing, Version};
use wasmtime_wasi_http::WasiBody;

use crate::body::Body;
use crate::upstream::{Answered, Head};

/// An answer. What is large is in a box, since it is handed on from driver to codec.
pub(crate) enum Reply {
    /// An upstream's, with these edits, its body streaming through.
    Forward(Answered, Vec<Edit>),
    /// Our own.
    Own {
        /// What it says.
        respond: Box<Respond>,
        /// Whether what follows on the connection cannot be trusted.
        close: bool,
    },
    /// A component's that answers whole requests.
    Component(Box<Response<WasiBody>>),
}

/// What of a request frames its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking {
    /// Whether the answer has a body.
    pub(crate) asked: Asked,
    /// The version that the client speaks.
    pub(crate) version: Version,
    /// Whether the connection should outlive the answer.
    pub(crate) keep_alive: bool,
}

/// An answer whose head is written.
pub(crate) struct Begun {
    /// What is to follow.
    pub(crate) body: Body,
    /// How it is framed.
    pub(crate) encoder: BodyEncoder,
    /// Whether the connection outlives it.
    pub(crate) keep_alive: bool,
}

impl From<Respond> for Reply {
    fn from(respond: Respond) -> Self {
        let respond = Box::new(respond);
        Self::Own { respond, close: false }
    }
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Forward(answered, _) => answered.status(),
            Self::Own { respond, .. } => respond.status,
            Self::Component(response) => response.status().as_u16(),
        }
    }

    /// The answer as hyper takes it.
    pub(crate) fn into_response(self, head_only: bool) -> Response<Body> {
        match self {
            Self::Forward(answered, edits) => {
                let (status, mut fields, body) = answered.into_parts();
                gateway::strip_hop_by_hop(&mut fields);
                gateway::apply(&edits, &mut fields);
                response(status, fields, Body::upstream(body))
            }
            Self::Own { respond, close } => own(*respond, close, head_only),
            Self::Component(component) => {
                let (mut head, body) = (*component).into_parts();
                gateway::strip_hop_by_hop(&mut head.headers);
                response(head.status.as_u16(), head.headers, Body::component(body))
            }
        }
    }

    /// Writes the head as HTTP/1.1.
    ///
    /// # Errors
    /// The answer cannot be put into HTTP/1.1; nothing is written then.
    pub(crate) fn encode(self, asking: Asking, out: &mut Vec<u8>) -> Result<Begun, EncodeError> {
        let Asking {
            asked,
            version: to,
            keep_alive,
        } = asking;
        let (body, (encoder, keep_alive)) = match self {
            Self::Forward(
                Answered {
                    head: Head::Raw(head),
                    mut body,
                    ..
                },
                edits,
            ) => {
                let reply = http1::Reply {
                    to,
                    keep_alive,
                    status: None,
                    body: None,
                };
                let written = head.encode(&reply, edits.iter().map(codec_edit), out)?;
                body.reuse(head);
                (Body::upstream(body), written)
            }
            Self::Own { respond, close } => {
                let answer = Answer {
                    status: respond.status,
                    asked,
                    to,
                    keep_alive: keep_alive && !close,
                    body: Framing::Length(respond.body.len() as u64),
                };
                let written = http1::encode_answer(&answer, lines(&respond.fields), out)?;
                (Body::whole(respond.body), written)
            }
            other => {
                let (head, body) = other.into_response(asked == Asked::Head).into_parts();
                let answer = Answer {
                    status: head.status.as_u16(),
                    asked,
                    to,
                    keep_alive,
                    body: framing(&head.headers, &body),
                };
                let written = http1::encode_answer(&answer, lines(&head.headers), out)?;
                (body, written)
            }
        };
        Ok(Begun {
            body,
            encoder,
            keep_alive,
        })
    }
}

/// The fields that the codec does not write itself.
pub(crate) fn lines(fields: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    fields
        .iter()
        .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
        .filter(|(name, _)| !http1::is_own_field(name))
}

/// An edit as the codec takes it.
pub(crate) fn codec_edit(edit: &Edit) -> http1::Edit<'_> {
    match edit {
        Edit::Set(name, value) => http1::Edit::Set(name, value),
        Edit::Add(name, value) => http1::Edit::Add(name, value),
        Edit::Remove(name) => http1::Edit::Remove(name),
    }
}

/// Where a body ends whose head hyper or a component made.
fn framing(fields: &HeaderMap, body: &Body) -> Framing {
    let told = fields
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    told.or_else(|| body.size_hint().exact())
        .map_or(Framing::Chunked, Framing::Length)
}

fn own(respond: Respond, close: bool, head_only: bool) -> Response<Body> {
    let Respond {
        status,
        mut fields,
        body,
        ..
    } = respond;
    if close {
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if !head_only {
        return response(status, fields, Body::whole(body));
    }
    // What the length of the body would be (RFC 9110 §9.3.2).
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    response(status, fields, Body::whole(Bytes::new()))
}

fn response(status: u16, fields: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    // Every status that comes here was one before; the type does not say so.
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = fields;
    response
}
