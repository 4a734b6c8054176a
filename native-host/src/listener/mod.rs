//! Listening sockets: one per core on the same address, so that the kernel spreads connections and none ever changes its core.

mod by_codec;
mod by_hyper;
pub(crate) mod certificates;
mod connection;
mod gathering;
mod guard;
pub(crate) mod tls;

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

pub(crate) use by_codec::{Wire, trailers};
pub(crate) use connection::{Client, Connections, Front, Serving, serve};
pub(crate) use guard::InFlight;

/// Connections that the kernel keeps for us until a core accepts them.
const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; {mend}")]
pub struct BindError {
    address: SocketAddr,
    mend: String,
    #[source]
    source: io::Error,
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        let mend = match source.kind() {
            io::ErrorKind::AddrInUse => {
                "stop the program that has it, or choose another with --listen/--admin (port 0 takes a free one)"
            }
            io::ErrorKind::AddrNotAvailable => "this machine has no such address: use 127.0.0.1, 0.0.0.0 or one of its own",
            io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one",
            _ => "choose another address",
        };
        Self {
            address,
            mend: mend.to_owned(),
            source,
        }
    }
}

/// Binds `count` listeners to one address; port 0 becomes one free port for all of them.
///
/// # Errors
///
/// [`BindError`] where somebody else has the address, even where that somebody would share it (`SO_REUSEPORT` alone would
/// let two hosts of one user split the traffic between them without a word).
pub(crate) fn bind(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    let error = |source| BindError::new(address, source);
    if address.port() != 0 {
        socket(address, false).map_err(error)?;
    }
    let first = socket(address, count > 1).map_err(error)?;
    let bound = first.local_addr().map_err(error)?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(socket(bound, true).map_err(error)?);
    }
    Ok(listeners)
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without it a restart would wait for the TIME_WAIT of the connections before.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_core_gets_a_listener_on_the_same_free_port() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<_> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports.len(), 3);
        assert_ne!(ports[0], 0);
        assert!(ports.iter().all(|port| *port == ports[0]));
    }

    #[test]
    fn an_address_that_another_host_shares_is_in_use_all_the_same() {
        let held = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let error = bind(held[0].local_addr().unwrap(), 2).unwrap_err();
        assert!(error.to_string().contains("--listen"), "{error}");
    }
}
