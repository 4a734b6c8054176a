//! HAProxy: one thread, connections to the upstream shared by all clients, no log.

use std::net::SocketAddr;

use anyhow::Result;

use super::Contestant;
use crate::certificates::Issued;
use crate::lab::Lab;

/// One route to `upstream`, behind TLS 1.3 and HTTP/2 where there is a certificate.
pub(crate) fn haproxy(lab: &Lab, upstream: SocketAddr, certificate: Option<&Issued>) -> Result<Contestant> {
    let address = lab.address()?;
    let tls = certificate.map_or_else(String::new, |issued| {
        format!(" ssl crt {} alpn h2,http/1.1 ssl-min-ver TLSv1.3", issued.both().display())
    });
    let config = format!(
        "global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  option forwardfor
  http-reuse always
frontend f
  bind {address}{tls}
  default_backend b
backend b
  server s {upstream} pool-max-conn 512
"
    );
    let file = lab.write("haproxy.cfg", &config)?;
    let mut command = lab.debian("usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(file);
    Contestant::start(lab, "HAProxy", address, &mut command)
}
