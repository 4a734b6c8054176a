//! Notices that a file was replaced or written to its end, however that was done: in place, by an editor that puts a new file where
//! the old one was, or by swapping a symbolic link on the way to it, as config maps and releases do. And knows which file somebody
//! has begun to write and not closed, so that half a config is not taken for a whole one, whatever else makes one look at it.
//!
//! Directories are watched for what is put in them: a watch on a file stays with the file that was replaced. Files are watched for
//! what is written to them: in the directory one would be woken by every log beside them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// How long nothing may happen before a change of several files counts as complete, and how long it may take at most: a deployment
/// replaces one after the other, and they belong together.
const SETTLE: Duration = Duration::from_millis(10);
const SETTLE_AT_MOST: Duration = Duration::from_millis(100);

/// The symbolic links that are followed on the way to one file, as many as Linux itself follows.
const LINKS: u32 = 40;

/// What tells of a change in a directory. A file that is deleted is not one: it is about to be replaced, or the next start will tell.
const PUT_THERE: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// What tells of a writer of a file. Cutting it off is writing too.
const WRITTEN: WatchFlags = WatchFlags::MODIFY.union(WatchFlags::CLOSE_WRITE);

/// Watches some files.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: AsyncFd<OwnedFd>,
    seen: Seen,
    /// The directories of which it was said that they cannot be watched.
    out_of_sight: BTreeSet<PathBuf>,
}

/// What is watched, and what came of it.
#[derive(Debug, Default)]
struct Seen {
    watched: HashMap<i32, Watched>,
    /// What was begun and not ended, by what told of it.
    begun: BTreeMap<(i32, OsString), Begun>,
    changed: bool,
}

#[derive(Debug)]
enum Watched {
    Directory { path: PathBuf, names: BTreeSet<OsString> },
    File(PathBuf),
}

/// A file that is not known to be whole.
#[derive(Debug)]
struct Begun {
    file: PathBuf,
    /// Whether a writer was seen. A file that appears is seldom put there as a whole, and nothing tells when it is (`O_TMPFILE`).
    written: bool,
}

impl Watch {
    /// Watches nothing yet. Within a runtime only.
    ///
    /// # Errors
    ///
    /// Where the user has too many of these already.
    pub(super) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[expect(deprecated, reason = "its successor is unsafe; an `OwnedFd` is as safe here as it asks for")]
        let inotify = AsyncFd::new(inotify)?;
        Ok(Self {
            inotify,
            seen: Seen::default(),
            out_of_sight: BTreeSet::new(),
        })
    }

    /// Watches this file too: what happens to it from here on is told. So a file that is read after this is known as it is.
    pub(super) fn add(&mut self, file: &Path) {
        let Ok(file) = std::path::absolute(file) else { return };
        let mut known = BTreeMap::new();
        loop {
            let mut places = BTreeMap::new();
            let end = ways(&file, LINKS, &mut places);
            // A link may lead elsewhere since it was read and before it was watched.
            if places == known {
                if let Some(end) = end {
                    self.add_file(end);
                }
                return;
            }
            for (directory, names) in &places {
                self.add_directory(directory, names);
            }
            known = places;
        }
    }

    fn add_directory(&mut self, directory: &Path, names: &BTreeSet<OsString>) {
        let added = match inotify::add_watch(&self.inotify, directory, PUT_THERE) {
            Ok(added) => added,
            Err(error) => {
                if self.out_of_sight.insert(directory.to_owned()) {
                    tracing::warn!(directory = %directory.display(), %error, "changes in this directory are not noticed: send SIGHUP instead");
                }
                return;
            }
        };
        // Two ways to one directory are one watch.
        let watched = self.seen.watched.entry(added).or_insert_with(|| Watched::Directory {
            path: directory.to_owned(),
            names: BTreeSet::new(),
        });
        if let Watched::Directory { names: watched, .. } = watched {
            watched.extend(names.iter().cloned());
        }
    }

    fn add_file(&mut self, file: PathBuf) {
        // A file that cannot be watched is gone since, which its directory tells, or cannot be read, which its reader tells.
        if let Ok(added) = inotify::add_watch(&self.inotify, &file, WRITTEN) {
            self.seen.watched.insert(added, Watched::File(file));
        }
    }

    /// Watches these files, which are where they are by now, and no others.
    pub(super) fn look_at<'f>(&mut self, files: impl IntoIterator<Item = &'f Path>) {
        let before = std::mem::take(&mut self.seen.watched);
        for file in files {
            self.add(file);
        }
        for gone in before.keys().filter(|watch| !self.seen.watched.contains_key(watch)) {
            // One whose directory is gone went with it.
            let _gone_already = inotify::remove_watch(&self.inotify, *gone);
        }
        self.seen.begun.retain(|(watch, _), _| self.seen.watched.contains_key(watch));
    }

    /// Resolves when one of the files may have changed.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        while !self.seen.changed {
            self.more().await?;
        }
        Ok(())
    }

    /// Resolves when nothing more happens just now.
    pub(super) async fn settled(&mut self) {
        // An error is the time being over, which is as good as nothing more happening.
        let _at_most = tokio::time::timeout(SETTLE_AT_MOST, async {
            while let Ok(Ok(())) = tokio::time::timeout(SETTLE, self.more()).await {}
        })
        .await;
    }

    /// From here on, what changes has changed.
    pub(super) fn start_over(&mut self) -> io::Result<()> {
        self.catch_up()?;
        self.seen.changed = false;
        Ok(())
    }

    /// Whether one of the files has changed.
    pub(super) fn has_changed(&mut self) -> io::Result<bool> {
        self.catch_up()?;
        Ok(self.seen.changed)
    }

    /// A file that somebody has begun to write and not closed; where `patient`, also one that has just appeared and may be about to
    /// be written.
    pub(super) fn unfinished(&mut self, patient: bool) -> io::Result<Option<&Path>> {
        self.catch_up()?;
        self.seen.begun.retain(|_, begun| begun.written || patient);
        Ok(self.seen.begun.values().next().map(|begun| begun.file.as_path()))
    }

    /// Waits for events.
    async fn more(&mut self) -> io::Result<()> {
        let mut ready = self.inotify.readable().await?;
        ready.clear_ready();
        drop(ready);
        self.catch_up()
    }

    /// Takes note of every event so far.
    fn catch_up(&mut self) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(self.inotify.get_ref(), &mut space);
        loop {
            match reader.next() {
                Ok(event) => self.seen.note(&event),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Seen {
    fn note(&mut self, event: &Event<'_>) {
        let (watch, events) = (event.wd(), event.events());
        let name = event
            .file_name()
            .map_or(OsStr::new(""), |name| OsStr::from_bytes(name.to_bytes()));
        let key = (watch, name.to_owned());
        match self.watched.get(&watch) {
            // Events that were lost may have been about anything.
            None if events.intersects(ReadFlags::QUEUE_OVERFLOW) => {
                self.begun.clear();
                self.changed = true;
            }
            None => {}
            Some(_) if events.intersects(ReadFlags::IGNORED) => {
                self.changed |= matches!(self.watched.remove(&watch), Some(Watched::Directory { .. }));
                self.begun.retain(|(of, _), _| *of != watch);
            }
            Some(Watched::File(file)) if events.intersects(ReadFlags::MODIFY) => {
                let file = file.clone();
                self.begun.insert(key, Begun { file, written: true });
            }
            Some(Watched::Directory { names, .. }) if !name.is_empty() && !names.contains(name) => {}
            Some(Watched::Directory { path, .. }) if events.intersects(ReadFlags::CREATE) => {
                let file = path.join(name);
                if !is_whole(&file) {
                    self.begun.insert(key, Begun { file, written: false });
                }
                self.changed = true;
            }
            Some(_) => {
                self.begun.remove(&key);
                self.changed = true;
            }
        }
    }
}

/// Whether what was created is there as a whole: a link, a directory, or one more name of a file that is there already. The
/// writer of a new file has yet to write and to close it.
fn is_whole(file: &Path) -> bool {
    std::fs::symlink_metadata(file).is_ok_and(|found| !found.is_file() || found.nlink() > 1)
}

/// Notes the names, by their directories, that decide what an absolute path leads to: its last one, each symbolic link on the way,
/// and the first one that is not there. Gives where it leads, where that is there.
fn ways(path: &Path, links: u32, places: &mut BTreeMap<PathBuf, BTreeSet<OsString>>) -> Option<PathBuf> {
    let mut at = PathBuf::new();
    let mut components = path.components();
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else {
            match component {
                Component::ParentDir => {
                    at.pop();
                }
                other => at.push(other),
            }
            continue;
        };
        let directory = at.clone();
        at.push(name);
        let found = std::fs::symlink_metadata(&at);
        let rest = components.as_path();
        let is_link = found.as_ref().is_ok_and(std::fs::Metadata::is_symlink);
        if is_link || found.is_err() || rest.as_os_str().is_empty() {
            places.entry(directory.clone()).or_default().insert(name.to_owned());
        }
        if found.is_err() {
            return None;
        }
        if is_link {
            let target = std::fs::read_link(&at).ok()?;
            return ways(&directory.join(target).join(rest), links.checked_sub(1)?, places);
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Whether the watch has something to tell: what happened before the call is in the kernel's queue already.
    async fn tells(watch: &mut Watch) -> bool {
        let told = tokio::time::timeout(Duration::from_millis(200), watch.changed()).await;
        watch.start_over().unwrap();
        told.is_ok()
    }

    fn watching(files: &[&Path]) -> Watch {
        let mut watch = Watch::new().unwrap();
        watch.look_at(files.iter().copied());
        watch
    }

    #[tokio::test]
    async fn a_file_that_is_written_in_place_is_noticed_when_it_is_closed() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "1").unwrap();
        let mut watch = watching(&[&file]);
        assert!(!tells(&mut watch).await);
        let mut writer = fs::File::create(&file).unwrap();
        writer.write_all(b"half").unwrap();
        assert!(!tells(&mut watch).await, "half of it is written");
        drop(writer);
        assert!(tells(&mut watch).await);
    }

    #[tokio::test]
    async fn a_file_is_unfinished_from_the_moment_that_it_is_cut_off_until_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.toml"), folder.path().join("link.toml"));
        fs::write(&file, "1").unwrap();
        symlink("a.toml", &link).unwrap();
        let mut watch = watching(&[&link]);
        assert_eq!(watch.unfinished(true).unwrap(), None);
        let writer = fs::File::create(&file).unwrap();
        assert_eq!(watch.unfinished(false).unwrap(), Some(file.as_path()));
        // It is so although it is looked at again.
        watch.look_at([link.as_path()]);
        assert_eq!(watch.unfinished(false).unwrap(), Some(file.as_path()));
        drop(writer);
        assert_eq!(watch.unfinished(true).unwrap(), None);
    }

    #[tokio::test]
    async fn a_file_that_was_replaced_is_unfinished_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (file, whole) = (folder.path().join("a.toml"), folder.path().join("b.toml"));
        fs::write(&file, "1").unwrap();
        fs::write(&whole, "2").unwrap();
        let mut watch = watching(&[&file]);
        let writer = fs::File::create(&file).unwrap();
        assert!(watch.unfinished(false).unwrap().is_some());
        fs::rename(&whole, &file).unwrap();
        watch.look_at([file.as_path()]);
        assert_eq!(watch.unfinished(true).unwrap(), None);
        drop(writer);
    }

    #[tokio::test]
    async fn a_file_that_appears_is_worth_some_patience_until_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        let mut watch = watching(&[&file]);
        let writer = fs::File::create(&file).unwrap();
        assert!(tells(&mut watch).await);
        assert_eq!(watch.unfinished(true).unwrap(), Some(file.as_path()));
        drop(writer);
        assert_eq!(watch.unfinished(true).unwrap(), None);
        fs::remove_file(&file).unwrap();
        let _writer = fs::File::create(&file).unwrap();
        assert!(watch.unfinished(true).unwrap().is_some());
        assert_eq!(watch.unfinished(false).unwrap(), None, "nobody may be writing it");
    }

    #[tokio::test]
    async fn an_editor_that_replaces_the_file_is_noticed_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "1").unwrap();
        let mut watch = watching(&[&file]);
        for round in 0..3 {
            fs::rename(&file, folder.path().join("a.toml~")).unwrap();
            assert!(!tells(&mut watch).await, "round {round}: it is only gone");
            let new = folder.path().join(".a.toml.swp");
            fs::write(&new, "2").unwrap();
            fs::rename(&new, &file).unwrap();
            assert!(tells(&mut watch).await, "round {round}");
        }
    }

    #[tokio::test]
    async fn other_files_in_the_directory_are_not_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "1").unwrap();
        let mut watch = watching(&[&file]);
        fs::write(folder.path().join("access.log"), "x").unwrap();
        assert!(!tells(&mut watch).await);
    }

    #[tokio::test]
    async fn a_config_map_that_swaps_its_link_is_noticed_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let publish = |version: &str| {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("a.toml"), version).unwrap();
            symlink(version, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        publish("..1");
        symlink("..data/a.toml", at("a.toml")).unwrap();
        let file = at("a.toml");
        let mut watch = watching(&[&file]);
        for version in ["..2", "..3"] {
            publish(version);
            assert!(tells(&mut watch).await, "{version}");
            assert_eq!(fs::read_to_string(&file).unwrap(), version);
            watch.look_at([file.as_path()]);
            assert!(!tells(&mut watch).await);
        }
    }

    #[tokio::test]
    async fn a_link_to_a_directory_on_the_way_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        for release in ["1", "2"] {
            fs::create_dir(folder.path().join(release)).unwrap();
            fs::write(folder.path().join(release).join("a.toml"), release).unwrap();
        }
        let current = folder.path().join("current");
        symlink("1", &current).unwrap();
        let mut watch = watching(&[&current.join("a.toml")]);
        fs::remove_file(&current).unwrap();
        symlink("2", &current).unwrap();
        assert!(tells(&mut watch).await);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_yet_is_noticed_when_it_comes_with_its_directory() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys/a.json");
        let mut watch = watching(&[&file]);
        fs::create_dir(folder.path().join("keys")).unwrap();
        assert!(tells(&mut watch).await, "the directory");
        watch.look_at([file.as_path()]);
        fs::write(&file, "{}").unwrap();
        assert!(tells(&mut watch).await, "the file");
    }

    #[tokio::test]
    async fn a_directory_that_is_replaced_is_watched_again() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("conf");
        fs::create_dir(&directory).unwrap();
        let file = directory.join("a.toml");
        fs::write(&file, "1").unwrap();
        let mut watch = watching(&[&file]);
        fs::remove_dir_all(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
        fs::write(&file, "2").unwrap();
        assert!(tells(&mut watch).await);
        watch.look_at([file.as_path()]);
        fs::write(&file, "3").unwrap();
        assert!(tells(&mut watch).await);
    }

    #[test]
    fn links_that_lead_to_each_other_end() {
        let folder = tempfile::tempdir().unwrap();
        symlink("b", folder.path().join("a")).unwrap();
        symlink("a", folder.path().join("b")).unwrap();
        let mut places = BTreeMap::new();
        ways(&folder.path().join("a"), LINKS, &mut places);
        assert_eq!(places.values().map(BTreeSet::len).sum::<usize>(), 2);
    }
}
