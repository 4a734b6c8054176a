//! The config at the edge: read once an instance, from the files that the host mounted.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use gateway::{Gateway, Memory, Source};
use routing::policy::Occupancy;

use super::keys::KeyStore;
use super::quotas::Quotas;
use super::upstream::Upstreams;

/// Names the config file, where it is not [`DEFAULT`].
const NAMED_BY: &str = "HEDDLE_CONFIG";

const DEFAULT: &str = "/gateway.toml";

/// The config is wrong, and the log says how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Misconfigured;

/// What an instance keeps between requests.
pub(super) struct Edge {
    pub(super) gateway: Arc<Gateway>,
    pub(super) upstreams: Upstreams,
    pub(super) keys: KeyStore,
    pub(super) quotas: Quotas,
    /// What is under way in this instance.
    pub(super) occupancy: Arc<Occupancy>,
    memory: RefCell<Memory>,
}

thread_local! {
    /// An instance has one thread, and its files do not change while it lives.
    static CURRENT: RefCell<Option<Result<Rc<Edge>, Misconfigured>>> = const { RefCell::new(None) };
}

impl Edge {
    /// The one of this instance. The first request reads the config.
    pub(super) async fn current() -> Result<Rc<Self>, Misconfigured> {
        if let Some(current) = CURRENT.with_borrow(Clone::clone) {
            return current;
        }
        let loaded = load().await.map(Rc::new).map_err(|wrong| {
            eprintln!("{wrong}");
            Misconfigured
        });
        // Another request may have been first while this one waited for a variable: there is one memory an instance.
        CURRENT.with_borrow_mut(|current| current.get_or_insert(loaded).clone())
    }

    /// Lends the memory to something that awaits nothing.
    pub(super) fn with_memory<T>(&self, work: impl FnOnce(&mut Memory) -> T) -> T {
        work(&mut self.memory.borrow_mut())
    }
}

async fn load() -> Result<Edge, String> {
    let file = match std::env::var(NAMED_BY) {
        Ok(file) => file,
        Err(_) => variable(NAMED_BY).await.unwrap_or_else(|| DEFAULT.to_owned()),
    };
    let text = std::fs::read_to_string(&file).map_err(|error| {
        format!("{file}: error: cannot read the gateway's config: {error}\n  hint: mount it, and name it in {NAMED_BY}")
    })?;
    let mut variables = Vec::new();
    for name in named(&text) {
        if let Some(value) = variable(name).await {
            variables.push((name.to_owned(), value));
        }
    }
    let folder = Path::new(&file).parent().map(PathBuf::from).unwrap_or_default();
    let mut read = |path: &str| std::fs::read(folder.join(path)).map_err(|error| error.to_string());
    let value = |name: &str| {
        variables
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    };
    let source = Source {
        name: file.clone(),
        text,
    };
    let gateway = Gateway::compile(&source, &mut read, &value).map_err(|wrong| wrong.to_string())?;
    Ok(Edge {
        upstreams: Upstreams::of(&gateway),
        keys: KeyStore::of(&gateway),
        quotas: Quotas::of(&gateway)?,
        occupancy: Arc::default(),
        memory: RefCell::new(Memory::new(&gateway)),
        gateway: Arc::new(gateway),
    })
}

/// The names in `${NAME}`: asking the host for a variable is asynchronous, and compiling is not.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split("${")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('}')?.0))
        .filter(|name| !name.is_empty())
}

/// A Spin variable: Spin's names are in lower case.
#[cfg(feature = "spin")]
async fn variable(name: &str) -> Option<String> {
    use spin_sdk::variables::{self, Error};
    match variables::get(name.to_ascii_lowercase()).await {
        Ok(value) => Some(value),
        Err(Error::Undefined(_) | Error::InvalidName(_)) => None,
        Err(error) => {
            eprintln!("gateway: the variable {name}: {error}");
            None
        }
    }
}

#[cfg(not(feature = "spin"))]
#[allow(
    clippy::unused_async,
    reason = "with the feature `spin` the host is asked, and that takes time"
)]
async fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
