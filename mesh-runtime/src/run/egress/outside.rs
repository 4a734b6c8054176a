//! What lies outside the mesh, and which of it the program may reach through the egress: `--allow-egress api.example.com:443`.
//!
//! Hosts are compared as they are written: a name is never resolved to see whether it is an address on the list.

use std::net::IpAddr;
use std::str::FromStr;

use http::uri::Authority;

/// Hosts outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allowed {
    host: Hosts,
    /// Any where there is none.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    Any,
    One(String),
    /// Every name below this one, as in `.example.com`.
    Below(String),
}

impl Allowed {
    /// Whether this host, in [its usual form](canonical), may be reached at this port.
    pub(super) fn allows(&self, host: &str, port: u16) -> bool {
        let host = match &self.host {
            Hosts::Any => true,
            Hosts::One(one) => one == host,
            Hosts::Below(suffix) => host.strip_suffix(suffix.as_str()).is_some_and(|rest| !rest.is_empty()),
        };
        host && self.port.is_none_or(|allowed| allowed == port)
    }
}

/// A host as hosts are compared: names know no case, a dot at the end changes nothing, and an address has one form.
pub(super) fn canonical(authority: &Authority) -> String {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => bare.trim_end_matches('.').to_ascii_lowercase(),
    }
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no host; write HOST or HOST:PORT, as in api.example.com:443, *.example.com or [2001:db8::1]:443"
            )
        };
        let (pattern, port) = split_port(text).ok_or_else(wrong)?;
        if pattern == "*" {
            return Ok(Self { host: Hosts::Any, port });
        }
        let (below, name) = match pattern.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, pattern),
        };
        let authority: Authority = name.parse().map_err(|_| wrong())?;
        if authority.as_str().contains(['@', '*']) || authority.host().is_empty() {
            return Err(wrong());
        }
        let host = canonical(&authority);
        if host == "mesh" || host.ends_with(".mesh") {
            return Err(format!(
                "`{text}` is of the mesh, whose policy says who may talk to whom; leave it out here"
            ));
        }
        let host = if below {
            Hosts::Below(format!(".{host}"))
        } else {
            Hosts::One(host)
        };
        Ok(Self { host, port })
    }
}

/// The host, in brackets where it came so, and the port after it.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let after_brackets = text.rfind(']').map_or(0, |end| end + 1);
    match text[after_brackets..].rfind(':') {
        None => Some((text, None)),
        Some(colon) => {
            let (host, port) = text.split_at(after_brackets + colon);
            let port = port[1..].parse::<u16>().ok().filter(|port| *port > 0)?;
            Some((host, Some(port)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_allowed_by_name_and_port() {
        for (allowed, host, port, expected) in [
            ("api.example.com", "api.example.com", 443, true),
            ("api.example.com", "API.example.COM.", 8080, true),
            ("api.example.com:443", "api.example.com", 443, true),
            ("api.example.com:443", "api.example.com", 80, false),
            ("api.example.com", "api.example.com.evil.test", 443, false),
            ("api.example.com", "example.com", 443, false),
            ("*.example.com", "a.b.example.com", 443, true),
            ("*.example.com", "example.com", 443, false),
            ("*.example.com", "evilexample.com", 443, false),
            ("*.example.com:443", "a.example.com", 80, false),
            ("10.0.0.1:80", "10.0.0.1", 80, true),
            ("[2001:DB8::1]:443", "[2001:db8:0::1]", 443, true),
            ("[2001:db8::1]", "[2001:db8::2]", 443, false),
            ("*", "anything.test", 1, true),
            ("*:443", "anything.test", 80, false),
        ] {
            let list: Allowed = allowed.parse().unwrap();
            let host: Authority = host.parse().unwrap();
            assert_eq!(list.allows(&canonical(&host), port), expected, "{allowed} {host}:{port}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_with_an_example() {
        for text in [
            "",
            ":443",
            "a b",
            "a:0",
            "a:70000",
            "a:",
            "me@a",
            "a/b",
            "a.*.com",
            "*a.com",
            "https://a",
        ] {
            let error = text.parse::<Allowed>().unwrap_err();
            assert!(error.contains("api.example.com:443"), "{text}: {error}");
        }
        assert!("accounts.mesh".parse::<Allowed>().unwrap_err().contains("policy"));
        assert!("*.mesh".parse::<Allowed>().is_err());
    }
}
