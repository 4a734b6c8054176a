use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::matching::{HeaderMatch, MAX_PARAMS, MAX_SEGMENTS, MethodMatch, Mismatch, PathPattern, QueryMatch, ValueMatch};

fn full(path: &str) -> Rule {
    Rule::path(PathPattern::full(path).unwrap())
}

fn prefix(path: &str) -> Rule {
    Rule::path(PathPattern::prefix(path).unwrap())
}

trait With {
    fn hosts(self, hosts: &[&str]) -> Self;
    fn methods(self, methods: &[&str]) -> Self;
    fn header(self, name: &'static str, value: &str) -> Self;
    fn query(self, name: &str, value: &str) -> Self;
}

impl With for Rule {
    fn hosts(mut self, hosts: &[&str]) -> Self {
        self.hosts = hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect();
        self
    }

    fn methods(mut self, methods: &[&str]) -> Self {
        self.methods = MethodMatch::any_of(methods.iter().map(|method| method.parse().unwrap()).collect());
        self
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push(HeaderMatch {
            name: HeaderName::from_static(name),
            value: ValueMatch::Text(value.into()),
        });
        self
    }

    fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push(QueryMatch {
            name: name.into(),
            value: ValueMatch::Text(value.into()),
        });
        self
    }
}

/// A table of one route a rule; a route's policy is its place.
fn build(rules: Vec<Rule>) -> Result<RouteTable<usize>, Vec<Unreachable>> {
    let route = |(place, rule)| Route {
        name: format!("r{place}").into(),
        rules: vec![rule],
        policy: place,
    };
    RouteTable::build(rules.into_iter().enumerate().map(route).collect())
}

/// A request: `METHOD host/path?query`, and header fields.
struct Request<'a>(&'a str, &'a str, &'a [(&'static str, &'a str)]);

/// The place of the route that takes it, or what else is said.
fn found(table: &RouteTable<usize>, request: &Request<'_>) -> Result<usize, String> {
    let mut fields = HeaderMap::new();
    for (name, value) in request.2 {
        fields.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let (host, target) = request.1.split_at(request.1.find('/').unwrap());
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    let view = View {
        method: request.0,
        host: host.into(),
        path: path.into(),
        query,
        fields: &fields,
    };
    match table.find(&view) {
        Find::Found(found) => {
            assert!(found.route.rules[0].mismatches(&view).is_empty());
            let chosen: Vec<_> = table
                .explain(&view)
                .into_iter()
                .filter(|candidate| candidate.chosen)
                .collect();
            assert!(chosen.len() == 1 && chosen[0].id == found.id && chosen[0].mismatches.is_empty());
            assert_eq!(table.explain(&view)[0].id, found.id, "the first candidate is the chosen one");
            Ok(found.route.policy)
        }
        Find::MethodNotAllowed { allow } => Err(allow.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(", ")),
        Find::NotFound => Err("not found".to_owned()),
    }
}

/// Every case: in whichever order the rules come, the first of them (as given) takes the request.
#[track_caller]
fn first_wins(request: Request<'_>, rules: Vec<Rule>) {
    assert_eq!(found(&build(rules.clone()).unwrap(), &request), Ok(0));
    let last = rules.len() - 1;
    assert_eq!(found(&build(rules.into_iter().rev().collect()).unwrap(), &request), Ok(last));
}

#[test]
fn an_exact_host_comes_before_a_wildcard_and_the_longer_wildcard_first() {
    let hosts = |host| prefix("/").hosts(&[host]);
    first_wins(
        Request("GET", "a.b.test/x", &[]),
        vec![hosts("a.b.test"), hosts("*.b.test"), hosts("*.test"), prefix("/")],
    );
    first_wins(
        Request("GET", "z.b.test/x", &[]),
        vec![hosts("*.b.test"), hosts("*.test"), prefix("/"), hosts("a.b.test")],
    );
    first_wins(Request("GET", "a.b.test/x", &[]), vec![hosts("a.b.test"), full("/x")]);
    first_wins(Request("GET", "/x", &[]), vec![prefix("/"), hosts("*.test")]);
}

#[test]
fn a_full_path_comes_before_a_prefix_and_more_literal_characters_first() {
    first_wins(
        Request("GET", "h/accounts/me", &[]),
        vec![full("/accounts/me"), full("/accounts/{id}"), prefix("/accounts")],
    );
    first_wins(
        Request("GET", "h/v2/x", &[]),
        vec![full("/{a}/{b}"), prefix("/v2/x"), prefix("/v2"), prefix("/")],
    );
    first_wins(
        Request("GET", "h/old/a/b", &[]),
        vec![full("/old/{*rest}"), prefix("/old"), full("/{*rest}")],
    );
    first_wins(
        Request("GET", "h/old/a", &[]),
        vec![full("/old/{x}"), full("/old/{*rest}"), prefix("/old")],
    );
    first_wins(Request("GET", "h/abc/b", &[]), vec![full("/abc/{x}"), full("/{y}/b")]);
    first_wins(Request("GET", "h/a/bcd", &[]), vec![full("/{y}/bcd"), full("/a/{x}")]);
}

#[test]
fn then_come_method_headers_and_query_in_this_order() {
    let request = Request("GET", "h/a?v=1&w=1", &[("x-a", "1"), ("x-b", "1")]);
    first_wins(
        request,
        vec![
            full("/a").methods(&["GET"]),
            full("/a").header("x-a", "1").header("x-b", "1"),
            full("/a").header("x-a", "1").query("v", "1").query("w", "1"),
            full("/a").header("x-a", "1").query("v", "1"),
            full("/a").header("x-a", "1"),
            full("/a").query("v", "1"),
            full("/a"),
        ],
    );
}

#[test]
fn between_equals_the_first_in_the_file_wins() {
    let rules = vec![full("/a/{x}"), full("/{y}/b")];
    assert_eq!(found(&build(rules.clone()).unwrap(), &Request("GET", "h/a/b", &[])), Ok(0));
    assert_eq!(
        found(
            &build(rules.into_iter().rev().collect()).unwrap(),
            &Request("GET", "h/a/b", &[])
        ),
        Ok(0)
    );
}

#[test]
fn a_template_whose_conditions_fail_gives_way_to_a_less_specific_one() {
    let table = build(vec![
        full("/a/b").header("x-beta", "1"),
        full("/a/{x}").methods(&["POST"]),
        full("/{y}/b").query("v", "2"),
        prefix("/a").hosts(&["h.test"]),
        full("/{*rest}"),
    ])
    .unwrap();
    for (request, route) in [
        (Request("GET", "h/a/b", &[("x-beta", "1")]), 0),
        (Request("POST", "h/a/b", &[]), 1),
        (Request("GET", "h/a/b?v=2", &[]), 2),
        (Request("GET", "h.test/a/b", &[]), 3),
        (Request("GET", "h/a/b", &[]), 4),
    ] {
        assert_eq!(found(&table, &request), Ok(route), "{}", request.1);
    }
}

#[test]
fn a_host_whose_paths_do_not_match_gives_way_to_a_wider_one() {
    let table = build(vec![
        full("/a").hosts(&["api.bank.test"]),
        full("/b").hosts(&["*.bank.test"]),
        full("/c"),
    ])
    .unwrap();
    assert_eq!(found(&table, &Request("GET", "api.bank.test/b", &[])), Ok(1));
    assert_eq!(found(&table, &Request("GET", "api.bank.test/c", &[])), Ok(2));
    assert_eq!(
        found(&table, &Request("GET", "bank.test/b", &[])),
        Err("not found".to_owned())
    );
}

#[test]
fn only_where_nothing_but_the_method_differs_it_is_the_method() {
    let table = build(vec![
        full("/a").methods(&["PUT", "GET"]),
        full("/a").methods(&["DELETE"]).header("x-admin", "1"),
        prefix("/").methods(&["PATCH", "GET"]).hosts(&["h"]),
    ])
    .unwrap();
    assert_eq!(found(&table, &Request("POST", "other/a", &[])), Err("GET, PUT".to_owned()));
    assert_eq!(found(&table, &Request("POST", "h/a", &[])), Err("GET, PATCH, PUT".to_owned()));
    assert_eq!(
        found(&table, &Request("POST", "h/a", &[("x-admin", "1")])),
        Err("DELETE, GET, PATCH, PUT".to_owned())
    );
    assert_eq!(found(&table, &Request("POST", "other/b", &[])), Err("not found".to_owned()));
    assert_eq!(found(&table, &Request("PATCH", "h/a", &[])), Ok(2));
}

#[test]
fn parameters_come_under_the_names_of_the_rule_that_matched() {
    let table = build(vec![
        full("/{tenant}/a").methods(&["GET"]),
        full("/{customer}/a").methods(&["POST"]),
        full("/x/{*rest}"),
    ])
    .unwrap();
    let fields = HeaderMap::new();
    let params = |method, path: &'static str| {
        let view = View {
            method,
            host: "".into(),
            path: path.into(),
            query: None,
            fields: &fields,
        };
        let Find::Found(found) = table.find(&view) else {
            panic!("{path}")
        };
        found
            .params
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(params("GET", "/7/a"), ["tenant=7"]);
    assert_eq!(params("POST", "/7/a"), ["customer=7"]);
    assert_eq!(params("GET", "/x/y/z/"), ["rest=y/z/"]);
}

fn unreachable(rules: Vec<Rule>) -> Vec<(u32, u32)> {
    build(rules).map_or_else(
        |found| found.iter().map(|u| (u.rule.route, u.by.route)).collect(),
        |_| Vec::new(),
    )
}

#[test]
fn a_rule_that_another_takes_everything_from_is_unreachable() {
    let get = || full("/a/{x}").methods(&["GET"]);
    assert_eq!(unreachable(vec![full("/a/{x}"), full("/b"), full("/a/{y}")]), [(2, 0)]);
    assert_eq!(unreachable(vec![get(), full("/a/{y}").methods(&["GET"])]), [(1, 0)]);
    assert_eq!(
        unreachable(vec![full("/a").methods(&["GET", "PUT"]), full("/a").methods(&["PUT"])]),
        [(1, 0)]
    );
    assert_eq!(
        unreachable(vec![
            full("/a").methods(&["GET"]),
            full("/a").methods(&["PUT"]),
            full("/a").methods(&["PUT", "GET"])
        ]),
        [(2, 1)]
    );
    let two = |a, b| full("/a").header(a, "1").header(b, "2");
    let mut swapped = two("x-a", "x-b");
    swapped.headers.reverse();
    assert_eq!(unreachable(vec![two("x-a", "x-b"), swapped]), [(1, 0)]);
    assert_eq!(
        unreachable(vec![full("/a").hosts(&["x", "y"]), full("/a").hosts(&["y", "x", "x"])]),
        [(1, 0)]
    );
    assert_eq!(unreachable(vec![prefix("/v2"), prefix("/v2/")]), [(1, 0)]);
    assert_eq!(unreachable(vec![full("/caf\u{e9}"), full("/caf%c3%a9")]), [(1, 0)]);
}

#[test]
fn what_can_be_told_apart_is_reachable() {
    let none = Vec::<(u32, u32)>::new();
    assert_eq!(unreachable(vec![full("/a").methods(&["GET"]), full("/a")]), none);
    assert_eq!(
        unreachable(vec![full("/a").methods(&["GET"]), full("/a").methods(&["GET", "PUT"])]),
        none
    );
    assert_eq!(
        unreachable(vec![
            full("/a").header("x", "1"),
            full("/a").header("x", "2"),
            full("/a").query("x", "1")
        ]),
        none
    );
    assert_eq!(
        unreachable(vec![full("/a").hosts(&["x"]), full("/a").hosts(&["x", "y"]), full("/a")]),
        none
    );
    assert_eq!(unreachable(vec![full("/a/{x}"), full("/a/{*x}"), prefix("/a")]), none);
}

#[test]
fn two_matches_of_one_route_can_shadow_each_other() {
    let route = Route {
        name: "a".into(),
        rules: vec![full("/a"), full("/a")],
        policy: (),
    };
    let found = RouteTable::build(vec![route]).unwrap_err();
    assert_eq!(
        found,
        [Unreachable {
            rule: RuleId { route: 0, rule: 1 },
            by: RuleId { route: 0, rule: 0 }
        }]
    );
}

#[test]
fn an_explanation_says_why_each_rule_did_not_match() {
    let table = build(vec![
        full("/b").methods(&["GET"]).hosts(&["x"]),
        full("/a").methods(&["POST"]).header("x-beta", "1"),
        prefix("/").query("v", "1"),
        prefix("/"),
    ])
    .unwrap();
    let fields = HeaderMap::new();
    let view = View {
        method: "POST",
        host: "h".into(),
        path: "/a".into(),
        query: None,
        fields: &fields,
    };
    let candidates: Vec<_> = table
        .explain(&view)
        .into_iter()
        .map(|c| (c.id.route, c.mismatches, c.chosen))
        .collect();
    assert_eq!(
        candidates,
        [
            (3, vec![], true),
            (1, vec![Mismatch::Header("x-beta".into())], false),
            (2, vec![Mismatch::Query("v".into())], false),
            (0, vec![Mismatch::Host, Mismatch::Path, Mismatch::Method], false),
        ]
    );
    assert_eq!(table.in_order().iter().map(|id| id.route).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn paths_of_any_depth_are_looked_up() {
    let deep = "/a".repeat(32);
    let table = build(vec![full(&deep), prefix(&deep), full("/a/{*rest}")]).unwrap();
    assert_eq!(found(&table, &Request("GET", &format!("h{deep}"), &[])), Ok(0));
    assert_eq!(found(&table, &Request("GET", &format!("h{deep}/a"), &[])), Ok(1));
    assert_eq!(
        found(&table, &Request("GET", &format!("h{}", "/a".repeat(10_000)), &[])),
        Ok(1)
    );
    assert_eq!(found(&table, &Request("GET", &format!("h{}", "/a".repeat(31)), &[])), Ok(2));
    assert_eq!(
        found(&table, &Request("GET", &format!("h{}", "/b".repeat(10_000)), &[])),
        Err("not found".to_owned())
    );
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let segment = prop_oneof![Just("a"), Just("b"), Just("ab"), Just("{}")];
    let path = (prop::collection::vec(segment, 0..4), 0..4_u8).prop_map(|(segments, end)| {
        let names: Vec<_> = segments
            .iter()
            .enumerate()
            .map(|(at, s)| s.replace("{}", &format!("{{p{at}}}")))
            .collect();
        let path = names.iter().map(|name| format!("/{name}")).collect::<String>();
        match end {
            0 => prefix(if path.is_empty() { "/" } else { &path }),
            1 => full(&format!("{path}/{{*rest}}")),
            2 => full(&format!("{path}/")),
            _ => full(if path.is_empty() { "/" } else { &path }),
        }
    });
    let hosts = prop::sample::subsequence(vec!["a.b.test", "*.b.test", "*.test", "*", "c.test"], 0..3);
    let methods = prop::sample::subsequence(vec!["GET", "POST", "PUT"], 0..3);
    let headers = prop::collection::vec((prop::sample::select(vec!["x-a", "x-b"]), "[01]"), 0..3);
    let query = prop::collection::vec(("[vw]", "[01]"), 0..2);
    (path, hosts, methods, headers, query).prop_map(|(rule, hosts, methods, headers, query)| {
        let rule = rule.hosts(&hosts).methods(&methods);
        let rule = headers
            .into_iter()
            .fold(rule, |rule, (name, value)| rule.header(name, &value));
        query.into_iter().fold(rule, |rule, (name, value)| rule.query(&name, &value))
    })
}

/// The same by looking at every rule: written from the sentences of the specification and not from [`Rank`].
fn by_the_book(rules: &[Rule], view: &View<'_>) -> Option<usize> {
    let mut matching: Vec<usize> = (0..rules.len()).filter(|&at| rules[at].mismatches(view).is_empty()).collect();
    matching.sort_by(|&a, &b| {
        let host = |rule: &Rule| {
            let lengths = rule
                .hosts
                .iter()
                .filter(|host| host.matches(&view.host))
                .map(|host| match host {
                    HostPattern::Exact(_) => usize::MAX,
                    HostPattern::Below(suffix) => suffix.len(),
                    HostPattern::Any => 0,
                });
            lengths.max().unwrap_or(0)
        };
        let text = |rule: &Rule| rule.path.to_string();
        let open = |rule: &Rule| text(rule).contains(['…', '*']);
        let literals = |rule: &Rule| {
            let text = text(rule).replace("[/…]", "").replace('…', "");
            let mut inside = false;
            text.chars()
                .filter(|&c| {
                    inside = (inside || c == '{') && c != '}';
                    !inside && c != '}'
                })
                .count()
        };
        let (a, b) = (&rules[a], &rules[b]);
        (host(b).cmp(&host(a)))
            .then(open(a).cmp(&open(b)))
            .then(literals(b).cmp(&literals(a)))
            .then(a.methods.is_any().cmp(&b.methods.is_any()))
            .then(b.headers.len().cmp(&a.headers.len()))
            .then(b.query.len().cmp(&a.query.len()))
    });
    matching.first().copied()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_table_decides_as_the_book_does(
        mut rules in prop::collection::vec(any_rule(), 1..12),
        host in prop::sample::select(vec!["a.b.test", "x.b.test", "b.test", "c.test", ""]),
        path in "(/(a|b|ab|c)){0,4}/?",
        method in prop::sample::select(vec!["GET", "POST", "DELETE"]),
        headers in prop::collection::vec((prop::sample::select(vec!["x-a", "x-b"]), "[01]"), 0..3),
        query in prop::option::of("[vw]=[01](&[vw]=[01])?"),
    ) {
        let mut fields = HeaderMap::new();
        for (name, value) in headers {
            fields.append(name, HeaderValue::from_str(&value).unwrap());
        }
        let path = if path.is_empty() { "/" } else { &path };
        let view = View { method, host: host.into(), path: path.into(), query: query.as_deref(), fields: &fields };
        // What the table calls unreachable must make no difference when it is left out.
        let table = loop {
            match build(rules.clone()) {
                Ok(table) => break table,
                Err(unreachable) => {
                    let book = by_the_book(&rules, &view).map(|at| rules[at].clone());
                    let out = unreachable[0].rule.route as usize;
                    prop_assert_ne!(by_the_book(&rules, &view), Some(out));
                    rules.remove(out);
                    let again = by_the_book(&rules, &view).map(|at| rules[at].clone());
                    prop_assert_eq!(format!("{book:?}"), format!("{again:?}"));
                }
            }
        };
        let expected = by_the_book(&rules, &view);
        match table.find(&view) {
            Find::Found(found) => prop_assert_eq!(Some(found.route.policy), expected),
            Find::MethodNotAllowed { allow } => {
                prop_assert_eq!(expected, None);
                for method in allow {
                    let view = View { method: method.as_str(), ..view.clone() };
                    prop_assert!(by_the_book(&rules, &view).is_some());
                }
            }
            Find::NotFound => {
                prop_assert_eq!(expected, None);
                for method in ["GET", "POST", "PUT"] {
                    let view = View { method, ..view.clone() };
                    prop_assert_eq!(by_the_book(&rules, &view), None);
                }
            }
        }
    }
}

#[test]
fn a_template_of_many_parameters_is_refused_or_found() {
    for count in 1..=MAX_SEGMENTS {
        let params: String = (0..count - 1).map(|place| format!("/{{p{place}}}")).collect();
        let Ok(pattern) = PathPattern::full(&format!("{params}/end")) else {
            assert!(count > MAX_PARAMS);
            continue;
        };
        let table = build(vec![Rule::path(pattern)]).unwrap();
        let path = format!("a{}/end", "/x".repeat(count - 1));
        assert_eq!(found(&table, &Request("GET", &path, &[])), Ok(0), "{count}");
    }
}
