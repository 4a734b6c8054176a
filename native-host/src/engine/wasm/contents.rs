//! What is in a component's file, found without compiling any of it.

use std::ops::Range;

use wasmparser::{Parser, Payload};

use crate::options::EngineKind;

/// The interface through which a component decides.
pub(super) const POLICY: &str = "heddle:gateway/policy@0.1.0";

/// The same in whatever version and form.
const ANY_POLICY: &str = "heddle:gateway/policy@";

/// The interface through which a component answers whole requests.
const HANDLER: &str = "wasi:http/handler@0.3";

/// How a component takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Contents {
    /// It decides, and the host moves the bytes. The core module that does is this part of the file.
    Policy(Range<usize>),
    /// It says that it decides, but no core module of it does so in the form that this host calls: it was made for another one.
    AnotherPolicy,
    /// It answers whole requests.
    Handler,
    /// Nothing that this host can use.
    Neither,
}

/// Looks through a component's file for what this engine needs of it.
///
/// # Errors
///
/// Where it is no WebAssembly.
pub(super) fn look(bytes: &[u8], engine: EngineKind) -> wasmparser::Result<Contents> {
    let start = format!("{POLICY}#start");
    let mut is_policy = false;
    let mut is_handler = false;
    let mut module = None;
    // The modules and components that the place in the file is inside of.
    let mut inside = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. } => {
                inside.push(unchecked_range);
            }
            Payload::End(_) => drop(inside.pop()),
            Payload::ComponentExportSection(exports) if inside.is_empty() => {
                for export in exports {
                    let name = export?.name.name;
                    is_policy |= name.starts_with(ANY_POLICY);
                    is_handler |= name.starts_with(HANDLER);
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    if export?.name == start {
                        module = inside.last().cloned();
                    }
                }
            }
            _ => {}
        }
    }
    is_policy &= engine != EngineKind::Edge;
    Ok(match (is_policy, module, is_handler) {
        (true, Some(module), _) => Contents::Policy(module),
        // Whatever else it can do: what was meant to decide here must not be left to do something else.
        (true, None, _) => Contents::AnotherPolicy,
        (false, _, true) => Contents::Handler,
        (false, _, false) => Contents::Neither,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(text: &str) -> Contents {
        look(&wat::parse_str(text).unwrap(), EngineKind::Wasm).unwrap()
    }

    #[test]
    fn an_interface_is_told_by_what_is_exported_at_the_top() {
        let exporting = |name: &str| format!(r#"(component (instance $i) (export "{name}" (instance $i)))"#);
        assert_eq!(contents(&exporting("wasi:http/handler@0.3.0")), Contents::Handler);
        assert_eq!(contents(&exporting("a:b/c@1.0.0")), Contents::Neither);
        let inner = exporting("wasi:http/handler@0.3.0");
        assert_eq!(contents(&format!("(component {inner})")), Contents::Neither);
    }

    #[test]
    fn a_policy_of_another_form_or_version_is_not_passed_over_for_the_handler() {
        for policy in [POLICY, "heddle:gateway/policy@0.2.0"] {
            let text = format!(
                r#"(component
                    (core module (func (export "{policy}#[static]exchange.start")))
                    (instance $i)
                    (export "{policy}" (instance $i))
                    (export "wasi:http/handler@0.3.0" (instance $i)))"#
            );
            assert_eq!(contents(&text), Contents::AnotherPolicy);
        }
    }

    #[test]
    fn the_module_that_decides_is_a_part_of_the_file() {
        let text = format!(
            r#"(component
                (core module (func (export "other")))
                (core module (func (export "{POLICY}#start")))
                (instance $i)
                (export "{POLICY}" (instance $i)))"#
        );
        let bytes = wat::parse_str(text).unwrap();
        let Contents::Policy(module) = look(&bytes, EngineKind::Wasm).unwrap() else {
            panic!("there is a module that decides")
        };
        assert_eq!(
            bytes[module],
            wat::parse_str(format!(r#"(module (func (export "{POLICY}#start")))"#)).unwrap()
        );
    }

    #[test]
    fn at_the_edge_it_is_the_handler_that_counts() {
        let policy = format!(r#"(instance $i) (export "{POLICY}" (instance $i))"#);
        let edge = |text: String| look(&wat::parse_str(text).unwrap(), EngineKind::Edge).unwrap();
        let both = format!(r#"(component {policy} (export "wasi:http/handler@0.3.0" (instance $i)))"#);
        assert_eq!(edge(both), Contents::Handler);
        assert_eq!(edge(format!("(component {policy})")), Contents::Neither);
    }

    #[test]
    fn what_is_no_webassembly_is_an_error() {
        assert!(look(b"#!/bin/sh", EngineKind::Wasm).is_err());
        assert!(look(b"", EngineKind::Wasm).is_err());
    }
}
