//! What ties the logs of several programs together: the request id, and the W3C trace context.

use http::HeaderValue;
use routing::Fields;

use super::made::Made;
use super::{Edit, Entropy, names};

/// The longest request id that is kept.
const MAX_REQUEST_ID: usize = 128;

/// The request's id: the client's, where it is sane, else a new UUID (version 4, RFC 9562 §5.4).
pub(super) fn request_id(fields: &dyn Fields, entropy: &Entropy, made: &mut Made) -> HeaderValue {
    let kept = fields
        .first("x-request-id")
        .filter(|id| is_sane(id) && fields.nth("x-request-id", 1).is_none());
    if let Some(id) = kept.and_then(|id| made.value(&[id])) {
        return id;
    }
    made.value(&[&uuid(entropy)])
        .expect("hexadecimal digits and hyphens may stand in a header field")
}

/// Visible ASCII, and short enough for a log line.
fn is_sane(id: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

fn uuid(entropy: &Entropy) -> [u8; 36] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&entropy[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    // Where the eight hexadecimal digits, and the groups of four after them, begin.
    let mut at = 0;
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at..at + 2].copy_from_slice(&hex(byte));
        at += 2;
    }
    text
}

fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

/// What an upstream is told about the trace.
pub(super) struct Trace {
    pub(super) parent: HeaderValue,
    /// Whether the trace is the client's, whose `tracestate` belongs to it.
    pub(super) continued: bool,
}

/// Continues the client's trace with a span of our own, or starts one (W3C Trace Context §3.2, §4.3).
///
/// A trace that starts here is marked as sampled: nothing before us decided, and a program that samples by its parent's mark
/// would otherwise record nothing any more as soon as a gateway stands before it.
pub(super) fn trace(fields: &dyn Fields, entropy: &Entropy, made: &mut Made) -> Trace {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    let came = fields
        .first("traceparent")
        .filter(|_| fields.nth("traceparent", 1).is_none())
        .and_then(parse);
    match came {
        Some((trace_id, flags)) => {
            text[3..35].copy_from_slice(trace_id);
            text[53..].copy_from_slice(&hex(flags));
        }
        None => write_hex(&mut text[3..35], &nonzero::<16>(&entropy[..16])),
    }
    write_hex(&mut text[36..52], &nonzero::<8>(&entropy[16..24]));
    Trace {
        parent: made
            .value(&[&text])
            .expect("hexadecimal digits and hyphens may stand in a header field"),
        continued: came.is_some(),
    }
}

impl Trace {
    /// The edits of a request that keeps the client's fields.
    pub(super) fn edit(self, edits: &mut Vec<Edit>) {
        edits.push(Edit::Set(names::TRACEPARENT, self.parent));
        if !self.continued {
            edits.push(Edit::Remove(names::TRACESTATE));
        }
    }
}

/// An id of zeros means none (§3.2.2.3, §3.2.2.4).
fn nonzero<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut id = [0; N];
    id.copy_from_slice(bytes);
    if id.iter().all(|&byte| byte == 0) {
        id[N - 1] = 1;
    }
    id
}

fn write_hex(to: &mut [u8], bytes: &[u8]) {
    for (pair, &byte) in to.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&hex(byte));
    }
}

/// Trace id and flags of a valid `traceparent`. Of a later version, what this one knows is read (§4.3.1).
fn parse(value: &[u8]) -> Option<(&[u8], u8)> {
    let (version, rest) = (value.get(..2)?, value.get(2..55)?);
    let is_hex = |text: &[u8]| text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |text: &[u8]| is_hex(text) && text.iter().any(|&byte| byte != b'0');
    let ends_well = match version {
        b"00" => value.len() == 55,
        _ => value.get(55).is_none_or(|&byte| byte == b'-'),
    };
    let (trace_id, parent_id, flags) = (&rest[1..33], &rest[34..50], &rest[51..53]);
    let well_formed = is_hex(version)
        && version != b"ff"
        && ends_well
        && [rest[0], rest[33], rest[50]] == [b'-'; 3]
        && is_id(trace_id)
        && is_id(parent_id)
        && is_hex(flags);
    if !well_formed {
        return None;
    }
    let flags = u8::from_str_radix(std::str::from_utf8(flags).ok()?, 16).ok()?;
    // We write version 00, which knows `sampled`, and `random` since level 2.
    Some((trace_id, flags & 0b11))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn entropy() -> Entropy {
        std::array::from_fn(|at| u8::try_from(at).unwrap())
    }

    fn with(name: &'static str, values: &[&[u8]]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        fields
    }

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced_by_a_uuid() {
        assert_eq!(
            request_id(&with("x-request-id", &[b"abc-1"]), &entropy(), &mut Made::default()),
            "abc-1"
        );
        let made = "00010203-0405-4607-8809-0a0b0c0d0e0f";
        let long = [b'x'; 129];
        let odds: [&[&[u8]]; 6] = [&[], &[b""], &[b"a b"], &[b"a\xff"], &[b"a", b"b"], &[&long]];
        for odd in odds {
            assert_eq!(
                request_id(&with("x-request-id", odd), &entropy(), &mut Made::default()),
                made,
                "{odd:?}"
            );
        }
    }

    #[test]
    fn a_trace_is_continued_with_a_new_span() {
        let came: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let trace = trace(&with("traceparent", &[came]), &entropy(), &mut Made::default());
        assert_eq!(trace.parent, "00-4bf92f3577b34da6a3ce929d0e0e4736-1011121314151617-00");
        assert!(trace.continued);
    }

    #[test]
    fn a_later_version_is_continued_as_ours() {
        let came: &[u8] = b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what-comes";
        let trace = trace(&with("traceparent", &[came]), &entropy(), &mut Made::default());
        assert_eq!(trace.parent, "00-4bf92f3577b34da6a3ce929d0e0e4736-1011121314151617-03");
    }

    #[test]
    fn a_traceparent_that_is_none_starts_a_new_trace() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut odd: Vec<Vec<u8>> = vec![
            b"".to_vec(),
            b"00".to_vec(),
            good.to_uppercase().into_bytes(),
            good.replacen("00", "ff", 1).into_bytes(),
            format!("{good}-more").into_bytes(),
            good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)).into_bytes(),
            good.replace("00f067aa0ba902b7", &"0".repeat(16)).into_bytes(),
            good.replace('-', "_").into_bytes(),
        ];
        odd.extend((0..55).map(|length| good.as_bytes()[..length].to_vec()));
        for value in odd {
            let trace = trace(&with("traceparent", &[&value]), &entropy(), &mut Made::default());
            assert!(!trace.continued, "{value:?}");
            assert_eq!(trace.parent, "00-000102030405060708090a0b0c0d0e0f-1011121314151617-01");
        }
        assert!(
            !trace(
                &with("traceparent", &[good.as_bytes(), good.as_bytes()]),
                &entropy(),
                &mut Made::default()
            )
            .continued
        );
    }

    #[test]
    fn ids_of_zeros_are_never_made() {
        let trace = trace(&HeaderMap::new(), &[0; 32], &mut Made::default());
        assert_eq!(trace.parent, "00-00000000000000000000000000000001-0000000000000001-01");
    }
}
