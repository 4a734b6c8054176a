//! The bench: what Heddle costs beside its peers, measured in interleaved rounds on one core.
//!
//! `cargo xtask bench` sets everything up and runs this program.

#![allow(
    clippy::print_stdout,
    reason = "a command's answer goes to standard output, its progress to standard error"
)]

mod benches;
mod certificates;
mod contestants;
mod http;
mod lab;
mod load;
mod mesh;
mod process;
mod procfs;
mod report;
mod rounds;
mod statistics;
mod tokens;
mod training;
mod upstream;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

use benches::Bench;
use lab::{Lab, OnCore, Places};
use report::{Kept, Machine};

/// What native-host has, so that compiling a config in this process is what it is there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Run by cargo xtask bench")]
enum Arguments {
    /// Measure
    Run(Run),
    /// Have native-host do each kind of its work for some seconds
    Train(Places),
    /// The upstream of all that is measured
    #[command(hide = true)]
    Upstream,
    /// One of the two programs of a call
    #[command(flatten)]
    Program(mesh::Program),
}

#[derive(clap::Args)]
struct Run {
    /// What to measure
    #[arg(value_enum)]
    names: Vec<Bench>,
    /// Two rounds instead of eleven
    #[arg(long)]
    quick: bool,
    /// How many rounds
    #[arg(long)]
    rounds: Option<u32>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    /// Write BENCHMARKS.md from the last result of each
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    places: Places,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse() {
        Arguments::Run(arguments) => run(arguments),
        Arguments::Train(places) => train(places).map(|()| ExitCode::SUCCESS),
        Arguments::Upstream => upstream::serve().map(|()| ExitCode::SUCCESS),
        Arguments::Program(program) => mesh::run(program).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn train(places: Places) -> Result<()> {
    let lab = Lab::new(places, 1, 2)?;
    let _core = OnCore::new(lab.load_core)?;
    training::train(&lab)
}

fn run(arguments: Run) -> Result<ExitCode> {
    let (rounds, seconds) = if arguments.quick { (2, 2) } else { (11, 2) };
    let lab = Lab::new(arguments.places, arguments.rounds.unwrap_or(rounds), seconds)?;
    // This program and the load generators that it runs are where the upstream is, so that what is measured has its own core.
    let _core = OnCore::new(lab.load_core)?;
    let machine = Machine::look(&lab);
    let names = if arguments.names.is_empty() {
        Bench::ALL.to_vec()
    } else {
        arguments.names
    };
    let (mut results, mut failures) = (Vec::new(), Vec::new());
    for bench in names {
        eprintln!("==> {}", bench.name());
        let report = bench.run(&lab).with_context(|| bench.name())?;
        failures.extend(
            report
                .failures()
                .into_iter()
                .map(|failure| format!("{}: {failure}", bench.name())),
        );
        let kept = Kept {
            machine: machine.clone(),
            rounds: lab.rounds,
            seconds: lab.seconds,
            report,
        };
        report::save(&lab.folder, &kept)?;
        if !arguments.json {
            println!("## {}\n\n{}", bench.name(), kept.report.text());
        }
        results.push(kept);
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    }
    if arguments.write {
        let all = report::load_all(&lab.folder, &Bench::ALL.map(Bench::name))?;
        report::write_document(Path::new("BENCHMARKS.md"), &all)?;
        eprintln!("==> BENCHMARKS.md is written");
    }
    for failure in &failures {
        eprintln!("error: {failure}");
    }
    Ok(if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
