//! One request, to see that a contestant answers, and answers right.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `GET path` on a connection of its own; the body of an answer that is 200.
pub(crate) fn get(address: SocketAddr, path: &str, fields: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{fields}\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    body(&answer).with_context(|| format!("GET {path}"))
}

fn body(answer: &[u8]) -> Result<Vec<u8>> {
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("no whole head")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let body = &answer[end + 4..];
    if head.split_ascii_whitespace().nth(1) != Some("200") {
        bail!("{head}\n{}", String::from_utf8_lossy(body));
    }
    if head.contains("transfer-encoding: chunked") {
        return unchunked(body).context("chunks that do not end");
    }
    Ok(body.to_vec())
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_whole_however_it_is_framed() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap(), b"ok");
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(body(chunked).unwrap(), b"abcd");
    }

    #[test]
    fn an_answer_that_is_no_200_is_shown() {
        let error = body(b"HTTP/1.1 502 Bad Gateway\r\n\r\nno upstream").unwrap_err().to_string();
        assert!(error.contains("502") && error.contains("no upstream"), "{error}");
        body(b"HTTP/1.1 200 OK\r\n").unwrap_err();
    }
}
