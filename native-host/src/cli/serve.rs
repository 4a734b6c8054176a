//! `native-host serve`.

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
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

    let signals = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for signals")?;
    let running = crate::serve(options)?;
    announce(&running)?;
    signals.block_on(async {
        let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
        let mut stopped = std::pin::pin!(stopped());
        loop {
            tokio::select! {
                stopped = stopped.as_mut() => return stopped,
                _ = hangup.recv() => running.reload(),
            }
        }
    })?;
    tracing::info!("draining");
    // A second signal means now.
    std::thread::spawn(move || {
        if signals.block_on(stopped()).is_ok() {
            std::process::exit(1);
        }
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

/// Resolves at SIGTERM or Ctrl-C.
async fn stopped() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
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
