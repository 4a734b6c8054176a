//! The rules of one host pattern, found by their paths.
//!
//! matchit finds one template for a path, the one with the earliest literals, and refuses templates that it takes for conflicting.
//! Precedence needs more: of `/a/{x}` and `/{y}/b` both match `/a/b`, the rank decides, and where the headers of the better one do
//! not match, the other one is next. So templates are grouped by *shape* (parameter names left out), and shapes by *class*: how many
//! segments, which of them are parameters, and whether the end is open. Two shapes of one class never match the same path, so asking
//! each class that fits the path's length gives every shape that matches. A table has a handful of classes, however many routes.
//!
//! In a class, the literals before the first parameter are looked up by hash, and only where more literals follow the parameters, what
//! is behind them is a matchit router without any overlap. A router over whole paths took a node for every few letters of an API's
//! thousands of names: 547 of a look-up's 2254 instructions and 16 of its 25 misses of the first cache, at 10,000 routes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

use foldhash::fast::FixedState;
use matchit::Router;

use super::rank::ConditionRank;
use super::{RuleId, Unreachable};
use crate::matching::{MAX_SEGMENTS, MethodSet, PathKind, PathPattern, PathRank, Rule, Segment, View};

/// The rules of one host pattern.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    groups: Vec<Group>,
    /// The rules of all groups, one group behind the other, and in each the least rank first.
    entries: Vec<Entry>,
    /// Full ones first, then by how many literal characters their best shape has, descending.
    classes: Vec<Class>,
    /// Each rule with the place of its group; only while the bucket is filled.
    filled: Vec<(u32, RuleId)>,
}

/// The rules of one shape: where they stand among the entries.
#[derive(Debug)]
struct Group {
    rank: PathRank,
    entries: Range<u32>,
}

/// A rule, with what most look-ups ask of it beside it, since rules lie apart: a look at one is three cache lines.
#[derive(Debug)]
struct Entry {
    id: RuleId,
    methods: MethodSet,
    /// Whether it asks for a header field or a query parameter.
    asks_fields: bool,
}

/// The shapes that differ only in their literals.
#[derive(Debug)]
struct Class {
    kind: ClassKind,
    /// How many segments.
    count: usize,
    /// Which of them are parameters, a bit each.
    params: u32,
    /// How many come before the first parameter.
    head: usize,
    /// The least rank of its shapes.
    rank: PathRank,
    shapes: Shapes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClassKind {
    Full,
    Tail,
    Prefix,
}

/// Group places by the literals before the first parameter, and by what follows.
#[derive(Debug)]
enum Shapes {
    /// Nothing follows but parameters.
    Heads(ByHead<u32>),
    Trees(ByHead<Router<u32>>),
}

/// Keys are what a config wrote, so that nobody outside can fill a chain; a keyed hash would read randomness.
type ByHead<T> = HashMap<Box<str>, T, FixedState>;

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
        for (at, &byte) in path.as_bytes().iter().enumerate().skip(1) {
            if byte == b'/' {
                ends.push(at);
                if ends.count > MAX_SEGMENTS {
                    return ends;
                }
            }
        }
        ends.push(path.len());
        ends
    }

    fn push(&mut self, end: usize) {
        self.count += 1;
        self.at[self.count] = end;
    }

    /// Whether none of these segments is empty.
    fn have_text(&self, mut segments: Range<usize>) -> bool {
        segments.all(|n| self.at[n + 1] > self.at[n] + 1)
    }
}

impl Bucket {
    /// Adds a rule.
    pub(super) fn insert(&mut self, id: RuleId, rule: &Rule) {
        let new = super::index(self.groups.len());
        let group = self.class(&rule.path).insert(&rule.path, new);
        if group == new {
            let rank = rule.path.rank();
            self.groups.push(Group { rank, entries: 0..0 });
        }
        self.filled.push((group, id));
    }

    /// The class of a template.
    fn class(&mut self, pattern: &PathPattern) -> &mut Class {
        let new = Class::of(pattern);
        let same = |class: &Class| (class.kind, class.count, class.params) == (new.kind, new.count, new.params);
        let at = self.classes.iter().position(same).unwrap_or_else(|| {
            self.classes.push(new);
            self.classes.len() - 1
        });
        &mut self.classes[at]
    }

    /// Puts everything in its order, and notes which rules are shadowed by which.
    pub(super) fn finish<'r>(&mut self, rule_at: &impl Fn(RuleId) -> &'r Rule, shadows: &mut Vec<Unreachable>) {
        self.classes.sort_by_key(|class| class.rank);
        let mut filled = std::mem::take(&mut self.filled);
        filled.sort_by_cached_key(|&(group, id)| (group, ConditionRank::of(rule_at(id), id)));
        // A rule that names a host twice is still one rule.
        filled.dedup();
        self.entries = filled.iter().map(|&(_, id)| Entry::of(id, rule_at(id))).collect();
        let mut end = 0;
        for group in filled.chunk_by(|(a, _), (b, _)| a == b) {
            let start = end;
            end += group.len();
            self.groups[group[0].0 as usize].entries = super::index(start)..super::index(end);
            find_shadows(&self.entries[start..end], rule_at, shadows);
        }
    }

    /// The rule of the least rank that takes the request; `asked` is its method.
    pub(super) fn best<'r>(
        &self,
        view: &View<'_>,
        asked: MethodSet,
        ends: &Ends,
        rule_at: impl Fn(RuleId) -> &'r Rule,
    ) -> Option<RuleId> {
        let mut best: Option<(PathRank, RuleId)> = None;
        for class in &self.classes {
            // Classes come by their best shape: none of the rest can be better.
            if best.is_some_and(|(rank, _)| rank < class.rank) {
                break;
            }
            let Some(group) = class.find(&view.path, ends) else { continue };
            let group = &self.groups[group as usize];
            if best.is_some_and(|(rank, _)| rank < group.rank) {
                continue;
            }
            let takes = |entry: &&Entry| entry.takes(view, asked, &rule_at);
            let Some(&Entry { id, .. }) = self.entries_of(group).iter().find(takes) else {
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
        let entries = groups.flat_map(|group| self.entries_of(&self.groups[group as usize]));
        entries.map(|entry| entry.id)
    }

    fn entries_of(&self, group: &Group) -> &[Entry] {
        &self.entries[group.entries.start as usize..group.entries.end as usize]
    }
}

impl Entry {
    fn of(id: RuleId, rule: &Rule) -> Self {
        Self {
            id,
            methods: rule.methods.set(),
            asks_fields: !rule.headers.is_empty() || !rule.query.is_empty(),
        }
    }

    /// Whether its rule takes a request whose path matches.
    fn takes<'r>(&self, view: &View<'_>, asked: MethodSet, rule_at: impl Fn(RuleId) -> &'r Rule) -> bool {
        self.methods.has(asked)
            && (asked.is_certain() || rule_at(self.id).methods.matches(view.method))
            && (!self.asks_fields || rule_at(self.id).fields_match(view))
    }
}

impl Class {
    /// The class of a template, without any shape.
    fn of(pattern: &PathPattern) -> Self {
        let segments = pattern.segments();
        let is_param = |segment: &Segment| matches!(segment, Segment::Param(_));
        let bits = segments
            .iter()
            .enumerate()
            .map(|(at, segment)| u32::from(is_param(segment)) << at);
        let head = segments.iter().take_while(|segment| !is_param(segment)).count();
        Self {
            kind: match pattern.kind() {
                PathKind::Full => ClassKind::Full,
                PathKind::Tail(_) => ClassKind::Tail,
                PathKind::Prefix => ClassKind::Prefix,
            },
            count: segments.len(),
            params: bits.sum(),
            head,
            rank: pattern.rank(),
            shapes: if segments[head..].iter().all(is_param) {
                Shapes::Heads(ByHead::default())
            } else {
                Shapes::Trees(ByHead::default())
            },
        }
    }

    /// The group of a template's shape: `new` where it had none.
    fn insert(&mut self, pattern: &PathPattern, new: u32) -> u32 {
        self.rank = self.rank.min(pattern.rank());
        let (head, rest) = pattern.segments().split_at(self.head);
        let head = shape(head).into_boxed_str();
        match &mut self.shapes {
            Shapes::Heads(heads) => *heads.entry(head).or_insert(new),
            Shapes::Trees(trees) => {
                let tree = trees.entry(head).or_default();
                let rest = shape(rest);
                // Of one class, no shape but the same one matches it.
                if let Ok(known) = tree.at(&rest) {
                    return *known.value;
                }
                tree.insert(rest, new)
                    .expect("two shapes of one class differ in a literal and never conflict");
                new
            }
        }
    }

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
        let (head, rest) = path[..ends.at[self.count]].split_at(ends.at[self.head]);
        match &self.shapes {
            Shapes::Heads(heads) => heads.get(head).copied().filter(|_| ends.have_text(self.head..self.count)),
            Shapes::Trees(trees) => trees.get(head)?.at(rest).ok().map(|found| *found.value),
        }
    }
}

/// Segments as a router takes them: literals as they are, parameters by their places.
fn shape(segments: &[Segment]) -> String {
    let mut text = String::new();
    for (place, segment) in segments.iter().enumerate() {
        text.push('/');
        match segment {
            Segment::Literal(literal) => text.push_str(literal),
            Segment::Param(_) => {
                // Writing to a string cannot fail.
                let _written = write!(text, "{{p{place}}}");
            }
        }
    }
    text
}

/// Notes the entries of one group, in their order, whose every request an earlier one of equal rank takes: the same header fields
/// and query parameters, and no method of its own.
fn find_shadows<'r>(entries: &[Entry], rule_at: &impl Fn(RuleId) -> &'r Rule, shadows: &mut Vec<Unreachable>) {
    if entries.len() < 2 {
        return;
    }
    let mut alike: HashMap<String, Vec<RuleId>, FixedState> = HashMap::default();
    for &Entry { id, .. } in entries {
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
