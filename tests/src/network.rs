//! Machines of their own for a suite: network namespaces, and between them a network that can be cut, slow and lossy.
//!
//! A suite that wants one runs in namespaces of its own, with nothing of this machine's network in them: it touches none of its
//! interfaces, whatever these are, and everything that it started ends with it, however it ends. `netem` is no part of every kernel, so
//! a small program carries the packets (`network/switch.py`).

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Says that a process is in namespaces of its own.
const APART: &str = "HEDDLE_TEST_APART";
/// How long a test may take there, whatever it waits for.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs the test `name` of this program again, in namespaces of its own, and says `false`; `true` in there.
///
/// # Panics
/// Where it fails there, or there can be no namespaces.
#[must_use]
pub fn apart(name: &str) -> bool {
    if std::env::var_os(APART).is_some() {
        std::thread::spawn(|| {
            std::thread::sleep(LIMIT);
            eprintln!("the test is not done after {LIMIT:?}");
            std::process::exit(1);
        });
        return true;
    }
    // Whatever ends this process ends the one in there, which is the first of its own process namespace: the kernel ends all others
    // with it.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(std::env::current_exe().expect("a test knows its own path"));
    command.args(["--exact", name, "--nocapture"]).env(APART, "1");
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("setpriv: {error}; it comes with Debian's util-linux"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{name} failed in namespaces of its own, or there can be none ({}; being root helps):\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    false
}

/// Nodes, each with an address, and what is between them.
#[derive(Debug)]
pub struct Network {
    switch: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    nodes: Vec<(&'static str, String)>,
}

impl Network {
    /// A network of these nodes. Only for a test that is [`apart`].
    ///
    /// # Panics
    /// Where it cannot be made.
    #[must_use]
    pub fn new(names: &[&'static str]) -> Self {
        // Names of namespaces are files there.
        run("mount", &["-t", "tmpfs", "none", "/run"]);
        let address = |nth| format!("10.77.0.{}", nth + 1);
        let nodes: Vec<_> = names.iter().enumerate().map(|(nth, name)| (*name, address(nth))).collect();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("network/switch.py");
        let mut switch = Command::new("python3")
            .arg(program)
            .args(nodes.iter().map(|(name, address)| format!("{name}={address}")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let commands = switch.stdin.take().expect("it is piped");
        let answers = BufReader::new(switch.stdout.take().expect("it is piped"));
        let mut network = Self {
            switch,
            commands,
            answers,
            nodes,
        };
        network.heard("ready");
        for (name, address) in &network.nodes {
            run("ip", &["netns", "add", name]);
            run("ip", &["link", "set", name, "netns", name]);
            run("ip", &["-n", name, "address", "add", &format!("{address}/24"), "dev", name]);
            run("ip", &["-n", name, "link", "set", name, "up"]);
            run("ip", &["-n", name, "link", "set", "lo", "up"]);
        }
        network
    }

    /// The address of a node.
    ///
    /// # Panics
    /// Where there is no such node.
    #[must_use]
    pub fn address(&self, node: &str) -> &str {
        let found = self.nodes.iter().find(|(name, _)| *name == node);
        &found.expect("the node was named").1
    }

    /// A command that runs on a node.
    #[must_use]
    pub fn on(&self, node: &str, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{node}")).arg("--").arg(program);
        command
    }

    /// Lets nothing pass between two nodes any more.
    pub fn cut(&mut self, one: &str, other: &str) {
        self.tell(&format!("cut {one} {other}"));
    }

    /// Cuts a node off from all others.
    pub fn isolate(&mut self, node: &str) {
        for (other, _) in self.nodes.clone() {
            if other != node {
                self.cut(node, other);
            }
        }
    }

    /// Lets every packet take so long (and up to twice as long), and loses so many of a hundred.
    pub fn worsen(&mut self, millis: u32, percent: u32) {
        self.tell(&format!("bad {millis} {percent}"));
    }

    /// Makes everything as it was.
    pub fn heal(&mut self) {
        self.tell("heal");
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("the switch runs");
        self.heard("done");
    }

    fn heard(&mut self, word: &str) {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the switch answers");
        assert_eq!(line.trim(), word, "the switch says something else");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.switch.kill();
        let _ = self.switch.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask test` installs what is missing"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
}
