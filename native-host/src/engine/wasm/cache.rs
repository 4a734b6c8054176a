//! Compiled code on disk, so that a second start takes milliseconds instead of seconds.
//!
//! It lies there as it runs, and is mapped: only what runs is read. wasmtime's own cache compresses, and knows modules by SHA-256: of
//! the 205 ms of processor time that a start with it took (`native-host serve --engine wasm`, 2.5 GHz without instructions for SHA),
//! hashing was 23 %, decompressing 15 %, and clearing memory for what was decompressed 37 %.
//!
//! Whoever can write there can have this process run what they wrote, so the directory is its owner's alone or is not used.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

/// How many pieces of code are kept, the last used ones: 24 MB each.
const KEPT: usize = 4;

/// How the names of files begin that are being written, and for how long that may be so.
const UNFINISHED: &str = ".new-";
const GIVEN_UP: Duration = Duration::from_secs(3600);

/// The cache.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    /// None where there is no safe place for it: then everything is compiled at every start.
    directory: Option<PathBuf>,
}

/// What can be compiled and kept.
pub(super) trait Code: Sized {
    /// Compiles it.
    fn compile(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Self>;

    /// Compiles it into what [`map`](Self::map) takes.
    fn precompile(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Vec<u8>>;

    /// Maps what was compiled.
    ///
    /// # Safety
    ///
    /// The file is what [`precompile`](Self::precompile) made, and nobody writes to it.
    #[expect(unsafe_code, reason = "what is in the file runs")]
    unsafe fn map(engine: &Engine, file: &Path) -> wasmtime::Result<Self>;
}

impl Code for Module {
    fn compile(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Self> {
        Self::new(engine, bytes)
    }

    fn precompile(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Vec<u8>> {
        engine.precompile_module(bytes)
    }

    #[expect(unsafe_code, reason = "as the trait says")]
    unsafe fn map(engine: &Engine, file: &Path) -> wasmtime::Result<Self> {
        // SAFETY: the caller's.
        unsafe { Self::deserialize_file(engine, file) }
    }
}

impl Code for Component {
    fn compile(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Self> {
        Self::new(engine, bytes)
    }

    fn precompile(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Vec<u8>> {
        engine.precompile_component(bytes)
    }

    #[expect(unsafe_code, reason = "as the trait says")]
    unsafe fn map(engine: &Engine, file: &Path) -> wasmtime::Result<Self> {
        // SAFETY: the caller's.
        unsafe { Self::deserialize_file(engine, file) }
    }
}

impl Cache {
    /// The one in `$XDG_CACHE_HOME/heddle/code`, else in `~/.cache/heddle/code`.
    pub(super) fn open() -> Self {
        Self {
            directory: directory().and_then(Self::private),
        }
    }

    fn private(directory: PathBuf) -> Option<PathBuf> {
        let checked = private(&directory);
        checked.inspect_err(|error| not_kept(&directory, error)).ok()?;
        Some(directory)
    }

    /// What these bytes are when they are compiled: mapped where that was done before.
    pub(super) fn load<C: Code>(&self, engine: &Engine, bytes: &[u8]) -> wasmtime::Result<C> {
        let Some(directory) = &self.directory else {
            return C::compile(engine, bytes);
        };
        let file = directory.join(name(engine, bytes));
        if let Some(code) = mapped(engine, &file) {
            return Ok(code);
        }
        // First the file: what cannot be kept is compiled in another way, and would be compiled twice.
        let new = match tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory) {
            Ok(new) => new,
            Err(error) => {
                not_kept(directory, &error);
                return C::compile(engine, bytes);
            }
        };
        let compiled = C::precompile(engine, bytes)?;
        if let Err(error) = keep(new, &compiled, &file) {
            not_kept(directory, &error);
            return C::compile(engine, bytes);
        }
        clear(directory);
        mapped(engine, &file).map_or_else(|| C::compile(engine, bytes), Ok)
    }
}

/// The code in a file; none where there is no such file, or where it is no such code.
fn mapped<C: Code>(engine: &Engine, file: &Path) -> Option<C> {
    // Noted, so that what is in use is not cleared away.
    fs::File::open(file)
        .and_then(|file| file.set_modified(SystemTime::now()))
        .ok()?;
    // SAFETY: the directory is this user's alone; what this program puts there it has made itself, whole or not at all, and never
    // writes to again.
    #[expect(unsafe_code, reason = "mapping the code instead of compiling it is what this is for")]
    let mapped = unsafe { C::map(engine, file) };
    mapped
        .inspect_err(|error| tracing::warn!(file = %file.display(), error = format!("{error:#}"), "compiled code is of no use"))
        .ok()
}

/// A name that is the same for the same bytes, compiled in the same way for the same kind of machine.
fn name(engine: &Engine, bytes: &[u8]) -> String {
    let mut machine = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut machine);
    format!("{}-{:016x}", blake3::hash(bytes).to_hex(), machine.finish())
}

/// Writes a file, which is there as a whole or not at all, whatever happens meanwhile.
fn keep(mut new: NamedTempFile, content: &[u8], file: &Path) -> io::Result<()> {
    new.write_all(content)?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    Ok(())
}

/// Deletes all but what was used last, and what somebody began to write who did not come to its end. Whoever has it mapped keeps it.
fn clear(directory: &Path) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| {
        let found = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some((found.modified().ok()?, entry.path()))
    });
    let is_unfinished = |file: &Path| {
        let name = file.file_name().unwrap_or_default();
        name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes())
    };
    let (unfinished, mut whole): (Vec<_>, Vec<_>) = files.partition(|(_, file)| is_unfinished(file));
    whole.sort_unstable();
    let surplus = &whole[..whole.len().saturating_sub(KEPT)];
    let given_up = |(modified, _): &&(SystemTime, PathBuf)| modified.elapsed().is_ok_and(|age| age > GIVEN_UP);
    for (_, file) in surplus.iter().chain(unfinished.iter().filter(given_up)) {
        // Another process may have been quicker.
        let _gone = fs::remove_file(file);
    }
}

fn not_kept(directory: &Path, error: &io::Error) {
    tracing::warn!(directory = %directory.display(), %error, "compiled code is not kept");
}

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

    const ONE: &str = "(module (func (export \"one\")))";
    const TWO: &str = "(module (func (export \"two\")))";

    fn cache() -> (tempfile::TempDir, Cache) {
        let base = tempfile::tempdir().unwrap();
        let directory = Cache::private(base.path().join("code"));
        (base, Cache { directory })
    }

    fn load(cache: &Cache, engine: &Engine, text: &str) -> String {
        let module: Module = cache.load(engine, &wat::parse_str(text).unwrap()).unwrap();
        module.exports().map(|export| export.name().to_owned()).collect()
    }

    fn files(cache: &Cache) -> Vec<PathBuf> {
        let entries = fs::read_dir(cache.directory.as_ref().unwrap()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn what_was_compiled_before_is_taken_from_its_file() {
        let (_base, cache) = cache();
        let engine = Engine::default();
        assert_eq!(load(&cache, &engine, ONE), "one");
        let [file] = files(&cache).try_into().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        // Another module's code in its place shows where it comes from.
        let other = engine.precompile_module(&wat::parse_str(TWO).unwrap()).unwrap();
        fs::write(&file, other).unwrap();
        assert_eq!(load(&cache, &engine, ONE), "two");
    }

    #[test]
    fn what_is_no_code_or_is_another_engines_is_compiled_anew() {
        let (_base, cache) = cache();
        let engine = Engine::default();
        load(&cache, &engine, ONE);
        let [file] = files(&cache).try_into().unwrap();
        fs::write(&file, "no code").unwrap();
        assert_eq!(load(&cache, &engine, ONE), "one");
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        assert_eq!(load(&cache, &Engine::new(&config).unwrap(), ONE), "one");
        assert_eq!(files(&cache).len(), 2);
    }

    #[test]
    fn the_last_used_ones_are_kept() {
        let (_base, cache) = cache();
        let engine = Engine::default();
        for nth in 0..KEPT + 2 {
            load(&cache, &engine, &format!("(module (func (export \"{nth}\")))"));
            load(&cache, &engine, ONE);
        }
        assert_eq!(files(&cache).len(), KEPT);
        let of_one = name(&engine, &wat::parse_str(ONE).unwrap());
        assert!(files(&cache).iter().any(|file| file.ends_with(&of_one)));
    }

    #[test]
    fn what_is_being_written_is_left_alone_and_what_was_given_up_is_cleared_away() {
        let (base, cache) = cache();
        let engine = Engine::default();
        let at = |name: &str| base.path().join("code").join(name);
        for nth in 0..KEPT {
            fs::write(at(&format!("{UNFINISHED}{nth}")), "half").unwrap();
        }
        let old = fs::File::create(at(".new-old")).unwrap();
        old.set_modified(SystemTime::now() - 2 * GIVEN_UP).unwrap();
        load(&cache, &engine, ONE);
        load(&cache, &engine, TWO);
        assert_eq!(files(&cache).len(), KEPT + 2);
        assert!(!at(".new-old").exists());
    }

    #[test]
    fn without_a_place_for_it_code_is_compiled() {
        let (base, gone) = cache();
        base.close().unwrap();
        for nowhere in [Cache { directory: None }, gone] {
            assert_eq!(load(&nowhere, &Engine::default(), ONE), "one");
        }
    }
}
