//! Stateless edits and answers: what a route does to a request without having to know anybody.

mod answer;
mod cors;
mod headers;
mod redirect;
mod rewrite;
mod template;

pub use answer::FixedAnswer;
pub use cors::{Allowed, Cors, Origin};
pub use headers::{HeaderEdit, HeaderEdits, HeaderTemplate};
pub use redirect::Redirect;
pub use rewrite::Rewrite;
pub use template::{Reference, Resolve, Template, TemplateError};
