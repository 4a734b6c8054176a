//! Notices that a file was replaced or written to its end, however that was done: in place, by an editor that puts a new file where
//! the old one was, or by swapping a symbolic link on the way to it, as config maps and releases do.
//!
//! Directories are watched and not files: a watch on a file stays with the file that was replaced. Writing is only noticed once the
//! writer has closed the file, so that half a config is not taken for a whole one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// How long nothing may happen before a change counts as complete, and how long it may take at most: a deployment replaces several
/// files, and they belong together.
const SETTLE: Duration = Duration::from_millis(10);
const SETTLE_AT_MOST: Duration = Duration::from_millis(100);

/// The symbolic links that are followed on the way to one file, as many as Linux itself follows.
const LINKS: u32 = 40;

/// What tells of a change. A file that is deleted is not one: it is about to be replaced, or the next start will tell.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Watches some files.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: AsyncFd<OwnedFd>,
    watched: HashMap<i32, Watched>,
    /// What was asked for last: names by their directories.
    places: BTreeMap<PathBuf, BTreeSet<OsString>>,
}

#[derive(Debug)]
struct Watched {
    directory: PathBuf,
    names: BTreeSet<OsString>,
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
            watched: HashMap::new(),
            places: BTreeMap::new(),
        })
    }

    /// Watches these files and no others. Tells whether that is another set of places than before; then something may have
    /// happened there just before they were watched.
    pub(super) fn look_at<'f>(&mut self, files: impl IntoIterator<Item = &'f Path>) -> bool {
        let mut places = BTreeMap::new();
        for file in files {
            if let Ok(file) = std::path::absolute(file) {
                ways(&file, LINKS, &mut places);
            }
        }
        if places == self.places && !self.watched.is_empty() {
            return false;
        }
        let mut watched: HashMap<i32, Watched> = HashMap::new();
        for (directory, names) in &places {
            match inotify::add_watch(&self.inotify, directory, CHANGES) {
                // Two ways to one directory are one watch.
                Ok(watch) => watched
                    .entry(watch)
                    .or_insert_with(|| Watched {
                        directory: directory.clone(),
                        names: BTreeSet::new(),
                    })
                    .names
                    .extend(names.iter().cloned()),
                Err(error) => {
                    tracing::warn!(directory = %directory.display(), %error, "changes in this directory are not noticed: send SIGHUP instead");
                }
            }
        }
        for gone in self.watched.keys().filter(|watch| !watched.contains_key(watch)) {
            // One whose directory is gone went with it.
            let _gone_already = inotify::remove_watch(&self.inotify, *gone);
        }
        self.watched = watched;
        self.places = places;
        true
    }

    /// Resolves when one of the files may have changed, and the change is complete.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        while !self.more().await? {}
        // An error is the time being over, which is as good as nothing more happening.
        let _at_most = tokio::time::timeout(SETTLE_AT_MOST, async {
            while let Ok(Ok(_)) = tokio::time::timeout(SETTLE, self.more()).await {}
        })
        .await;
        Ok(())
    }

    /// Waits for events; tells whether one is about what is watched.
    async fn more(&mut self) -> io::Result<bool> {
        let mut ready = self.inotify.readable().await?;
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(self.inotify.get_ref(), &mut space);
        let mut matters = false;
        let mut lost = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    if event.events().intersects(ReadFlags::IGNORED) && self.watched.contains_key(&event.wd()) {
                        lost.push(event.wd());
                    }
                    matters |= match self.watched.get(&event.wd()) {
                        Some(watched) => watched.matters(event.events(), name),
                        // Events that were lost may have been about anything.
                        None => event.events().intersects(ReadFlags::QUEUE_OVERFLOW),
                    };
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        if !lost.is_empty() {
            self.watched.retain(|watch, _| !lost.contains(watch));
            // The same places may be there again, as other directories.
            self.places.clear();
        }
        Ok(matters)
    }
}

impl Watched {
    fn matters(&self, events: ReadFlags, name: Option<&OsStr>) -> bool {
        let Some(name) = name else {
            return events.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED);
        };
        self.names.contains(name) && (!events.intersects(ReadFlags::CREATE) || self.is_complete(name))
    }

    /// Whether what was created is there as a whole: a link, a directory, or one more name of a file that is there already. The
    /// writer of a new file has yet to write and to close it.
    fn is_complete(&self, name: &OsStr) -> bool {
        std::fs::symlink_metadata(self.directory.join(name)).is_ok_and(|found| !found.is_file() || found.nlink() > 1)
    }
}

/// Notes the names, by their directories, that decide what an absolute path leads to: its last one, each symbolic link on the way,
/// and the first one that is not there.
fn ways(path: &Path, links: u32, places: &mut BTreeMap<PathBuf, BTreeSet<OsString>>) {
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
            return;
        }
        if is_link {
            if let (Ok(target), Some(links)) = (std::fs::read_link(&at), links.checked_sub(1)) {
                ways(&directory.join(target).join(rest), links, places);
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Whether the watch has something to tell: what happened before the call is in the kernel's queue already.
    async fn tells(watch: &mut Watch) -> bool {
        tokio::time::timeout(Duration::from_millis(200), watch.changed())
            .await
            .is_ok()
    }

    fn watching(files: &[&Path]) -> Watch {
        let mut watch = Watch::new().unwrap();
        assert!(watch.look_at(files.iter().copied()));
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
        assert!(watch.look_at([file.as_path()]));
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
        assert!(watch.look_at([file.as_path()]));
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
