//! The last known endpoints on disk, one file a service, replaced as a whole so that a crash leaves the old or the new one.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use identity::ServiceName;

use super::{Attributes, Endpoint};

#[derive(Debug, Clone)]
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(super) fn new(state_dir: PathBuf) -> Self {
        Self {
            directory: state_dir.join("endpoints"),
        }
    }

    /// What was saved; a file that cannot be read counts as none, since the control plane knows better anyway.
    pub(super) fn load(&self, service: &ServiceName) -> Option<Vec<Endpoint>> {
        let file = self.file(service);
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return warn(&file, &error),
        };
        match serde_json::from_slice::<Vec<Attributes>>(&text) {
            Ok(saved) => Some(saved.into_iter().map(|attributes| Endpoint(Arc::new(attributes))).collect()),
            Err(error) => warn(&file, &error),
        }
    }

    /// Saves; a failure costs only what a later start would have known.
    pub(super) fn save(&self, service: &ServiceName, endpoints: &[Endpoint]) {
        let file = self.file(service);
        if let Err(error) = self.replace(&file, endpoints) {
            warn::<()>(&file, &error);
        }
    }

    fn replace(&self, file: &Path, endpoints: &[Endpoint]) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let attributes: Vec<&Attributes> = endpoints.iter().map(|endpoint| &*endpoint.0).collect();
        // One name for each process: two members may share the directory.
        let draft = file.with_extension(format!("{}.draft", std::process::id()));
        let mut written = std::fs::File::create(&draft)?;
        written.write_all(&serde_json::to_vec_pretty(&attributes)?)?;
        written.sync_all()?;
        std::fs::rename(draft, file)
    }

    /// A service name is a DNS label, so it leads nowhere else.
    fn file(&self, service: &ServiceName) -> PathBuf {
        self.directory.join(format!("{service}.json"))
    }
}

fn warn<T>(file: &Path, error: &dyn std::error::Error) -> Option<T> {
    tracing::warn!(file = %file.display(), %error, "the last known endpoints cannot be kept");
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Health;
    use crate::tls::Protocol;

    fn endpoint(id: &str) -> Endpoint {
        let address = "127.0.0.1:1".into();
        Endpoint(Arc::new(Attributes {
            id: id.into(),
            address,
            protocol: Protocol::Tcp,
            version: String::new(),
            zone: String::new(),
            weight: 1,
            health: Health::NotServing,
            expired: false,
            outward: None,
        }))
    }

    #[test]
    fn what_is_saved_is_loaded_and_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned());
        let accounts = ServiceName::new("accounts").unwrap();
        assert_eq!(store.load(&accounts), None);
        store.save(&accounts, &[endpoint("a"), endpoint("b")]);
        store.save(&accounts, &[endpoint("c")]);
        assert_eq!(store.load(&accounts), Some(vec![endpoint("c")]));
        assert_eq!(
            std::fs::read_dir(directory.path().join("endpoints")).unwrap().count(),
            1,
            "no draft is left"
        );
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned());
        let accounts = ServiceName::new("accounts").unwrap();
        store.save(&accounts, &[]);
        std::fs::write(store.file(&accounts), "[{").unwrap();
        assert_eq!(store.load(&accounts), None);
    }
}
