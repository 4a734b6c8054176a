//! A real process with its output at hand, ended when its handle goes.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::eventually::eventually;

/// How long a process may take to say that it is ready. Generous: the first run compiles the component.
const READY: Duration = Duration::from_secs(120);

/// A binary of this workspace: the one in the folder that `HEDDLE_PROGRAMS` names where it is there, or else the one beside the test that
/// runs.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let others = std::env::var_os("HEDDLE_PROGRAMS").map(|folder| PathBuf::from(folder).join(name));
    if let Some(other) = others.filter(|other| other.exists()) {
        return other;
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let path = test.ancestors().nth(2).expect("tests live in target/PROFILE/deps").join(name);
    assert!(
        path.exists(),
        "{} is missing: build it with `cargo build --bins`",
        path.display()
    );
    path
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: std::process::Child,
    output: Arc<Mutex<String>>,
}

impl Process {
    /// Starts `command`, whose output is kept.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let output = Arc::new(Mutex::new(String::new()));
        keep(child.stdout.take().expect("stdout is piped"), &output);
        keep(child.stderr.take().expect("stderr is piped"), &output);
        Self {
            name: name.to_owned(),
            child,
            output,
        }
    }

    /// What follows `prefix` on the first line that starts with it.
    ///
    /// # Panics
    /// Where no such line comes in time, with all that was printed.
    #[must_use]
    pub fn line_after(&mut self, prefix: &str) -> String {
        eventually(READY, || {
            let output = self.output();
            let line = output.lines().find_map(|line| line.strip_prefix(prefix));
            line.map(|rest| rest.trim().to_owned()).ok_or_else(|| {
                let state = if self.child.try_wait().ok().flatten().is_some() {
                    "ended"
                } else {
                    "runs"
                };
                format!("{} ({state}) printed no line `{prefix}…`:\n{output}", self.name)
            })
        })
    }

    /// All that it printed.
    #[must_use]
    pub fn output(&self) -> String {
        self.output.lock().map(|output| output.clone()).unwrap_or_default()
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // A process that is gone already is what the signal wanted.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// Where it does not in time.
    pub fn ended(&mut self, within: Duration) -> ExitStatus {
        eventually(within, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("{} still runs:\n{}", self.name, self.output())),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Asks it to stop and waits.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended(Duration::from_secs(20))
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended(Duration::from_secs(5));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            self.signal(Signal::TERM);
            for _ in 0..100 {
                if self.child.try_wait().ok().flatten().is_some() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, self.output());
        }
    }
}

fn keep(stream: impl Read + Send + 'static, output: &Arc<Mutex<String>>) {
    let output = output.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Ok(mut output) = output.lock() {
                output.push_str(&line);
                output.push('\n');
            }
        }
    });
}

/// Runs a command to its end: its exit code, its output and its errors.
///
/// # Panics
/// Where it cannot be started.
#[must_use]
pub fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.stdin(Stdio::null()).output().expect("the command starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}
