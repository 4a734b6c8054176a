//! From TOML to raw structs, section by section, with every mistake reported and not only the first.
//!
//! serde stops at the first mistake. [`Section::read`] reports it, cuts the offending entry out of the section and reads again
//! until nothing is left to complain about, so raw structs stay plain `#[derive(Deserialize)]` with `deny_unknown_fields`.

use std::ops::Range;

use memchr::memchr2;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, ValueDeserializer};

use super::{Diagnostics, Source, nearest};

/// A parsed config, from which a consumer takes the sections that it knows.
pub struct Document<'s> {
    tables: DeTable<'s>,
    asked: Vec<&'static str>,
}

/// One table of a config: `[gateway]`, `[upstreams.rates]`, one of `[[routes]]`.
#[derive(Debug, Clone)]
pub struct Section<'s> {
    value: Spanned<DeValue<'s>>,
}

/// What [`Section::read`] understood.
#[derive(Debug, Clone)]
pub struct Read<T> {
    /// The raw struct, without the entries that were refused.
    pub value: T,
    /// Whether nothing was refused. Where something was, do not complain that it is missing.
    pub whole: bool,
}

impl<'s> Document<'s> {
    /// Parses TOML and substitutes `${NAME}` in its texts. None where it is not TOML.
    ///
    /// Substitution happens in the parsed tree, so a variable's value can never add a key. `$${` stands for `${`.
    pub fn parse(
        source: &'s Source,
        variables: &dyn Fn(&str) -> Option<String>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let (mut root, errors) = DeTable::parse_recoverable(&source.text);
        for error in &errors {
            diagnostics.error(error.span().unwrap_or(0..0), format!("not TOML: {}", error.message()));
        }
        if !errors.is_empty() {
            return None;
        }
        // No text has `${` unless the file has a `$`, or an escape that may stand for one. Not by `contains`, which reads a file
        // character by character: 10 of the 407 million instructions that 10,000 routes took.
        if memchr2(b'$', b'\\', source.text.as_bytes()).is_some() {
            for (_, value) in root.get_mut().iter_mut() {
                substitute(value, variables, diagnostics);
            }
        }
        Some(Self {
            tables: root.into_inner(),
            asked: Vec::new(),
        })
    }

    /// Takes the table `[name]`.
    pub fn section(&mut self, name: &'static str, diagnostics: &mut Diagnostics) -> Option<Section<'s>> {
        let value = self.take(name)?;
        Section::of(value, || format!("[{name}]"), diagnostics)
    }

    /// Takes the tables `[name.*]` with their names, in the order of the file.
    pub fn named(&mut self, name: &'static str, diagnostics: &mut Diagnostics) -> Vec<(Spanned<String>, Section<'s>)> {
        let Some(value) = self.take(name) else { return Vec::new() };
        let span = value.span();
        let DeValue::Table(table) = value.into_inner() else {
            diagnostics
                .error(span, format!("`{name}` is not a table"))
                .hint(format!("write [{name}.NAME]"));
            return Vec::new();
        };
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut sections = Vec::new();
        for (key, value) in entries {
            let key = Spanned::new(key.span(), key.into_inner().into_owned());
            if let Some(section) = Section::of(value, || format!("[{name}.{}]", key.get_ref()), diagnostics) {
                sections.push((key, section));
            }
        }
        sections
    }

    /// Takes the tables `[[name]]`, in the order of the file.
    pub fn list(&mut self, name: &'static str, diagnostics: &mut Diagnostics) -> Vec<Section<'s>> {
        let Some(value) = self.take(name) else { return Vec::new() };
        let span = value.span();
        let DeValue::Array(array) = value.into_inner() else {
            diagnostics
                .error(span, format!("`{name}` is not a list of tables"))
                .hint(format!("write [[{name}]]"));
            return Vec::new();
        };
        array
            .into_iter()
            .filter_map(|value| Section::of(value, || format!("[[{name}]]"), diagnostics))
            .collect()
    }

    /// Refuses what nobody took.
    pub fn finish(self, diagnostics: &mut Diagnostics) {
        for key in self.tables.keys() {
            let name: &str = key.get_ref();
            let error = diagnostics.error(key.span(), format!("unknown key `{name}`"));
            error.hint(hint_for(name, &self.asked));
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Spanned<DeValue<'s>>> {
        self.asked.push(name);
        self.tables.remove(name)
    }
}

impl<'s> Section<'s> {
    fn of(value: Spanned<DeValue<'s>>, what: impl FnOnce() -> String, diagnostics: &mut Diagnostics) -> Option<Self> {
        if value.get_ref().is_table() {
            return Some(Self { value });
        }
        diagnostics.error(
            value.span(),
            format!("expected the table {}, found {}", what(), kind(value.get_ref())),
        );
        None
    }

    /// Where it starts: its header, or its opening brace.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.value.span()
    }

    /// The text under `key`, read before the rest: what selects a raw struct, as `kind` does.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<Spanned<String>> {
        let value = self.value.get_ref().as_table()?.get(key)?;
        Some(Spanned::new(value.span(), value.get_ref().as_str()?.to_owned()))
    }

    /// Reads it as a raw struct. Every mistake in it is reported; None where what is left is not enough to make a `T`.
    pub fn read<T: DeserializeOwned>(self, diagnostics: &mut Diagnostics) -> Option<Read<T>> {
        let mut value = self.value;
        let mut cut = Cut::default();
        loop {
            let error = match T::deserialize(ValueDeserializer::from(value.clone())) {
                Ok(read) => {
                    return Some(Read {
                        value: read,
                        whole: cut.spans.is_empty(),
                    });
                }
                Err(error) => error,
            };
            let span = error.span().unwrap_or_else(|| value.span());
            report(error.message(), &span, &mut cut, diagnostics);
            if span == value.span() {
                return None;
            }
            cut.keys.push(prune(&mut value, &span)?);
            cut.spans.push(span);
        }
    }
}

/// What was cut out of a section; complaints that only follow from that are not repeated.
#[derive(Default)]
struct Cut {
    /// Keys that are missing for no other reason.
    keys: Vec<String>,
    /// Where it was.
    spans: Vec<Range<usize>>,
}

/// Turns serde's words into ours, unless they only follow from what was cut out before.
fn report(message: &str, span: &Range<usize>, cut: &mut Cut, diagnostics: &mut Diagnostics) {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = [("unknown field", "unknown key"), ("unknown variant", "unknown value")];
    let unknown = unknown.iter().find(|(serde, _)| message.starts_with(serde));
    if let Some((_, what)) = unknown
        && let [unknown, known @ ..] = quoted.as_slice()
    {
        diagnostics
            .error(span.clone(), format!("{what} `{unknown}`"))
            .hint(hint_for(unknown, known));
        // A key that is missing only because it is misspelt is one mistake.
        cut.keys.extend(nearest(unknown, known.iter().copied()).map(str::to_owned));
        return;
    }
    if message.starts_with("missing field")
        && let [missing] = quoted.as_slice()
    {
        if !cut.keys.iter().any(|key| key == missing) {
            diagnostics.error(span.clone(), format!("`{missing}` is missing"));
        }
        return;
    }
    if cut.spans.iter().any(|cut| span.start <= cut.start && cut.end <= span.end) {
        return;
    }
    match message.split_once('\n') {
        Some((message, hint)) => diagnostics.error(span.clone(), message).hint(hint),
        None => {
            diagnostics.error(span.clone(), message);
        }
    }
}

/// The nearest known word, or all of them.
pub(super) fn hint_for(unknown: &str, known: &[&str]) -> String {
    match nearest(unknown, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "no key is known here".to_owned(),
        None => format!("known here: {}", known.join(", ")),
    }
}

/// Cuts the entry at `span` (its key's or its value's, or the smallest that contains it) out of the tree; tells its key.
fn prune(root: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<String> {
    let mut best: Option<(usize, Vec<usize>)> = None;
    survey(root.get_ref(), span, &mut Vec::new(), &mut best);
    let (_, path) = best?;
    remove(root.get_mut(), &path)
}

/// Finds the entry that fits `span` best: how many bytes too many, and the way there by positions.
fn survey(value: &DeValue<'_>, span: &Range<usize>, way: &mut Vec<usize>, best: &mut Option<(usize, Vec<usize>)>) {
    let mut visit = |position: usize, key: Option<Range<usize>>, value: &Spanned<DeValue<'_>>| {
        way.push(position);
        for at in key.into_iter().chain([value.span()]) {
            let surplus = (at.start <= span.start && span.end <= at.end).then(|| at.len() - span.len());
            if let Some(surplus) = surplus
                && best.as_ref().is_none_or(|(least, _)| surplus < *least)
            {
                *best = Some((surplus, way.clone()));
            }
        }
        survey(value.get_ref(), span, way, best);
        way.pop();
    };
    match value {
        DeValue::Table(table) => {
            for (position, (key, value)) in table.iter().enumerate() {
                visit(position, Some(key.span()), value);
            }
        }
        DeValue::Array(array) => {
            for (position, value) in array.iter().enumerate() {
                visit(position, None, value);
            }
        }
        _ => {}
    }
}

fn remove(value: &mut DeValue<'_>, way: &[usize]) -> Option<String> {
    let (&position, rest) = way.split_first()?;
    match value {
        DeValue::Table(table) => {
            if !rest.is_empty() {
                return remove(table.iter_mut().nth(position)?.1.get_mut(), rest);
            }
            let key = table.keys().nth(position)?.clone();
            table.remove(&key);
            Some(key.into_inner().into_owned())
        }
        DeValue::Array(array) => {
            if !rest.is_empty() {
                return remove(array.get_mut(position)?.get_mut(), rest);
            }
            let kept = std::mem::replace(array, DeArray::new())
                .into_iter()
                .enumerate()
                .filter(|(at, _)| *at != position);
            *array = kept.map(|(_, value)| value).collect();
            Some(position.to_string())
        }
        _ => None,
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn substitute(value: &mut Spanned<DeValue<'_>>, variables: &dyn Fn(&str) -> Option<String>, diagnostics: &mut Diagnostics) {
    let span = value.span();
    match value.get_mut() {
        DeValue::String(text) if text.contains("${") => match expand(text, &span, variables, diagnostics) {
            Some(full) => *text = full.into(),
            None => diagnostics.leave_unknown(span),
        },
        DeValue::Array(array) => array.iter_mut().for_each(|value| substitute(value, variables, diagnostics)),
        DeValue::Table(table) => table
            .iter_mut()
            .for_each(|(_, value)| substitute(value, variables, diagnostics)),
        _ => {}
    }
}

fn expand(
    text: &str,
    span: &Range<usize>,
    variables: &dyn Fn(&str) -> Option<String>,
    diagnostics: &mut Diagnostics,
) -> Option<String> {
    let mut full = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            full.push_str(before);
            full.push_str("${");
            rest = after;
            continue;
        }
        let name = after.split_once('}').map(|(name, _)| name).filter(|name| is_name(name));
        let Some(name) = name else {
            let error = diagnostics.error(span.clone(), "`${` without a variable's name and `}` behind it");
            error.hint("write ${NAME} for a variable, or $${ for the characters themselves");
            return None;
        };
        let Some(value) = variables(name) else {
            diagnostics
                .error(span.clone(), format!("the variable `{name}` is not set"))
                .hint(format!("set {name}"));
            return None;
        };
        diagnostics.conceal(&value, &format!("${{{name}}}"));
        full.push_str(before);
        full.push_str(&value);
        rest = &after[name.len() + 1..];
    }
    full.push_str(rest);
    Some(full)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
