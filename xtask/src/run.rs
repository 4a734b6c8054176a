//! Running other programs, with a line that says what is going on and how long it has taken.

use std::fs::{self, File};
use std::io::IsTerminal as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How often a silent step says that it is still at work, where nobody watches a terminal.
const STILL_AT_WORK: Duration = Duration::from_secs(15);

/// Says what begins.
pub(crate) fn say(what: &str) {
    eprintln!("==> {what}");
}

/// Runs a program whose own output is the progress, passed on as it comes; `mend` says what to do when it fails.
pub(crate) fn loudly(what: &str, command: &mut Command, mend: &str) -> Result<()> {
    say(what);
    let begun = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("{what}: cannot start {}", name(command)))?;
    succeeded(what, status, mend)?;
    eprintln!("    {what}: {}", elapsed(begun));
    Ok(())
}

/// Runs a program whose output only matters when it fails: the end of `log` is shown then.
pub(crate) fn quietly(what: &str, command: &mut Command, log: &Path, limit: Duration, mend: &str) -> Result<()> {
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("{what}: cannot start {}", name(command)))?;
    let status = watch(what, &mut child, limit)?;
    if !status.success() {
        eprint!("{}", tail(log, 15));
    }
    succeeded(what, status, mend)
}

/// The last lines of a file, indented.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| format!("    | {line}\n"))
        .collect()
}

/// How long ago that was, for people.
pub(crate) fn elapsed(since: Instant) -> String {
    let passed = since.elapsed();
    match passed.as_secs() {
        0..60 => format!("{:.1} s", passed.as_secs_f64()),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

fn watch(what: &str, child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let begun = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut told = begun;
    loop {
        if let Some(status) = child.try_wait()? {
            eprintln!("{}    {what}: {}", if terminal { "\r\x1b[K" } else { "" }, elapsed(begun));
            return Ok(status);
        }
        if begun.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("{what} took longer than {} s and was stopped", limit.as_secs());
        }
        if terminal {
            eprint!("\r\x1b[K    {what} … {}", elapsed(begun));
            std::io::stderr().flush()?;
        } else if told.elapsed() > STILL_AT_WORK {
            told = Instant::now();
            eprintln!("    {what} … {}", elapsed(begun));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn succeeded(what: &str, status: ExitStatus, mend: &str) -> Result<()> {
    if !status.success() {
        bail!("{what} failed ({status}): {mend}");
    }
    Ok(())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
