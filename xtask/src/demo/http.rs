//! One HTTP/1.1 request at a time, to servers on this machine: the demo shows what is on the wire and needs no curl for it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Longer than any timeout in the bank's config.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer as it came.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) phrase: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// Sends a GET and reads the whole answer.
pub(crate) fn get(address: &str, path: &str, fields: &[(&str, &str)]) -> Result<Answer> {
    let address: SocketAddr = address.parse()?;
    let mut stream =
        TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("{address} does not accept a connection"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\naccept: application/json\r\n");
    for (name, value) in fields {
        request += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{request}\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("{address} did not answer within {} s", PATIENCE.as_secs()))?;
    parse(&answer).with_context(|| format!("{address} answered something else than HTTP"))
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the head has no end")?;
    let head = std::str::from_utf8(&bytes[..end])?;
    let mut lines = head.split("\r\n");
    let (_, status) = lines
        .next()
        .and_then(|line| line.split_once(' '))
        .context("the status line is broken")?;
    let (status, phrase) = status.split_once(' ').unwrap_or((status, ""));
    let fields: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let rest = &bytes[end + 4..];
    let chunked = fields
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value.eq_ignore_ascii_case("chunked"));
    let body = if chunked { unchunked(rest)? } else { rest.to_vec() };
    Ok(Answer {
        status: status.parse()?,
        phrase: phrase.to_owned(),
        fields,
        body,
    })
}

fn unchunked(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest
            .windows(2)
            .position(|window| window == b"\r\n")
            .context("a chunk's length has no end")?;
        let length = std::str::from_utf8(&rest[..end])?.split(';').next().unwrap_or_default();
        let length = usize::from_str_radix(length.trim(), 16)?;
        rest = &rest[end + 2..];
        if length == 0 {
            return Ok(body);
        }
        if rest.len() < length.saturating_add(2) {
            bail!("a chunk is cut short");
        }
        body.extend_from_slice(&rest[..length]);
        rest = &rest[length + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_its_length_or_its_chunks() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        assert_eq!(
            (plain.status, plain.phrase.as_str(), plain.body.as_slice()),
            (200, "OK", b"ok".as_slice())
        );
        let chunked =
            parse(b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n1;x\r\n!\r\n0\r\n\r\n").unwrap();
        assert_eq!((chunked.status, chunked.body.as_slice()), (404, b"ok!".as_slice()));
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        for broken in [
            &b"SSH-2.0"[..],
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nshort",
            b"HTTP/1.1\r\n\r\n",
        ] {
            assert!(parse(broken).is_err());
        }
    }
}
