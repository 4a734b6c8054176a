//! What a person or a machine does with this repository: `cargo xtask demo`, `test`, `component`, `release`, `bench`, `ci`.

#![allow(
    clippy::print_stdout,
    reason = "a command's answer goes to standard output, its progress to standard error"
)]

mod apt;
mod bench;
mod binaries;
mod ci;
mod component;
mod demo;
mod imports;
mod paths;
mod release;
mod run;
mod test;
mod toolchain;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, test and try Heddle.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = "Example:\n  cargo xtask demo")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up what is missing, build everything, run the bank, show one real request, keep serving until Ctrl-C
    Demo(demo::Arguments),
    /// Set up what is missing, build the component, run every test
    Test(test::Arguments),
    /// Build the gateway component for wasm32-wasip2 into target/gateway.wasm
    Component(component::Arguments),
    /// Build native-host as it is released, its code laid out by a profile of its own work, into target/released
    Release,
    /// Measure side by side against the peers: interleaved rounds on one core, ratios with their spread
    Bench(bench::Arguments),
    /// Everything that a change has to pass: format, lints, documentation, the component's imports, every test
    Ci,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Demo(arguments) => demo::demo(&arguments),
        Task::Test(arguments) => test::test(&arguments),
        Task::Component(arguments) => component::component(&arguments),
        Task::Release => release::release(),
        Task::Bench(arguments) => bench::bench(&arguments),
        Task::Ci => ci::ci(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
