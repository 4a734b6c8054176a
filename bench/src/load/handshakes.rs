//! Full TLS handshakes, one after the other: openssl's `s_time`, which resumes nothing.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};

use super::Load;
use crate::lab::Lab;

/// Makes full handshakes of TLS 1.3 for some seconds; what counts as a request is a handshake.
pub(crate) fn handshakes(lab: &Lab, address: SocketAddr, seconds: u32) -> Result<Load> {
    let mut command = lab.debian("usr/bin/openssl");
    command
        .args(["s_time", "-new", "-tls1_3", "-connect"])
        .arg(address.to_string());
    let output = command
        .arg("-time")
        .arg(seconds.to_string())
        .output()
        .context("openssl does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "openssl s_time ({}): {text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let requests = parse(&text).with_context(|| format!("openssl printed what is not its report:\n{text}"))?;
    let per_second = crate::rounds::count(requests) / f64::from(seconds);
    // One after the other, so the mean is what there is to say of their time.
    let mean = 1e6 / per_second;
    Ok(Load {
        requests,
        per_second,
        p50: mean,
        p99: f64::NAN,
        errors: None,
    })
}

/// `1234 connections in 4 real seconds, 0 bytes read per connection`.
fn parse(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find(|line| line.contains(" connections in ") && line.contains("real seconds"))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_of_real_time_are_counted() {
        let text = "Collecting connection statistics for 3 seconds\n\n\n\
                    1200 connections in 0.71s; 1690.14 connections/user sec, bytes read 0\n\
                    1234 connections in 4 real seconds, 0 bytes read per connection\n";
        assert_eq!(parse(text), Some(1234));
        assert_eq!(parse("ERROR"), None);
    }
}
