//! wrk: HTTP/1.1 over kept connections, as fast as the answers come.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::Load;
use crate::lab::Lab;

/// One run of wrk.
#[derive(Debug, Clone)]
pub(crate) struct Wrk {
    pub(crate) connections: u32,
    pub(crate) url: String,
    pub(crate) seconds: u32,
    /// A Lua script that makes the requests, where they are not all the same.
    pub(crate) script: Option<PathBuf>,
}

impl Wrk {
    pub(crate) fn run(&self, lab: &Lab) -> Result<Load> {
        let mut command = lab.debian("usr/bin/wrk");
        command.args(["--latency", "-t1", "-c"]).arg(self.connections.to_string());
        command.arg("-d").arg(format!("{}s", self.seconds));
        if let Some(script) = &self.script {
            command.arg("-s").arg(script);
        }
        let output = command.arg(&self.url).output().context("wrk does not start")?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("wrk ({}): {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        parse(&text).with_context(|| format!("wrk printed what is not its report:\n{text}"))
    }
}

fn parse(text: &str) -> Option<Load> {
    let after = |mark: &str| text.lines().find_map(|line| line.trim().strip_prefix(mark)).map(str::trim);
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))?
        .0
        .parse()
        .ok()?;
    let errors: Vec<String> = ["Socket errors:", "Non-2xx or 3xx responses:"]
        .into_iter()
        .filter_map(|mark| Some(format!("{} {}", mark.trim_end_matches(':').to_lowercase(), after(mark)?)))
        .collect();
    Some(Load {
        requests,
        per_second: after("Requests/sec:")?.parse().ok()?,
        p50: microseconds(after("50%")?)?,
        p99: microseconds(after("99%")?)?,
        errors: (!errors.is_empty()).then(|| errors.join(", ")),
    })
}

/// `123.00us`, `1.23ms`, `1.23s`, `1.23m`.
fn microseconds(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<f64>().ok().map(|number| number * factor);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 1s test @ http://127.0.0.1:8999/
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.73ms    4.47ms  17.18ms   75.89%
    Req/Sec   755.10    284.43     1.09k    60.00%
  Latency Distribution
     50%  410.00us
     75%    8.91ms
     90%   11.96ms
     99%    1.12s
  752 requests in 1.01s, 326.80KB read
Requests/sec:    747.70
Transfer/sec:    324.93KB
";

    #[test]
    fn a_report_is_read() {
        let load = parse(REPORT).unwrap();
        assert_eq!(
            load,
            Load {
                requests: 752,
                per_second: 747.7,
                p50: 410.0,
                p99: 1.12e6,
                errors: None
            }
        );
    }

    #[test]
    fn errors_are_told() {
        let text = REPORT.replace(
            "Requests/sec",
            "  Socket errors: connect 0, read 5, write 0, timeout 1\n  Non-2xx or 3xx responses: 891\nRequests/sec",
        );
        let errors = parse(&text).unwrap().errors.unwrap();
        assert_eq!(
            errors,
            "socket errors connect 0, read 5, write 0, timeout 1, non-2xx or 3xx responses 891"
        );
    }

    #[test]
    fn something_else_is_no_report() {
        assert_eq!(parse("unable to connect to 127.0.0.1:8998 Connection refused"), None);
        assert_eq!(microseconds("12"), None);
        assert_eq!(microseconds("2.00m"), Some(120e6));
    }
}
