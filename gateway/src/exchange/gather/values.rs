//! What a branch refers to: what the request knows, and fields of other branches.

use routing::filter::{Reference, Resolve};
use routing::json;
use serde_json::Value;

use super::super::request::Request;
use super::State;
use crate::aggregate::{Aggregate, ForEach};
use crate::auth::scalar;

/// By what an item of a `for_each` is called.
pub(crate) const ITEM: &str = "item";

pub(super) struct Values<'a> {
    pub(super) request: &'a Request,
    pub(super) aggregate: &'a Aggregate,
    pub(super) states: &'a [State],
    /// The item that is asked for, where the branch has `for_each`.
    pub(super) item: Option<&'a Value>,
}

impl<'a> Values<'a> {
    /// The list that a branch goes through, where it is there and one.
    pub(super) fn list(&self, for_each: &ForEach) -> Option<&'a [Value]> {
        let value = self.branch(for_each.of)?;
        let list = match &*for_each.path {
            "" => Some(value),
            path => json::at_path(value, path),
        };
        list?.as_array().map(Vec::as_slice)
    }

    /// What a branch gave, or what stands in for it.
    fn branch(&self, at: usize) -> Option<&'a Value> {
        match self.states.get(at)? {
            State::There { value, .. } => value.as_ref(),
            State::Missing => self.aggregate.branches.get(at)?.fallback.as_ref(),
            State::Waiting | State::Asked | State::Items(_) => None,
        }
    }
}

impl Resolve for Values<'_> {
    /// An empty text is no value: `/accounts/{customer.id}` would ask for all accounts.
    fn resolve(&self, reference: &Reference, into: &mut String) -> bool {
        let start = into.len();
        let text = match (reference, self.item) {
            (Reference::Param(name), Some(item)) if **name == *ITEM => scalar(item),
            (Reference::Field { of, path }, Some(item)) if **of == *ITEM => {
                json::at_path(item, &path.join(".")).and_then(scalar)
            }
            (Reference::Field { of, path }, _) => {
                let named = self.aggregate.branches.iter().position(|branch| branch.name == *of);
                let value = named.and_then(|at| self.branch(at));
                value.and_then(|value| json::at_path(value, &path.join("."))).and_then(scalar)
            }
            _ => return self.request.resolve(reference, into) && into.len() > start,
        };
        into.push_str(&text.unwrap_or_default());
        into.len() > start
    }
}
