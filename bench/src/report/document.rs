//! Results are kept in `target/bench`, one file a bench; BENCHMARKS.md is made of the last ones.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Machine, Report};

/// A result with what it was made of.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) machine: Machine,
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    pub(crate) report: Report,
}

/// Keeps a result in place of the last one of its bench.
pub(crate) fn save(folder: &Path, kept: &Kept) -> Result<()> {
    let file = folder.join(format!("{}.result.json", kept.report.name));
    fs::write(&file, serde_json::to_vec_pretty(kept)?).with_context(|| format!("cannot write {}", file.display()))
}

/// The last result of each of `names` that has one.
pub(crate) fn load_all(folder: &Path, names: &[&str]) -> Result<Vec<Kept>> {
    let mut all = Vec::new();
    for name in names {
        let Ok(text) = fs::read(folder.join(format!("{name}.result.json"))) else {
            continue;
        };
        all.push(serde_json::from_slice(&text).with_context(|| format!("the last result of {name}: measure it again"))?);
    }
    Ok(all)
}

/// Writes BENCHMARKS.md.
pub(crate) fn write_document(file: &Path, results: &[Kept]) -> Result<()> {
    fs::write(file, document(results)).with_context(|| format!("cannot write {}", file.display()))
}

fn document(results: &[Kept]) -> String {
    let mut text = String::from(
        "# Benchmarks\n\n\
         Written by `cargo xtask bench --write`; do not edit. What was compared ran on one core, the load generator and the upstream on\n\
         the other; the contestants took turns, round by round. A figure is the median of the rounds; a ratio is taken within each round and\n\
         shown with the bounds between which its median would lie with more rounds, in 93 of 100 cases (of five rounds the least and the most,\n\
         of eleven the third from either end). Processor time is user and system time of all of a contestant's processes.\n\
         A goal is met or missed where both bounds say so, and else within the noise.\n",
    );
    for here in results.chunk_by(|one, other| same_place(&one.machine, &other.machine)) {
        let _ = write!(text, "\n{}", place(here));
        for Kept {
            machine,
            report,
            rounds,
            seconds,
        } in here
        {
            let _ = write!(
                text,
                "\n## {}\n\nCommit {}, `cargo xtask bench {}`, {rounds} rounds of {seconds} s.\n\n{}",
                report.name,
                machine.commit,
                report.name,
                report.text()
            );
        }
    }
    text
}

fn same_place(one: &Machine, other: &Machine) -> bool {
    let place = |machine: &Machine| Machine {
        commit: String::new(),
        versions: Vec::new(),
        ..machine.clone()
    };
    place(one) == place(other)
}

/// Where these were measured, and with what: one of them may have been compared with something that the others were not.
fn place(results: &[Kept]) -> String {
    let mut versions: Vec<String> = Vec::new();
    for (name, version) in results.iter().flat_map(|kept| &kept.machine.versions) {
        let version = format!("{name} {version}");
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    let Some(Kept { machine, .. }) = results.first() else {
        return String::new();
    };
    format!(
        "Machine: {}, {} cores, {} GiB, Linux {}. Compared with: {}.\n",
        machine.processor,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        versions.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: &str) -> Kept {
        Kept {
            machine: Machine {
                processor: "a processor".to_owned(),
                cores: 2,
                memory_gib: 8,
                kernel: "6.1".to_owned(),
                commit: "abc".to_owned(),
                versions: vec![("nginx".to_owned(), "1.22".to_owned())],
            },
            rounds: 5,
            seconds: 3,
            report: Report::new(name, "What was done."),
        }
    }

    #[test]
    fn a_document_says_machine_versions_commit_and_command() {
        let mut edge = kept("edge");
        edge.machine.versions.push(("wasmtime".to_owned(), "48.0".to_owned()));
        let text = document(&[kept("proxy"), edge]);
        assert_eq!(text.matches("a processor, 2 cores").count(), 1);
        assert!(text.contains("Compared with: nginx 1.22, wasmtime 48.0.\n"), "{text}");
        assert!(text.contains("## proxy\n\nCommit abc, `cargo xtask bench proxy`, 5 rounds of 3 s."));
        assert!(text.contains("## edge"));
    }

    #[test]
    fn a_result_is_kept_until_the_next_of_its_bench() {
        let folder = std::env::temp_dir().join(format!("heddle-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        save(&folder, &kept("proxy")).unwrap();
        let all = load_all(&folder, &["edge", "proxy"]).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].report.name, "proxy");
        fs::remove_dir_all(folder).unwrap();
    }
}
