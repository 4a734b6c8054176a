//! The rules of one host pattern, found by their paths.
//!
//! matchit finds one template for a path, the one with the earliest literals, and refuses templates that it takes for conflicting.
//! Precedence needs more: of `/a/{x}` and `/{y}/b` both match `/a/b`, the rank decides, and where the headers of the better one do
//! not match, the other one is next. So templates are grouped by *shape* (parameter names left out), and shapes by *class*: how many
//! segments, which of them are parameters, and whether the end is open. Two shapes of one class never match the same path, so each
//! class is one matchit router without any overlap, and asking each class that fits the path's length gives every shape that
//! matches. A table has a handful of classes, however many routes.

use std::collections::HashMap;
use std::fmt::Write as _;

use matchit::Router;

use super::rank::ConditionRank;
use super::{RuleId, Unreachable};
use crate::matching::{MAX_SEGMENTS, PathKind, PathPattern, PathRank, Rule, Segment};

/// The rules of one host pattern.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    groups: Vec<Group>,
    /// Full ones first, then by how many literal characters their best shape has, descending.
    classes: Vec<Class>,
    /// Places of shapes in `groups`; only while the bucket is filled.
    shapes: HashMap<(ClassKind, String), u32, super::BuildHasherDefault<super::DefaultHasher>>,
}

/// The rules of one shape, the least rank first.
#[derive(Debug)]
struct Group {
    rank: PathRank,
    entries: Vec<RuleId>,
}

/// The shapes that differ only in their literals.
#[derive(Debug)]
struct Class {
    kind: ClassKind,
    /// How many segments.
    count: usize,
    /// Which of them are parameters, a bit each.
    params: u32,
    /// The least rank of its shapes.
    rank: PathRank,
    shapes: Shapes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ClassKind {
    Full,
    Tail,
    Prefix,
}

/// Group places by shape.
#[derive(Debug)]
enum Shapes {
    /// The only shape without segments.
    Root(u32),
    Tree(Box<Router<u32>>),
}

/// Where the segments of a path end.
pub(super) struct Ends {
    /// `at[n]` is the length of the first n segments.
    at: [usize; MAX_SEGMENTS + 2],
    /// How many segments there are; more than [`MAX_SEGMENTS`] are not counted.
    count: usize,
}

impl Ends {
    pub(super) fn of(path: &str) -> Self {
        let mut ends = Self {
            at: [0; MAX_SEGMENTS + 2],
            count: 0,
        };
        let slashes = path
            .bytes()
            .enumerate()
            .skip(1)
            .filter(|&(_, byte)| byte == b'/')
            .map(|(at, _)| at);
        for end in slashes.chain([path.len()]).take(MAX_SEGMENTS + 1) {
            ends.count += 1;
            ends.at[ends.count] = end;
        }
        ends
    }
}

impl Bucket {
    /// Adds a rule.
    pub(super) fn insert(&mut self, id: RuleId, rule: &Rule) {
        let (kind, shape, params) = shape(&rule.path);
        let key = (kind, shape);
        if let Some(&place) = self.shapes.get(&key) {
            let entries = &mut self.groups[place as usize].entries;
            // A rule that names a host twice is still one rule.
            if entries.last() != Some(&id) {
                entries.push(id);
            }
            return;
        }
        let place = super::index(self.groups.len());
        let rank = rule.path.rank();
        let shape = key.1.clone();
        self.shapes.insert(key, place);
        self.groups.push(Group { rank, entries: vec![id] });
        let count = rule.path.segments().len();
        let known = self
            .classes
            .iter_mut()
            .find(|class| (class.kind, class.count, class.params) == (kind, count, params));
        match known {
            Some(class) => {
                class.rank = class.rank.min(rank);
                class.shapes.insert(shape, place);
            }
            None => {
                let mut shapes = if count == 0 {
                    Shapes::Root(place)
                } else {
                    Shapes::Tree(Box::default())
                };
                shapes.insert(shape, place);
                self.classes.push(Class {
                    kind,
                    count,
                    params,
                    rank,
                    shapes,
                });
            }
        }
    }

    /// Puts everything in its order, and notes which rules are shadowed by which.
    pub(super) fn finish<'r>(&mut self, rule_at: &impl Fn(RuleId) -> &'r Rule, shadows: &mut Vec<Unreachable>) {
        self.shapes = HashMap::default();
        self.classes.sort_by_key(|class| class.rank);
        for group in &mut self.groups {
            group.entries.sort_by_cached_key(|&id| ConditionRank::of(rule_at(id), id));
            group.entries.shrink_to_fit();
            find_shadows(&group.entries, rule_at, shadows);
        }
    }

    /// The rule of the least rank whose path matches and that `takes` the request.
    pub(super) fn best<'r>(
        &self,
        path: &str,
        ends: &Ends,
        rule_at: impl Fn(RuleId) -> &'r Rule,
        takes: impl Fn(&Rule) -> bool,
    ) -> Option<RuleId> {
        let mut best: Option<(PathRank, RuleId)> = None;
        for class in &self.classes {
            // Classes come by their best shape: none of the rest can be better.
            if best.is_some_and(|(rank, _)| rank < class.rank) {
                break;
            }
            let Some(group) = class.find(path, ends) else { continue };
            let group = &self.groups[group as usize];
            if best.is_some_and(|(rank, _)| rank < group.rank) {
                continue;
            }
            let Some(&id) = group.entries.iter().find(|&&id| takes(rule_at(id))) else {
                continue;
            };
            let better = best.is_none_or(|(rank, other)| {
                let conditions = |id| ConditionRank::of(rule_at(id), id);
                group.rank < rank || conditions(id) < conditions(other)
            });
            if better {
                best = Some((group.rank, id));
            }
        }
        best.map(|(_, id)| id)
    }

    /// Every rule whose path matches.
    pub(super) fn entries(&self, path: &str, ends: &Ends) -> impl Iterator<Item = RuleId> {
        let groups = self.classes.iter().filter_map(|class| class.find(path, ends));
        groups.flat_map(|group| self.groups[group as usize].entries.iter().copied())
    }
}

impl Class {
    /// The group of the shape that matches.
    fn find(&self, path: &str, ends: &Ends) -> Option<u32> {
        let fits = match self.kind {
            ClassKind::Full => self.count == ends.count,
            ClassKind::Prefix => self.count <= ends.count,
            // The tail is not empty.
            ClassKind::Tail => self.count < ends.count && path.len() > ends.at[self.count] + 1,
        };
        if !fits {
            return None;
        }
        match &self.shapes {
            Shapes::Root(group) => Some(*group),
            Shapes::Tree(tree) => tree.at(&path[..ends.at[self.count]]).ok().map(|found| *found.value),
        }
    }
}

impl Shapes {
    fn insert(&mut self, shape: String, place: u32) {
        if let Self::Tree(tree) = self {
            tree.insert(shape, place)
                .expect("two shapes of one class differ in a literal and never conflict");
        }
    }
}

/// The class and shape of a template: its literals as they are, its parameters by their places.
fn shape(pattern: &PathPattern) -> (ClassKind, String, u32) {
    let kind = match pattern.kind() {
        PathKind::Full => ClassKind::Full,
        PathKind::Tail(_) => ClassKind::Tail,
        PathKind::Prefix => ClassKind::Prefix,
    };
    let mut text = String::new();
    let mut params = 0;
    for (place, segment) in pattern.segments().iter().enumerate() {
        text.push('/');
        match segment {
            Segment::Literal(literal) => text.push_str(literal),
            Segment::Param(_) => {
                // Writing to a string cannot fail.
                let _written = write!(text, "{{p{place}}}");
                params |= 1 << place;
            }
        }
    }
    (kind, text, params)
}

/// Notes the entries of one group, in their order, whose every request an earlier one of equal rank takes: the same header fields
/// and query parameters, and no method of its own.
fn find_shadows<'r>(entries: &[RuleId], rule_at: &impl Fn(RuleId) -> &'r Rule, shadows: &mut Vec<Unreachable>) {
    if entries.len() < 2 {
        return;
    }
    let mut alike: HashMap<String, Vec<RuleId>, super::BuildHasherDefault<super::DefaultHasher>> = HashMap::default();
    for &id in entries {
        let rule = rule_at(id);
        let earlier = alike.entry(conditions(rule)).or_default();
        let taken = |method: &str| earlier.iter().find(|&&other| rule_at(other).methods.matches(method));
        let by = if rule.methods.is_any() {
            earlier.first()
        } else {
            let takers: Option<Vec<_>> = rule.methods.list().iter().map(|method| taken(method.as_str())).collect();
            takers.and_then(|takers| takers.first().copied())
        };
        shadows.extend(by.map(|&by| Unreachable { rule: id, by }));
        earlier.push(id);
    }
}

/// A text that is the same for rules of equal rank that ask for the same header fields and query parameters.
fn conditions(rule: &Rule) -> String {
    let mut headers: Vec<String> = rule
        .headers
        .iter()
        .map(|header| format!("{:?}={:?}", header.name, header.value))
        .collect();
    headers.sort_unstable();
    let mut query: Vec<String> = rule
        .query
        .iter()
        .map(|query| format!("{:?}={:?}", query.name, query.value))
        .collect();
    query.sort_unstable();
    format!("{}\n{headers:?}\n{query:?}", rule.methods.is_any())
}
