//! Guests that are configured while the config is being compiled here: they compile it for themselves, and nothing of the one is
//! needed for the other but what the config consists of. That is guessed, and they are used only where the guess was right.

use std::path::Path;

use crate::engine::wasm::Setup;
use crate::engine::{Decider, Source};

/// Guests that were configured with a guess.
pub(super) struct Early {
    setup: Setup,
    deciders: Vec<Decider>,
}

impl Early {
    /// Configures guests with what is in the file by now, and in the files that the config named before. None where that has not
    /// changed, cannot be read or does not serve: whoever needs to know why asks on his own, with nothing else going on beside it.
    pub(super) fn begin(source: &Source, config: &Path, before: &Setup, cores: usize) -> Option<Self> {
        let setup = guess(config, before)?;
        let deciders = source.deciders(&setup, cores).ok()?;
        Some(Self { setup, deciders })
    }

    /// The guests, where this is what they were configured with.
    pub(super) fn of(self, setup: &Setup) -> Option<Vec<Decider>> {
        (self.setup == *setup).then_some(self.deciders)
    }
}

fn guess(config: &Path, before: &Setup) -> Option<Setup> {
    let beside = config.parent().unwrap_or(Path::new(""));
    let files = before
        .files
        .iter()
        .map(|(name, _)| Some((name.clone(), read(&beside.join(name))?)));
    let setup = Setup {
        config: String::from_utf8(read(config)?).ok()?,
        files: files.collect::<Option<_>>()?,
        variables: before.variables.clone(),
    };
    (setup != *before).then_some(setup)
}

/// Who reads from a pipe takes what another would read.
fn read(file: &Path) -> Option<Vec<u8>> {
    let is_file = std::fs::metadata(file).is_ok_and(|found| found.is_file());
    is_file.then(|| std::fs::read(file).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guess_is_what_the_files_of_before_hold_by_now() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("gateway.toml"), "one").unwrap();
        std::fs::write(at("schema.json"), "{}").unwrap();
        let before = Setup {
            config: "one".to_owned(),
            files: vec![("schema.json".to_owned(), b"{}".to_vec())],
            variables: vec![("NAME".to_owned(), "value".to_owned())],
        };
        let guessed = || guess(&at("gateway.toml"), &before);
        assert_eq!(guessed(), None, "nothing has changed");
        std::fs::write(at("gateway.toml"), "two").unwrap();
        std::fs::write(at("schema.json"), "[]").unwrap();
        let now = Setup {
            config: "two".to_owned(),
            files: vec![("schema.json".to_owned(), b"[]".to_vec())],
            ..before.clone()
        };
        assert_eq!(guessed(), Some(now));
        std::fs::remove_file(at("schema.json")).unwrap();
        assert_eq!(guessed(), None, "one is gone");
    }
}
