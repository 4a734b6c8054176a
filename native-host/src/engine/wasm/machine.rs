//! The wasmtime engine that every core shares: how components are compiled, where instances live, what stops them.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use wasmtime::component::Component;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::cache;
use crate::options::GuestLimits;

/// How often the epoch advances, which is how exactly a guest's deadline is kept. 100 wake-ups a second cost a core nothing
/// that can be measured.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Instances at once, over all cores: one per core decides, and a component that is served through `wasi:http` has some per core.
const INSTANCES: u32 = 512;

/// Memory of an instance that stays mapped for the next one. The gateway's guest touches less than 1 MiB.
const KEEP_RESIDENT: usize = 1024 * 1024;

/// The engine that components are compiled for and run on.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    engine: Engine,
}

/// A component that was compiled.
#[derive(Debug)]
pub(crate) struct Opened {
    /// It.
    pub(crate) component: Component,
    /// What it can be asked.
    pub(crate) exports: Exports,
}

/// How a component takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exports {
    /// It decides, and the host moves the bytes.
    Policy,
    /// It answers whole requests.
    Handler,
}

impl Machine {
    /// Starts the engine and its one ticker thread, which ends with the engine.
    ///
    /// # Errors
    ///
    /// Where the machine has no room for it.
    pub(crate) fn new(limits: &GuestLimits) -> anyhow::Result<Self> {
        let mut config = Config::new();
        config
            .wasm_component_model_async(true)
            // A component built with it checks signatures five times as fast; one without is none the wiser.
            .wasm_wide_arithmetic(true)
            // Costs 12–18 % of guest time, against 17–21 % for fuel; without either a guest could spin for ever.
            .epoch_interruption(true)
            .cache(cache::open());
        let mut pooled = config.clone();
        pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(limits)));
        let engine = Engine::new(&pooled).or_else(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "instances are not pooled: this process may not reserve enough address space"
            );
            Engine::new(&config)
        })?;
        let ticked = engine.weak();
        std::thread::Builder::new().name("epoch".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(TICK);
                let Some(engine) = ticked.upgrade() else { return };
                engine.increment_epoch();
            }
        })?;
        Ok(Self { engine })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Compiles a component, or takes the code that was compiled before from the cache.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, is no component, or exports nothing that this host can use.
    pub(crate) fn open(&self, path: &Path) -> anyhow::Result<Opened> {
        let bytes = std::fs::read(path).with_context(|| {
            format!(
                "cannot read the component {}: build it with `cargo xtask component`, or name another with --component",
                path.display()
            )
        })?;
        let component = Component::new(&self.engine, bytes)
            .map_err(anyhow::Error::from)
            .with_context(|| {
                format!(
                    "{} is no component that this host can run: build it with `cargo xtask component`",
                    path.display()
                )
            })?;
        let exports = exports(&self.engine, &component).with_context(|| {
            format!(
                "{} exports neither heddle:gateway/policy nor wasi:http/handler@0.3: it is no gateway component",
                path.display()
            )
        })?;
        Ok(Opened { component, exports })
    }
}

fn exports(engine: &Engine, component: &Component) -> Option<Exports> {
    let mut found = None;
    for (name, _) in component.component_type().exports(engine) {
        if name.starts_with("heddle:gateway/policy@0.1") {
            return Some(Exports::Policy);
        }
        if name.starts_with("wasi:http/handler@0.3") {
            found = Some(Exports::Handler);
        }
    }
    found
}

fn pooling(limits: &GuestLimits) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(INSTANCES)
        // A component is a handful of core modules: itself, its adapters and shims.
        .total_core_instances(INSTANCES * 8)
        .total_memories(INSTANCES * 2)
        .total_tables(INSTANCES * 8)
        .total_stacks(INSTANCES * 2)
        .max_memory_size(limits.memory)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(64 * 1024)
        .async_stack_keep_resident(16 * 1024);
    pool
}
