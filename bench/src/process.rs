//! A program that was started for a bench, ended when its handle goes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::OnCore;
use crate::procfs;

/// How long a program may take until it listens; the wasm engine's first start compiles the component.
const READY: Duration = Duration::from_secs(120);

/// How long it may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(3);

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` on a core, with its output in `folder/NAME.log`.
    pub(crate) fn start(name: &str, command: &mut Command, core: usize, folder: &Path) -> Result<Self> {
        let log = folder.join(name.replace([' ', ','], "-")).with_extension("log");
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let _core = OnCore::new(core)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks until the answer is there, and fails where the program ends before.
    pub(crate) fn until<T>(&mut self, every: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        loop {
            let error = match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}):\n{}", self.name, self.log());
            }
            if begun.elapsed() > READY {
                return Err(error.context(format!("{} is not ready:\n{}", self.name, self.log())));
            }
            std::thread::sleep(every);
        }
    }

    /// What follows `mark` on the first line of its output that holds it.
    pub(crate) fn line_after(&mut self, mark: &str) -> Result<String> {
        let log = self.log.clone();
        self.until(Duration::from_millis(10), || {
            let text = fs::read_to_string(&log)?;
            // A line that is still being written has no end yet.
            let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
            let rest = whole.lines().find_map(|line| line.split_once(mark));
            rest.map(|(_, rest)| rest.trim().to_owned())
                .with_context(|| format!("no line with {mark:?}"))
        })
    }

    /// The end of its output.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // One that ended already needs no signal.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What it started would outlive it where it is killed itself.
        let tree = procfs::tree(self.id()).unwrap_or_default();
        self.signal(Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < STOP {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for pid in tree
            .into_iter()
            .filter_map(|pid| i32::try_from(pid).ok().and_then(Pid::from_raw))
        {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
