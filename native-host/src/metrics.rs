//! What is counted: per core while it happens, merged when somebody asks.
//!
//! Names follow OpenTelemetry's semantic conventions for HTTP, in Prometheus' spelling. Each core has its own maps behind its
//! own mutex, which is taken for the nanoseconds of one update and contended only by a scrape.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::Fault;
use crate::limit::Asked;
use crate::listener::tls::Handshake;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// The upper bounds of the duration buckets, in seconds: the ones that OpenTelemetry advises for HTTP, and four below them,
/// because most answers here take less than their smallest.
const BOUNDS: [f64; 18] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// The same, as durations are compared with them: without a division.
const BOUNDS_IN_NANOSECONDS: [u64; BOUNDS.len()] = {
    let mut bounds = [0; BOUNDS.len()];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = (BOUNDS[at] * 1e9) as u64;
        at += 1;
    }
    bounds
};

/// Everything that is counted, over all cores.
#[derive(Debug)]
pub(crate) struct Metrics {
    cores: Vec<Arc<Core>>,
    /// What happened to guests.
    pub(crate) guests: Arc<Guests>,
    /// How often a store of quotas was asked.
    pub(crate) quotas: Arc<Asked>,
}

/// What one core counts.
#[derive(Debug, Default)]
pub(crate) struct Core {
    requests: Mutex<Series<RequestKey>>,
    attempts: Mutex<Series<AttemptKey>>,
    handshakes: Mutex<BTreeMap<Handshake, u64>>,
    /// Answers that were not as they should be, by route.
    misanswered: Mutex<BTreeMap<Arc<str>, u64>>,
    /// Client connections that are open.
    pub(crate) connections: AtomicI64,
    /// Requests that are in flight.
    pub(crate) active: AtomicI64,
    /// Connections made to upstreams.
    pub(crate) connects: AtomicU64,
    /// Bytes of answers' bodies.
    pub(crate) bytes: AtomicU64,
}

/// The labels of a request. Methods that nobody registered count as `_OTHER`, so that clients cannot make up labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RequestKey {
    pub(crate) route: Option<Arc<str>>,
    pub(crate) method: &'static str,
    pub(crate) status: u16,
    pub(crate) reason: Option<&'static str>,
}

/// The labels of an attempt: `outcome` is its status code or how it failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct AttemptKey {
    upstream: Arc<str>,
    outcome: Outcome,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// With an answer.
    Status(u16),
    /// Without.
    Failed(&'static str),
}

/// Histograms by their labels.
#[derive(Debug)]
struct Series<K> {
    histograms: Vec<(K, Histogram)>,
    /// Where each of them is.
    places: HashMap<K, usize, BuildHasherDefault<Labels>>,
    /// The place that was asked for last, which most often is the next one too: comparing with it takes a tenth of looking it up.
    last: usize,
}

impl<K> Default for Series<K> {
    fn default() -> Self {
        Self {
            histograms: Vec::new(),
            places: HashMap::default(),
            last: 0,
        }
    }
}

impl<K: Clone + Eq + std::hash::Hash> Series<K> {
    /// The histogram of what these labels are made of.
    fn of(&mut self, is: impl FnOnce(&K) -> bool, key: impl FnOnce() -> K) -> &mut Histogram {
        if !self.histograms.get(self.last).is_some_and(|(last, _)| is(last)) {
            let key = key();
            self.last = *self.places.entry(key.clone()).or_insert(self.histograms.len());
            if self.last == self.histograms.len() {
                self.histograms.push((key, Histogram::default()));
            }
        }
        &mut self.histograms[self.last].1
    }
}

/// Hashes labels. They are names of the config, words of this program and numbers below 1,000, which nobody can choose so that they
/// collide; the standard library's hash, which is made for those that somebody can choose, was 2 % of a proxied request's instructions.
#[derive(Debug, Default)]
struct Labels(u64);

impl Labels {
    fn mix(&mut self, word: u64) {
        // Firefox's hash: rotate, mix in, and multiply by a number without a pattern.
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Labels {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        words.iter().for_each(|word| self.mix(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last));
    }

    fn write_u8(&mut self, byte: u8) {
        self.mix(byte.into());
    }

    fn write_u16(&mut self, word: u16) {
        self.mix(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }

    fn finish(&self) -> u64 {
        // The product's high bits are the mixed ones, and a table looks at the low ones.
        self.0.rotate_left(26)
    }
}

#[derive(Debug, Clone, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len() + 1],
    /// In nanoseconds, of which there are enough for five centuries.
    sum: u64,
}

impl Histogram {
    fn observe(&mut self, duration: Duration) {
        let nanoseconds = duration
            .as_secs()
            .wrapping_mul(SECOND)
            .wrapping_add(duration.subsec_nanos().into());
        self.buckets[BOUNDS_IN_NANOSECONDS.partition_point(|bound| *bound < nanoseconds)] += 1;
        self.sum = self.sum.wrapping_add(nanoseconds);
    }

    fn merge(&mut self, other: &Self) {
        for (own, other) in self.buckets.iter_mut().zip(other.buckets) {
            *own += other;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// What happened to guest instances.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    replaced: Mutex<BTreeMap<&'static str, u64>>,
}

impl Guests {
    /// An instance was replaced because of this.
    pub(crate) fn replaced(&self, fault: Fault) {
        *lock(&self.replaced).entry(fault.label()).or_default() += 1;
    }
}

impl Core {
    /// A request was answered.
    pub(crate) fn answered(&self, key: RequestKey, duration: Duration) {
        lock(&self.requests).of(|last| *last == key, || key.clone()).observe(duration);
    }

    /// A TLS handshake ended.
    pub(crate) fn shook_hands(&self, handshake: Handshake) {
        *lock(&self.handshakes).entry(handshake).or_default() += 1;
    }

    /// An answer was not as its route's `validate` has it.
    pub(crate) fn misanswered(&self, route: &Arc<str>) {
        *lock(&self.misanswered).entry(Arc::clone(route)).or_default() += 1;
    }

    /// An attempt at an upstream ended.
    pub(crate) fn attempted(&self, upstream: &Arc<str>, outcome: Outcome, duration: Duration) {
        let is = |last: &AttemptKey| last.upstream == *upstream && last.outcome == outcome;
        let key = || AttemptKey {
            upstream: Arc::clone(upstream),
            outcome,
        };
        lock(&self.attempts).of(is, key).observe(duration);
    }
}

impl Metrics {
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            cores: (0..cores).map(|_| Arc::default()).collect(),
            guests: Arc::default(),
            quotas: Arc::default(),
        }
    }

    /// The counters of one core.
    pub(crate) fn core(&self, index: usize) -> Arc<Core> {
        Arc::clone(&self.cores[index])
    }

    /// Requests in flight, over all cores.
    pub(crate) fn active(&self) -> i64 {
        self.cores.iter().map(|core| core.active.load(Relaxed)).sum()
    }

    /// The text that Prometheus scrapes, with what others add to it.
    pub(crate) fn render(&self, others: impl FnOnce(&mut Page)) -> String {
        let mut page = Page::default();
        page.family(
            "http_server_request_duration_seconds",
            "histogram",
            "How long requests took, from head to the last byte.",
        );
        for (key, histogram) in merged(self.cores.iter().map(|core| &core.requests)) {
            let mut labels = format!(
                "http_request_method=\"{}\",http_response_status_code=\"{}\"",
                key.method, key.status
            );
            label(&mut labels, "http_route", key.route.as_deref().unwrap_or_default());
            label(&mut labels, "heddle_reason", key.reason.unwrap_or_default());
            page.histogram("http_server_request_duration_seconds", &labels, &histogram);
        }
        page.family(
            "http_client_request_duration_seconds",
            "histogram",
            "How long attempts at upstreams took, to the answer's head.",
        );
        for (key, histogram) in merged(self.cores.iter().map(|core| &core.attempts)) {
            let mut labels = String::new();
            label(&mut labels, "heddle_upstream", &key.upstream);
            match key.outcome {
                Outcome::Status(status) => label(&mut labels, "http_response_status_code", &status.to_string()),
                Outcome::Failed(failure) => label(&mut labels, "error_type", failure),
            }
            page.histogram("http_client_request_duration_seconds", &labels, &histogram);
        }
        let sum = |of: fn(&Core) -> i64| self.cores.iter().map(|core| of(core)).sum::<i64>();
        for (name, kind, help, value) in [
            ("http_server_active_requests", "gauge", "Requests in flight.", self.active()),
            (
                "http_server_open_connections",
                "gauge",
                "Client connections that are open.",
                sum(|core| core.connections.load(Relaxed)),
            ),
            (
                "http_server_response_body_size_bytes_total",
                "counter",
                "Bytes of answers' bodies.",
                sum(|core| core.bytes.load(Relaxed).cast_signed()),
            ),
            (
                "http_client_connections_opened_total",
                "counter",
                "Connections made to upstreams.",
                sum(|core| core.connects.load(Relaxed).cast_signed()),
            ),
        ] {
            page.family(name, kind, help);
            page.value(name, "", value);
        }
        self.render_tls(&mut page);
        self.render_misanswered(&mut page);
        page.family(
            "heddle_guest_replacements_total",
            "counter",
            "Guest instances that failed and were replaced.",
        );
        for (cause, count) in &*lock(&self.guests.replaced) {
            page.value("heddle_guest_replacements_total", &format!("cause=\"{cause}\""), count);
        }
        self.quotas.render(&mut page);
        others(&mut page);
        page.0
    }
}

impl Metrics {
    fn render_misanswered(&self, page: &mut Page) {
        let mut routes: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for core in &self.cores {
            for (route, count) in &*lock(&core.misanswered) {
                *routes.entry(Arc::clone(route)).or_default() += count;
            }
        }
        let name = "heddle_invalid_answers_total";
        page.family(
            name,
            "counter",
            "Answers of upstreams that were not as their route's validate has them.",
        );
        for (route, count) in routes {
            page.value(name, &labelled("http_route", &route), count);
        }
    }

    fn render_tls(&self, page: &mut Page) {
        let mut handshakes: BTreeMap<Handshake, u64> = BTreeMap::new();
        for core in &self.cores {
            for (handshake, count) in &*lock(&core.handshakes) {
                *handshakes.entry(*handshake).or_default() += count;
            }
        }
        let name = "heddle_tls_handshakes_total";
        page.family(name, "counter", "TLS handshakes with clients, by how they ended.");
        for (handshake, count) in handshakes {
            page.value(name, &format!("result=\"{}\"", handshake.label()), count);
        }
    }
}

fn merged<'a, K: Clone + Ord + 'a>(cores: impl Iterator<Item = &'a Mutex<Series<K>>>) -> BTreeMap<K, Histogram> {
    let mut all: BTreeMap<K, Histogram> = BTreeMap::new();
    for core in cores {
        for (key, histogram) in &lock(core).histograms {
            all.entry(key.clone()).or_default().merge(histogram);
        }
    }
    all
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One label.
pub(crate) fn labelled(name: &str, value: &str) -> String {
    let mut labels = String::new();
    label(&mut labels, name, value);
    labels
}

/// Adds a label, unless it is empty.
fn label(labels: &mut String, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    let comma = if labels.is_empty() { "" } else { "," };
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let _infallible = write!(labels, "{comma}{name}=\"{value}\"");
}

/// A page in Prometheus' text format.
#[derive(Default)]
pub(crate) struct Page(String);

impl Page {
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _infallible = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub(crate) fn value(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _infallible = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn histogram(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let mut count = 0;
        for (index, bucket) in histogram.buckets.iter().enumerate() {
            count += bucket;
            let bound = BOUNDS.get(index).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            self.value(&format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), count);
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "below a microsecond it would take 100 days to matter"
        )]
        self.value(&format!("{name}_sum"), labels, histogram.sum as f64 / SECOND as f64);
        self.value(&format!("{name}_count"), labels, count);
    }
}

/// The method as a label.
pub(crate) fn method(method: &str) -> &'static str {
    match method {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "CONNECT" => "CONNECT",
        "TRACE" => "TRACE",
        "QUERY" => "QUERY",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_sums_over_the_cores() {
        let metrics = Metrics::new(2);
        let key = RequestKey {
            route: Some("a\"b".into()),
            method: "GET",
            status: 200,
            reason: None,
        };
        metrics.core(0).answered(key.clone(), Duration::from_millis(4));
        metrics.core(1).answered(key, Duration::from_secs(60));
        let page = metrics.render(|_| {});
        let labels = r#"http_request_method="GET",http_response_status_code="200",http_route="a\"b""#;
        assert!(
            page.contains(&format!("http_server_request_duration_seconds_count{{{labels}}} 2")),
            "{page}"
        );
        assert!(
            page.contains(&format!(
                "http_server_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 1"
            )),
            "{page}"
        );
        assert!(
            page.contains(&format!(
                "http_server_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 2"
            )),
            "{page}"
        );
    }

    #[test]
    fn labels_that_take_turns_are_counted_apart() {
        let metrics = Metrics::new(1);
        let (accounts, statements): (Arc<str>, Arc<str>) = ("accounts".into(), "statements".into());
        for _ in 0..3 {
            for (upstream, outcome) in [
                (&accounts, Outcome::Status(200)),
                (&accounts, Outcome::Failed("connect")),
                (&statements, Outcome::Status(200)),
            ] {
                metrics.core(0).attempted(upstream, outcome, Duration::from_millis(1500));
            }
        }
        let page = metrics.render(|_| {});
        for labels in [
            r#"heddle_upstream="accounts",http_response_status_code="200""#,
            r#"heddle_upstream="accounts",error_type="connect""#,
            r#"heddle_upstream="statements",http_response_status_code="200""#,
        ] {
            let name = "http_client_request_duration_seconds";
            assert!(page.contains(&format!("{name}_count{{{labels}}} 3")), "{page}");
            assert!(page.contains(&format!("{name}_sum{{{labels}}} 4.5")), "{page}");
        }
    }

    #[test]
    fn a_duration_is_in_the_first_bucket_whose_bound_is_not_below_it() {
        for (at, bound) in BOUNDS.into_iter().enumerate() {
            let mut histogram = Histogram::default();
            let bound = Duration::from_secs_f64(bound);
            histogram.observe(bound);
            histogram.observe(bound + Duration::from_nanos(1));
            assert_eq!((histogram.buckets[at], histogram.buckets[at + 1]), (1, 1), "{bound:?}");
        }
    }

    #[test]
    fn a_method_that_a_client_made_up_is_no_label() {
        assert_eq!(method("XYZZY"), "_OTHER");
    }
}
