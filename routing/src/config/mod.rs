//! The one way by which TOML becomes compiled models, for the gateway and for the mesh.
//!
//! [`Document`] parses a [`Source`] and hands out its sections; [`Section::read`] makes raw structs of them, which are made of the
//! pieces in [`raw`] and of a consumer's own; the `compile` method of each piece validates it. Every mistake of every step goes to
//! one [`Diagnostics`], so that a user sees all of them at once, each with its place and its mend.
//!
//! ```
//! use routing::config::{Diagnostics, Document, Source, Spanned, raw};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Route {
//!     name: Spanned<String>,
//!     rewrite: Option<raw::Rewrite>,
//! }
//!
//! let source = Source::new("gateway.toml", "[[routes]]\nname = \"a\"\n[[routes]]\nnam = \"b\"\n");
//! let mut diagnostics = Diagnostics::new(&source);
//! let mut document = Document::parse(&source, &|_| None, &mut diagnostics).unwrap();
//! for section in document.list("routes", &mut diagnostics) {
//!     let _route = section.read::<Route>(&mut diagnostics);
//! }
//! document.finish(&mut diagnostics);
//! assert_eq!(diagnostics.to_string(), "gateway.toml:4:1: error: unknown key `nam`\n  hint: did you mean `name`?");
//! ```

mod compile;
mod document;
mod nearest;
pub mod raw;
mod source;
mod units;

pub use document::{Document, Read, Section};
pub use nearest::nearest;
pub use raw::OneOrMany;
pub use source::{Diagnostic, Diagnostics, Severity, Source};
pub use toml::Spanned;
pub use units::{ByteSize, Period, PeriodRange, show_duration, show_size};
