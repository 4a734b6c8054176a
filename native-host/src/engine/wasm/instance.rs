//! One instance of the module that decides: calls into it, in the form that `heddle:gateway/policy` has there.
//!
//! A component wraps core modules, and its interfaces are functions of theirs with a fixed form (the component model's Canonical
//! ABI). They are called here as they are: through the component, each call is a task of its own on a stack of its own, as
//! what waits at the edge needs it, and three of them took 11 of the 97 µs of a request with 100 routes and a signed token.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use wasmtime::{
    Error, InstancePre, Memory, Module, Store, StoreLimits, StoreLimitsBuilder, Trap, TypedFunc, WasmParams, WasmResults,
};

use super::super::Fault;
use super::contents::POLICY;
use super::imports;
use super::machine::{Machine, TICK};
use crate::options::GuestLimits;

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
    module: InstancePre<Host>,
    limits: GuestLimits,
    setup: Setup,
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
    /// Links a module that decides.
    ///
    /// A decision gets clocks and randomness and nothing else: no file, no socket, no variable that the config does not name.
    ///
    /// # Errors
    ///
    /// Where the module imports something of another form than WASI has it.
    pub(crate) fn new(machine: &Machine, module: &Module, limits: GuestLimits, setup: Setup) -> anyhow::Result<Self> {
        let linker = imports::linker(machine.engine(), module)?;
        Ok(Self {
            module: linker.instantiate_pre(module)?,
            limits,
            setup,
        })
    }
}

/// What belongs to one instance on the host's side.
pub(super) struct Host {
    limits: StoreLimits,
    /// When its clock began.
    pub(super) began: Instant,
    /// What it wrote to standard error: its panic's message, where it panics.
    pub(super) said: Vec<u8>,
    /// What the component model keeps for a thread.
    pub(super) context: u32,
}

impl Host {
    /// For an instance that may have this many bytes of memory.
    pub(super) fn new(memory: usize) -> Self {
        Self {
            limits: StoreLimitsBuilder::new().memory_size(memory).build(),
            began: Instant::now(),
            said: Vec::new(),
            context: 0,
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
    inside: Inside,
    start: Lifted<(u64, u32, u32)>,
    on: Lifted<(u64, u32, u32)>,
    end: TypedFunc<u64, ()>,
    /// The deadline of one decision, in ticks.
    decision: u64,
}

/// What comes of telling an exchange something.
#[derive(Debug)]
pub(super) struct Decision {
    /// The step, encoded.
    pub(super) step: Vec<u8>,
    /// Whether the exchange waits for what becomes of it.
    pub(super) waits: bool,
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
        let host = Host::new(blueprint.limits.memory);
        let mut store = Store::new(blueprint.module.module().engine(), host);
        store.limiter(|host| &mut host.limits);
        store.set_epoch_deadline(ticks(blueprint.limits.configure));
        let instance = blueprint.module.instantiate(&mut store).map_err(anyhow::Error::from);
        let instance = instance.context("the component cannot be instantiated")?;
        let of_another_form = || format!("the component's {POLICY} has another form than this host calls");
        let mut inside = Inside::of(store, &instance).with_context(of_another_form)?;
        let configure: Lifted<(u32, u32, u32, u32, u32, u32)> =
            Lifted::find(&mut inside, &instance, "configure").with_context(of_another_form)?;
        configured(&mut inside, &configure, &blueprint.setup)
            .map_err(|error| {
                inside.fault(&error);
                anyhow::Error::from(error)
            })
            .context("the component failed while it compiled the config")?
            .map_err(|diagnostics| anyhow::anyhow!("the component refuses the config:\n{diagnostics}"))?;
        Ok(Self {
            start: Lifted::find(&mut inside, &instance, "start").with_context(of_another_form)?,
            on: Lifted::find(&mut inside, &instance, "on").with_context(of_another_form)?,
            end: inside
                .function(&instance, &format!("{POLICY}#end"))
                .with_context(of_another_form)?,
            inside,
            decision: ticks(blueprint.limits.decision),
        })
    }

    /// Tells an arrival.
    pub(super) fn start(&mut self, exchange: u64, arrival: &[u8]) -> Result<Decision, Fault> {
        self.inside.store.set_epoch_deadline(self.decision);
        decided(&mut self.inside, &self.start, exchange, arrival).map_err(|error| self.inside.fault(&error))
    }

    /// Tells an event.
    pub(super) fn on(&mut self, exchange: u64, event: &[u8]) -> Result<Decision, Fault> {
        self.inside.store.set_epoch_deadline(self.decision);
        decided(&mut self.inside, &self.on, exchange, event).map_err(|error| self.inside.fault(&error))
    }

    /// Ends an exchange that waits.
    pub(super) fn end(&mut self, exchange: u64) -> Result<(), Fault> {
        self.inside.store.set_epoch_deadline(self.decision);
        let ended = self.end.call(&mut self.inside.store, exchange);
        ended.map_err(|error| self.inside.fault(&error))
    }
}

/// Hands the config over. The guest's answer is what is wrong with it, where it does not take it.
fn configured(
    inside: &mut Inside,
    configure: &Lifted<(u32, u32, u32, u32, u32, u32)>,
    setup: &Setup,
) -> wasmtime::Result<Result<(), String>> {
    let (config, config_length) = inside.put(setup.config.as_bytes(), 1)?;
    let files = setup.files.iter().map(|(path, content)| (path, content.as_slice()));
    let (files, files_length) = inside.put_pairs(files)?;
    let variables = setup.variables.iter().map(|(name, value)| (name, value.as_bytes()));
    let (variables, variables_length) = inside.put_pairs(variables)?;
    let parameters = (config, config_length, files, files_length, variables, variables_length);
    configure.call(inside, parameters, |inside, result| match inside.bytes(result, 1)? {
        [0] => Ok(Ok(())),
        _ => {
            let [at, length] = inside.words(result.wrapping_add(4))?;
            Ok(Err(String::from_utf8_lossy(inside.bytes(at, length)?).into_owned()))
        }
    })
}

fn decided(inside: &mut Inside, function: &Lifted<(u64, u32, u32)>, exchange: u64, told: &[u8]) -> wasmtime::Result<Decision> {
    let (at, length) = inside.put(told, 1)?;
    function.call(inside, (exchange, at, length), |inside, result| {
        let [at, length] = inside.words(result)?;
        Ok(Decision {
            step: inside.bytes(at, length)?.to_vec(),
            waits: inside.bytes(result.wrapping_add(8), 1)? != [0],
        })
    })
}

/// The guest's memory, and how to put something there.
struct Inside {
    store: Store<Host>,
    memory: Memory,
    realloc: TypedFunc<(u32, u32, u32, u32), u32>,
}

impl Inside {
    fn of(mut store: Store<Host>, instance: &wasmtime::Instance) -> anyhow::Result<Self> {
        // Where a module has one, the component calls it first.
        if let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut store, "_initialize") {
            initialize.call(&mut store, ())?;
        }
        Ok(Self {
            memory: instance.get_memory(&mut store, "memory").context("it exports no memory")?,
            realloc: instance.get_typed_func(&mut store, "cabi_realloc")?,
            store,
        })
    }

    fn function<P: WasmParams, R: WasmResults>(
        &mut self,
        instance: &wasmtime::Instance,
        name: &str,
    ) -> anyhow::Result<TypedFunc<P, R>> {
        Ok(instance.get_typed_func(&mut self.store, name)?)
    }

    /// Puts bytes where the guest has room for them, which are its own from then on: their place and their number.
    fn put(&mut self, bytes: &[u8], alignment: u32) -> wasmtime::Result<(u32, u32)> {
        let length = u32::try_from(bytes.len())?;
        let at = self.realloc.call(&mut self.store, (0, 0, alignment, length))?;
        self.memory.write(&mut self.store, at as usize, bytes)?;
        Ok((at, length))
    }

    /// Puts a list of pairs.
    fn put_pairs<'a>(&mut self, pairs: impl Iterator<Item = (&'a String, &'a [u8])>) -> wasmtime::Result<(u32, u32)> {
        let mut list = Vec::new();
        let mut number = 0;
        for (name, value) in pairs {
            let (name, name_length) = self.put(name.as_bytes(), 1)?;
            let (value, value_length) = self.put(value, 1)?;
            list.extend([name, name_length, value, value_length].map(u32::to_le_bytes).as_flattened());
            number += 1;
        }
        Ok((self.put(&list, 4)?.0, number))
    }

    fn bytes(&self, at: u32, length: u32) -> wasmtime::Result<&[u8]> {
        let memory = self.memory.data(&self.store);
        let bytes = memory.get(at as usize..).and_then(|rest| rest.get(..length as usize));
        bytes.ok_or_else(|| Error::msg("the guest gives something from outside of its memory"))
    }

    fn words(&self, at: u32) -> wasmtime::Result<[u32; 2]> {
        let bytes = self.bytes(at, 8)?;
        let (first, second) = bytes.split_at(4);
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
        Ok([word(first), word(second)])
    }

    fn fault(&self, error: &Error) -> Fault {
        let said = String::from_utf8_lossy(&self.store.data().said);
        tracing::error!(error = format!("{error:#}"), %said, "guest");
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Fault::Overtime,
            _ => Fault::Trapped,
        }
    }
}

/// A function whose result is a place in the guest's memory, which is the guest's again when it was read.
struct Lifted<P> {
    call: TypedFunc<P, u32>,
    after: Option<TypedFunc<u32, ()>>,
}

impl<P: WasmParams> Lifted<P> {
    fn find(inside: &mut Inside, instance: &wasmtime::Instance, name: &str) -> anyhow::Result<Self> {
        Ok(Self {
            call: inside.function(instance, &format!("{POLICY}#{name}"))?,
            after: inside.function(instance, &format!("cabi_post_{POLICY}#{name}")).ok(),
        })
    }

    fn call<T>(
        &self,
        inside: &mut Inside,
        parameters: P,
        lift: impl FnOnce(&Inside, u32) -> wasmtime::Result<T>,
    ) -> wasmtime::Result<T> {
        let result = self.call.call(&mut inside.store, parameters)?;
        let lifted = lift(inside, result)?;
        if let Some(after) = &self.after {
            after.call(&mut inside.store, result)?;
        }
        Ok(lifted)
    }
}

/// A duration in ticks of the epoch. One more, because the first of them may be almost over.
fn ticks(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(TICK.as_nanos()))
        .unwrap_or(u64::MAX / 2)
        .saturating_add(1)
}
