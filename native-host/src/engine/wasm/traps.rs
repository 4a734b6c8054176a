//! Imports that a deciding instance may have but not use.
//!
//! wasmtime's own `define_unknown_imports_as_traps` goes by exact names, and so hides WASI 0.2.6 from a component that was built
//! against 0.2.12.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, ResourceType};
use wasmtime::{Engine, Result};

/// What stands for a resource that never is.
struct Never;

/// Defines every imported interface that is not WASI's own, and `wasi:http`, by functions that trap.
pub(super) fn add_to_linker<T: Send + 'static>(linker: &mut Linker<T>, engine: &Engine, component: &Component) -> Result<()> {
    for (name, import) in component.component_type().imports(engine) {
        if name.starts_with("wasi:") && !name.starts_with("wasi:http/") {
            continue;
        }
        let ComponentItem::ComponentInstance(interface) = import.ty else {
            continue;
        };
        let mut instance = linker.instance(name)?;
        for (item, export) in interface.exports(engine) {
            let called = format!("{name}#{item}");
            match export.ty {
                ComponentItem::ComponentFunc(function) if function.async_() => {
                    instance.func_new_concurrent(item, move |_, _, _, _| {
                        let refused = refused(&called);
                        Box::pin(async move { refused })
                    })?;
                }
                ComponentItem::ComponentFunc(_) => {
                    instance.func_new(item, move |_, _, _, _| refused(&called))?;
                }
                ComponentItem::Resource(_) => instance.resource(item, ResourceType::host::<Never>(), |_, _| Ok(()))?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn refused(called: &str) -> Result<()> {
    Err(wasmtime::Error::msg(format!("a decision may not call {called}")))
}
