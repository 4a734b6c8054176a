//! `native-host serve`.

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::ServeArguments;
use crate::options::Options;

pub(super) fn run(arguments: ServeArguments) -> anyhow::Result<()> {
    log();
    let mut options = Options::new(arguments.config.config, arguments.engine);
    options.component = arguments.component;
    options.listen = arguments.listen;
    options.admin = arguments.admin;
    options.http1 = arguments.http1;
    options.workers = arguments.workers.map(usize::from);

    let waiting = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for signals")?;
    // Before anything is announced: whoever reads that it serves may send a signal at once.
    let mut signals = waiting.block_on(async { Signals::new() })?;
    let running = crate::serve(options)?;
    announce(&running)?;
    waiting.block_on(async {
        loop {
            tokio::select! {
                () = stopped(&mut signals.terminate, &mut signals.interrupt) => return,
                _ = signals.hangup.recv() => running.reload(),
            }
        }
    });
    tracing::info!("draining");
    // A second signal means now.
    std::thread::spawn(move || {
        waiting.block_on(stopped(&mut signals.terminate, &mut signals.interrupt));
        std::process::exit(1);
    });
    match running.shutdown() {
        0 => tracing::info!("drained"),
        connections => tracing::warn!(
            connections,
            "the drain's deadline passed, what was still in flight is cut off"
        ),
    }
    Ok(())
}

/// These two lines are for scripts, which wait for them and read the address.
fn announce(running: &crate::Running) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "gateway listening on {}", running.url())?;
    writeln!(stdout, "admin listening on http://{}", running.admin())?;
    stdout.flush()?;
    Ok(())
}

/// The signals that a gateway answers to.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes them from here on. Within a runtime only.
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?,
            terminate: signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
        })
    }
}

/// Resolves at SIGTERM or Ctrl-C.
async fn stopped(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .init();
}
