//! Credentials that change while connections live: a watch on what is held, and configurations that follow it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{Bundle, Svid, TlsError};

/// What is held at one time: an SVID and the bundle to judge peers by.
#[derive(Debug, Clone)]
pub struct Held {
    /// Who we are.
    pub svid: Svid,
    /// Whom we believe.
    pub bundle: Bundle,
    /// Grows with every change.
    pub generation: u64,
}

/// The credentials as they are at any time. Clones see the same.
#[derive(Clone)]
pub struct Credentials(watch::Receiver<Arc<Held>>);

/// The other end of [`Credentials`]: whoever has it puts new ones in place.
pub struct Rotation(watch::Sender<Arc<Held>>);

impl Credentials {
    /// Credentials that begin with `svid` and `bundle`, and what replaces them.
    #[must_use]
    pub fn new(svid: Svid, bundle: Bundle) -> (Rotation, Self) {
        let (sender, receiver) = watch::channel(Arc::new(Held {
            svid,
            bundle,
            generation: 0,
        }));
        (Rotation(sender), Self(receiver))
    }

    /// What is held at this moment.
    #[must_use]
    pub fn held(&self) -> Arc<Held> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits for the next change; never returns once the [`Rotation`] is gone.
    pub async fn changed(&mut self) -> Arc<Held> {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        Arc::clone(&self.0.borrow_and_update())
    }

    /// Waits until the SVID of a peer with this serial number is revoked.
    pub async fn revoked(mut self, serial: Vec<u8>) {
        while !self.held().bundle.revokes(&serial) {
            self.changed().await;
        }
    }
}

impl Rotation {
    /// Puts a new SVID in place. New handshakes use it; connections that exist live on.
    pub fn replace_svid(&self, svid: Svid) {
        self.replace(|held| held.svid = svid);
    }

    /// Puts a new bundle in place.
    pub fn replace_bundle(&self, bundle: Bundle) {
        self.replace(|held| held.bundle = bundle);
    }

    /// Puts both in place at once.
    pub fn replace_both(&self, svid: Svid, bundle: Bundle) {
        self.replace(|held| (held.svid, held.bundle) = (svid, bundle));
    }

    fn replace(&self, change: impl FnOnce(&mut Held)) {
        self.0.send_modify(|current| {
            let mut held = Held::clone(current);
            change(&mut held);
            held.generation += 1;
            *current = Arc::new(held);
        });
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.held()).finish()
    }
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rotation").field(&self.0.borrow()).finish()
    }
}

/// What was last built from credentials, built anew when they change.
pub(super) struct Built<T>(Mutex<Option<(u64, Arc<T>)>>);

impl<T> Built<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The value for the credentials as they are, and their generation.
    pub(super) fn of(
        &self,
        credentials: &Credentials,
        build: impl FnOnce(&Held) -> Result<T, TlsError>,
    ) -> Result<(u64, Arc<T>), TlsError> {
        let held = credentials.held();
        let mut built = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*built {
            Some((generation, value)) if *generation == held.generation => Ok((*generation, Arc::clone(value))),
            _ => {
                let value = Arc::new(build(&held)?);
                *built = Some((held.generation, Arc::clone(&value)));
                Ok((held.generation, value))
            }
        }
    }
}
