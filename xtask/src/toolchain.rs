//! A compiler for wasm32-wasip2: the one that rustup has or can fetch, else Debian's, unpacked into `target/wasm-toolchain`.
//!
//! Many machines reach package registries and nothing else, and rustup's downloads come from none. Debian packages a
//! complete rustc with the source of its library (`rustc-web`, `rust-web-src`) and a C library for WASI (`wasi-libc`). They
//! are downloaded and unpacked, not installed, so the system stays as it is and root is not needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::apt::Apt;
use crate::{paths, run};

/// The target that components are built for.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// The first Debian whose `wasi-libc` has the target, by number and by name.
const DEBIAN_WITH_TARGET: (u32, &str) = (13, "trixie");

/// What the compiler comes in. It is downloaded even where the system has it; what else it needs only where the system has not.
const PACKAGES: [&str; 4] = ["rustc-web", "rust-web-src", "libstd-rust-web", "wasi-libc"];

/// What to do where Debian's packages cannot be had.
const MEND: &str = "these packages come with Debian 12 and newer; elsewhere run rustup target add wasm32-wasip2";

/// Which compiler to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Choice {
    /// rustup's, and Debian's where rustup cannot download
    #[default]
    Auto,
    /// rustup's
    Rustup,
    /// Debian's
    Debian,
}

/// A compiler that builds for [`TARGET`].
pub(crate) enum Toolchain {
    /// The one that cargo uses anyway.
    Native,
    /// Debian's, under this folder.
    Debian(PathBuf),
}

impl Toolchain {
    /// Finds one, or fetches one.
    pub(crate) fn ready(choice: Choice) -> Result<Self> {
        let debian = paths::target("wasm-toolchain");
        if choice != Choice::Debian && has_target()? {
            return Ok(Self::Native);
        }
        if choice != Choice::Rustup && unpacked(&debian) {
            return Ok(Self::Debian(debian));
        }
        if choice != Choice::Debian {
            match add_target() {
                Ok(()) => return Ok(Self::Native),
                Err(error) if choice == Choice::Rustup => return Err(error),
                Err(_) => {}
            }
        }
        run::say(
            "rustup has no wasm32-wasip2 here and cannot download it: unpacking Debian's compiler (about 140 MB) into target/wasm-toolchain",
        );
        unpack(&debian)?;
        Ok(Self::Debian(debian))
    }

    /// A `cargo build` for [`TARGET`] with this compiler, in a target folder of its own: two compilers that share one build
    /// each other's work again and again.
    pub(crate) fn build(&self) -> Result<Command> {
        let mut cargo = paths::cargo();
        // Flags that somebody set for this machine would replace those of the target.
        cargo
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("CARGO_BUILD_TARGET");
        cargo.args(["build", "--target", TARGET, "--target-dir"]);
        match self {
            Self::Native => {
                cargo.arg(paths::target("wasm"));
            }
            Self::Debian(folder) => {
                let tools = host_tools()?;
                let path = std::env::var_os("PATH").unwrap_or_default();
                let path = std::env::join_paths(
                    [tools.clone(), tools.join("gcc-ld")]
                        .into_iter()
                        .chain(std::env::split_paths(&path)),
                )?;
                cargo
                    .arg(paths::target("wasm-debian"))
                    .arg("-Zbuild-std=std,panic_abort")
                    .env("PATH", path)
                    .env("RUSTC", folder.join("rustc"))
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env(
                        "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS",
                        format!("-L native={}", libc_of(folder).display()),
                    );
            }
        }
        Ok(cargo)
    }

    /// Where [`Toolchain::build`] puts what it builds with `profile`.
    pub(crate) fn artifacts(&self, profile: &str) -> PathBuf {
        let folder = match self {
            Self::Native => "wasm",
            Self::Debian(_) => "wasm-debian",
        };
        paths::target(folder).join(TARGET).join(profile)
    }
}

/// Whether the rustc in use has the library for the target, however it came there.
fn has_target() -> Result<bool> {
    let output = rustc()
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .context("rustc does not start")?;
    Ok(output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

fn rustc() -> Command {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(paths::root());
    rustc
}

fn add_target() -> Result<()> {
    let log = paths::target("rustup.log");
    fs::create_dir_all(paths::target(""))?;
    let mut rustup = Command::new("rustup");
    rustup
        .current_dir(paths::root())
        .args(["target", "add", TARGET])
        .env("RUSTUP_MAX_RETRIES", "1");
    let mend = "see the lines above, or let Debian's compiler be taken (--toolchain auto)";
    run::quietly(
        "rustup target add wasm32-wasip2",
        &mut rustup,
        &log,
        Duration::from_secs(180),
        mend,
    )
}

/// Where the toolchain in use keeps `wasm-component-ld`, `rust-lld` and, in `gcc-ld`, `wasm-ld`.
fn host_tools() -> Result<PathBuf> {
    let output = rustc()
        .args(["--print", "target-libdir"])
        .output()
        .context("rustc does not start")?;
    let library = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let tools = library.parent().context("rustc names no library folder")?.join("bin");
    if !tools.join("wasm-component-ld").is_file() {
        bail!("{} has no wasm-component-ld: install Rust with rustup", tools.display());
    }
    Ok(tools)
}

fn libc_of(folder: &Path) -> PathBuf {
    folder.join("root/usr/lib").join(TARGET)
}

/// The wrapper is written last, so its presence says that all the rest is there.
fn unpacked(folder: &Path) -> bool {
    folder.join("rustc").is_file()
}

fn unpack(folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    let apt = Apt::new(folder, None, &PACKAGES, MEND);
    apt.update("reading Debian's package lists")?;
    apt.download("downloading rustc-web and rust-web-src", &["rustc-web", "rust-web-src"])?;

    let newer = newer_suite(folder)?;
    let apt = Apt::new(folder, newer.as_deref(), &PACKAGES, MEND);
    if newer.is_some() {
        apt.update("reading the package lists of Debian trixie")?;
    }
    apt.download("downloading wasi-libc", &["wasi-libc"])?;

    let root = folder.join("root");
    apt.unpack(&root)?;
    if !libc_of(folder).is_dir() {
        bail!(
            "Debian's wasi-libc has no {TARGET}: use a machine with rustup's ({})",
            "rustup target add wasm32-wasip2"
        );
    }
    write_wrapper(folder, &root)
}

/// A `rustc` that finds its own libraries, and only for itself.
fn write_wrapper(folder: &Path, root: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let libraries = fs::read_dir(root.join("usr/lib"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().ends_with("-linux-gnu"))
        })
        .context("Debian's compiler came without its libraries")?;
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{}'\"${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\" exec '{}' \"$@\"\n",
        libraries.display(),
        root.join("usr/bin/rustc").display()
    );
    let unfinished = folder.join("rustc.new");
    fs::write(&unfinished, script)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o755))?;
    let output = Command::new(&unfinished).arg("-vV").output()?;
    if !output.status.success() {
        bail!(
            "Debian's compiler does not start here: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    fs::rename(&unfinished, folder.join("rustc"))?;
    Ok(())
}

/// Sources of the first Debian that has the C library for the target, on the mirror that this machine uses; none where its
/// own sources have it.
fn newer_suite(folder: &Path) -> Result<Option<PathBuf>> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    let number = field("VERSION_ID").and_then(|number| number.parse::<u32>().ok());
    let (Some(number), Some(name)) = (number, field("VERSION_CODENAME")) else {
        return Ok(None);
    };
    if number >= DEBIAN_WITH_TARGET.0 {
        return Ok(None);
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    let line = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| mirror_line(&text, &name))
        .with_context(|| {
            format!("no apt source of this machine is a mirror of Debian {name}: run rustup target add wasm32-wasip2")
        })?;
    let sources = folder.join("newer.list");
    fs::write(&sources, line)?;
    Ok(Some(sources))
}

/// The `deb` line for the newer suite on the mirror that `text` (either format of apt's sources) names for `suite`.
fn mirror_line(text: &str, suite: &str) -> Option<String> {
    let newer = DEBIAN_WITH_TARGET.1;
    let one_line = text.lines().find_map(|line| {
        let entry = line.trim().strip_prefix("deb ")?.trim();
        let (options, entry) = match entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, entry)) => (format!("[{options}] "), entry),
            None => (String::new(), entry),
        };
        let mut words = entry.split_whitespace();
        let (uri, named) = (words.next()?, words.next()?);
        (named == suite).then(|| format!("deb {options}{uri} {newer} main\n"))
    });
    one_line.or_else(|| {
        text.split("\n\n").find_map(|stanza| {
            let field = |name: &str| {
                stanza
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                    .map(str::trim)
            };
            if !field("Suites")?.split_whitespace().any(|named| named == suite) {
                return None;
            }
            let key = field("Signed-By")
                .filter(|key| key.starts_with('/'))
                .map(|key| format!("[signed-by={key}] "));
            Some(format!(
                "deb {}{} {newer} main\n",
                key.unwrap_or_default(),
                field("URIs")?.split_whitespace().next()?
            ))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_taken_from_one_line_sources() {
        let text =
            "# deb http://old.test/debian bookworm main\ndeb [signed-by=/k.gpg] http://m.test/debian bookworm main contrib\n";
        assert_eq!(
            mirror_line(text, "bookworm").as_deref(),
            Some("deb [signed-by=/k.gpg] http://m.test/debian trixie main\n")
        );
    }

    #[test]
    fn the_mirror_is_taken_from_deb822_sources() {
        let text = "Types: deb\nURIs: http://s.test/security\nSuites: bookworm-security\n\nTypes: deb\nURIs: http://m.test/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n";
        assert_eq!(
            mirror_line(text, "bookworm").as_deref(),
            Some("deb [signed-by=/k.gpg] http://m.test/debian trixie main\n")
        );
    }

    #[test]
    fn a_source_of_another_suite_is_no_mirror() {
        assert_eq!(mirror_line("deb http://m.test/apt nodistro main\n", "bookworm"), None);
    }
}
