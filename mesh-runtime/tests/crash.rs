//! The store, and the control plane around it, against `kill -9`: a child process is killed at a random moment, again and again,
//! and everything that it acknowledged is there afterwards.

#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is the report, outside of the test functions, too"
)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use mesh_api::{JoinToken, v1};
use mesh_runtime::store::{Batch, Embedded, Outcome, Store as _, Table};
use rustix::process::Signal;
use support::world::{World, json};
use support::{Member, endpoint, eventually};
use tonic::Code;

const FILE: &str = "HEDDLE_TEST_STORE";
const ROUNDS: u64 = 25;

/// Not a test of its own: what the child process runs.
#[test]
#[ignore = "run by the test below in a process of its own"]
fn writer() {
    let Some(file) = std::env::var_os(FILE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = std::sync::Arc::new(Embedded::open(Path::new(&file)).unwrap());
        let written = store.scan(Table::Registrations).await.unwrap();
        let mut next = written.last().map_or(0, |(key, _)| key.parse::<usize>().unwrap() + 1);
        loop {
            // Several at once, so that the kill finds groups of commits under way.
            let commits: Vec<_> = (next..next + 8)
                .map(|n| {
                    let store = std::sync::Arc::clone(&store);
                    tokio::spawn(async move {
                        let mut batch = Batch::default();
                        let key = format!("{n:08}");
                        batch.only_if(Table::Registrations, &key, None);
                        batch
                            .put(Table::Registrations, &key, key.as_bytes())
                            .put(Table::Facts, &key, key.as_bytes());
                        let outcome = store.commit(batch).await.unwrap();
                        assert_eq!(outcome, Outcome::Committed);
                        let mut stdout = std::io::stdout().lock();
                        writeln!(stdout, "acknowledged {key}").unwrap();
                        stdout.flush().unwrap();
                    })
                })
                .collect();
            for commit in commits {
                commit.await.unwrap();
            }
            next += 8;
        }
    });
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.redb");
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        acknowledged.extend(write_and_kill(&file, round));
        let store = Embedded::open(&file).unwrap();
        let records = store.scan(Table::Registrations).await.unwrap();
        let keys: Vec<_> = records.iter().map(|(key, _)| key.clone()).collect();
        for key in &acknowledged {
            assert!(
                keys.binary_search(key).is_ok(),
                "round {round}: {key} was acknowledged and is lost"
            );
        }
        let others: Vec<_> = store
            .scan(Table::Facts)
            .await
            .unwrap()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(keys, others, "round {round}: half of a batch happened");
    }
    assert!(
        acknowledged.len() > ROUNDS as usize,
        "too little was written to prove anything: {}",
        acknowledged.len()
    );
}

/// Lets the child write for a random while, kills it, and says what it had been told is safe.
fn write_and_kill(file: &Path, round: u64) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--ignored", "--nocapture"])
        .env(FILE, file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_acknowledged = |line: &str| line.rsplit_once("acknowledged ").map(|(_, key)| key.to_owned());
    let mut keys = Vec::new();
    // The first line shows that it is at work; the kill then comes between 0 and 40 ms later.
    for line in lines.by_ref().map_while(Result::ok) {
        if let Some(key) = is_acknowledged(&line) {
            keys.push(key);
            break;
        }
    }
    std::thread::sleep(moment(round, Duration::from_millis(40)));
    child.kill().unwrap();
    child.wait().unwrap();
    // Whole lines only: the last may have been cut off.
    keys.extend(
        lines
            .map_while(Result::ok)
            .filter_map(|line| is_acknowledged(&line))
            .filter(|key| key.len() == 8),
    );
    keys
}

/// Another moment in each round.
fn moment(round: u64, within: Duration) -> Duration {
    let mut random = round.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    random ^= random >> 29;
    within.mul_f64((random % 1000) as f64 / 1000.0)
}

/// Registers one endpoint after the other until nobody answers; what was acknowledged.
async fn register(member: &Member, name: String) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let id = format!("{name}-{n}");
        let request = v1::RegisterRequest {
            endpoint: Some(endpoint("accounts", &id)),
        };
        if member.registry().register(request).await.is_err() {
            break;
        }
        acknowledged.push(id);
    }
    acknowledged
}

#[tokio::test]
async fn a_control_plane_that_is_killed_again_and_again_forgets_nothing_that_it_acknowledged() {
    let world = World::new();
    let (mut serve, control, _) = world.serve("127.0.0.1:0");
    let address = control.parse().unwrap();
    let token = |service: &str| -> JoinToken {
        let token = world.ask(&["token", "create", service, "--control", &control]);
        token.trim().parse().unwrap()
    };
    let member = Member::join(address, &token("accounts")).await.unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..10 {
        // The connection of the round before is found broken first.
        eventually(async || is_reached(&member).await).await;
        let used = token("rates");
        Member::join(address, &used).await.unwrap();
        let writers = (0..4).map(|writer| register(&member, format!("{round}-{writer}")));
        let killing = async {
            tokio::time::sleep(moment(round, Duration::from_millis(100))).await;
            serve.signal(Signal::KILL);
        };
        let (written, ()) = tokio::join!(futures_util::future::join_all(writers), killing);
        acknowledged.extend(written.into_iter().flatten());
        serve.ended();

        (serve, ..) = world.serve(&control);
        let listed = json(&world.ask(&["endpoints", "--json", "--control", &control]));
        let listed = listed.as_array().unwrap().iter();
        let listed: BTreeSet<_> = listed.map(|one| one["id"].as_str().unwrap().to_owned()).collect();
        let lost: Vec<_> = acknowledged.difference(&listed).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?} were acknowledged and are lost");
        let again = Member::join(address, &used).await.err().unwrap();
        assert_eq!(
            again.code(),
            Code::Unauthenticated,
            "round {round}: a used token is good again"
        );
    }
    assert!(acknowledged.len() > 20, "too little was written: {}", acknowledged.len());
}

async fn is_reached(member: &Member) -> bool {
    let request = v1::RegisterRequest {
        endpoint: Some(endpoint("accounts", "first")),
    };
    member.registry().register(request).await.is_ok()
}
