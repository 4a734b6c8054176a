//! The upstream behind every contestant: answers at once, always the same, and costs next to nothing.
//!
//! `GET /bytes/N` answers N bytes, any other GET 1 KiB; the body of another method is read and thrown away.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::lab::Lab;
use crate::process::Process;

/// What an answer holds where nothing else is asked for.
pub(crate) const ANSWER: usize = 1024;

/// The longest head; more ends the connection.
const HEAD: usize = 16 * 1024;

/// The largest answer.
const LARGEST: usize = 1 << 30;

/// How much of a large answer is written at once.
const PIECE: usize = 256 * 1024;

/// A running upstream.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    _process: Process,
}

impl Upstream {
    /// Starts one on the load's core.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let mut process = Process::start("upstream", lab.ours("bench").arg("upstream"), lab.load_core, &lab.folder)?;
        let address = process.line_after("listening on ")?.parse()?;
        Ok(Self {
            address,
            _process: process,
        })
    }
}

/// Serves until it is stopped.
pub(crate) fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on {}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await.context("accepting")?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(async move {
                // Whoever breaks a connection off gets no more answers on it.
                let _ = connection(stream).await;
            });
        }
    })
}

/// What a head asks for, and how long it is.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    head: usize,
    /// The bytes of the answer.
    answer: usize,
    /// The bytes of the request's body.
    body: usize,
}

async fn connection(mut stream: TcpStream) -> std::io::Result<()> {
    let small = answer(ANSWER);
    let mut buffer = vec![0; HEAD];
    let mut filled = 0;
    loop {
        let Some(asked) = asked(&buffer[..filled]) else {
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                // The end, or a head that does not fit.
                return Ok(());
            }
            filled += read;
            continue;
        };
        let mut rest = (asked.head + asked.body).saturating_sub(filled);
        buffer.copy_within((asked.head + asked.body).min(filled)..filled, 0);
        filled = filled.saturating_sub(asked.head + asked.body);
        if rest > 0 {
            let mut sink = vec![0; PIECE];
            while rest > 0 {
                let most = rest.min(PIECE);
                match stream.read(&mut sink[..most]).await? {
                    0 => return Ok(()),
                    read => rest -= read,
                }
            }
        }
        if asked.answer == ANSWER {
            stream.write_all(&small).await?;
        } else {
            large(&mut stream, asked.answer).await?;
        }
    }
}

fn head(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n")
}

fn answer(length: usize) -> Vec<u8> {
    let mut answer = head(length).into_bytes();
    answer.resize(answer.len() + length, b'x');
    answer
}

async fn large(stream: &mut TcpStream, mut length: usize) -> std::io::Result<()> {
    stream.write_all(head(length).as_bytes()).await?;
    let piece = vec![b'x'; PIECE.min(length)];
    while length > 0 {
        let most = length.min(piece.len());
        stream.write_all(&piece[..most]).await?;
        length -= most;
    }
    Ok(())
}

/// None until the head is whole. What the gateways between forward is well-formed, so nothing is refused here.
fn asked(bytes: &[u8]) -> Option<Asked> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let (line, fields) = bytes[..head].split_at(bytes.iter().position(|byte| *byte == b'\n')? + 1);
    let answer = match line.strip_prefix(b"GET /bytes/") {
        Some(rest) => number(rest).min(LARGEST),
        None => ANSWER,
    };
    let body = if line.starts_with(b"GET ") {
        0
    } else {
        fields.split(|byte| *byte == b'\n').find_map(content_length).unwrap_or(0)
    };
    Some(Asked { head, answer, body })
}

fn content_length(line: &[u8]) -> Option<usize> {
    let name = b"content-length:";
    let value = line.get(name.len()..)?;
    line[..name.len()]
        .eq_ignore_ascii_case(name)
        .then(|| number(value.trim_ascii_start()))
}

/// The number that the bytes begin with.
fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number: usize, digit| {
            number.saturating_mul(10).saturating_add(usize::from(digit - b'0'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_what_it_asks_for() {
        let plain = b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET";
        let of = |head, answer, body| Some(Asked { head, answer, body });
        assert_eq!(asked(plain), of(plain.len() - 3, ANSWER, 0));
        let sized = b"GET /bytes/1048576?x HTTP/1.1\r\n\r\n";
        assert_eq!(asked(sized), of(sized.len(), 1 << 20, 0));
        let sent = b"POST / HTTP/1.1\r\nContent-Length: 70000\r\n\r\n";
        assert_eq!(asked(sent), of(sent.len(), ANSWER, 70_000));
    }

    #[test]
    fn half_a_head_asks_for_nothing_yet() {
        assert_eq!(asked(b""), None);
        assert_eq!(asked(b"GET / HTTP/1.1\r\nhost: x\r\n"), None);
    }

    #[test]
    fn an_answer_has_a_ceiling() {
        let head = b"GET /bytes/99999999999999999999999 HTTP/1.1\r\n\r\n";
        assert_eq!(asked(head).unwrap().answer, LARGEST);
    }
}
