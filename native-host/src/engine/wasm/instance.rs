//! One instance of a policy component: what it may use, and calls into it.

use std::fmt;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Store, StoreLimits, StoreLimitsBuilder, Trap};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::super::Fault;
use super::machine::{Machine, TICK};
use super::traps;
use crate::options::GuestLimits;
use bindings::exports::heddle::gateway::policy::{Decision, File, Variable};
use bindings::{PolicyGuest, PolicyGuestPre};

#[allow(
    unreachable_pub,
    unused_qualifications,
    clippy::use_self,
    missing_docs,
    reason = "generated"
)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../gateway-component/wit",
        world: "heddle:gateway/policy-guest",
        exports: { default: async },
    });
}

/// What a guest is told before its first decision: what the config is, and everything that it names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Setup {
    /// The config's text.
    pub(crate) config: String,
    /// The files that it names, by the paths that it has for them.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// The variables that it names and that have a value.
    pub(crate) variables: Vec<(String, String)>,
}

/// All that is needed to make an instance, on any core and at any time.
pub(crate) struct Blueprint {
    guest: PolicyGuestPre<Host>,
    limits: GuestLimits,
    config: String,
    files: Vec<File>,
    variables: Vec<Variable>,
}

impl fmt::Debug for Blueprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Variables are secrets more often than not.
        f.debug_struct("Blueprint")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Blueprint {
    /// Links a component that exports `heddle:gateway/policy`.
    ///
    /// A decision gets clocks and randomness from WASI and nothing else: no file, no socket, no variable that the config does
    /// not name. What the component imports beside WASI's own, and `wasi:http`, is for its other life at the edge; calling that
    /// here is a trap.
    ///
    /// # Errors
    ///
    /// Where the component has the export, but of another shape.
    pub(crate) fn new(machine: &Machine, component: &Component, limits: GuestLimits, setup: Setup) -> anyhow::Result<Self> {
        let mut linker = Linker::new(machine.engine());
        // The asynchronous ones, because a component that also answers whole requests imports asynchronous functions, and an
        // instance is either all synchronous or not at all. A decision waits for nothing all the same: see `now`.
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        traps::add_to_linker(&mut linker, machine.engine(), component)?;
        let guest = PolicyGuestPre::new(linker.instantiate_pre(component)?)?;
        Ok(Self {
            guest,
            limits,
            config: setup.config,
            files: setup
                .files
                .into_iter()
                .map(|(path, content)| File { path, content })
                .collect(),
            variables: setup
                .variables
                .into_iter()
                .map(|(name, value)| Variable { name, value })
                .collect(),
        })
    }
}

/// What belongs to one instance on the host's side.
struct Host {
    table: ResourceTable,
    wasi: WasiCtx,
    limits: StoreLimits,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// An instance that has decided nothing yet, and what makes others like it.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(super) blueprint: Arc<Blueprint>,
    pub(super) instance: Instance,
}

impl Fresh {
    /// Instantiates the component and hands it the config.
    ///
    /// # Errors
    ///
    /// Where the component cannot be instantiated or refuses the config.
    pub(crate) fn new(blueprint: Arc<Blueprint>) -> anyhow::Result<Self> {
        Ok(Self {
            instance: Instance::new(&blueprint)?,
            blueprint,
        })
    }
}

/// An instance that knows its config.
pub(super) struct Instance {
    store: Store<Host>,
    guest: PolicyGuest,
    /// What it wrote to standard error: its panic's message, where it panics.
    said: MemoryOutputPipe,
    /// The deadline of one decision, in ticks.
    decision: u64,
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance")
            .field("decision", &self.decision)
            .finish_non_exhaustive()
    }
}

impl Instance {
    /// Instantiates and configures.
    pub(super) fn new(blueprint: &Blueprint) -> anyhow::Result<Self> {
        let said = MemoryOutputPipe::new(SAID);
        let host = Host {
            table: ResourceTable::new(),
            wasi: WasiCtxBuilder::new().stderr(said.clone()).build(),
            limits: StoreLimitsBuilder::new().memory_size(blueprint.limits.memory).build(),
        };
        let mut store = Store::new(blueprint.guest.engine(), host);
        store.limiter(|host| &mut host.limits);
        store.set_epoch_deadline(ticks(blueprint.limits.configure));
        let guest = now(blueprint.guest.instantiate_async(&mut store)).map_err(anyhow::Error::from);
        let guest = guest.context("the component cannot be instantiated")?;
        let policy = guest.heddle_gateway_policy();
        let configured = policy.call_configure(&mut store, &blueprint.config, &blueprint.files, &blueprint.variables);
        now(configured)
            .map_err(anyhow::Error::from)
            .context("the component failed while it compiled the config")?
            .map_err(|diagnostics| anyhow::anyhow!("the component refuses the config:\n{diagnostics}"))?;
        Ok(Self {
            store,
            guest,
            said,
            decision: ticks(blueprint.limits.decision),
        })
    }

    /// Tells an arrival.
    pub(super) fn start(&mut self, exchange: u64, arrival: &[u8]) -> Result<Decision, Fault> {
        self.store.set_epoch_deadline(self.decision);
        let policy = self.guest.heddle_gateway_policy();
        now(policy.call_start(&mut self.store, exchange, arrival)).map_err(|error| fault(&error, &self.said))
    }

    /// Tells an event.
    pub(super) fn on(&mut self, exchange: u64, event: &[u8]) -> Result<Decision, Fault> {
        self.store.set_epoch_deadline(self.decision);
        let policy = self.guest.heddle_gateway_policy();
        now(policy.call_on(&mut self.store, exchange, event)).map_err(|error| fault(&error, &self.said))
    }

    /// Ends an exchange that waits.
    pub(super) fn end(&mut self, exchange: u64) -> Result<(), Fault> {
        self.store.set_epoch_deadline(self.decision);
        let policy = self.guest.heddle_gateway_policy();
        now(policy.call_end(&mut self.store, exchange)).map_err(|error| fault(&error, &self.said))
    }
}

/// A duration in ticks of the epoch. One more, because the first of them may be almost over.
fn ticks(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(TICK.as_nanos()))
        .unwrap_or(u64::MAX / 2)
        .saturating_add(1)
}

/// How much of what a guest says is kept, in bytes.
const SAID: usize = 64 * 1024;

/// What a call gives at once. Nothing that a decision may use has to be waited for, so a guest that waits is at fault.
fn now<T>(call: impl Future<Output = wasmtime::Result<T>>) -> wasmtime::Result<T> {
    call.now_or_never()
        .unwrap_or_else(|| Err(wasmtime::Error::msg("the guest waits for something")))
}

fn fault(error: &wasmtime::Error, said: &MemoryOutputPipe) -> Fault {
    let said = said.contents();
    tracing::error!(error = format!("{error:#}"), said = %String::from_utf8_lossy(&said), "guest");
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => Fault::Overtime,
        _ => Fault::Trapped,
    }
}
