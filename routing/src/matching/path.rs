//! Path templates: `/accounts/{id}`, `/old/{*rest}`, and prefixes of whole segments.

use std::cmp::Reverse;
use std::fmt;

use super::normalise::{is_normal_segment, normalise};

/// Templates may have this many segments. A bit of a `u32` says of each whether it is a parameter.
pub const MAX_SEGMENTS: usize = 32;

/// The most parameters of a template, a tail's not counted: as many as matchit can tell apart, which panics at one more.
pub const MAX_PARAMS: usize = 25;

/// A template of paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    segments: Box<[Segment]>,
    kind: PathKind,
}

/// What stands between two slashes of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// This text, normalised.
    Literal(Box<str>),
    /// `{name}`: any text but none.
    Param(Box<str>),
}

/// What may follow a template's segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathKind {
    /// Nothing.
    Full,
    /// `{*name}`: the tail, which is not empty.
    Tail(Box<str>),
    /// Any further segments, or none.
    ///
    /// > Matches based on a URL path prefix split by `/`. Matching is case-sensitive and done on a path element by element basis. […]
    /// > a prefix of `/foo` matches `/foo`, `/foo/` and `/foo/bar`, but not `/foobar`. (after the Gateway API, `PathMatchPathPrefix`)
    Prefix,
}

/// How specific a template is; the smaller comes first.
///
/// The Gateway API puts exact paths before prefixes, and then what has more characters. A template that ends in `{*rest}` is open at
/// its end and ranks with the prefixes; else `/{*rest}` would hide every prefix of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathRank {
    /// Whether it is open at its end.
    pub open: bool,
    /// How many characters of it are literal.
    pub literals: Reverse<u32>,
}

/// Why a text is no path template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathPatternError {
    /// It does not start with `/`.
    #[error("a path starts with /")]
    NotAbsolute,
    /// It has an empty, `.` or `..` segment, which no normalised path has.
    #[error("the segment `{0}` never occurs: paths are normalised before they are matched")]
    NeverOccurs(String),
    /// A brace that is not around a whole segment.
    #[error("`{0}`: a parameter takes a whole segment, as in /accounts/{{id}}")]
    PartOfSegment(String),
    /// A name that is none.
    #[error("`{0}` is no parameter: a name is made of letters, digits, - and _")]
    Name(String),
    /// Two parameters of one name.
    #[error("the parameter `{0}` occurs twice")]
    Twice(String),
    /// `{*rest}` before the end, or in a prefix.
    #[error("`{{*{0}}}` may only be the last segment of a `path`")]
    TailInside(String),
    /// A character or an escape that no path has.
    #[error("the segment `{0}` has a character or an escape that no path may have")]
    Character(String),
    /// More than [`MAX_SEGMENTS`].
    #[error("more than {MAX_SEGMENTS} segments")]
    TooLong,
    /// More than [`MAX_PARAMS`].
    #[error("more than {MAX_PARAMS} parameters")]
    TooManyParams,
}

impl PathPattern {
    /// Reads a template that matches whole paths.
    ///
    /// # Errors
    ///
    /// See [`PathPatternError`].
    pub fn full(text: &str) -> Result<Self, PathPatternError> {
        let mut texts: Vec<&str> = split(text)?.collect();
        let mut kind = PathKind::Full;
        if let Some(tail) = texts.last().and_then(|last| last.strip_prefix("{*")) {
            let name = tail.strip_suffix('}').filter(|name| is_name(name));
            kind = PathKind::Tail(name.ok_or_else(|| PathPatternError::Name(format!("{{*{tail}")))?.into());
            texts.pop();
        }
        Self::of(&texts, kind)
    }

    /// Reads a template that matches the first segments of paths; a slash at its end makes no difference.
    ///
    /// # Errors
    ///
    /// See [`PathPatternError`].
    pub fn prefix(text: &str) -> Result<Self, PathPatternError> {
        let mut texts: Vec<&str> = split(text)?.collect();
        texts.pop_if(|last| last.is_empty());
        Self::of(&texts, PathKind::Prefix)
    }

    fn of(texts: &[&str], kind: PathKind) -> Result<Self, PathPatternError> {
        if texts.len() > MAX_SEGMENTS {
            return Err(PathPatternError::TooLong);
        }
        let mut segments: Vec<Segment> = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let is_end = index + 1 == texts.len() && kind == PathKind::Full;
            segments.push(if text.is_empty() && is_end {
                Segment::Literal("".into())
            } else {
                Segment::parse(text)?
            });
        }
        if segments.iter().filter(|segment| matches!(segment, Segment::Param(_))).count() > MAX_PARAMS {
            return Err(PathPatternError::TooManyParams);
        }
        let pattern = Self {
            segments: segments.into(),
            kind,
        };
        let names: Vec<&str> = pattern.names().collect();
        if let Some((_, twice)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(PathPatternError::Twice((*twice).to_owned()));
        }
        Ok(pattern)
    }

    /// Its segments, a tail left out.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What may follow its segments.
    #[must_use]
    pub fn kind(&self) -> &PathKind {
        &self.kind
    }

    /// The names of its parameters, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let segments = self.segments.iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(&**name),
            Segment::Literal(_) => None,
        });
        segments.chain(match &self.kind {
            PathKind::Tail(name) => Some(&**name),
            _ => None,
        })
    }

    /// How specific it is.
    #[must_use]
    pub fn rank(&self) -> PathRank {
        let literal = |segment: &Segment| match segment {
            Segment::Literal(text) => text.len(),
            Segment::Param(_) => 0,
        };
        let slashes = self.segments.len() + usize::from(matches!(self.kind, PathKind::Tail(_)));
        let literals = self.segments.iter().map(literal).sum::<usize>() + slashes.max(1);
        PathRank {
            open: self.kind != PathKind::Full,
            literals: Reverse(u32::try_from(literals).unwrap_or(u32::MAX)),
        }
    }

    /// Whether a normalised path matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some(end) = offset_after(path, self.segments.len()) else {
            return false;
        };
        let mut given = path[..end].split('/').skip(1);
        let fits = self.segments.iter().all(|segment| match (segment, given.next()) {
            (Segment::Literal(text), Some(given)) => **text == *given,
            (Segment::Param(_), Some(given)) => !given.is_empty(),
            (_, None) => false,
        });
        fits && match self.kind {
            PathKind::Full => end == path.len(),
            PathKind::Tail(_) => path.len() > end + 1,
            PathKind::Prefix => true,
        }
    }

    /// The parameters of a path that matches.
    #[must_use]
    pub fn params<'t, 'p>(&'t self, path: &'p str) -> Params<'t, 'p> {
        Params { pattern: self, path }
    }

    /// Whether both match the same paths.
    #[must_use]
    pub fn same_shape(&self, other: &Self) -> bool {
        let kinds = std::mem::discriminant(&self.kind) == std::mem::discriminant(&other.kind);
        let same = |(a, b): (&Segment, &Segment)| match (a, b) {
            (Segment::Literal(a), Segment::Literal(b)) => a == b,
            (Segment::Param(_), Segment::Param(_)) => true,
            _ => false,
        };
        kinds && self.segments.len() == other.segments.len() && self.segments.iter().zip(&other.segments).all(same)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Param(name) => write!(f, "/{{{name}}}")?,
            }
        }
        match &self.kind {
            PathKind::Full => Ok(()),
            PathKind::Tail(name) => write!(f, "/{{*{name}}}"),
            PathKind::Prefix => f.write_str(if self.segments.is_empty() { "/…" } else { "[/…]" }),
        }
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, PathPatternError> {
        if let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'))
            && !inner.contains(['{', '}'])
        {
            return match inner.strip_prefix('*') {
                Some(name) => Err(PathPatternError::TailInside(name.to_owned())),
                None if is_name(inner) => Ok(Self::Param(inner.into())),
                None => Err(PathPatternError::Name(text.to_owned())),
            };
        }
        if text.contains(['{', '}']) {
            return Err(PathPatternError::PartOfSegment(text.to_owned()));
        }
        if is_normal_segment(text) {
            return Ok(Self::Literal(text.into()));
        }
        let path = format!("/{text}");
        let normal = normalise(&path).map_err(|_| PathPatternError::Character(text.to_owned()))?;
        if normal.len() == 1 {
            return Err(PathPatternError::NeverOccurs(text.to_owned()));
        }
        Ok(Self::Literal(normal[1..].into()))
    }
}

fn split(text: &str) -> Result<std::str::Split<'_, char>, PathPatternError> {
    Ok(text.strip_prefix('/').ok_or(PathPatternError::NotAbsolute)?.split('/'))
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Where the first `count` segments of a path end; None where it has fewer.
#[must_use]
pub fn offset_after(path: &str, count: usize) -> Option<usize> {
    if count == 0 {
        return Some(0);
    }
    let mut slashes = path.bytes().enumerate().filter(|&(_, byte)| byte == b'/').map(|(at, _)| at);
    slashes.nth(count - 1)?;
    Some(slashes.next().unwrap_or(path.len()))
}

/// The parameters of one path, cut out when they are asked for: as they stand in the normalised path, escapes kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params<'t, 'p> {
    pattern: &'t PathPattern,
    path: &'p str,
}

impl<'t, 'p> Params<'t, 'p> {
    /// The value of the parameter `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'p str> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// Names and values, in the order of the template.
    pub fn iter(&self) -> impl Iterator<Item = (&'t str, &'p str)> + use<'t, 'p> {
        let tail = match &self.pattern.kind {
            PathKind::Tail(name) => Some((&**name, self.remainder().strip_prefix('/').unwrap_or_default())),
            _ => None,
        };
        let segments = self.pattern.segments.iter().zip(self.path.split('/').skip(1));
        let params = segments.filter_map(|(segment, value)| match segment {
            Segment::Param(name) => Some((&**name, value)),
            Segment::Literal(_) => None,
        });
        params.chain(tail)
    }

    /// What follows the template's segments: empty, or a slash and more.
    #[must_use]
    pub fn remainder(&self) -> &'p str {
        offset_after(self.path, self.pattern.segments.len()).map_or("", |end| &self.path[end..])
    }

    /// The template.
    #[must_use]
    pub fn pattern(&self) -> &'t PathPattern {
        self.pattern
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_matches_whole_paths() {
        for (template, path, matches) in [
            ("/", "/", true),
            ("/", "/a", false),
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/a/", "/a/", true),
            ("/a/", "/a", false),
            ("/accounts/{id}", "/accounts/42", true),
            ("/accounts/{id}", "/accounts/", false),
            ("/accounts/{id}", "/accounts/42/", false),
            ("/accounts/{id}", "/accounts/4%2F2", true),
            ("/{a}/b", "/x/b", true),
            ("/old/{*rest}", "/old/a/b", true),
            ("/old/{*rest}", "/old/a/", true),
            ("/old/{*rest}", "/old/", false),
            ("/old/{*rest}", "/old", false),
            ("/old/{*rest}", "/older/a", false),
            ("/{*rest}", "/", false),
            ("/{*rest}", "/a", true),
            ("/caf\u{e9}", "/caf%C3%A9", true),
            ("/%7euser", "/~user", true),
        ] {
            assert_eq!(
                PathPattern::full(template).unwrap().matches(path),
                matches,
                "{template} {path}"
            );
        }
    }

    #[test]
    fn a_prefix_matches_whole_segments() {
        for (prefix, path, matches) in [
            ("/v2", "/v2", true),
            ("/v2", "/v2/", true),
            ("/v2", "/v2/x", true),
            ("/v2", "/v2example", false),
            ("/v2", "/v", false),
            ("/v2/", "/v2", true),
            ("/", "/", true),
            ("/", "/anything", true),
            ("/t/{tenant}", "/t/a/b", true),
            ("/t/{tenant}", "/t/", false),
        ] {
            assert_eq!(PathPattern::prefix(prefix).unwrap().matches(path), matches, "{prefix} {path}");
        }
    }

    #[test]
    fn parameters_are_cut_out_with_their_escapes() {
        let pattern = PathPattern::full("/a/{x}/b/{y}/{*rest}").unwrap();
        let params = pattern.params("/a/1/b/2%2F3/c/d/");
        assert_eq!(
            params.iter().collect::<Vec<_>>(),
            [("x", "1"), ("y", "2%2F3"), ("rest", "c/d/")]
        );
        assert_eq!((params.get("y"), params.get("z")), (Some("2%2F3"), None));
        let prefix = PathPattern::prefix("/v2").unwrap();
        assert_eq!(prefix.params("/v2/x/y").remainder(), "/x/y");
        assert_eq!(prefix.params("/v2").remainder(), "");
        assert_eq!(PathPattern::prefix("/").unwrap().params("/x").remainder(), "/x");
    }

    #[test]
    fn a_bad_template_is_refused_with_words() {
        for (template, error) in [
            ("accounts", "a path starts with /"),
            ("", "a path starts with /"),
            (
                "/a//b",
                "the segment `` never occurs: paths are normalised before they are matched",
            ),
            (
                "/a/../b",
                "the segment `..` never occurs: paths are normalised before they are matched",
            ),
            (
                "/%2e",
                "the segment `%2e` never occurs: paths are normalised before they are matched",
            ),
            (
                "/{id}.json",
                "`{id}.json`: a parameter takes a whole segment, as in /accounts/{id}",
            ),
            ("/{id", "`{id`: a parameter takes a whole segment, as in /accounts/{id}"),
            ("/{}", "`{}` is no parameter: a name is made of letters, digits, - and _"),
            (
                "/{a.b}",
                "`{a.b}` is no parameter: a name is made of letters, digits, - and _",
            ),
            ("/{*}", "`{*}` is no parameter: a name is made of letters, digits, - and _"),
            ("/{id}/{id}", "the parameter `id` occurs twice"),
            ("/{*rest}/a", "`{*rest}` may only be the last segment of a `path`"),
            ("/a?b", "the segment `a?b` has a character or an escape that no path may have"),
            ("/a%2", "the segment `a%2` has a character or an escape that no path may have"),
        ] {
            assert_eq!(PathPattern::full(template).unwrap_err().to_string(), error, "{template}");
        }
        assert_eq!(PathPattern::full(&"/a".repeat(33)), Err(PathPatternError::TooLong));
        let params = |count: usize| PathPattern::full(&(0..count).map(|place| format!("/{{p{place}}}")).collect::<String>());
        assert!(params(MAX_PARAMS).is_ok());
        assert_eq!(params(MAX_PARAMS + 1), Err(PathPatternError::TooManyParams));
        assert!(PathPattern::full(&"/a".repeat(32)).is_ok());
        assert_eq!(
            PathPattern::prefix("/a/{*rest}"),
            Err(PathPatternError::TailInside("rest".into()))
        );
        assert!(PathPattern::prefix("/a//").is_err());
    }

    #[test]
    fn a_full_path_ranks_before_an_open_one_and_more_literals_first() {
        let full = |text| PathPattern::full(text).unwrap().rank();
        let prefix = |text| PathPattern::prefix(text).unwrap().rank();
        assert!(full("/accounts/me") < full("/accounts/{id}") && full("/{x}") < prefix("/accounts/me"));
        assert!(prefix("/api/v2") < full("/{*rest}") && full("/old/{*rest}") < prefix("/old"));
        assert_eq!(prefix("/v2/"), prefix("/v2"));
        assert!(prefix("/v") < prefix("/"));
    }
}
