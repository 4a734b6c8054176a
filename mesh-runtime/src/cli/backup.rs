//! `mesh-runtime backup` and `mesh-runtime restore`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mesh_api::v1::BackupRequest;

use super::operate::{answer, operator};
use super::output::line;
use super::serve::data_dir;
use crate::backup::Backup;

/// The name that stands for stdout, and for stdin.
const STANDARD: &str = "-";

pub(super) async fn backup(control: &str, file: &Path) -> anyhow::Result<()> {
    let mut parts = answer(control, operator(control)?.backup(BackupRequest {})).await?;
    let mut whole = Vec::new();
    let broken = "the control plane broke off";
    while let Some(part) = parts.message().await.context(broken)? {
        whole.extend(part.data);
    }
    // What could not be restored is no backup.
    let backup = Backup::read(&whole)?;
    if file == Path::new(STANDARD) {
        return io::stdout().lock().write_all(&whole).context("cannot write to stdout");
    }
    put(file, &whole).with_context(|| format!("cannot write {}", file.display()))?;
    line(format_args!(
        "{} holds {} records of {}, and the keys of its authority: keep it as safe as them",
        file.display(),
        backup.records(),
        backup.trust_domain()
    ))
}

/// Written aside and renamed, so that a backup of the same name stays until another is whole.
fn put(file: &Path, whole: &[u8]) -> io::Result<()> {
    let aside = PathBuf::from(format!("{}.partial", file.display()));
    // One that was left behind may have other permissions.
    let _ = std::fs::remove_file(&aside);
    let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    written.write_all(whole)?;
    written.sync_all()?;
    std::fs::rename(aside, file)
}

pub(super) async fn restore(file: &Path, into: Option<PathBuf>) -> anyhow::Result<()> {
    let whole = if file == Path::new(STANDARD) {
        let mut whole = Vec::new();
        io::Read::read_to_end(&mut io::stdin().lock(), &mut whole).context("cannot read stdin")?;
        whole
    } else {
        std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?
    };
    let backup = Backup::read(&whole).with_context(|| format!("cannot restore {}", file.display()))?;
    let (records, trust_domain) = (backup.records(), backup.trust_domain().to_owned());
    let into = data_dir(into)?;
    backup.restore(&into).await?;
    line(format_args!(
        "{records} records of {trust_domain} are in {}; start the control plane: mesh-runtime serve --data-dir {0}",
        into.display()
    ))
}
