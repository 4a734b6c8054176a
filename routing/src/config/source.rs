//! Where a config came from, and what is wrong with it: every error at once, each with its place and its mend.

use std::fmt;
use std::ops::Range;

/// A config as it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// What messages call it: a path as the user wrote it, or `<embedded>`.
    pub name: String,
    /// The text.
    pub text: String,
}

impl Source {
    /// A config text with its name.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }

    /// Line and column, both from 1 and the column in characters, of a byte offset; an offset past the end is the end.
    #[must_use]
    pub fn place(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.name).finish()
    }
}

/// Whether a config can be used in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, and will probably not do what was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One mistake: where it is, what it is, and what would mend it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Diagnostic {
    /// Whether the config can be used in spite of it.
    pub severity: Severity,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong and what was expected.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Says how to mend it.
    pub fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }
}

/// Collects the mistakes of one source, in the order of their places.
///
/// Its `Display` is one `file:line:column: error: message` line for each (or `warning`), with a `hint: …` line below where there
/// is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Diagnostics {
    source: Source,
    list: Vec<Diagnostic>,
    /// Values of variables and the `${NAME}` that stood for them: a message quotes the config, never a secret.
    secrets: Vec<(String, String)>,
    unknown: Box<Unknown>,
}

/// Places whose value is not known, because a variable in it is not set: what follows from that is no mistake of its own.
#[derive(Clone, PartialEq, Eq)]
struct Unknown {
    places: Vec<Range<usize>>,
    /// Where such followers go.
    follower: Diagnostic,
}

impl Diagnostics {
    /// An empty collector for the mistakes of `source`.
    #[must_use]
    pub fn new(source: &Source) -> Self {
        Self {
            source: source.clone(),
            list: Vec::new(),
            secrets: Vec::new(),
            unknown: Box::new(Unknown {
                places: Vec::new(),
                follower: Diagnostic {
                    severity: Severity::Error,
                    line: 0,
                    column: 0,
                    message: String::new(),
                    hint: None,
                },
            }),
        }
    }

    /// Adds a mistake at a span of bytes; the answer is there to be given a hint. The same mistake is kept once.
    pub fn error(&mut self, span: Range<usize>, message: impl Into<String>) -> &mut Diagnostic {
        self.add(Severity::Error, span, message.into())
    }

    /// Adds what is probably not meant, but keeps nobody from using the config.
    pub fn warning(&mut self, span: Range<usize>, message: impl Into<String>) -> &mut Diagnostic {
        self.add(Severity::Warning, span, message.into())
    }

    fn add(&mut self, severity: Severity, span: Range<usize>, mut message: String) -> &mut Diagnostic {
        if self.unknown.places.contains(&span) {
            return &mut self.unknown.follower;
        }
        for (value, shown) in &self.secrets {
            if message.contains(value.as_str()) {
                message = message.replace(value.as_str(), shown);
            }
        }
        let (line, column) = self.source.place(span.start);
        let new = Diagnostic {
            severity,
            line,
            column,
            message,
            hint: None,
        };
        let place = |d: &Diagnostic| (d.line, d.column);
        let at = match self
            .list
            .iter()
            .position(|old| place(old) == place(&new) && old.message == new.message)
        {
            Some(at) => at,
            None => {
                let at = self.list.partition_point(|old| place(old) <= place(&new));
                self.list.insert(at, new);
                at
            }
        };
        &mut self.list[at]
    }

    /// The line, from 1, of a byte offset: for messages that name a second place.
    #[must_use]
    pub fn line_of(&self, offset: usize) -> usize {
        self.source.place(offset).0
    }

    /// The mistakes, in the order of their places.
    #[must_use]
    pub fn list(&self) -> &[Diagnostic] {
        &self.list
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether one of them keeps the config from being used.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// The name of the source.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.source.name
    }

    /// `value` where no error was found.
    ///
    /// # Errors
    ///
    /// All the mistakes, where there is at least one error.
    pub fn into_result<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if !self.has_errors() => Ok(value),
            _ => Err(self),
        }
    }

    /// Takes nothing amiss any more that is said of the value at `span`: it is not known.
    pub(super) fn leave_unknown(&mut self, span: Range<usize>) {
        self.unknown.places.push(span);
    }

    /// Never quotes `value`, but `shown`. Values under four bytes are no secret, and replacing them would garble messages.
    pub(super) fn conceal(&mut self, value: &str, shown: &str) {
        if value.len() >= 4 {
            let quoted = format!("{value:?}");
            self.secrets.push((value.to_owned(), shown.to_owned()));
            self.secrets.push((quoted[1..quoted.len() - 1].to_owned(), shown.to_owned()));
            self.secrets.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let Diagnostic {
                severity,
                line,
                column,
                message,
                hint,
            } = diagnostic;
            write!(f, "{}:{line}:{column}: {severity}: {message}", self.source.name)?;
            if let Some(hint) = hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let source = Source::new("a.toml", "ä = 1\nbö = 2\n");
        assert_eq!(source.place(0), (1, 1));
        assert_eq!(source.place("ä = ".len()), (1, 5));
        assert_eq!(source.place("ä = 1\nbö = ".len()), (2, 6));
        assert_eq!(source.place(1), (1, 1), "inside a character is at the character");
        assert_eq!(source.place(10_000), (3, 1));
    }

    #[test]
    fn a_warning_is_shown_as_one_and_keeps_nobody_from_the_value() {
        let source = Source::new("gateway.toml", "a\nb\n");
        let mut diagnostics = Diagnostics::new(&source);
        diagnostics.warning(2..3, "odd").hint("look again");
        assert_eq!(diagnostics.to_string(), "gateway.toml:2:1: warning: odd\n  hint: look again");
        assert_eq!(diagnostics.clone().into_result(Some(())), Ok(()));
        diagnostics.error(0..1, "wrong");
        assert!(diagnostics.into_result(Some(())).is_err());
    }

    #[test]
    fn mistakes_are_shown_in_the_order_of_their_places() {
        let source = Source::new("gateway.toml", "a\nb\nc\n");
        let mut diagnostics = Diagnostics::new(&source);
        diagnostics.error(4..5, "third");
        diagnostics.error(0..1, "first").hint("mend it");
        diagnostics.error(2..3, "second");
        diagnostics.error(2..3, "second");
        assert_eq!(
            diagnostics.to_string(),
            "gateway.toml:1:1: error: first\n  hint: mend it\ngateway.toml:2:1: error: second\ngateway.toml:3:1: error: third"
        );
    }
}
