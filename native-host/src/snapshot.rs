//! The config, compiled, with everything that it was compiled from: a guest is handed the very same bytes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use gateway::{Diagnostics, Gateway, Settings, Source};

use crate::engine::wasm::Setup;
use crate::listener::certificates::Certificates;
use crate::metrics::{Page, labelled};

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The config file cannot be read.
    #[error("cannot read the config {}: {source}; name another with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing in the config file.
    #[error("the config {} is empty; a gateway serves [[routes]]", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The config has mistakes; the text has all of them, each with its place and its mend.
    #[error("{0}")]
    Invalid(String),
}

/// A compiled config.
#[derive(Debug)]
pub(crate) struct Snapshot {
    gateway: Arc<Gateway>,
    setup: Setup,
    certificates: Option<Certificates>,
    warnings: Option<String>,
}

impl Snapshot {
    /// Reads and compiles a config; the files that it names are relative to its own place.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, or has mistakes.
    pub(crate) fn load(path: &Path) -> Result<Self, LoadError> {
        Self::load_noting(path, &mut |_| {})
    }

    /// The same, and notes every file before it reads it or would read it, so that somebody can watch them.
    ///
    /// # Errors
    ///
    /// The same.
    pub(crate) fn load_noting(path: &Path, note: &mut dyn FnMut(&Path)) -> Result<Self, LoadError> {
        note(path);
        let text = std::fs::read_to_string(path).map_err(|source| LoadError::Read {
            path: path.to_owned(),
            source,
        })?;
        if text.trim().is_empty() {
            return Err(LoadError::Empty { path: path.to_owned() });
        }
        let beside = path.parent().unwrap_or(Path::new(""));
        let note = RefCell::new(note);
        let read = |named: &str| {
            let place = beside.join(named);
            (*note.borrow_mut())(&place);
            std::fs::read(&place).map_err(|error| format!("cannot read {}: {error}", place.display()))
        };
        let mut files = BTreeMap::new();
        let mut read_and_keep = |named: &str| {
            let content = read(named)?;
            files.insert(named.to_owned(), content.clone());
            Ok(content)
        };
        let variables = RefCell::new(BTreeMap::new());
        let variable = |name: &str| {
            let value = std::env::var(name).ok()?;
            variables.borrow_mut().insert(name.to_owned(), value.clone());
            Some(value)
        };
        let source = Source::new(path.display().to_string(), text.clone());
        let mut certificates = None;
        // What belongs to the listener is not kept with the files that a guest is handed: a private key is none of its business.
        let mut judge = |settings: &Settings, diagnostics: &mut Diagnostics| {
            certificates = Certificates::load(&settings.tls, &mut |named| read(named), unix_now(), diagnostics);
        };
        let (gateway, diagnostics) = Gateway::compile_on(&source, &mut read_and_keep, &variable, &mut judge);
        let Some(gateway) = gateway else {
            return Err(LoadError::Invalid(diagnostics.to_string()));
        };
        let setup = Setup {
            config: text,
            files: files.into_iter().collect(),
            variables: variables.into_inner().into_iter().collect(),
        };
        Ok(Self {
            gateway: Arc::new(gateway),
            setup,
            certificates,
            warnings: (!diagnostics.is_empty()).then(|| diagnostics.to_string()),
        })
    }

    /// The compiled gateway.
    pub(crate) fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// What a guest needs to compile the same.
    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// With what TLS is answered, where it is spoken.
    pub(crate) fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Whether it is made of the same.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let certificates = match (&self.certificates, &other.certificates) {
            (Some(own), Some(others)) => own.same(others),
            (own, others) => own.is_none() && others.is_none(),
        };
        certificates && self.setup == other.setup
    }

    /// Whether TLS is answered with just these.
    pub(crate) fn shows(&self, certificates: &Certificates) -> bool {
        self.certificates.as_ref().is_some_and(|own| own.same(certificates))
    }

    /// What is probably not meant, though it can be served: as text, each with its place and its mend.
    pub(crate) fn warnings(&self) -> Option<&str> {
        self.warnings.as_deref()
    }

    /// The routes in match order, as JSON.
    pub(crate) fn routes_json(&self) -> String {
        serde_json::to_string_pretty(&self.gateway.listing()).unwrap_or_default()
    }

    /// The config without its secrets. `${NAME}` stays as it is; comments go, because they may hold anything.
    pub(crate) fn redacted_config(&self) -> String {
        let Ok(mut table) = self.setup.config.parse::<toml::Table>() else {
            return String::new();
        };
        redact(&mut table);
        toml::to_string_pretty(&table).unwrap_or_default()
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The snapshot in force, behind the one point where it is swapped, and what came of the ones after it.
#[derive(Debug)]
pub(crate) struct Snapshots {
    current: ArcSwap<Snapshot>,
    history: Mutex<History>,
}

#[derive(Debug)]
struct History {
    applied: u64,
    refused: u64,
    /// When the one in force came into force, in seconds since 1970-01-01T00:00:00Z.
    since: i64,
    /// From reading it to the last core's serving with it.
    took: Duration,
    /// Why what is on disk does not serve.
    refusal: Option<String>,
    /// What of it takes a restart.
    waiting: Vec<&'static str>,
}

impl Snapshots {
    pub(crate) fn new(first: Arc<Snapshot>) -> Self {
        Self {
            current: ArcSwap::new(first),
            history: Mutex::new(History {
                applied: 0,
                refused: 0,
                since: unix_now(),
                took: Duration::ZERO,
                refusal: None,
                waiting: Vec::new(),
            }),
        }
    }

    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    pub(crate) fn swap(&self, next: Arc<Snapshot>) {
        self.current.store(next);
    }

    /// What is on disk serves.
    pub(crate) fn applied(&self, took: Duration, waiting: Vec<&'static str>) {
        let mut history = self.history();
        history.applied += 1;
        history.since = unix_now();
        history.took = took;
        history.refusal = None;
        history.waiting = waiting;
    }

    /// What is on disk cannot serve.
    pub(crate) fn refused(&self, why: String) {
        let mut history = self.history();
        history.refused += 1;
        history.refusal = Some(why);
    }

    /// What is on disk is what serves.
    pub(crate) fn unchanged(&self) {
        self.history().refusal = None;
    }

    /// What there is to say about the config on disk, beyond that it serves.
    pub(crate) fn remarks(&self) -> String {
        let history = self.history();
        let mut remarks = String::new();
        if let Some(why) = &history.refusal {
            remarks.push_str("the config on disk is refused, the one before it serves:\n");
            remarks.push_str(why.trim_end());
            remarks.push('\n');
        }
        if !history.waiting.is_empty() {
            remarks.push_str(&format!("a change of {} waits for a restart\n", history.waiting.join(", ")));
        }
        remarks
    }

    /// Adds what there is to measure.
    pub(crate) fn render(&self, page: &mut Page) {
        let history = self.history();
        let reloads = "heddle_config_reloads_total";
        page.family(reloads, "counter", "Changed configs, by whether they came into force.");
        page.value(reloads, "result=\"applied\"", history.applied);
        page.value(reloads, "result=\"refused\"", history.refused);
        let gauges = [
            (
                "heddle_config_refused",
                "1 where the config on disk is refused and the one before it serves.",
                u8::from(history.refusal.is_some()).to_string(),
            ),
            (
                "heddle_config_applied_timestamp_seconds",
                "When the config in force came into force.",
                history.since.to_string(),
            ),
            (
                "heddle_config_apply_duration_seconds",
                "How long the last change took, from reading it to serving with it on every core.",
                history.took.as_secs_f64().to_string(),
            ),
        ];
        for (name, help, value) in gauges {
            page.family(name, "gauge", help);
            page.value(name, "", value);
        }
        drop(history);
        let current = self.current();
        let Some(certificates) = current.certificates() else { return };
        let expiry = "heddle_tls_certificate_not_after_timestamp_seconds";
        page.family(expiry, "gauge", "The last second at which a certificate is valid.");
        for certificate in certificates.list() {
            page.value(expiry, &labelled("cert_file", &certificate.file), certificate.not_after);
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands for a secret.
const REDACTED: &str = "(redacted)";

fn redact(table: &mut toml::Table) {
    for (key, value) in table.iter_mut() {
        mask(value, is_secret(key));
    }
}

fn mask(value: &mut toml::Value, secret: bool) {
    match value {
        toml::Value::String(text) if (secret || has_password(text)) && !is_variable(text) => REDACTED.clone_into(text),
        toml::Value::Array(list) => list.iter_mut().for_each(|item| mask(item, secret)),
        toml::Value::Table(table) if secret => table.iter_mut().for_each(|(_, item)| mask(item, true)),
        toml::Value::Table(table) => redact(table),
        _ => {}
    }
}

/// `key` alone names what a limit counts by; anything longer that ends in it is one.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["secret", "password", "token"].iter().any(|word| key.contains(word)) || key.ends_with("_key") || key == "keys"
}

/// Whether it is a URL that says who asks.
fn has_password(text: &str) -> bool {
    let authority = text
        .split_once("://")
        .map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    authority.is_some_and(|authority| authority.contains('@'))
}

fn is_variable(text: &str) -> bool {
    text.strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|name| !name.contains('}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_redacted_wherever_they_are_and_variables_are_not() {
        let mut table: toml::Table = r#"
            [gateway]
            quotas = { redis = "redis://user:pass@host:6379/0" }
            [mesh]
            handoff_key = "abc"
            [auth.a]
            secret = "${JWT_SECRET}"
            [auth.b]
            secret = "x${JWT_SECRET}"
            keys = [{ id = "one", value = "s3cret" }]
            [[routes]]
            rate_limit = { key = "claim.sub" }
        "#
        .parse()
        .unwrap();
        redact(&mut table);
        let text = table.to_string();
        assert!(
            !text.contains("abc") && !text.contains("pass") && !text.contains("s3cret") && !text.contains("x${"),
            "{text}"
        );
        assert!(text.contains("${JWT_SECRET}") && text.contains("claim.sub"), "{text}");
    }
}
