//! The operator's credential: a new secret at every start, in files that only the user who runs the control plane can read.
//!
//! Commands on the same machine find it by the control plane's address, so that `mesh-runtime token create` needs no
//! login there; whoever may read the file is an operator.

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mesh_api::{JoinToken, Pin};

/// The folder for state of this user: `${XDG_STATE_HOME:-$HOME/.local/state}`.
pub(crate) fn state_home() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))
}

/// The operator's credential: the secret of this start, with the pin of the root that signs.
pub(crate) struct OperatorCredential(Mutex<(JoinToken, CredentialFiles)>);

impl OperatorCredential {
    pub(crate) fn new(token: JoinToken, files: CredentialFiles) -> Self {
        Self(Mutex::new((token, files)))
    }

    /// The credential as it is.
    pub(crate) fn token(&self) -> JoinToken {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The same secret names another root from here on, in the files as well.
    pub(crate) fn pin_to(&self, pin: Pin) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, files) = &mut *held;
        if token.pin() != pin {
            *token = token.pinned_to(pin);
            if let Err(error) = files.replace(&token.to_string()) {
                tracing::error!(%error, "the operator's credential could not be written again");
            }
        }
    }
}

/// The credential's files, removed when this is dropped, unless another control plane has put its own there.
pub(crate) struct CredentialFiles {
    text: String,
    paths: Vec<PathBuf>,
}

impl CredentialFiles {
    /// Writes the credential to the data directory and, where there is one, to the state of the user, under the names by
    /// which `control` is reached on this machine.
    pub(crate) fn write(credential: &str, data_dir: &Path, state_home: Option<&Path>, control: SocketAddr) -> io::Result<Self> {
        let mut files = Self {
            text: format!("{credential}\n"),
            paths: Vec::new(),
        };
        files.put(data_dir.join("operator.token"))?;
        let state_home = |name: &str| state_home.filter(|_| name == "XDG_STATE_HOME")?.to_str().map(str::to_owned);
        for address in reached_by(control) {
            if let Some(path) = mesh_client::operator_token_file(&address.to_string(), &state_home) {
                make_private_dir(path.parent().unwrap_or(data_dir))?;
                files.put(path)?;
            }
        }
        Ok(files)
    }

    /// Puts another credential in every file.
    fn replace(&mut self, credential: &str) -> io::Result<()> {
        self.text = format!("{credential}\n");
        for path in std::mem::take(&mut self.paths) {
            self.put(path)?;
        }
        Ok(())
    }

    fn put(&mut self, path: PathBuf) -> io::Result<()> {
        // Written aside and renamed, so that no reader sees half of it and no old permissions are inherited.
        let aside = path.with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&aside);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(self.text.as_bytes())?;
        fs::rename(&aside, &path)?;
        self.paths.push(path);
        Ok(())
    }
}

impl Drop for CredentialFiles {
    fn drop(&mut self) {
        for path in &self.paths {
            if fs::read_to_string(path).is_ok_and(|text| text == self.text) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Makes a folder (and those above it) that only its owner can enter.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The addresses by which a listener is reached on its own machine.
fn reached_by(control: SocketAddr) -> Vec<SocketAddr> {
    let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), control.port());
    if control.ip().is_unspecified() {
        vec![control, loopback]
    } else {
        vec![control]
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_files_are_for_their_owner_alone_and_go_with_the_control_plane() {
        let temporary = tempfile::tempdir().unwrap();
        let (data, state) = (temporary.path().to_owned(), temporary.path().join("a/b"));
        let control = "0.0.0.0:7700".parse().unwrap();
        let files = CredentialFiles::write("hm1.secret.pin", &data, Some(&state), control).unwrap();
        let folder = state.join("heddle/operator");
        let paths = [
            data.join("operator.token"),
            folder.join("0.0.0.0_7700.token"),
            folder.join("127.0.0.1_7700.token"),
        ];
        for path in &paths {
            assert_eq!(fs::read_to_string(path).unwrap(), "hm1.secret.pin\n");
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        drop(files);
        assert!(paths.iter().all(|path| !path.exists()));
    }

    #[test]
    fn another_root_changes_the_pin_in_every_file() {
        let folder = tempfile::tempdir().unwrap();
        let token = JoinToken::new(vec![7; 32], Pin::from([1; 32])).unwrap();
        let state = folder.path().join("state");
        let control = "127.0.0.1:7700".parse().unwrap();
        let files = CredentialFiles::write(&token.to_string(), folder.path(), Some(&state), control).unwrap();
        let credential = OperatorCredential::new(token.clone(), files);
        credential.pin_to(Pin::from([2; 32]));
        assert_eq!(credential.token(), token.pinned_to(Pin::from([2; 32])));
        let paths = [
            folder.path().join("operator.token"),
            state.join("heddle/operator/127.0.0.1_7700.token"),
        ];
        for path in &paths {
            assert_eq!(fs::read_to_string(path).unwrap(), format!("{}\n", credential.token()));
        }
        drop(credential);
        assert!(paths.iter().all(|path| !path.exists()));
    }

    #[test]
    fn the_files_of_another_control_plane_stay() {
        let folder = tempfile::tempdir().unwrap();
        let control = "127.0.0.1:7700".parse().unwrap();
        let first = CredentialFiles::write("first", folder.path(), None, control).unwrap();
        let second = CredentialFiles::write("second", folder.path(), None, control).unwrap();
        drop(first);
        assert_eq!(fs::read_to_string(folder.path().join("operator.token")).unwrap(), "second\n");
        drop(second);
    }
}
