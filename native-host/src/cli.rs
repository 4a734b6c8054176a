//! The command line. `main` handles the error; `run` reads like a table of contents.

mod diff;
mod explain;
mod request;
mod serve;

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::options::{EngineKind, Http1};
use crate::snapshot::{LoadError, Snapshot};

/// Runs the Heddle gateway on this machine.
#[derive(Debug, Parser)]
#[command(name = "native-host", version, max_term_width = 120, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  native-host serve --config gateway.toml
  native-host serve --config gateway.toml --engine native --listen 127.0.0.1:0
  native-host check --config gateway.toml
  native-host routes --config gateway.toml --json
  native-host explain --config gateway.toml GET http://api.example/accounts/7 -H 'accept: application/json'
  native-host diff gateway.toml new.toml --requests recorded.http
  native-host schema > gateway.schema.json

Exit codes: 0 it worked, 1 it failed, 2 wrong usage.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve requests until SIGTERM or Ctrl-C
    #[command(after_help = "\
Example:
  native-host serve --config gateway.toml --engine wasm --component target/gateway.wasm

Without --component, gateway.wasm is looked for beside this executable, one folder above it, and in target/ of the working \
directory. The address that was bound is printed, so port 0 takes a free one. RUST_LOG filters what is logged (for example \
RUST_LOG=warn, or RUST_LOG=info,access=off to leave out the line per request).")]
    Serve(ServeArguments),
    /// Print every mistake of a config, each with its place and its mend
    #[command(after_help = "Example:\n  native-host check --config gateway.toml")]
    Check {
        #[command(flatten)]
        config: ConfigArgument,
    },
    /// Print the compiled routes in the order in which they are tried
    #[command(after_help = "Example:\n  native-host routes --config gateway.toml --json")]
    Routes {
        #[command(flatten)]
        config: ConfigArgument,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell why a request gets the answer that it gets, without sending anything
    #[command(after_help = "\
Example:
  native-host explain --config gateway.toml POST http://api.example/transfers -H 'content-type: application/json' --body transfer.json")]
    Explain(ExplainArguments),
    /// Tell what a changed config decides otherwise about recorded requests, without sending anything
    #[command(after_help = "\
Example:
  native-host diff gateway.toml new.toml --requests recorded.http

The requests are heads as they are sent, with an empty line behind each; or one JSON object a line, such as
  {\"method\": \"GET\", \"url\": \"http://api.example/accounts/7\", \"headers\": {\"accept\": \"application/json\"}}
Bodies are no part of it: what a body decides is decided on an empty one. Issuers are not asked for their keys.")]
    Diff(DiffArguments),
    /// Print the JSON Schema of the config, with which editors complete and check it
    #[command(after_help = "Example:\n  native-host schema > gateway.schema.json")]
    Schema,
}

#[derive(Debug, clap::Args)]
struct ConfigArgument {
    /// The gateway's config file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ServeArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Who decides: the component in its sandbox, the same as it runs at the edge, or the gateway linked into this program
    #[arg(long, value_enum, default_value = "wasm")]
    engine: EngineKind,
    /// The component that the wasm engine and the edge engine run
    #[arg(long, value_name = "FILE.wasm")]
    component: Option<PathBuf>,
    /// Where to listen, instead of the config's `listen`
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where the admin listens, instead of the config's `admin`
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Whose codec speaks HTTP/1, to clients and to upstreams
    #[arg(long, value_enum, default_value = "own")]
    http1: Http1,
    /// Threads that serve requests [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
}

#[derive(Debug, clap::Args)]
struct ExplainArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The request's method
    method: String,
    /// The request's URL, or its path alone
    url: String,
    /// A header field of the request
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The file that holds the request's body
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct DiffArguments {
    /// The config before
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The config after
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// The file that holds the recorded requests
    #[arg(long, value_name = "FILE")]
    requests: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Exit with 1 where a decision changed
    #[arg(long)]
    exit_code: bool,
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Diff(arguments) => {
            let changed = diff::run(&arguments)?;
            return Ok(ExitCode::from(u8::from(changed && arguments.exit_code)));
        }
        Command::Serve(arguments) => serve::run(arguments),
        Command::Check { config } => check(&config.config),
        Command::Routes { config, json } => {
            let snapshot = Snapshot::load(&config.config)?;
            let lines = || snapshot.gateway().listing().iter().map(|rule| format!("{rule}\n")).collect();
            print(&if json { snapshot.routes_json() + "\n" } else { lines() })
        }
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Schema => print(gateway::CONFIG_SCHEMA),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn check(config: &Path) -> anyhow::Result<()> {
    let snapshot = Snapshot::load(config)?;
    if let Some(warnings) = snapshot.warnings() {
        let _nobody_reads = writeln!(std::io::stderr().lock(), "{warnings}");
    }
    let count = snapshot.gateway().routes().len();
    print(&format!(
        "{}: valid, {count} {}\n",
        config.display(),
        if count == 1 { "route" } else { "routes" }
    ))
}

/// Prints to standard output; whoever closed it early has seen enough.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Diagnostics are printed as they are, because their lines begin with the place that an editor jumps to.
fn report(error: &anyhow::Error) {
    let mut stderr = std::io::stderr().lock();
    let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (bold, plain) = if colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    let _nobody_reads = match error.downcast_ref::<LoadError>() {
        Some(LoadError::Invalid(diagnostics)) => writeln!(stderr, "{}", diagnostics.trim_end()),
        _ => writeln!(stderr, "{bold}error{plain}: {error:#}"),
    };
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_wrong_usage_is_exit_code_two() {
        Cli::command().debug_assert();
        assert_eq!(Cli::try_parse_from(["native-host", "serve"]).unwrap_err().exit_code(), 2);
        assert_eq!(Cli::try_parse_from(["native-host", "weave"]).unwrap_err().exit_code(), 2);
        assert_eq!(
            Cli::try_parse_from(["native-host", "serve", "--help"])
                .unwrap_err()
                .exit_code(),
            0
        );
    }
}
