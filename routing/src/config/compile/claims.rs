//! What a rule asks of the claims of whoever a request is made for.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::claims::Requirements;
use crate::config::{Diagnostics, Spanned};

impl Diagnostics {
    /// Every one of `scopes`, and for each path of `claims` one of its values; nothing where any of them is none.
    pub fn requirements(
        &mut self,
        scopes: &[Spanned<String>],
        claims: &BTreeMap<Spanned<String>, Spanned<Value>>,
    ) -> Option<Requirements> {
        let mut whole = true;
        let mut requirements = Requirements::default();
        for scope in scopes {
            // RFC 6749 §3.3: what a scope is made of.
            let possible = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
            if scope.get_ref().is_empty() || !scope.get_ref().bytes().all(possible) {
                self.error(scope.span(), format!("`{}` is not a scope", scope.get_ref()))
                    .hint("write each scope as a text of its own");
                whole = false;
            }
            requirements.scopes.push(scope.get_ref().clone());
        }
        for (path, value) in claims {
            let allowed = match value.get_ref() {
                Value::Array(list) => list.clone(),
                one => vec![one.clone()],
            };
            let impossible = |value: &Value| matches!(value, Value::Object(_) | Value::Array(_) | Value::Null);
            if allowed.is_empty() || allowed.iter().any(impossible) {
                let what = format!("claim `{}`: expected a value, or a list of them", path.get_ref());
                let hint = "as in tier = [\"gold\", \"silver\"] or \"address.country\" = \"DE\"";
                self.error(value.span(), what).hint(hint);
                whole = false;
            }
            requirements.claims.push((path.get_ref().clone(), allowed));
        }
        whole.then_some(requirements)
    }
}
