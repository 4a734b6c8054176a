//! Compiled code on disk, so that a second start takes milliseconds instead of seconds.
//!
//! Whoever can write there can have this process run what they wrote, so the directory is its owner's alone or is not used.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use wasmtime::{Cache, CacheConfig};

/// The cache, where there is a safe place for it; without one the component is compiled at every start.
pub(super) fn open() -> Option<Cache> {
    let directory = directory()?;
    let opened = private(&directory).map_err(|error| error.to_string()).and_then(|()| {
        let mut config = CacheConfig::new();
        config.with_directory(&directory);
        Cache::new(config).map_err(|error| format!("{error:#}"))
    });
    opened
        .inspect_err(|error| tracing::warn!(directory = %directory.display(), %error, "compiled code is not kept"))
        .ok()
}

/// `$XDG_CACHE_HOME/heddle/code`, else `~/.cache/heddle/code`.
fn directory() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("heddle").join("code"))
}

/// Makes the directory, for its owner alone, and refuses one that belongs to somebody else or that others may write to.
fn private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() {
        return Err(io::Error::other("it is no directory"));
    }
    // The process's own files tell who it runs as; there is no other way without `unsafe` or one more crate.
    if found.uid() != fs::metadata("/proc/self")?.uid() {
        return Err(io::Error::other("it belongs to another user"));
    }
    if found.mode() & 0o077 != 0 {
        return Err(io::Error::other("others may use it: chmod 700"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_that_others_may_use_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("code");
        private(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(private(&directory).unwrap_err().to_string().contains("chmod 700"));
    }

    #[test]
    fn a_link_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let link = base.path().join("code");
        std::os::unix::fs::symlink(base.path(), &link).unwrap();
        assert!(private(&link).is_err());
    }
}
