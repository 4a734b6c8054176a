//! Edits of header fields.

use http::{HeaderName, HeaderValue};

use super::{Resolve, Template};

/// One change of a message's header fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderEdit {
    /// Replace every value of the field.
    Set(HeaderName, HeaderValue),
    /// Add a value.
    Add(HeaderName, HeaderValue),
    /// Remove the field.
    Remove(HeaderName),
}

/// The edits that a route makes: first what it removes, then what it sets, then what it adds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Fields to remove.
    pub remove: Vec<HeaderName>,
    /// Fields to replace.
    pub set: Vec<(HeaderName, HeaderTemplate)>,
    /// Values to add.
    pub add: Vec<(HeaderName, HeaderTemplate)>,
}

/// A header field's value, which costs nothing to make where it refers to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderTemplate {
    /// The same for every request.
    Static(HeaderValue),
    /// Filled in for each.
    Filled(Template),
}

impl HeaderEdits {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// The edits for one request, in order.
    ///
    /// A field that is set from a reference without a value is removed: a request must not be able to bring a value of its own for
    /// it. A value that would be added from one is left out.
    pub fn edits(&self, values: &dyn Resolve) -> impl Iterator<Item = HeaderEdit> {
        let remove = self.remove.iter().cloned().map(HeaderEdit::Remove);
        let set = self.set.iter().map(|(name, value)| match value.render(values) {
            Some(value) => HeaderEdit::Set(name.clone(), value),
            None => HeaderEdit::Remove(name.clone()),
        });
        let add = self
            .add
            .iter()
            .filter_map(|(name, value)| Some(HeaderEdit::Add(name.clone(), value.render(values)?)));
        remove.chain(set).chain(add)
    }
}

impl HeaderTemplate {
    /// The value. None where a reference has none, or one that no header field may carry (RFC 9110 §5.5).
    #[must_use]
    pub fn render(&self, values: &dyn Resolve) -> Option<HeaderValue> {
        match self {
            Self::Static(value) => Some(value.clone()),
            Self::Filled(template) => HeaderValue::from_str(&template.render(values)?).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Reference;

    fn edits(set: &str, values: &dyn Resolve) -> Vec<HeaderEdit> {
        let customer = HeaderName::from_static("x-customer");
        let value = || HeaderTemplate::Filled(Template::parse(set).unwrap());
        let edits = HeaderEdits {
            remove: vec![HeaderName::from_static("cookie")],
            set: vec![(customer.clone(), value())],
            add: vec![(customer, value())],
        };
        edits.edits(values).collect()
    }

    #[test]
    fn a_field_set_from_nothing_is_removed_so_that_nobody_can_bring_it() {
        let customer = HeaderName::from_static("x-customer");
        let cookie = HeaderEdit::Remove(HeaderName::from_static("cookie"));
        let none = |_: &Reference, _: &mut String| false;
        assert_eq!(
            edits("{claim.sub}", &none),
            [cookie.clone(), HeaderEdit::Remove(customer.clone())]
        );
        let seven = |_: &Reference, into: &mut String| {
            into.push('7');
            true
        };
        let value = HeaderValue::from_static("7");
        assert_eq!(
            edits("{claim.sub}", &seven),
            [
                cookie,
                HeaderEdit::Set(customer.clone(), value.clone()),
                HeaderEdit::Add(customer, value)
            ]
        );
    }

    #[test]
    fn a_value_cannot_break_out_of_its_line() {
        let split = |_: &Reference, into: &mut String| {
            into.push_str("a\r\nx-admin: 1");
            true
        };
        assert_eq!(
            edits("{claim.sub}", &split)[1],
            HeaderEdit::Remove(HeaderName::from_static("x-customer"))
        );
    }
}
