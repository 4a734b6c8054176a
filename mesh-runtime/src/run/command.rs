//! The command that is wrapped: how it is started, tied to this process, signalled and ended.
//!
//! Two things keep it from outliving the wrapper. The command gets a process group of its own, which is signalled as a
//! whole and killed when the wrapper is done. And for a wrapper that is killed itself (`kill -9`), the kernel kills the
//! command by its parent-death signal; that reaches the command alone, so processes which the command has started have to
//! watch for its end themselves.
//!
//! That signal is a setting of the process that will be the command, made before it becomes it. The wrapper
//! therefore starts itself again as `tied`, which makes the setting and then executes the command in its place.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::pin::pin;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};
use tokio::process::Child;
use tokio::time::sleep;

use super::signals::{Asked, Stop};

/// The subcommand that [`become_command`] is.
pub(crate) const TIED: &str = "tied";
/// Exit codes as shells use them: a command that is not there, and one that cannot be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// By these programs learn of a proxy; most look for https:// at the latter two, and gRPC's for anything.
const PROXIES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"];

/// What the command finds in its environment.
pub(super) struct Surroundings {
    /// The way into the mesh.
    pub(super) egress: SocketAddr,
    /// Variables besides.
    pub(super) variables: Vec<(String, String)>,
}

/// The running command.
pub(super) struct Wrapped {
    child: Child,
    group: Option<Pid>,
}

impl Wrapped {
    /// Starts the command. Must be called on the main thread: the kernel sends the parent-death signal when the *thread*
    /// that started the process ends.
    pub(super) fn start(command: &[OsString], surroundings: &Surroundings) -> anyhow::Result<Self> {
        let egress = format!("http://{}", surroundings.egress);
        let loopback = "localhost,127.0.0.0/8,127.0.0.1,::1";
        let mut this = std::process::Command::new("/proc/self/exe");
        this.arg0("mesh-runtime")
            .args([TIED, &std::process::id().to_string(), "--"])
            .args(command)
            .env("MESH_EGRESS", &egress)
            .envs(PROXIES.map(|variable| (variable, &egress)))
            .envs(["no_proxy", "NO_PROXY"].map(|variable| (variable, loopback)))
            .envs(surroundings.variables.iter().map(|(variable, value)| (variable, value)))
            // What lets the wrapper into the mesh is not the command's business.
            .env_remove("MESH_TOKEN")
            .env_remove("HEDDLE_OPERATOR_TOKEN")
            .process_group(0);
        // A group in the background is stopped when it reads from the terminal.
        if io::stdin().is_terminal() {
            this.stdin(Stdio::null());
        }
        let child = tokio::process::Command::from(this)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a process")?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, group })
    }

    /// Waits until the command ends.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Passes on what this process was asked, and what it is asked while the command ends; makes it end once `grace` is over.
    pub(super) async fn stop(&mut self, asked: Asked, more: &mut Stop, grace: Duration) -> io::Result<ExitStatus> {
        let mut patience = pin!(sleep(grace));
        self.signal(asked.signal);
        loop {
            tokio::select! {
                ended = self.child.wait() => return ended,
                asked = more.asked() => self.signal(asked.signal),
                () = patience.as_mut() => {
                    tracing::warn!(?grace, "the command did not stop; it is killed");
                    self.signal(Signal::KILL);
                    return self.child.wait().await;
                }
            }
        }
    }

    /// Its process, which has the number of its group.
    pub(super) const fn id(&self) -> Option<Pid> {
        self.group
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // It may be gone.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Wrapped {
    /// What the command left behind in its group goes with it.
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The exit code that stands for how a command ended: its own, or 128 and the signal's number as shells have it.
pub(super) fn code_of(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| Some(128 + status.signal()?))
        .and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Becomes the command; returns only where that fails. `parent` is the wrapper that started this process.
pub(crate) fn become_command(parent: u32, command: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::from(2);
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("error: the command cannot be tied to its wrapper: {error}");
        return ExitCode::FAILURE;
    }
    // The wrapper may have died before the setting was made.
    if getppid().is_none_or(|id| u32::try_from(id.as_raw_nonzero().get()) != Ok(parent)) {
        return ExitCode::FAILURE;
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    eprintln!("error: cannot start `{}`: {error}", program.display());
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_end_is_told_as_shells_do() {
        let code = |raw| format!("{:?}", code_of(ExitStatus::from_raw(raw)));
        assert_eq!(code(0), format!("{:?}", ExitCode::from(0)));
        assert_eq!(code(3 << 8), format!("{:?}", ExitCode::from(3)));
        assert_eq!(code(15), format!("{:?}", ExitCode::from(143)));
        assert_eq!(code(9), format!("{:?}", ExitCode::from(137)));
    }
}
