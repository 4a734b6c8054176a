//! What the component asks of its host. Every import is something that a host must have and that a security review must
//! judge, so a new one is a decision and not an accident of a dependency.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use wasmparser::{Parser, Payload};

use crate::toolchain::Toolchain;

/// Which of the two builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With the feature `spin`.
    Spin,
    /// Without it.
    Plain,
    /// With the feature `redis` on top of `spin`.
    Redis,
}

/// What the Rust library and the gateway import of WASI 0.2 and 0.3, without the last number of the version: it follows the
/// compiler, and a host that has one has the others.
const WASI: &[&str] = &[
    "wasi:cli/environment@0.2",
    "wasi:cli/exit@0.2",
    "wasi:cli/stderr@0.2",
    "wasi:cli/stdin@0.2",
    "wasi:cli/stdout@0.2",
    "wasi:cli/terminal-input@0.2",
    "wasi:cli/terminal-output@0.2",
    "wasi:cli/terminal-stderr@0.2",
    "wasi:cli/terminal-stdin@0.2",
    "wasi:cli/terminal-stdout@0.2",
    "wasi:clocks/monotonic-clock@0.2",
    "wasi:clocks/monotonic-clock@0.3",
    "wasi:clocks/types@0.3",
    "wasi:clocks/wall-clock@0.2",
    "wasi:filesystem/preopens@0.2",
    "wasi:filesystem/types@0.2",
    "wasi:http/client@0.3",
    "wasi:http/types@0.3",
    "wasi:io/error@0.2",
    "wasi:io/poll@0.2",
    "wasi:io/streams@0.2",
    "wasi:random/insecure-seed@0.2",
    "wasi:random/random@0.2",
];

/// What comes on top of it with the feature `spin`.
const SPIN: &[&str] = &["spin:variables/variables@3.0"];

/// What comes on top of that with the feature `redis`.
const REDIS: &[&str] = &["spin:redis/redis@3.0"];

/// What Debian's C library adds: its `close` knows every kind of descriptor, whoever calls it.
const DEBIAN: &[&str] = &["wasi:sockets/tcp@0.2", "wasi:sockets/udp@0.2"];

/// The names of a component's imports, in order.
pub(crate) fn of(file: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut names = Vec::new();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.with_context(|| format!("{} is no component", file.display()))? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    names.push(import?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Fails on an import that is not expected.
pub(crate) fn check(kind: Kind, toolchain: &Toolchain, found: &[String]) -> Result<()> {
    let unexpected: Vec<&str> = found
        .iter()
        .map(String::as_str)
        .filter(|name| {
            let track = track(name);
            let spin = kind != Kind::Plain && SPIN.contains(&track);
            let redis = kind == Kind::Redis && REDIS.contains(&track);
            let debian = matches!(toolchain, Toolchain::Debian(_)) && DEBIAN.contains(&track);
            !(WASI.contains(&track) || spin || redis || debian)
        })
        .collect();
    if !unexpected.is_empty() {
        bail!(
            "imports that nobody expected: {}; find what brought them in, or add them to xtask/src/imports.rs",
            unexpected.join(", ")
        );
    }
    Ok(())
}

/// `wasi:io/poll@0.2` of `wasi:io/poll@0.2.6`.
fn track(name: &str) -> &str {
    let version = name.find('@').map_or(name.len(), |at| at + 1);
    let mut dots = name[version..].match_indices('.');
    dots.nth(1).map_or(name, |(last, _)| &name[..version + last])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_of_a_version_does_not_count() {
        assert_eq!(track("wasi:io/poll@0.2.6"), "wasi:io/poll@0.2");
        assert_eq!(track("wasi:io/poll"), "wasi:io/poll");
        assert_eq!(track("wasi:io/poll@0.3.0-rc-1"), "wasi:io/poll@0.3");
    }

    #[test]
    fn an_import_that_is_not_in_the_list_is_refused() {
        let sockets = ["wasi:io/poll@0.2.6".to_owned(), "wasi:sockets/tcp@0.2.6".to_owned()];
        let error = check(Kind::Spin, &Toolchain::Native, &sockets)
            .expect_err("sockets are not expected")
            .to_string();
        assert!(error.contains("wasi:sockets/tcp@0.2.6") && !error.contains("poll"), "{error}");
    }

    #[test]
    fn the_plain_component_may_not_import_spin() {
        let variables = ["spin:variables/variables@3.0.0".to_owned()];
        assert!(check(Kind::Spin, &Toolchain::Native, &variables).is_ok());
        assert!(check(Kind::Plain, &Toolchain::Native, &variables).is_err());
    }

    #[test]
    fn only_the_component_with_shared_quotas_may_ask_a_store() {
        let redis = ["spin:redis/redis@3.0.0".to_owned()];
        assert!(check(Kind::Redis, &Toolchain::Native, &redis).is_ok());
        assert!(check(Kind::Spin, &Toolchain::Native, &redis).is_err());
        assert!(check(Kind::Plain, &Toolchain::Native, &redis).is_err());
    }
}
