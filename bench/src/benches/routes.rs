//! Looking a route up and compiling a config, by the number of routes; and what a gateway with many holds.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use gateway::{Gateway, Source};
use http::{HeaderMap, HeaderValue};
use routing::matching::View;
use routing::table::{Find, Route, RouteTable};
use routing::{RequestHead, Scheme};

use crate::contestants::native_host::{Engine, native_host};
use crate::http::get;
use crate::lab::{Lab, OnCore};
use crate::report::{Goal, Report, Table};
use crate::rounds::mebibytes;
use crate::statistics::{Bound, Spread};

/// Numbers of routes and of the hosts that they are spread over; no hosts: they match any.
const SIZES: [(usize, usize); 5] = [(10, 0), (1_000, 0), (10_000, 0), (100_000, 0), (100_000, 1_000)];

/// Where the goals are set.
const JUDGED: usize = 10_000;

/// The routes whose resident memory is judged.
const RESIDENT: usize = 5_000;

const FINDS: u32 = 200_000;

pub(super) fn run(lab: &Lab) -> Result<Report> {
    let _core = OnCore::new(lab.core)?;
    let mut report = Report::new(
        "routes",
        "In one process: RouteTable::find with eight header fields, asked for 64 different routes in turn, and compiling the TOML text of\n\
         a config into what is swapped in. Of ten routes seven have parameters, two are literal, one is a prefix.",
    );
    let mut table = Table::new("routes", &[("find, ns", 0), ("compile, ms", 1)]);
    for (routes, hosts) in SIZES {
        let (mut finds, mut compiles) = (Vec::new(), Vec::new());
        for _ in 0..lab.rounds {
            let (compiled, gateway) = compile(&config(routes, hosts))?;
            compiles.push(compiled.as_secs_f64() * 1e3);
            finds.push(find(&gateway, routes, hosts)?);
        }
        let name = if hosts == 0 {
            format!("{routes}")
        } else {
            format!("{routes} over {hosts} hosts")
        };
        let (finds, compiles) = (Spread::of(finds), Spread::of(compiles));
        eprintln!(
            "    {name}: find {:.0} ns, compile {:.1} ms",
            median(&finds),
            median(&compiles)
        );
        if (routes, hosts) == (JUDGED, 0) {
            let mut goal = |what, most, digits, measured: &Option<Spread>| {
                report
                    .goals
                    .push(Goal::new(what, Bound::AtMost(most), digits, measured.clone()));
            };
            goal("find among 10,000 ≤ 300 ns", 300.0, 0, &finds);
            goal("compile and swap 10,000 ≤ 50 ms", 50.0, 1, &compiles);
        }
        table.row(&name, vec![finds, compiles]);
    }
    report.tables.push(table);
    resident(lab, &mut report)?;
    Ok(report)
}

fn median(spread: &Option<Spread>) -> f64 {
    spread.as_ref().map_or(f64::NAN, |spread| spread.median)
}

fn compile(text: &str) -> Result<(Duration, Gateway)> {
    let source = Source::new("routes.toml", text);
    let begun = Instant::now();
    let gateway = Gateway::compile(&source, &mut |_| Err("there are no files".to_owned()), &|_| None);
    let passed = begun.elapsed();
    Ok((passed, gateway.map_err(|wrong| anyhow!("{wrong}"))?))
}

/// Nanoseconds of one look-up.
fn find(gateway: &Gateway, routes: usize, hosts: usize) -> Result<f64> {
    let copy = |route: &gateway::Route| Route {
        name: route.name.clone(),
        rules: route.rules.clone(),
        policy: (),
    };
    let table = RouteTable::build(gateway.routes().iter().map(copy).collect()).map_err(|wrong| anyhow!("{wrong:?}"))?;
    let fields = fields();
    let wanted: Vec<(String, String)> = (0..64)
        .map(|nth| nth * routes / 64 / 10 * 10)
        .map(|nth| {
            (
                format!("host-{}.bank.example:8080", nth % hosts.max(1)),
                format!("/api/v1/service-{nth}/items/4711?page=2"),
            )
        })
        .collect();
    let begun = Instant::now();
    let mut found = 0;
    for (authority, target) in wanted.iter().cycle().take(FINDS as usize) {
        let head = RequestHead {
            method: "GET",
            scheme: Scheme::Http,
            authority,
            target,
            fields: &fields,
            peer: None,
        };
        let view = View::of(black_box(&head)).map_err(|wrong| anyhow!("{wrong:?}"))?;
        if let Find::Found(it) = table.find(&view) {
            black_box(it.id.route);
            found += 1;
        }
    }
    ensure!(found == FINDS, "{found} of {FINDS} were found");
    Ok(begun.elapsed().as_secs_f64() * 1e9 / f64::from(FINDS))
}

fn fields() -> HeaderMap {
    let names = [
        "accept",
        "accept-encoding",
        "accept-language",
        "cookie",
        "user-agent",
        "x-request-id",
        "traceparent",
        "via",
    ];
    names
        .into_iter()
        .map(|name| {
            let value = HeaderValue::from_static("something that is as long as such a value is");
            (http::HeaderName::from_static(name), value)
        })
        .collect()
}

/// Routes as an API has them.
pub(super) fn config(routes: usize, hosts: usize) -> String {
    let mut text = String::from("[upstreams.one]\nendpoints = [{ url = \"http://127.0.0.1:9\" }]\n");
    for nth in 0..routes {
        let path = match nth % 10 {
            0..3 => format!("path = \"/api/v1/service-{nth}/items/{{id}}\""),
            3..6 => format!("path = \"/api/v1/service-{nth}/items/{{id}}/parts/{{part}}\""),
            6 => format!("path = \"/api/v1/{{tenant}}/service-{nth}\""),
            7..9 => format!("path = \"/api/v1/service-{nth}/status\""),
            _ => format!("path_prefix = \"/static/site-{nth}\""),
        };
        let host = if hosts == 0 {
            String::new()
        } else {
            format!("hosts = [\"host-{}.bank.example\"], ", nth % hosts)
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n[[routes]]\nmatch = {{ {host}{path}, methods = [\"GET\"] }}\nupstream = \"one\"\n"
        );
    }
    text
}

fn resident(lab: &Lab, report: &mut Report) -> Result<()> {
    let mut table = Table::new("native-host", &[("idle resident MiB", 1)]);
    for routes in [10, RESIDENT] {
        let text =
            config(routes, 0) + "\n[[routes]]\nmatch = { path = \"/healthz\" }\nrespond = { status = 200, body = \"ok\" }\n";
        let file = lab.write("routes.toml", &text)?;
        let mut rounds = Vec::new();
        for _ in 0..lab.rounds {
            let mut host = native_host(lab, Engine::Native, &file)?;
            let address = host.address;
            if let Some(process) = host.processes.last_mut() {
                process.until(Duration::from_millis(20), || get(address, "/healthz", ""))?;
            }
            rounds.push(mebibytes(host.resident()?));
        }
        let rounds = Spread::of(rounds);
        if routes == RESIDENT {
            report.goals.push(Goal::new(
                "resident at 5,000 routes ≤ 40 MiB",
                Bound::AtMost(40.0),
                1,
                rounds.clone(),
            ));
        }
        table.row(&format!("{routes} routes"), vec![rounds]);
    }
    report.tables.push(table);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_that_is_asked_for_is_found() {
        for (routes, hosts) in [(10, 0), (1_000, 0), (1_000, 100)] {
            let (_, gateway) = compile(&config(routes, hosts)).unwrap();
            assert_eq!(gateway.routes().len(), routes);
            find(&gateway, routes, hosts).unwrap();
        }
    }
}
