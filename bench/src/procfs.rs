//! What `/proc` says of a process and of a core. Reading apart from parsing.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: u32,
    /// User and system time of all its threads, the ended ones too, in clock ticks.
    pub(crate) ticks: u64,
    /// The same of the children that ended and were waited for.
    pub(crate) reaped: u64,
}

/// proc(5): the program's name is in parentheses and may itself hold spaces and parentheses; state is the field after it.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, after) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    // Field 3 is the state, so fields 4 (parent), 14 to 17 (user, system, and both of the children) are 1 and 11 to 14 here.
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        ticks: ticks(11)? + ticks(12)?,
        reaped: ticks(13)? + ticks(14)?,
    })
}

/// A field of `/proc/PID/status` that is given in kB, in bytes.
fn parse_status(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// How a core has spent its time since the machine started, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CoreTime {
    busy: u64,
    /// In interrupts, which the kernel counts for no process: most of it is what the network asks for that is measured.
    interrupted: u64,
    idle: u64,
    stolen: u64,
}

impl CoreTime {
    pub(crate) fn now(core: usize) -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        parse_core(&text, core).with_context(|| format!("/proc/stat has no core {core}"))
    }

    /// Which part of the time between the two the core was at work for processes.
    pub(crate) fn busy_since(self, earlier: Self) -> f64 {
        let [busy, all] = self.since(earlier);
        if all == 0.0 { 0.0 } else { busy / all }
    }

    /// Which part of it another guest of the same machine had.
    pub(crate) fn stolen_since(self, earlier: Self) -> f64 {
        let [_, all] = self.since(earlier);
        let stolen = to_f64(self.stolen.saturating_sub(earlier.stolen));
        if all == 0.0 { 0.0 } else { stolen / all }
    }

    fn since(self, earlier: Self) -> [f64; 2] {
        let busy = self.busy.saturating_sub(earlier.busy);
        let rest = |time: Self| time.idle + time.interrupted + time.stolen;
        let rest = rest(self).saturating_sub(rest(earlier));
        [to_f64(busy), to_f64(busy + rest)]
    }
}

fn parse_core(text: &str, core: usize) -> Option<CoreTime> {
    let name = format!("cpu{core} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name))?;
    let fields: Vec<u64> = line.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; what a guest of ours would use is in user already.
    let [user, nice, system, idle, iowait, irq, softirq, stolen, ..] = fields[..] else {
        return None;
    };
    Some(CoreTime {
        busy: user + nice + system,
        interrupted: irq + softirq,
        idle: idle + iowait,
        stolen,
    })
}

/// A process and all that it started, as they are at this moment.
pub(crate) fn tree(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that ended since is no part of it.
        if let Some(stat) = fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .as_deref()
            .and_then(parse_stat)
        {
            parents.push((pid, stat.parent));
        }
    }
    Ok(descendants(root, &parents))
}

fn descendants(root: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// The processor time of a process and all that it started.
pub(crate) fn processor_time(root: u32) -> Result<Duration> {
    let mut ticks = 0;
    for pid in tree(root)? {
        ticks += stat(pid)?.ticks;
    }
    Ok(duration(ticks))
}

/// The processor time of this process and all that it started, those that ended among them.
pub(crate) fn all_of_ours() -> Result<Duration> {
    let own = std::process::id();
    Ok(processor_time(own)? + duration(stat(own)?.reaped))
}

fn stat(pid: u32) -> Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} ended"))?;
    parse_stat(&text).with_context(|| format!("/proc/{pid}/stat: {text}"))
}

/// The resident memory of a process and all that it started, in bytes.
pub(crate) fn resident(root: u32) -> Result<u64> {
    sum_of(root, "VmRSS")
}

/// The most that was ever resident, in bytes.
pub(crate) fn peak_resident(root: u32) -> Result<u64> {
    sum_of(root, "VmHWM")
}

/// Has [`peak_resident`] begin anew (proc(5), `clear_refs`).
pub(crate) fn forget_peak(root: u32) -> Result<()> {
    for pid in tree(root)? {
        fs::write(format!("/proc/{pid}/clear_refs"), "5").with_context(|| format!("process {pid}"))?;
    }
    Ok(())
}

fn sum_of(root: u32, field: &str) -> Result<u64> {
    let mut bytes = 0;
    for pid in tree(root)? {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} ended"))?;
        bytes += parse_status(&text, field).with_context(|| format!("/proc/{pid}/status has no {field}"))?;
    }
    Ok(bytes)
}

fn duration(ticks: u64) -> Duration {
    Duration::from_secs_f64(to_f64(ticks) / to_f64(rustix::param::clock_ticks_per_second()))
}

#[expect(clippy::cast_precision_loss, reason = "ticks and bytes are far below 2^52")]
fn to_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_spaces_and_parentheses_in_its_name() {
        let text = "4711 (nginx: (worker) x) S 4700 4711 4700 0 -1 4194624 241 0 0 0 150 250 3 4 20 0 1 0 8 9 10";
        assert_eq!(
            parse_stat(text),
            Some(Stat {
                parent: 4700,
                ticks: 400,
                reaped: 7
            })
        );
    }

    #[test]
    fn a_line_that_breaks_off_is_none() {
        assert_eq!(parse_stat("4711 (nginx) S 4700 4711"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn memory_is_given_in_bytes() {
        let text = "Name:\tx\nVmHWM:\t    9000 kB\nVmRSS:\t    8192 kB\n";
        assert_eq!(parse_status(text, "VmRSS"), Some(8 << 20));
        assert_eq!(parse_status(text, "VmSwap"), None);
    }

    #[test]
    fn one_core_is_not_taken_for_another() {
        let text = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu1 10 0 20 60 10 1 4 5 0 0\ncpu11 1 1 1 1 1 1 1 1 0 0\n";
        let one = parse_core(text, 1).unwrap();
        assert_eq!(
            one,
            CoreTime {
                busy: 30,
                interrupted: 5,
                idle: 70,
                stolen: 5
            }
        );
        assert_eq!(parse_core(text, 2), None);
    }

    #[test]
    fn stolen_time_and_interrupts_are_no_work_and_no_rest() {
        let begin = CoreTime::default();
        let end = CoreTime {
            busy: 60,
            interrupted: 10,
            idle: 10,
            stolen: 20,
        };
        assert_eq!(end.busy_since(begin), 0.6);
        assert_eq!(end.stolen_since(begin), 0.2);
        assert_eq!(begin.busy_since(begin), 0.0);
    }

    #[test]
    fn the_children_of_children_belong_to_a_process() {
        let parents = [(2, 1), (3, 2), (4, 3), (5, 1)];
        assert_eq!(descendants(2, &parents), [2, 3, 4]);
    }

    #[test]
    fn this_process_has_used_some_memory_and_counts_itself() {
        let pid = std::process::id();
        assert!(tree(pid).unwrap().contains(&pid));
        assert!(resident(pid).unwrap() > 0 && peak_resident(pid).unwrap() > 0);
        processor_time(pid).unwrap();
    }
}
