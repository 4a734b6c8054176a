//! Caddy: one processor for Go's scheduler, no log, no admin.

use std::net::SocketAddr;

use anyhow::Result;

use super::Contestant;
use crate::lab::Lab;

/// One route to `upstream`.
pub(crate) fn caddy(lab: &Lab, upstream: SocketAddr) -> Result<Contestant> {
    let address = lab.address()?;
    let config = format!(
        "{{
  admin off
  auto_https off
  log {{
    level ERROR
  }}
}}
http://{address} {{
  reverse_proxy {upstream} {{
    transport http {{
      keepalive_idle_conns_per_host 512
    }}
  }}
}}
"
    );
    let file = lab.write("Caddyfile", &config)?;
    let mut command = lab.debian("usr/bin/caddy");
    command.env("GOMAXPROCS", "1").env("HOME", &lab.folder);
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    Contestant::start(lab, "Caddy", address, &mut command)
}
