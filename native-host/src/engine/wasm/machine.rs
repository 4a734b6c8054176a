//! The wasmtime engine that every core shares: how components are compiled, where instances live, what stops them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use wasmtime::component::Component;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Module, PoolingAllocationConfig};

use super::cache::Cache;
use super::contents::{self, Contents, POLICY};
use crate::options::{EngineKind, GuestLimits};

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
    cache: Cache,
}

/// A component that was compiled, as far as it takes part.
#[derive(Debug)]
pub(crate) enum Opened {
    /// The module of it that decides, while the host moves the bytes.
    Policy(Module),
    /// All of it, since it answers whole requests.
    Handler(Component),
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
            .epoch_interruption(true);
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
        Ok(Self {
            engine,
            cache: Cache::open(),
        })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Compiles a component for this engine, or takes the code that was compiled before from the cache.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, is no component, or exports nothing that this host can use.
    pub(crate) fn open(&self, path: &Path, engine: EngineKind) -> anyhow::Result<Opened> {
        let bytes = std::fs::read(path).with_context(|| {
            format!(
                "cannot read the component {}: build it with `cargo xtask component`, or name another with --component",
                path.display()
            )
        })?;
        let unusable = || {
            format!(
                "{} is no component that this host can run: build it with `cargo xtask component`",
                path.display()
            )
        };
        let opened = match contents::look(&bytes, engine).with_context(unusable)? {
            Contents::Policy(module) => self.cache.load(&self.engine, &bytes[module]).map(Opened::Policy),
            Contents::Handler => self.cache.load(&self.engine, &bytes).map(Opened::Handler),
            Contents::AnotherPolicy => bail!(
                "{} exports heddle:gateway/policy, but not as {POLICY} in the form that this host calls: build it anew with `cargo xtask component`",
                path.display()
            ),
            Contents::Neither if engine == EngineKind::Edge => bail!(
                "{} exports no wasi:http/handler@0.3: it cannot serve whole requests, as at the edge; see whether --engine wasm can run it",
                path.display()
            ),
            Contents::Neither => bail!(
                "{} exports neither heddle:gateway/policy nor wasi:http/handler@0.3: it is no gateway component",
                path.display()
            ),
        };
        opened.map_err(anyhow::Error::from).with_context(unusable)
    }
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
