//! What a look-up and a compiled table cost, by the number of routes.
//!
//! `cargo bench -p routing`

use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderValue};
use routing::matching::{HostPattern, MethodMatch, PathPattern, Rule, View};
use routing::table::{Find, Route, RouteTable};
use routing::{RequestHead, Scheme};

const SIZES: [usize; 4] = [10, 1_000, 10_000, 100_000];

fn main() {
    divan::main();
}

/// Routes as an API has them: of every ten, seven with parameters at various depths, two literal, one prefix.
fn routes(count: usize, hosts: usize) -> Vec<Route<usize>> {
    let route = |n: usize| {
        let path = match n % 10 {
            0..3 => PathPattern::full(&format!("/api/v1/service-{n}/items/{{id}}")),
            3..6 => PathPattern::full(&format!("/api/v1/service-{n}/items/{{id}}/parts/{{part}}")),
            6 => PathPattern::full(&format!("/api/v1/{{tenant}}/service-{n}")),
            7..9 => PathPattern::full(&format!("/api/v1/service-{n}/status")),
            _ => PathPattern::prefix(&format!("/static/site-{n}")),
        };
        let mut rule = Rule::path(path.expect("a template"));
        rule.methods = MethodMatch::any_of(vec![http::Method::GET]);
        if hosts > 0 {
            rule.hosts = vec![HostPattern::parse(&format!("host-{}.bank.example", n % hosts)).expect("a host")];
        }
        Route {
            name: format!("route-{n}").into(),
            rules: vec![rule],
            policy: n,
        }
    };
    (0..count).map(route).collect()
}

fn fields() -> HeaderMap {
    let mut fields = HeaderMap::new();
    for name in [
        "accept",
        "accept-encoding",
        "accept-language",
        "cookie",
        "user-agent",
        "x-request-id",
        "traceparent",
        "via",
    ] {
        fields.insert(name, HeaderValue::from_static("something that is as long as such a value is"));
    }
    fields
}

fn find(bencher: Bencher<'_, '_>, count: usize, hosts: usize, target: impl Fn(usize) -> String) {
    let table = RouteTable::build(routes(count, hosts)).expect("every route can be reached");
    let fields = fields();
    let wanted: Vec<(String, String)> = (0..64)
        .map(|n| n * (count / 10).max(1) * 10 / 64 / 10 * 10)
        .map(|n| (format!("host-{}.bank.example:8080", n % hosts.max(1)), target(n)))
        .collect();
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 1) % wanted.len();
        let (authority, target) = &wanted[next];
        let head = RequestHead {
            method: "GET",
            scheme: Scheme::Http,
            authority,
            target,
            fields: &fields,
            peer: None,
        };
        let view = View::of(black_box(&head)).expect("a head");
        match table.find(&view) {
            Find::Found(found) => black_box(found.id.route),
            _ => panic!("{target}"),
        }
    });
}

#[divan::bench(args = SIZES, sample_size = 2_000)]
fn find_with_parameter(bencher: Bencher<'_, '_>, count: usize) {
    find(bencher, count, 0, |n| format!("/api/v1/service-{n}/items/4711?page=2"));
}

#[divan::bench(args = SIZES, sample_size = 2_000)]
fn find_under_prefix(bencher: Bencher<'_, '_>, count: usize) {
    find(bencher, count, 0, |n| format!("/static/site-{}/css/main.css", n + 9));
}

#[divan::bench(args = SIZES, sample_size = 2_000)]
fn find_among_a_thousand_hosts(bencher: Bencher<'_, '_>, count: usize) {
    find(bencher, count, 1_000, |n| format!("/api/v1/service-{n}/items/4711"));
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn build(bencher: Bencher<'_, '_>, count: usize) {
    bencher
        .with_inputs(|| routes(count, 0))
        .bench_local_values(|routes| RouteTable::build(routes).map(|table| table.routes().len()));
}
