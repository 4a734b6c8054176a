//! The local socket: whoever connects is known by what the kernel says about its process.
//!
//! There is no TLS on it. Who may come near it is a matter of the folder that it is in; what a process may be is a matter of the
//! registration entries. A process is looked at by its folder in `/proc`, held open from the moment of the connection on: should the
//! process end, the folder is dead, and is not that of another with the same number.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::authority::{Facts, Workload};

/// How many processes may be connected; more wait in the listener's backlog.
const CONNECTIONS: usize = 256;
/// How many programs are read at once: each costs a core.
const READERS: usize = 2;
/// The longest program that is read.
const MAX_PROGRAM: u64 = 1 << 30;
/// How long a connection may stay: it is there to join, which is over in moments.
const STAY: Duration = Duration::from_secs(60);
/// How long to wait when the system has no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// The socket, taken away when this is dropped.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds `path`, in place of what a control plane left there that is gone.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if fs::symlink_metadata(path)?.file_type().is_socket() {
                    fs::remove_file(path)?;
                }
            }
            // Binding says what is wrong, if anything is.
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        let socket = Self {
            listener,
            path: path.to_owned(),
        };
        // Any user may connect who may enter the folder: who it is decides.
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        Ok(socket)
    }

    /// Accepts until `drain` is cancelled.
    pub(super) fn connections(self, drain: CancellationToken) -> impl Stream<Item = io::Result<Connection>> {
        let (ready, connections) = mpsc::channel(1);
        tokio::spawn(async move {
            let (slots, readers) = (Arc::new(Semaphore::new(CONNECTIONS)), Arc::new(Semaphore::new(READERS)));
            loop {
                let slot = Arc::clone(&slots).acquire_owned();
                let accepted = async { (slot.await, self.listener.accept().await) };
                let (slot, accepted) = tokio::select! {
                    accepted = accepted => accepted,
                    () = drain.cancelled() => return,
                };
                let slot = slot.expect("the semaphore is never closed");
                let connection = accepted.and_then(|(stream, _)| Connection::new(stream, &readers, slot));
                match connection {
                    // The receiver is gone once the server drains.
                    Ok(connection) => drop(ready.send(Ok(connection)).await),
                    Err(error) => {
                        tracing::warn!(%error, "a connection to the local socket was not accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
        ReceiverStream::new(connections)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A process that connected.
#[derive(Clone)]
pub(super) struct Process {
    uid: u32,
    gid: u32,
    /// Its folder in `/proc`.
    folder: Arc<File>,
    readers: Arc<Semaphore>,
}

impl Process {
    fn of(stream: &UnixStream, readers: &Arc<Semaphore>) -> io::Result<Self> {
        let peer = stream.peer_cred()?;
        let pid = peer.pid().ok_or(io::ErrorKind::Unsupported)?;
        let process = Self {
            uid: peer.uid(),
            gid: peer.gid(),
            folder: Arc::new(File::open(format!("/proc/{pid}"))?),
            readers: Arc::clone(readers),
        };
        // The number may have become another process's since the connection was made.
        let status = fs::read_to_string(process.at("status"))?;
        if effective(&status, "Uid:") != Some(process.uid) || effective(&status, "Gid:") != Some(process.gid) {
            return Err(io::Error::other(
                "the process that connected is gone, or has changed its user",
            ));
        }
        Ok(process)
    }

    /// A file of its folder in `/proc`.
    fn at(&self, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", self.folder.as_raw_fd())
    }

    /// The hash of its program.
    fn read_program(&self) -> io::Result<[u8; 32]> {
        let mut program = io::Read::take(File::open(self.at("exe"))?, MAX_PROGRAM + 1);
        let mut context = digest::Context::new(&SHA256);
        let mut buffer = vec![0; 64 * 1024];
        let mut length = 0;
        loop {
            let read = io::Read::read(&mut program, &mut buffer)?;
            if read == 0 {
                break;
            }
            length += read as u64;
            context.update(buffer.get(..read).unwrap_or_default());
        }
        if length > MAX_PROGRAM {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Ok(hash)
    }
}

/// The effective one of the four ids in a line of `/proc/PID/status`.
fn effective(status: &str, line: &str) -> Option<u32> {
    let ids = status.lines().find_map(|text| text.strip_prefix(line))?;
    ids.split_ascii_whitespace().nth(1)?.parse().ok()
}

impl Workload for Process {
    fn facts(&self) -> Facts {
        let path = fs::read_link(self.at("exe")).ok();
        Facts {
            uid: self.uid,
            gid: self.gid,
            path: path.and_then(|path| path.into_os_string().into_string().ok()),
            sha256: None,
        }
    }

    async fn hashed(&self) -> Facts {
        let permit = Arc::clone(&self.readers).acquire_owned().await;
        let process = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            process.read_program()
        });
        let sha256 = match read.await {
            Ok(Ok(hash)) => Some(hash),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the program of a process could not be read");
                None
            }
            Err(_) => None,
        };
        Facts { sha256, ..self.facts() }
    }
}

/// A connection whose process is known.
pub(super) struct Connection {
    stream: UnixStream,
    process: Process,
    end: Pin<Box<tokio::time::Sleep>>,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: UnixStream, readers: &Arc<Semaphore>, slot: OwnedSemaphorePermit) -> io::Result<Self> {
        Ok(Self {
            process: Process::of(&stream, readers)?,
            stream,
            end: Box::pin(tokio::time::sleep(STAY)),
            _slot: slot,
        })
    }
}

impl Connected for Connection {
    type ConnectInfo = Process;

    fn connect_info(&self) -> Process {
        self.process.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_id_is_the_second_of_four() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n";
        assert_eq!((effective(status, "Uid:"), effective(status, "Gid:")), (Some(2), Some(6)));
        assert_eq!(effective("Uid:\t1", "Uid:"), None);
        assert_eq!(effective("", "Uid:"), None);
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        let error = Socket::bind(&path).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(Socket::bind(&path).is_err());
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "precious",
            "what is no socket is left alone"
        );
    }

    #[tokio::test]
    async fn this_process_is_known_by_its_program() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let process = Process::of(&ours, &Arc::new(Semaphore::new(1))).unwrap();
        drop(theirs);
        let program = std::env::current_exe().unwrap();
        let facts = process.hashed().await;
        assert_eq!(facts.path.as_deref(), program.to_str());
        let hash = digest::digest(&SHA256, &fs::read(program).unwrap());
        assert_eq!(facts.sha256.unwrap(), hash.as_ref());
    }
}
