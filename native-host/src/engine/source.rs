//! Where deciders come from: the gateway that is linked in, or a component that is compiled once and instantiated per config and
//! core.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::handler::Template;
use super::wasm::{Blueprint, Fresh, Machine, Opened, Setup};
use crate::options::{EngineKind, GuestLimits, Options};

/// Makes deciders for any config.
#[derive(Debug)]
pub(crate) struct Source {
    component: Option<Component>,
}

/// A component, compiled.
#[derive(Debug)]
struct Component {
    machine: Machine,
    opened: Opened,
    limits: GuestLimits,
    config: PathBuf,
}

/// Makes deciders for one config, on any core.
#[derive(Debug, Clone)]
pub(crate) enum Prepared {
    Native,
    Policy(Arc<Blueprint>),
    Handler(Arc<Template>),
}

/// What decides on one core with one config.
#[derive(Debug)]
pub(crate) enum Decider {
    /// The gateway that is linked in.
    Native,
    /// An instance that knows the config.
    Guest(Box<Fresh>),
    /// Instances that are made when requests come, and read the config themselves.
    Handler(Arc<Template>),
}

impl Source {
    /// Compiles the component, where one decides.
    ///
    /// # Errors
    ///
    /// Where there is no component, or none that can be run.
    pub(crate) fn open(options: &Options) -> anyhow::Result<Self> {
        if options.engine == EngineKind::Native {
            return Ok(Self { component: None });
        }
        let path = find(options)?;
        let machine = Machine::new(&options.guest)?;
        tracing::info!(component = %path.display(), "preparing the component; the first time takes some seconds");
        let opened = machine.open(&path, options.engine)?;
        if matches!(opened, Opened::Handler(_)) && options.engine == EngineKind::Wasm {
            tracing::warn!(
                component = %path.display(),
                "the component exports no heddle:gateway/policy: it is served through its wasi:http/handler, and the config's routes and upstreams do not apply"
            );
        }
        Ok(Self {
            component: Some(Component {
                machine,
                opened,
                limits: options.guest.clone(),
                config: options.config.clone(),
            }),
        })
    }

    /// Whether its deciders are guests that are handed the config.
    pub(crate) fn configures_guests(&self) -> bool {
        matches!(
            &self.component,
            Some(Component {
                opened: Opened::Policy(_),
                ..
            })
        )
    }

    /// Whether its deciders fetch the keys of issuers themselves.
    pub(crate) fn fetches_keys(&self) -> bool {
        matches!(
            &self.component,
            Some(Component {
                opened: Opened::Handler(_),
                ..
            })
        )
    }

    /// Prepares for a config.
    ///
    /// # Errors
    ///
    /// Where the component cannot be linked.
    pub(crate) fn prepare(&self, setup: &Setup) -> anyhow::Result<Prepared> {
        let Some(Component {
            machine,
            opened,
            limits,
            config,
        }) = &self.component
        else {
            return Ok(Prepared::Native);
        };
        let (limits, setup) = (limits.clone(), setup.clone());
        Ok(match opened {
            Opened::Policy(module) => Prepared::Policy(Arc::new(Blueprint::new(machine, module, limits, setup)?)),
            Opened::Handler(component) => {
                let template = Template::new(machine, component, limits, setup.variables, config)?;
                Prepared::Handler(Arc::new(template))
            }
        })
    }

    /// A decider for each core, all of them ready to decide. Guests are configured side by side: that is most of what a new config
    /// takes.
    ///
    /// # Errors
    ///
    /// Where the component refuses the config.
    pub(crate) fn deciders(&self, setup: &Setup, cores: usize) -> anyhow::Result<Vec<Decider>> {
        let prepared = self.prepare(setup)?;
        let blueprint = match prepared {
            Prepared::Native => return Ok((0..cores).map(|_| Decider::Native).collect()),
            Prepared::Handler(template) => return Ok((0..cores).map(|_| Decider::Handler(Arc::clone(&template))).collect()),
            Prepared::Policy(blueprint) => blueprint,
        };
        std::thread::scope(|scope| {
            let makers: Vec<_> = (0..cores)
                .map(|_| scope.spawn(|| Fresh::new(Arc::clone(&blueprint)).map(Box::new).map(Decider::Guest)))
                .collect();
            makers
                .into_iter()
                .map(|maker| {
                    maker
                        .join()
                        .unwrap_or_else(|_| Err(anyhow::anyhow!("configuring a guest panicked")))
                })
                .collect()
        })
    }
}

/// The component's file name, as `cargo xtask component` makes it.
const COMPONENT: &str = "gateway.wasm";

/// The component to run: the one that was named, else the one beside this executable or one folder above it (where it is when
/// both were built in the workspace), else `target/gateway.wasm` here.
fn find(options: &Options) -> anyhow::Result<PathBuf> {
    if let Some(named) = &options.component {
        return Ok(named.clone());
    }
    let executable = std::env::current_exe().unwrap_or_default();
    let mut places: Vec<PathBuf> = executable
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(COMPONENT))
        .collect();
    places.push(Path::new("target").join(COMPONENT));
    places.iter().find(|place| place.is_file()).cloned().with_context(|| {
        let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        format!(
            "this engine needs a component, and there is none at {}; build it with `cargo xtask component`, name it with --component, or use --engine native",
            looked.join(", ")
        )
    })
}
