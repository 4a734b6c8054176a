//! Real servers of protocols that are not HTTP, for the suite that puts them into the mesh: PostgreSQL and Redis from Debian, unpacked and
//! not installed, so that none is started by being there.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::apt::Apt;
use crate::{paths, run};

/// Servers, and clients of their own.
const PACKAGES: [&str; 3] = ["postgresql", "redis-server", "redis-tools"];
/// Begins of the names of packages that are unpacked even where the system has them.
const WANTED: [&str; 2] = ["postgresql", "redis-"];

/// The folder that they are below, as below `/`.
pub(super) fn ready() -> Result<PathBuf> {
    let folder = paths::target("tools").join("databases");
    let (root, complete) = (folder.join("root"), folder.join("complete"));
    if complete.is_file() {
        return Ok(root);
    }
    run::say("unpacking PostgreSQL and Redis from Debian for the tests");
    // What an interrupted run left is no use.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&root)?;
    let apt = Apt::new(&folder, None, &WANTED, "they come with Debian 12 and newer");
    apt.update("reading Debian's package lists")?;
    apt.download("downloading PostgreSQL and Redis", &PACKAGES)?;
    apt.unpack(&root)?;
    fs::write(complete, "")?;
    Ok(root)
}
