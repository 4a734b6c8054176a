//! `[routes.aggregate]`.

mod branch;

use routing::config::{Diagnostics, Spanned};
use routing::matching::Rule;

use super::raw;
use super::route::Known;
use crate::aggregate::{Aggregate, Branch};
use crate::exchange::MAX_BRANCHES;

/// The longest answer of a branch that is read where a config does not say: 1 MiB, since all branches of all requests under way lie
/// in memory.
const MAX_BODY: u64 = 1 << 20;

/// The longest answer that is made of all branches, where a config does not say.
const MAX_ANSWER: u64 = 8 << 20;

/// Compiles an aggregate. None where it has a mistake.
pub(super) fn compile(
    raw: &Spanned<raw::Aggregate>,
    rules: &[Rule],
    known: &Known,
    diagnostics: &mut Diagnostics,
) -> Option<Aggregate> {
    let aggregate = raw.get_ref();
    let list = aggregate.branches.get_ref();
    let mut size = |key: &str, value: &Option<_>, default: u64| match value {
        Some(value) => diagnostics.size(key, value, 1..=64 << 20),
        None => Some(default),
    };
    let max_body = size("`max_body`", &aggregate.max_body, MAX_BODY);
    let max_answer = size("`max_answer`", &aggregate.max_answer, MAX_ANSWER);
    if list.is_empty() || list.len() > MAX_BRANCHES {
        diagnostics.error(
            aggregate.branches.span(),
            format!("an aggregate has 1 to {MAX_BRANCHES} branches"),
        );
        return None;
    }
    let names: Vec<&str> = list.iter().map(|branch| branch.get_ref().name.get_ref().as_str()).collect();
    let mut compiled = Vec::with_capacity(list.len());
    for (at, branch) in list.iter().enumerate() {
        compiled.push(branch::compile(at, branch.get_ref(), &names, rules, known, diagnostics));
    }
    let mut branches: Vec<Branch> = compiled.into_iter().collect::<Option<_>>()?;
    if let Some(cycle) = find_cycle(&branches) {
        let path: Vec<&str> = cycle.iter().map(|&at| names[at]).collect();
        let place = list[cycle[0]].get_ref().path.span();
        let error = diagnostics.error(place, format!("branches wait for each other: {}", path.join(" → ")));
        error.hint("one of them has to do without the others");
        return None;
    }
    for at in 0..branches.len() {
        branches[at].is_needed = branches.iter().any(|other| other.needs.contains(&at));
    }
    let mut request_headers = Vec::new();
    for name in branches.iter().flat_map(|branch| &branch.request_headers) {
        if !request_headers.contains(name) {
            request_headers.push(name.clone());
        }
    }
    Some(Aggregate {
        branches,
        max_body: max_body?,
        max_answer: max_answer?,
        request_headers,
    })
}

/// The way around a circle of branches that wait for each other, its start at both ends.
fn find_cycle(branches: &[Branch]) -> Option<Vec<usize>> {
    fn visit(at: usize, branches: &[Branch], way: &mut Vec<usize>, done: &mut [bool]) -> Option<Vec<usize>> {
        if let Some(start) = way.iter().position(|&before| before == at) {
            let mut cycle = way[start..].to_vec();
            cycle.push(at);
            return Some(cycle);
        }
        if done[at] {
            return None;
        }
        way.push(at);
        let found = branches[at].needs.iter().find_map(|&need| visit(need, branches, way, done));
        way.pop();
        done[at] = true;
        found
    }
    let mut done = vec![false; branches.len()];
    (0..branches.len()).find_map(|at| visit(at, branches, &mut Vec::new(), &mut done))
}
