//! `spin:variables` for components that answer whole requests: from this process's environment.
//!
//! A component sees what it would see under Spin, where a variable `jwt_secret` is `SPIN_VARIABLE_JWT_SECRET`, and what the
//! gateway's config names as `${JWT_SECRET}`. The rest of the environment is none of its business.

use std::collections::HashMap;
use std::sync::Arc;

use wasmtime::component::{ComponentType, Lift, Linker, Lower};

/// Why there is no value.
#[derive(Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum VariableError {
    #[component(name = "invalid-name")]
    InvalidName(String),
    #[component(name = "undefined")]
    Undefined(String),
    #[component(name = "provider")]
    Provider(String),
    #[component(name = "other")]
    Other(String),
}

/// Provides `spin:variables/variables@3.0.0`; `configured` are the variables that the config names.
pub(crate) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    configured: Vec<(String, String)>,
) -> wasmtime::Result<()> {
    let configured = Arc::new(configured.into_iter().collect::<HashMap<_, _>>());
    linker
        .instance("spin:variables/variables@3.0.0")?
        .func_wrap_concurrent("get", move |_accessor, (name,): (String,)| {
            let value = lookup(&name, &configured, &|name| std::env::var(name).ok());
            Box::pin(async move { Ok((value,)) })
        })
}

fn lookup(
    name: &str,
    configured: &HashMap<String, String>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<String, VariableError> {
    let valid = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .chars()
            .all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_');
    if !valid {
        return Err(VariableError::InvalidName(name.to_owned()));
    }
    let upper = name.to_ascii_uppercase();
    environment(&format!("SPIN_VARIABLE_{upper}"))
        .or_else(|| configured.get(&upper).cloned())
        .ok_or_else(|| VariableError::Undefined(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_sees_spins_variables_and_the_configs_and_no_others() {
        let configured = HashMap::from([("A".to_owned(), "config".to_owned()), ("B".to_owned(), "config".to_owned())]);
        let environment = |name: &str| matches!(name, "SPIN_VARIABLE_A" | "C" | "PATH").then(|| "environment".to_owned());
        let lookup = |name| lookup(name, &configured, &environment);
        assert_eq!(lookup("a").unwrap(), "environment");
        assert_eq!(lookup("b").unwrap(), "config");
        assert!(matches!(lookup("c"), Err(VariableError::Undefined(_))));
        assert!(matches!(lookup("PATH"), Err(VariableError::InvalidName(_))));
    }
}
