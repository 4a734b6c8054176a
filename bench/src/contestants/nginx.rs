//! nginx: one worker, kept connections on both sides, no log.

use std::net::SocketAddr;

use anyhow::Result;

use super::Contestant;
use crate::certificates::Issued;
use crate::lab::Lab;

/// One route to `upstream`, behind TLS 1.3 and HTTP/2 where there is a certificate.
pub(crate) fn nginx(lab: &Lab, upstream: SocketAddr, certificate: Option<&Issued>) -> Result<Contestant> {
    let address = lab.address()?;
    let folder = lab.folder.join("nginx");
    std::fs::create_dir_all(&folder)?;
    let at = folder.display();
    let (flags, tls) = match certificate {
        None => ("", String::new()),
        Some(Issued { certificate, key }) => (
            "ssl http2 ",
            format!(
                "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3; http2_max_concurrent_streams 256;",
                certificate.display(),
                key.display()
            ),
        ),
    };
    let config = format!(
        "worker_processes 1;
daemon off;
error_log stderr;
pid {at}/nginx.pid;
worker_rlimit_nofile 65536;
events {{ worker_connections 8192; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path {at}/body;
  proxy_temp_path {at}/proxy;
  fastcgi_temp_path {at}/fastcgi;
  uwsgi_temp_path {at}/uwsgi;
  scgi_temp_path {at}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
  tcp_nodelay on;
  upstream up {{ server {upstream}; keepalive 512; keepalive_requests 1000000000; }}
  proxy_http_version 1.1;
  proxy_set_header Connection \"\";
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  # Bodies stream through, as they do in the others.
  client_max_body_size 0;
  proxy_request_buffering off;
  proxy_max_temp_file_size 0;
  server {{ listen {address} {flags}reuseport backlog=4096; {tls} location / {{ proxy_pass http://up; }} }}
}}
"
    );
    let file = lab.write("nginx.conf", &config)?;
    let mut command = lab.debian("usr/sbin/nginx");
    command.arg("-c").arg(file).arg("-p").arg(&folder).args(["-e", "stderr"]);
    Contestant::start(lab, "nginx", address, &mut command)
}
