//! The programs that the demo has started: watched while it runs, stopped when it ends.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::run;

/// How long a program may take to finish what it has in flight. Their own drains are bounded by 30 s, and nothing here is slow.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// One program.
struct Service {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts `command`. It gets a process group of its own, so that a Ctrl-C on the
    /// terminal reaches this program alone, which then stops the others in their order.
    fn start(name: &'static str, command: &mut Command, logs: &Path) -> Result<Self> {
        let log = logs.join(name).with_extension("log");
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name}: cannot start {}", command.get_program().to_string_lossy()))?;
        Ok(Self { name, child, log })
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself; then there is nobody to tell, and `wait` says how it went.
            let _ = kill_process(pid, signal);
        }
    }
}

/// All of them, in the order in which they were started.
#[derive(Default)]
pub(crate) struct Services(Vec<Service>);

impl Services {
    /// Starts one more, with its output in `logs/NAME.log`.
    pub(crate) fn start(&mut self, name: &'static str, command: &mut Command, logs: &Path) -> Result<()> {
        self.0.push(Service::start(name, command, logs)?);
        Ok(())
    }

    /// Fails where one has ended by itself, with the end of its log.
    pub(crate) fn all_run(&mut self) -> Result<()> {
        for service in &mut self.0 {
            if let Some(status) = service.child.try_wait()? {
                bail!(
                    "{} ended ({status}):\n{}    the whole log: {}",
                    service.name,
                    run::tail(&service.log, 20),
                    service.log.display()
                );
            }
        }
        Ok(())
    }

    /// The end of one's log.
    pub(crate) fn log_of(&self, name: &str) -> String {
        self.0
            .iter()
            .find(|service| service.name == name)
            .map(|service| run::tail(&service.log, 20))
            .unwrap_or_default()
    }

    /// Stops them, the last one first: whoever asks stops before whoever answers.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let mut unclean = Vec::new();
        while let Some(mut service) = self.0.pop() {
            service.signal(Signal::TERM);
            match ended(&mut service)? {
                Some(status) if status.success() => {}
                Some(status) => unclean.push(format!("{} ({status}, see {})", service.name, service.log.display())),
                None => {
                    service.signal(Signal::KILL);
                    service.child.wait()?;
                    unclean.push(format!("{} (did not stop within {} s)", service.name, STOP_LIMIT.as_secs()));
                }
            }
        }
        if !unclean.is_empty() {
            bail!("not everything stopped cleanly: {}", unclean.join(", "));
        }
        eprintln!("    everything is stopped");
        Ok(())
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        for service in &mut self.0 {
            service.signal(Signal::KILL);
            let _ = service.child.wait();
        }
    }
}

fn ended(service: &mut Service) -> Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        let status = service.child.try_wait()?;
        if status.is_some() || begun.elapsed() > STOP_LIMIT {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
