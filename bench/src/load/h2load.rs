//! h2load: HTTP/2, or HTTP/1.1, over TLS.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};

use super::Load;
use crate::lab::Lab;
use crate::statistics::quantile;

/// One run of h2load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct H2load<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) path: &'a str,
    pub(crate) connections: u32,
    /// Requests at once on a connection; one is HTTP/1.1.
    pub(crate) streams: u32,
    pub(crate) seconds: u32,
}

impl H2load<'_> {
    pub(crate) fn run(&self, lab: &Lab) -> Result<Load> {
        let log = lab.folder.join("h2load.times");
        // h2load appends.
        let _ = fs::remove_file(&log);
        let mut command = lab.debian("usr/bin/h2load");
        command.arg("-c").arg(self.connections.to_string()).arg("-t1");
        match self.streams {
            1 => command.arg("--h1"),
            streams => command.arg("-m").arg(streams.to_string()),
        };
        command.arg("-D").arg(self.seconds.to_string()).arg("--log-file").arg(&log);
        command.arg(format!("--connect-to={}", self.address));
        command.arg(format!("https://localhost:{}{}", self.address.port(), self.path));
        let output = command.output().context("h2load does not start")?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!(
                "h2load ({}): {text}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let report = parse(&text).with_context(|| format!("h2load printed what is not its report:\n{text}"))?;
        let times = times(&fs::read_to_string(&log).unwrap_or_default());
        Ok(Load {
            p50: quantile(&times, 0.5),
            p99: quantile(&times, 0.99),
            ..report
        })
    }
}

fn parse(text: &str) -> Option<Load> {
    let line = |mark: &str| text.lines().find_map(|line| line.trim().strip_prefix(mark));
    let requests = line("requests: ")?;
    let of = |word: &str| number_before(requests, word);
    let wrong: u64 = ["failed", "errored", "timeout"].into_iter().filter_map(of).sum();
    let codes = line("status codes: ")?;
    let other: u64 = ["3xx", "4xx", "5xx"]
        .into_iter()
        .filter_map(|code| number_before(codes, code))
        .sum();
    Some(Load {
        requests: of("done")?,
        per_second: line("finished in ")?
            .split(", ")
            .nth(1)?
            .strip_suffix(" req/s")?
            .parse()
            .ok()?,
        p50: 0.0,
        p99: 0.0,
        errors: (wrong + other > 0).then(|| format!("{requests}; {codes}")),
    })
}

/// The number before a word in `863 total, 865 started, 863 done`.
fn number_before(list: &str, word: &str) -> Option<u64> {
    list.split(", ")
        .find_map(|entry| entry.strip_suffix(word)?.trim().parse().ok())
}

/// The sorted times of a log: start, status and microseconds on a line, separated by tabs.
fn times(log: &str) -> Vec<f64> {
    let mut times: Vec<f64> = log
        .lines()
        .filter_map(|line| line.rsplit('\t').next()?.parse().ok())
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "starting benchmark...\n
finished in 1.00s, 863.00 req/s, 77.80KB/s
requests: 863 total, 865 started, 863 done, 863 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 863 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 77.80KB (79670) total, 101.25KB (103680) headers (space savings 0.00%), 244.40KB (250270) data
";

    #[test]
    fn a_report_is_read() {
        let load = parse(REPORT).unwrap();
        assert_eq!((load.requests, load.per_second, load.errors), (863, 863.0, None));
        assert_eq!(parse("h2load: nothing"), None);
    }

    #[test]
    fn errors_are_told() {
        for (good, bad) in [("0 errored", "2 errored"), ("0 5xx", "7 5xx")] {
            let errors = parse(&REPORT.replace(good, bad)).unwrap().errors.unwrap();
            assert!(errors.contains(bad), "{errors}");
        }
    }

    #[test]
    fn times_are_read_from_the_log_and_sorted() {
        assert_eq!(times("1700000000000\t200\t310\n1700000000001\t200\t290\n"), [290.0, 310.0]);
    }
}
