//! Programs from Debian, downloaded and unpacked into a folder and not installed: the system stays as it is, and root is not needed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::run;

/// Downloading fails fast or comes in small parts; this bounds a network that swallows packets.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);

/// apt with its lists, its cache and its picture of what is installed in a folder of ours.
pub(crate) struct Apt<'a> {
    folder: &'a Path,
    sources: Option<&'a Path>,
    wanted: &'a [&'a str],
    mend: &'a str,
}

impl<'a> Apt<'a> {
    /// Keeps everything in `folder` and reads `sources` where they are not the system's. Packages whose names begin as one of
    /// `wanted` count as not installed, so that they come with what needs them; `mend` says what to do where they cannot be had.
    pub(crate) fn new(folder: &'a Path, sources: Option<&'a Path>, wanted: &'a [&'a str], mend: &'a str) -> Self {
        Self {
            folder,
            sources,
            wanted,
            mend,
        }
    }

    /// Reads the package lists.
    pub(crate) fn update(&self, what: &str) -> Result<()> {
        for folder in ["lists/partial", "newer-lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.folder.join(folder))?;
        }
        let installed =
            fs::read_to_string("/var/lib/dpkg/status").with_context(|| format!("this is no Debian: {}", self.mend))?;
        let others: Vec<&str> = installed
            .split("\n\n")
            .filter(|package| !self.wanted.iter().any(|name| is_package(package, name)))
            .collect();
        fs::write(self.folder.join("status"), others.join("\n\n"))?;
        let mut apt = self.apt();
        apt.arg("update");
        run::quietly(
            what,
            &mut apt,
            &self.folder.join("apt.log"),
            DOWNLOAD_LIMIT,
            "does this machine reach its apt sources?",
        )
    }

    /// Downloads packages, even where the system has them, and those that they need where it has not.
    pub(crate) fn download(&self, what: &str, packages: &[&str]) -> Result<()> {
        let mut apt = self.apt();
        apt.args(["install", "--download-only", "--reinstall", "--no-install-recommends", "-y"])
            .args(packages);
        run::quietly(what, &mut apt, &self.folder.join("apt.log"), DOWNLOAD_LIMIT, self.mend)
    }

    /// Unpacks what was downloaded below `root`, and removes the archives.
    pub(crate) fn unpack(&self, root: &Path) -> Result<()> {
        let packages = self.folder.join("cache/archives");
        for package in fs::read_dir(&packages)? {
            let package = package?.path();
            if package.extension().is_some_and(|extension| extension == "deb") {
                let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let mut dpkg = Command::new("dpkg-deb");
                dpkg.arg("-x").arg(&package).arg(root);
                let what = format!("unpacking {}", name.split('_').next().unwrap_or(&name));
                let log = self.folder.join("dpkg.log");
                run::quietly(&what, &mut dpkg, &log, DOWNLOAD_LIMIT, "is the disk full?")?;
            }
        }
        Ok(fs::remove_dir_all(&packages)?)
    }

    fn apt(&self) -> Command {
        let mut apt = Command::new("apt-get");
        let at = |name: &str| self.folder.join(name).display().to_string();
        apt.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        apt.args(["-o", "Debug::NoLocking=1", "-o", "Acquire::Retries=3", "-o"])
            .arg(format!("Dir::State={}", at("")));
        apt.arg("-o").arg(format!("Dir::State::status={}", at("status")));
        apt.arg("-o").arg(format!("Dir::Cache={}", at("cache")));
        match self.sources {
            None => apt.arg("-o").arg(format!("Dir::State::lists={}", at("lists"))),
            Some(sources) => apt
                .arg("-o")
                .arg(format!("Dir::State::lists={}", at("newer-lists")))
                .arg("-o")
                .arg(format!("Dir::Etc::SourceList={}", sources.display()))
                .args(["-o", "Dir::Etc::SourceParts=-"]),
        };
        apt
    }
}

fn is_package(stanza: &str, prefix: &str) -> bool {
    stanza
        .lines()
        .find_map(|line| line.strip_prefix("Package: "))
        .is_some_and(|name| name.starts_with(prefix))
}
