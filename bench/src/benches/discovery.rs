//! How soon every watcher knows, how fast endpoints register, and what a watcher costs the control plane.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_api::v1;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

use crate::lab::Lab;
use crate::mesh::{ControlPlane, Member};
use crate::procfs;
use crate::report::{Goal, Report, Table};
use crate::rounds::{count, mebibytes};
use crate::statistics::{Bound, Spread, quantile};

/// Endpoints are spread evenly over the services; the first service is the one that is watched.
const SERVICES: usize = 100;
const ENDPOINTS: usize = 10_000;

const WATCHERS: usize = 1_000;

/// Registrations under way at once.
const AT_ONCE: usize = 64;

/// How often something changes in a round.
const CHANGES: usize = 20;

/// How long all may take to hear of one change.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one round gave.
struct Round {
    per_second: f64,
    watcher_kib: f64,
    p50: f64,
    p99: f64,
}

pub(super) fn run(lab: &Lab) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rounds = Vec::new();
    for number in 0..lab.rounds {
        let round = LocalSet::new().block_on(&runtime, round(lab))?;
        eprintln!(
            "    round {}: {:.0} registrations/s, {:.1} KiB a watcher, p99 {:.1} ms",
            number + 1,
            round.per_second,
            round.watcher_kib,
            round.p99
        );
        rounds.push(round);
    }
    let spread = |number: fn(&Round) -> f64| Spread::of(rounds.iter().map(number).collect());
    let mut report = Report::new(
        "discovery",
        "A control plane with its store on disk, on a core of its own. 10,000 endpoints of 100 services register, 64 at once, over mutual\n\
         TLS; then 1,000 watchers, each on a connection of its own, watch a service of 100 endpoints, and one of them changes 20 times.\n\
         The time of a change is from the call that makes it until a watcher has read it; all watchers share the other core.",
    );
    let columns = [
        ("registrations/s", 0),
        ("KiB per watcher", 1),
        ("change to watcher, p50 ms", 1),
        ("p99 ms", 1),
    ];
    let mut table = Table::new("discovery", &columns);
    let p99 = spread(|round| round.p99);
    let per_second = spread(|round| round.per_second);
    table.row(
        "mesh-runtime",
        vec![
            per_second.clone(),
            spread(|round| round.watcher_kib),
            spread(|round| round.p50),
            p99.clone(),
        ],
    );
    report.tables.push(table);
    let bound = Bound::AtMost(200.0);
    report
        .goals
        .push(Goal::new("change to every watcher, p99 ≤ 200 ms", bound, 1, p99));
    let bound = Bound::AtLeast(5_000.0);
    report.goals.push(Goal::new("registrations ≥ 5,000/s", bound, 0, per_second));
    Ok(report)
}

async fn round(lab: &Lab) -> Result<Round> {
    // No heartbeats: the leases outlast the round.
    let control = ControlPlane::start(lab, lab.core, "lease_ttl = \"1h\"\n")?;
    let mut members = Vec::new();
    for service in 0..SERVICES {
        members.push(Member::join(&control, &name(service)).await.context("joining")?);
    }
    let per_second = register(&members).await.context("registering")?;

    let pid = control.process.id();
    let before = procfs::resident(pid)?;
    let (heard, mut hears) = mpsc::unbounded_channel();
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let (registry, heard) = (members[0].registry(), heard.clone());
        watchers.spawn_local(watch(registry, heard));
    }
    all_heard(&mut hears, Instant::now()).await.context("the first snapshots")?;
    let grown = procfs::resident(pid)?.saturating_sub(before);

    let mut times = Vec::new();
    let mut registry = members[0].registry();
    for change in 0..CHANGES {
        let mut endpoint = endpoint(0);
        endpoint.version = format!("v{change}");
        let begun = Instant::now();
        registry.register(request(endpoint)).await?;
        times.extend(all_heard(&mut hears, begun).await?);
    }
    watchers.shutdown().await;
    times.sort_by(f64::total_cmp);
    Ok(Round {
        per_second,
        watcher_kib: mebibytes(grown) * 1024.0 / count(WATCHERS as u64),
        p50: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
    })
}

/// Registers every endpoint; how many a second.
async fn register(members: &[Member]) -> Result<f64> {
    let registries: Vec<_> = members.iter().map(Member::registry).collect();
    // Connections are made before the clock runs.
    for (service, registry) in registries.iter().enumerate() {
        registry.clone().register(request(endpoint(service))).await?;
    }
    let begun = Instant::now();
    let mut calls = JoinSet::new();
    for number in SERVICES..ENDPOINTS {
        if calls.len() == AT_ONCE {
            finished(&mut calls).await?;
        }
        let mut registry = registries[number % SERVICES].clone();
        calls.spawn_local(async move { registry.register(request(endpoint(number))).await.map(drop) });
    }
    while !calls.is_empty() {
        finished(&mut calls).await?;
    }
    Ok(count((ENDPOINTS - SERVICES) as u64) / begun.elapsed().as_secs_f64())
}

async fn finished(calls: &mut JoinSet<Result<(), tonic::Status>>) -> Result<()> {
    match calls.join_next().await {
        Some(call) => Ok(call??),
        None => Ok(()),
    }
}

/// Follows the first service; says when it was told something.
async fn watch(
    mut registry: v1::registry_client::RegistryClient<tonic::transport::Channel>,
    heard: mpsc::UnboundedSender<Result<Instant, tonic::Status>>,
) {
    let request = v1::WatchRequest {
        services: vec![name(0)],
        resume: 0,
        ..Default::default()
    };
    let mut updates = match registry.watch(request).await {
        Ok(updates) => updates.into_inner(),
        Err(status) => {
            let _nobody_waits = heard.send(Err(status));
            return;
        }
    };
    loop {
        let told = match updates.message().await {
            Ok(Some(_)) => Ok(Instant::now()),
            Ok(None) => Err(tonic::Status::aborted("the watch ended")),
            Err(status) => Err(status),
        };
        let over = told.is_err();
        if heard.send(told).is_err() || over {
            return;
        }
    }
}

/// Waits until each watcher was told once; the milliseconds that it took each.
async fn all_heard(hears: &mut mpsc::UnboundedReceiver<Result<Instant, tonic::Status>>, begun: Instant) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(WATCHERS);
    while times.len() < WATCHERS {
        let Ok(told) = tokio::time::timeout(PATIENCE, hears.recv()).await else {
            bail!("{} of {WATCHERS} watchers were told within {PATIENCE:?}", times.len());
        };
        let at = told.context("the watchers ended")??;
        times.push(at.saturating_duration_since(begun).as_secs_f64() * 1e3);
    }
    ensure!(hears.is_empty(), "a watcher was told twice of one change");
    Ok(times)
}

fn name(service: usize) -> String {
    format!("service-{service}")
}

fn request(endpoint: v1::Endpoint) -> v1::RegisterRequest {
    v1::RegisterRequest {
        endpoint: Some(endpoint),
    }
}

fn endpoint(number: usize) -> v1::Endpoint {
    v1::Endpoint {
        id: format!("endpoint-{number}"),
        service: name(number % SERVICES),
        address: format!("10.{}.{}.{}:9000", number / 65_536, number / 256 % 256, number % 256),
        protocol: "h2".to_owned(),
        weight: 1,
        ..v1::Endpoint::default()
    }
}
