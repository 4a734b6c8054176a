//! Any templates and any target: never a panic, normal paths stay as they are, and the table decides as looking at every rule does.
#![no_main]

use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use routing::matching::{PathPattern, Rule, View, normalise};
use routing::table::{Find, Rank, Route, RouteTable, RuleId};
use routing::{RequestHead, Scheme};

#[derive(Debug, arbitrary::Arbitrary)]
struct Input<'a> {
    templates: Vec<(bool, &'a str)>,
    authority: &'a str,
    target: &'a str,
}

fuzz_target!(|input: Input<'_>| {
    let patterns = input.templates.iter().take(16).filter_map(|(prefix, text)| {
        if *prefix {
            PathPattern::prefix(text).ok()
        } else {
            PathPattern::full(text).ok()
        }
    });
    let routes = patterns.map(|pattern| Route {
        name: "".into(),
        rules: vec![Rule::path(pattern)],
        policy: (),
    });
    let Ok(table) = RouteTable::build(routes.collect()) else {
        return;
    };
    let fields = HeaderMap::new();
    let (authority, target) = (input.authority, input.target);
    let head = RequestHead {
        method: "GET",
        scheme: Scheme::Http,
        authority,
        target,
        fields: &fields,
        peer: None,
    };
    let Ok(view) = View::of(&head) else { return };
    assert_eq!(normalise(&view.path).as_deref(), Ok(&*view.path));
    let ids = (0..table.routes().len()).map(|route| RuleId {
        route: route as u32,
        rule: 0,
    });
    let matching = ids.filter(|&id| table.rule(id).mismatches(&view).is_empty());
    let expected = matching.min_by_key(|&id| Rank::of(table.rule(id), id));
    match table.find(&view) {
        Find::Found(found) => {
            assert_eq!(Some(found.id), expected);
            assert!(found.params.iter().all(|(_, value)| !value.is_empty()));
        }
        _ => assert_eq!(expected, None),
    }
});
