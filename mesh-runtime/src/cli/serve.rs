//! `mesh-runtime serve`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ServeArguments;
use super::output::line;
use crate::config::{Config, FileSettings, StoreChoice};
use crate::operator::state_home;

pub(super) async fn serve(arguments: ServeArguments) -> anyhow::Result<ExitCode> {
    let file = arguments
        .config
        .as_deref()
        .map(FileSettings::read)
        .transpose()?
        .unwrap_or_default();
    if arguments.store.or(file.store) == Some(StoreChoice::Etcd) {
        eprintln!("error: an etcd store is not supported by this version; leave out --store, or give --store embedded");
        return Ok(ExitCode::from(2));
    }
    let config = settle(arguments, file)?;
    // Before anything is started, so that no signal finds the process without an answer.
    let mut stop = Stop::listen()?;
    let mut running = crate::serve(config).await?;
    line(format_args!("control listening on {}", running.control()))?;
    line(format_args!("admin listening on {}", running.admin()))?;
    tokio::select! {
        failed = running.failed() => {
            failed?;
            anyhow::bail!("the control plane stopped by itself");
        }
        name = stop.asked() => tracing::info!("{name}: draining"),
    }
    tokio::select! {
        stopped = running.shutdown() => stopped?,
        name = stop.asked() => anyhow::bail!("{name} again: stopped before the drain was over"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Flags over file over defaults.
fn settle(arguments: ServeArguments, file: FileSettings) -> anyhow::Result<Config> {
    let data_dir = data_dir(arguments.data_dir.or_else(|| file.data_dir.clone()))?;
    let mut config = Config::new("");
    file.apply(&mut config);
    config.data_dir = data_dir;
    config.listen = arguments.listen.unwrap_or(config.listen);
    config.admin = arguments.admin.unwrap_or(config.admin);
    config.socket = arguments.socket.or(config.socket);
    config.trust_domain = arguments.trust_domain.or(config.trust_domain);
    config.state_home = state_home();
    Ok(config)
}

/// Where the data is: where it is said to be, or in its place below the home of the user.
pub(super) fn data_dir(said: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    said.or_else(default_data_dir)
        .context("there is no HOME to keep the data in; choose a place with --data-dir")
}

fn default_data_dir() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(data.join("heddle").join("mesh"))
}

/// The signals that ask a program to stop.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one; its name.
    async fn asked(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
