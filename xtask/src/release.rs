//! `cargo xtask release`: native-host as it is released, its code laid out by a profile of its own work.
//!
//! The path of a request is a few hundred pieces of code that the compiler leaves all over 33 MiB, and the kernel's way through a socket
//! throws them out of the processor's first cache four times a request. llvm-bolt moves what runs to one place, in the order in which
//! it runs: 72 KiB of code a request instead of 100, and a sixth of the processor time (1.03 × nginx's instead of 1.25, 32 connections).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};

use crate::binaries::Binaries;
use crate::tools::{self, Bolt};
use crate::{component, paths, run};

/// Reading and writing the program took llvm-bolt 84 s on 2 cores at 2.5 GHz.
const LIMIT: Duration = Duration::from_secs(1200);

/// What is released, and the programs that try it.
pub(crate) struct Released {
    pub(crate) folder: PathBuf,
    pub(crate) others: Binaries,
}

pub(crate) fn release() -> Result<()> {
    let component = component::ready()?;
    println!("{}", Released::build(&component)?.host().display());
    Ok(())
}

impl Released {
    /// Builds what is missing, and lays native-host's code out anew where it was built since.
    pub(crate) fn build(component: &Path) -> Result<Self> {
        let others = Binaries::build()?;
        let mut cargo = paths::cargo();
        cargo.args(["build", "--release", "--package", "bench"]);
        run::loudly("building what measures", &mut cargo, "mend what the compiler says above")?;
        let built = others.folder.join("native-host");
        let folder = paths::target("released");
        fs::create_dir_all(folder.join("profile")).with_context(|| format!("cannot write {}", folder.display()))?;
        let released = Self { folder, others };
        let host = released.host();
        if modified(&host) <= modified(&built) {
            let layout = Layout {
                bolt: tools::bolt()?,
                folder: released.folder.join("profile"),
                others: &released.others,
                component,
            };
            let profile = layout.profile(&built)?;
            layout.apply(&profile, &built, &host)?;
        }
        Ok(released)
    }

    /// native-host, laid out.
    pub(crate) fn host(&self) -> PathBuf {
        self.folder.join("native-host")
    }
}

/// When a file was written, where it is there.
fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

/// Lays the code of a program out.
struct Layout<'a> {
    bolt: Bolt,
    /// For profiles and logs.
    folder: PathBuf,
    others: &'a Binaries,
    component: &'a Path,
}

impl Layout<'_> {
    /// Has a copy of the program that counts do its work, and gives what it counted.
    fn profile(&self, built: &Path) -> Result<PathBuf> {
        let counting = self.folder.join("native-host");
        let counts = self.folder.join("counts");
        let _ = fs::remove_dir_all(&counts);
        fs::create_dir_all(&counts)?;
        let mut bolt = self.bolt.command("llvm-bolt");
        bolt.arg(built).arg("-o").arg(&counting);
        bolt.args(["-instrument", "--instrumentation-file-append-pid"]);
        bolt.arg(format!("--instrumentation-file={}", counts.join("of").display()));
        self.run("writing a native-host that counts what it does", &mut bolt)?;
        // With the component's compiled code in the cache, the compiler is not what is counted.
        self.work("having native-host do each kind of its work", built)?;
        self.work("having it do that again while it counts", &counting)?;
        let all = self.folder.join("counted");
        let mut merge = self.bolt.command("merge-fdata");
        merge.arg("-o").arg(&all);
        for part in fs::read_dir(&counts)? {
            merge.arg(part?.path());
        }
        self.run("adding up what it counted", &mut merge)?;
        // Close to a gigabyte.
        Ok(fs::remove_file(&counting).map(|()| all)?)
    }

    /// Writes the program anew, by what was counted, and has that one work before anybody else does.
    fn apply(&self, profile: &Path, built: &Path, to: &Path) -> Result<()> {
        let unfinished = self.folder.join("laid-out");
        let mut bolt = self.bolt.command("llvm-bolt");
        bolt.arg(built).arg("-o").arg(&unfinished).arg("-data").arg(profile);
        bolt.args([
            "-reorder-blocks=ext-tsp",
            "-reorder-functions=cdsort",
            "-split-functions",
            "-split-strategy=cdsplit",
            "-split-all-cold",
        ]);
        self.run("laying its code out", &mut bolt)?;
        self.work("trying what was laid out", &unfinished)?;
        fs::rename(&unfinished, to).with_context(|| format!("cannot write {}", to.display()))
    }

    /// Gives a native-host half a minute of work.
    fn work(&self, what: &str, host: &Path) -> Result<()> {
        let mut train = self.others.command("bench");
        train.args(["train", "--programs"]).arg(&self.others.folder);
        train.arg("--host").arg(host).arg("--component").arg(self.component);
        train.arg("--peers").arg(tools::peers()?);
        run::loudly(what, &mut train, "its logs are in target/bench")
    }

    fn run(&self, what: &str, command: &mut Command) -> Result<()> {
        let log = self.folder.join("bolt.log");
        run::quietly(what, command, &log, LIMIT, "see target/released/profile/bolt.log")
    }
}
