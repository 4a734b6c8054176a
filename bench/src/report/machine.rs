//! Where, with what and of what a run was made.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::lab::Lab;

/// What somebody needs to know to believe a figure, or to measure it again.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    /// The commit that was measured, with a `+` where files were changed since.
    pub(crate) commit: String,
    /// The versions of the programs that were compared.
    pub(crate) versions: Vec<(String, String)>,
}

impl Machine {
    pub(crate) fn look(lab: &Lab) -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kilobytes = field(&memory, "MemTotal").and_then(|total| total.split(' ').next()?.parse::<u64>().ok());
        Self {
            processor: field(&cpu, "model name").unwrap_or("unknown").to_owned(),
            // Not what this process may use: it is tied to one of them.
            cores: cpu.lines().filter(|line| line.starts_with("processor")).count(),
            memory_gib: kilobytes.unwrap_or_default() >> 20,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            commit: commit(),
            versions: versions(lab),
        }
    }
}

/// The value of a `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
        .map(str::trim)
}

fn commit() -> String {
    let git = |arguments: &[&str]| output(Command::new("git").args(arguments));
    // What is written of a run changes nothing of what is measured in the next one.
    let status = git(&["status", "--porcelain", "--", ".", ":!BENCHMARKS.md"]);
    let changed = if status.is_empty() { "" } else { "+" };
    format!("{}{changed}", git(&["rev-parse", "--short", "HEAD"]))
}

fn versions(lab: &Lab) -> Vec<(String, String)> {
    let debian = |program: &str, flag: &str| version(&output(lab.debian(program).arg(flag)));
    let mut versions = vec![
        ("nginx".to_owned(), debian("usr/sbin/nginx", "-v")),
        ("HAProxy".to_owned(), debian("usr/sbin/haproxy", "-v")),
        ("Caddy".to_owned(), debian("usr/bin/caddy", "version")),
        ("wrk".to_owned(), debian("usr/bin/wrk", "-v")),
        ("h2load".to_owned(), debian("usr/bin/h2load", "--version")),
    ];
    if let Some(program) = &lab.envoy {
        versions.push(("Envoy".to_owned(), envoy(&output(Command::new(program).arg("--version")))));
    }
    if let Some(wasmtime) = &lab.wasmtime {
        versions.push((
            "wasmtime".to_owned(),
            version(&output(Command::new(wasmtime).arg("--version"))),
        ));
    }
    versions
}

fn output(command: &mut Command) -> String {
    let Ok(output) = command.output() else {
        return String::new();
    };
    // nginx says its version on standard error.
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// The first word with a digit and a point in it, without what stands before a slash.
fn version(text: &str) -> String {
    let is_version = |word: &&str| word.contains('.') && word.contains(|letter: char| letter.is_ascii_digit());
    let word = text.split_ascii_whitespace().find(is_version).unwrap_or("unknown");
    word.rsplit_once('/').map_or(word, |(_, version)| version).to_owned()
}

/// `PATH  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`.
fn envoy(text: &str) -> String {
    let version = text.split_once("version:").and_then(|(_, version)| version.split('/').nth(1));
    version.unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say_of_themselves() {
        assert_eq!(version("nginx version: nginx/1.22.1"), "1.22.1");
        assert_eq!(
            version("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"),
            "2.6.12-1+deb12u4"
        );
        assert_eq!(version("wrk debian/4.1.0-3+b2 [epoll]"), "4.1.0-3+b2");
        assert_eq!(version("2.6.2"), "2.6.2");
        assert_eq!(version(""), "unknown");
        assert_eq!(envoy("/x/envoy  version: 9e/1.40.0/Clean/RELEASE/BoringSSL"), "1.40.0");
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "model\t\t: 17\nmodel name\t: AMD EPYC\nMemTotal:       24684012 kB\n";
        assert_eq!(field(text, "model name"), Some("AMD EPYC"));
        assert_eq!(field(text, "MemTotal"), Some("24684012 kB"));
    }
}
