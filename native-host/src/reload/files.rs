//! The files that a config is made of, and the watch over them. Each is watched from before it is read, so that no change falls
//! between the two, and what is read counts only where nobody was writing it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::watch::Watch;
use crate::snapshot::{LoadError, Snapshot};

/// A config's files.
#[derive(Debug)]
pub(crate) struct Files {
    config: PathBuf,
    /// The files that it was read from, wherever they are.
    named: BTreeSet<PathBuf>,
    /// None where changes cannot be noticed.
    watch: Option<Watch>,
}

/// What is on disk.
pub(super) enum Found {
    Config(Box<Snapshot>),
    /// Not all of it is there yet, and why one thinks so.
    Unfinished(String),
    /// What is there is whole and cannot serve.
    Unfit(LoadError),
}

impl Files {
    /// Those of this config. Within a runtime only.
    pub(crate) fn of(config: PathBuf) -> Self {
        let watch = Watch::new()
            .inspect_err(|error| tracing::warn!(%error, "changes of the config are not noticed: send SIGHUP instead"))
            .ok();
        Self {
            config,
            named: BTreeSet::new(),
            watch,
        }
    }

    /// Where the config itself is.
    pub(super) fn config(&self) -> &Path {
        &self.config
    }

    /// Reads and compiles the config.
    ///
    /// # Errors
    ///
    /// Where a file cannot be read, or has mistakes.
    pub(crate) fn load(&mut self) -> Result<Snapshot, LoadError> {
        let mut named = BTreeSet::new();
        let loaded = Snapshot::load_noting(&self.config, &mut |file| {
            if let Some(watch) = &mut self.watch {
                watch.add(file);
            }
            named.insert(file.to_owned());
        });
        match loaded {
            Ok(_) => self.named = named,
            // What the config names could not be told to the end, so what was watched before stays so.
            Err(_) => self.named.extend(named),
        }
        loaded
    }

    /// The same, where nobody is writing it, which is `whole` before it is read. Who is `patient` also waits for a file that has just
    /// appeared, or has nothing in it.
    pub(super) fn find(&mut self, patient: bool, whole: impl FnOnce()) -> Found {
        self.watched(|watch, named| {
            watch.look_at(named.iter().map(PathBuf::as_path));
            watch.start_over()
        });
        if let Some(file) = self.unfinished(patient) {
            return Found::Unfinished(file);
        }
        whole();
        let loaded = self.load();
        if let Some(file) = self.unfinished(patient) {
            return Found::Unfinished(file);
        }
        if self.watched(|watch, _| watch.has_changed()) == Some(true) {
            return Found::Unfinished(format!("the files of {} change while they are read", self.config.display()));
        }
        match loaded {
            Ok(snapshot) => Found::Config(Box::new(snapshot)),
            Err(error @ LoadError::Empty { .. }) if patient => Found::Unfinished(error.to_string()),
            Err(error) => Found::Unfit(error),
        }
    }

    fn unfinished(&mut self, patient: bool) -> Option<String> {
        self.watched(|watch, _| {
            let file = watch.unfinished(patient)?;
            Ok(file.map(|file| format!("{} is being written and not closed yet", file.display())))
        })?
    }

    /// Resolves when one of the files may have changed, and the change is complete. One file is complete once it is closed or put in
    /// its place; several are when nothing more happens.
    pub(super) async fn changed(&mut self) {
        let Some(watch) = &mut self.watch else {
            return std::future::pending().await;
        };
        if let Err(error) = watch.changed().await {
            return self.lose_sight(&error);
        }
        if self.named.len() > 1 || !self.config.is_file() {
            watch.settled().await;
        }
    }

    fn watched<T>(&mut self, look: impl FnOnce(&mut Watch, &BTreeSet<PathBuf>) -> io::Result<T>) -> Option<T> {
        let seen = look(self.watch.as_mut()?, &self.named);
        seen.inspect_err(|error| self.lose_sight(error)).ok()
    }

    fn lose_sight(&mut self, error: &io::Error) {
        tracing::warn!(%error, "changes of the config are no longer noticed: send SIGHUP instead");
        self.watch = None;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    const SERVES: &str = "[[routes]]\nmatch = { path = \"/\", methods = [\"POST\"] }\nvalidate = { body = \"a.json\" }\nrespond = { status = 200 }\n";

    fn served() -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.json"), "{}").unwrap();
        let config = folder.path().join("gateway.toml");
        fs::write(&config, SERVES).unwrap();
        let mut files = Files::of(config);
        files.load().unwrap();
        (folder, files)
    }

    #[tokio::test]
    async fn what_is_written_once_it_was_first_read_is_known_without_a_second_look() {
        for name in ["gateway.toml", "a.json"] {
            let (folder, mut files) = served();
            let writer = fs::File::create(folder.path().join(name)).unwrap();
            let Found::Unfinished(why) = files.find(false, || ()) else {
                panic!("{name}")
            };
            assert!(why.ends_with(&format!("{name} is being written and not closed yet")), "{why}");
            drop(writer);
            let changed = tokio::time::timeout(std::time::Duration::from_secs(20), files.changed());
            changed.await.unwrap_or_else(|_| panic!("{name}"));
            assert!(
                matches!(files.find(false, || ()), Found::Unfit(_)),
                "{name} is whole and empty"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn several_files_are_waited_for_and_one_is_not() {
        let alone = "[[routes]]\nmatch = { path = \"/\" }\nrespond = { status = 200 }\n";
        for (config, waits) in [(SERVES, true), (alone, false)] {
            let (folder, mut files) = served();
            let (file, next) = (folder.path().join("gateway.toml"), folder.path().join("next"));
            fs::write(&file, config).unwrap();
            files.find(false, || ());
            fs::write(&next, config).unwrap();
            fs::rename(&next, &file).unwrap();
            let begun = tokio::time::Instant::now();
            files.changed().await;
            assert_eq!(begun.elapsed() > std::time::Duration::ZERO, waits, "{config}");
        }
    }

    #[tokio::test]
    async fn an_empty_config_is_waited_for_and_then_told() {
        let (folder, mut files) = served();
        fs::write(folder.path().join("gateway.toml"), "\n").unwrap();
        assert!(matches!(files.find(true, || ()), Found::Unfinished(_)));
        let Found::Unfit(error) = files.find(false, || ()) else {
            panic!()
        };
        assert!(
            error
                .to_string()
                .ends_with("gateway.toml is empty; a gateway serves [[routes]]"),
            "{error}"
        );
        fs::write(folder.path().join("gateway.toml"), SERVES).unwrap();
        assert!(matches!(files.find(true, || ()), Found::Config(_)));
    }

    #[tokio::test]
    async fn a_config_that_changes_while_it_is_read_is_read_again() {
        let (folder, mut files) = served();
        // The reader of this schema is held until something is written to it.
        let (schema, config) = (folder.path().join("a.json"), folder.path().join("gateway.toml"));
        fs::remove_file(&schema).unwrap();
        mknodat(CWD, &schema, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let writer = std::thread::spawn(move || {
            let mut held = fs::OpenOptions::new().write(true).open(schema).unwrap();
            fs::write(config, SERVES.replace("200", "201")).unwrap();
            held.write_all(b"{}").unwrap();
        });
        let Found::Unfinished(why) = files.find(false, || ()) else {
            panic!()
        };
        writer.join().unwrap();
        assert!(why.contains("change") || why.contains("written"), "{why}");
    }
}
