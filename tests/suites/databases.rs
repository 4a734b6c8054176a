//! PostgreSQL and Redis as services of the mesh: real servers under `mesh-runtime run --protocol tcp`, and their own clients as jobs that
//! reach them through a mapped port.

#![allow(clippy::unwrap_used, reason = "a suite that cannot be set up has failed")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::bank::ControlPlane;
use tests::eventually::eventually;
use tests::process::{Process, run};

/// Generous: machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where `cargo xtask test` unpacks the servers.
fn root() -> PathBuf {
    let root = std::env::var_os("HEDDLE_DATABASES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/databases/root"),
        PathBuf::from,
    );
    assert!(
        root.exists(),
        "{} is missing: run the tests with `cargo xtask test`",
        root.display()
    );
    root
}

/// PostgreSQL's programs, of whichever version Debian has.
fn postgres() -> PathBuf {
    let versions = std::fs::read_dir(root().join("usr/lib/postgresql")).unwrap();
    versions.map(|version| version.unwrap().path().join("bin")).max().unwrap()
}

/// A command that finds the libraries which were unpacked with the servers, and that does not seem to be root's: PostgreSQL refuses to be.
fn modest(program: &Path) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        // In a namespace of users that maps none, root is nobody and has its files all the same.
        let mut command = Command::new("unshare");
        command.arg("--user").arg(program);
        command
    } else {
        Command::new(program)
    };
    let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    command
        .env("LD_LIBRARY_PATH", root().join(libraries))
        .env("LC_ALL", "C.UTF-8");
    command
}

/// A mesh to put them into.
struct World {
    folder: tempfile::TempDir,
    control: ControlPlane,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = ControlPlane::start(folder.path(), "127.0.0.1:0", &[]);
        Self { folder, control }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The wrapper with these flags, around what is added.
    fn wrapper(&self, service: &str, flags: &[&str]) -> Command {
        let ours = self.control.command("mesh-runtime");
        let mut command = modest(Path::new(ours.get_program()));
        command.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args(["run", "--service", service]).args(flags).arg("--");
        command
    }

    /// Runs a shell's script as a job of `service` that reaches `db` at `$MESH_UPSTREAM_DB`.
    fn job(&self, service: &str, script: &str) -> (i32, String, String) {
        run(self.wrapper(service, &["--upstream", "db=0"]).args(["sh", "-ec", script]))
    }

    fn registered(&self, service: &str) {
        eventually(PATIENCE, || {
            let endpoints = self.control.rows("endpoints");
            let mut endpoints = endpoints.iter().filter(|endpoint| endpoint["service"] == service);
            endpoints.next().map(drop).ok_or(format!("{service} is not there yet"))
        });
    }

    /// Lets nobody but shop into the database.
    fn shut(&self) {
        let policy = self.path("mesh.toml");
        let text = "[services.db]\npolicy = { default = \"deny\" }\n[[rules]]\nname = \"shop\"\naction = \"allow\"\nfrom = [\"shop\"]\n\
                    to = [\"db\"]\n";
        std::fs::write(&policy, text).unwrap();
        let (code, _, error) = run(self.control.command("mesh-runtime").arg("apply").arg(&policy));
        assert_eq!(code, 0, "{error}");
    }
}

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
        .to_string()
}

#[test]
fn postgresql_is_a_service_of_the_mesh() {
    let (world, programs, port) = (World::new(), postgres(), free_port());
    let (data, password) = (world.path("data"), world.path("password"));
    std::fs::write(&password, "a secret\n").unwrap();
    let mut initdb = modest(&programs.join("initdb"));
    initdb.args(["--no-sync", "-A", "scram-sha-256", "-U", "postgres", "--pwfile"]);
    let (code, out, error) = run(initdb.arg(&password).arg("-D").arg(&data));
    assert_eq!(code, 0, "{out}{error}");
    let mut wrapper = world.wrapper("db", &["--port", &port, "--protocol", "tcp"]);
    wrapper.arg(programs.join("postgres")).arg("-D").arg(&data);
    wrapper.args([
        "-p",
        &port,
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "unix_socket_directories=",
        "-c",
        "fsync=off",
    ]);
    let mut database = Process::start("postgres", &mut wrapper);
    world.registered("db");

    let url = "postgresql://postgres:a%20secret@$MESH_UPSTREAM_DB/postgres";
    let bin = programs.display();
    let psql = format!("{bin}/psql -X -q -v ON_ERROR_STOP=1 -At {url}");
    // A transaction, much at once in both directions, and what the server says without being asked.
    let script = format!(
        "seq 200000 | {psql} -c 'create table numbers (n int)' -c '\\copy numbers from stdin'
         {psql} -c 'select count(*), sum(n) from numbers'
         {psql} -c 'copy numbers to stdout' | wc -l
         {psql} -c 'listen news' -c \"notify news, 'hello'\" -c 'select 1'
         {bin}/pgbench -i -q -s 1 {url} 2>&1
         {bin}/pgbench -c 4 -j 2 -t 50 -M prepared {url}"
    );
    let (code, out, error) = world.job("shop", &script);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.starts_with("200000|20000100000\n200000\n"), "{out}");
    assert!(out.contains("notification \"news\" with payload \"hello\""), "{out}");
    assert!(out.contains("number of transactions actually processed: 200/200"), "{out}");

    // Whoever the policy does not name gets no connection; and what has gone wrong inside is told by the job's own status.
    world.shut();
    eventually(PATIENCE, || match world.job("stranger", &format!("{psql} -c 'select 1'")) {
        (2, _, error) => Ok(error),
        other => Err(format!("{other:?}")),
    });
    let (code, _, error) = world.job("shop", &format!("{psql} -c 'select nothing'"));
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("column \"nothing\" does not exist"), "{error}");

    let status = database.stop();
    assert_eq!(status.code(), Some(0), "{}", database.output());
    assert!(
        database.output().contains("database system is shut down"),
        "{}",
        database.output()
    );
}

#[test]
fn redis_is_a_service_of_the_mesh() {
    let (world, port) = (World::new(), free_port());
    let programs = root().join("usr/bin");
    let mut wrapper = world.wrapper("db", &["--port", &port, "--protocol", "tcp"]);
    wrapper.arg(programs.join("redis-server"));
    wrapper
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(world.folder.path());
    let mut database = Process::start("redis-server", &mut wrapper);
    world.registered("db");

    let (cli, benchmark) = (programs.join("redis-cli"), programs.join("redis-benchmark"));
    let reach = "-h 127.0.0.1 -p ${MESH_UPSTREAM_DB##*:}";
    let (cli, benchmark) = (
        format!("{} {reach}", cli.display()),
        format!("{} {reach}", benchmark.display()),
    );
    let news = world.path("news");
    let news = news.display();
    // One thing after the other, a big value, many at once without waiting, and what the server says without being asked.
    let script = format!(
        "{cli} ping
         {cli} set greeting hello
         {cli} get greeting
         head -c 3000000 /dev/zero | tr '\\0' x | {cli} -x set big
         {cli} get big | wc -c
         {cli} subscribe news > {news} & listener=$!
         until [ \"$({cli} pubsub numsub news | tail -n 1)\" = 1 ]; do :; done
         {cli} publish news hello
         until grep -q hello {news}; do :; done
         kill $listener
         cat {news}
         {benchmark} -q -n 2000 -c 8 -P 16 -t set,get
         {cli} dbsize"
    );
    let (code, out, error) = world.job("shop", &script);
    assert_eq!(code, 0, "{out}{error}");
    assert!(out.starts_with("PONG\nOK\nhello\nOK\n3000001\n"), "{out}");
    assert!(out.contains("message\nnews\nhello\n"), "{out}");
    assert!(out.contains("GET: "), "{out}");

    world.shut();
    eventually(PATIENCE, || match world.job("stranger", &format!("{cli} ping")) {
        (code, out, _) if code != 0 && !out.contains("PONG") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let status = database.stop();
    assert_eq!(status.code(), Some(0), "{}", database.output());
}
