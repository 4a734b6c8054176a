//! Large bodies, one after the other on kept connections, in either direction.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Load;
use crate::statistics::quantile;
use crate::upstream::ANSWER;

/// Where a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Download,
    Upload,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer {
    pub(crate) direction: Direction,
    pub(crate) bytes: usize,
    pub(crate) connections: usize,
    /// A reader that waits this long after each 64 KiB.
    pub(crate) pause: Option<Duration>,
}

/// How much is written or read at once.
const PIECE: usize = 256 * 1024;

/// How much a slow reader reads at once.
const SIP: usize = 64 * 1024;

pub(crate) const MEBIBYTE: usize = 1 << 20;

/// What one connection did.
#[derive(Debug, Default)]
struct Done {
    bytes: usize,
    /// Microseconds of each body that went over whole.
    times: Vec<f64>,
}

impl Transfer {
    /// Transfers for some seconds; what counts as a request is a mebibyte.
    pub(crate) fn run(self, address: SocketAddr, seconds: u32) -> Result<Load> {
        let begun = Instant::now();
        let until = begun + Duration::from_secs(u64::from(seconds));
        let done: Vec<Done> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.connections)
                .map(|_| scope.spawn(move || self.connection(address, until)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| bail!("a connection's thread panicked")))
                .collect::<Result<_>>()
        })?;
        let mebibytes = done.iter().map(|done| done.bytes).sum::<usize>() / MEBIBYTE;
        let mut times: Vec<f64> = done.into_iter().flat_map(|done| done.times).collect();
        times.sort_by(f64::total_cmp);
        let requests = u64::try_from(mebibytes)?;
        Ok(Load {
            requests,
            per_second: crate::rounds::count(requests) / begun.elapsed().as_secs_f64(),
            p50: quantile(&times, 0.5),
            p99: quantile(&times, 0.99),
            errors: None,
        })
    }

    fn connection(self, address: SocketAddr, until: Instant) -> Result<Done> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        let mut done = Done::default();
        let mut piece = vec![b'x'; if self.pause.is_some() { SIP } else { PIECE }];
        while Instant::now() < until {
            let begun = Instant::now();
            match self.direction {
                Direction::Download => {
                    write!(stream, "GET /bytes/{} HTTP/1.1\r\nhost: {address}\r\n\r\n", self.bytes)?;
                    self.read(&mut stream, &mut piece, self.bytes, until, &mut done)?;
                }
                Direction::Upload => {
                    write!(
                        stream,
                        "POST /bytes HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n",
                        self.bytes
                    )?;
                    let mut rest = self.bytes;
                    while rest > 0 && Instant::now() < until {
                        let most = rest.min(piece.len());
                        stream.write_all(&piece[..most])?;
                        rest -= most;
                        done.bytes += most;
                    }
                    if rest == 0 {
                        self.read(&mut stream, &mut piece, ANSWER, until, &mut Done::default())?;
                    }
                }
            }
            if Instant::now() < until {
                done.times.push(begun.elapsed().as_secs_f64() * 1e6);
            }
        }
        Ok(done)
    }

    /// Reads one answer, until it ends or the time is over.
    fn read(self, stream: &mut TcpStream, piece: &mut [u8], length: usize, until: Instant, done: &mut Done) -> Result<()> {
        let mut filled = 0;
        let end = loop {
            let read = stream.read(&mut piece[filled..])?;
            if read == 0 {
                bail!("the connection was closed: {}", String::from_utf8_lossy(&piece[..filled]));
            }
            filled += read;
            if let Some(end) = piece[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        if !piece.starts_with(b"HTTP/1.1 200 ") {
            bail!("{}", String::from_utf8_lossy(&piece[..end]));
        }
        let mut rest = (length + end).checked_sub(filled).context("an answer that is too long")?;
        done.bytes += filled - end;
        while rest > 0 && Instant::now() < until {
            let most = rest.min(piece.len());
            let read = stream.read(&mut piece[..most])?;
            if read == 0 {
                bail!("the connection was closed {rest} bytes before the end");
            }
            rest -= read;
            done.bytes += read;
            if let Some(pause) = self.pause {
                std::thread::sleep(pause);
            }
        }
        Ok(())
    }
}
