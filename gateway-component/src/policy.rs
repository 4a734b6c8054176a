//! `heddle:gateway/policy`: the exchange for a host that moves the bytes itself. It tells what happened and does what it is
//! told; bodies and sockets never enter this instance.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gateway::exchange::{Step, refuse, wire};
use gateway::{Exchange, Gateway, Memory, Source};
use routing::Reason;

use crate::clock;

use self::bindings::exports::heddle::gateway::policy::{Decision, File, Guest, Variable};

mod bindings {
    #![allow(unsafe_code, reason = "generated: values cross the boundary as pointers")]
    spin_sdk::wit_bindgen::generate!({
        world: "policy-guest",
        path: "wit",
        runtime_path: "::spin_sdk::wit_bindgen::rt",
    });
    use super::Policy;
    export!(Policy);
}

thread_local! {
    /// An instance has one thread. Every call ends without awaiting anything, so a borrow never meets another.
    static CONFIGURED: RefCell<Option<Configured>> = const { RefCell::new(None) };
}

struct Configured {
    gateway: Arc<Gateway>,
    memory: Memory,
    /// Those that wait to be told something.
    exchanges: BTreeMap<u64, Exchange>,
}

struct Policy;

impl Guest for Policy {
    fn configure(config: String, files: Vec<File>, variables: Vec<Variable>) -> Result<(), String> {
        let files: HashMap<String, Vec<u8>> = files.into_iter().map(|file| (file.path, file.content)).collect();
        let variables: HashMap<String, String> = variables
            .into_iter()
            .map(|variable| (variable.name, variable.value))
            .collect();
        let source = Source {
            name: "gateway.toml".to_owned(),
            text: config,
        };
        let mut read = |path: &str| {
            files
                .get(path)
                .cloned()
                .ok_or_else(|| "the host did not hand this file over".to_owned())
        };
        let gateway =
            Gateway::compile(&source, &mut read, &|name| variables.get(name).cloned()).map_err(|wrong| wrong.to_string())?;
        let memory = Memory::new(&gateway);
        CONFIGURED.with_borrow_mut(|configured| {
            *configured = Some(Configured {
                gateway: Arc::new(gateway),
                memory,
                exchanges: BTreeMap::new(),
            })
        });
        Ok(())
    }

    fn start(id: u64, arrival: Vec<u8>) -> Decision {
        decide(|configured| {
            let arrival = wire::decode_arrival(&arrival).map_err(|error| error.to_string())?;
            let Configured {
                gateway,
                memory,
                exchanges,
            } = configured;
            let (exchange, step) = Exchange::start(gateway, memory, &arrival.arrival());
            let waits = exchange.is_some();
            exchanges.extend(exchange.map(|exchange| (id, exchange)));
            Ok((step, waits))
        })
    }

    fn on(id: u64, event: Vec<u8>) -> Decision {
        decide(|configured| {
            let (event, now) = wire::decode_event(&event).map_err(|error| error.to_string())?;
            let Configured { memory, exchanges, .. } = configured;
            let exchange = exchanges.get_mut(&id).ok_or("an event for an exchange that is over")?;
            let step = exchange.on(memory, event, now);
            let waits = !exchange.is_over();
            if !waits {
                exchanges.remove(&id);
            }
            Ok((step, waits))
        })
    }

    fn end(id: u64) {
        CONFIGURED.with_borrow_mut(|configured| configured.as_mut().map(|configured| configured.exchanges.remove(&id)));
    }
}

fn decide(decide: impl FnOnce(&mut Configured) -> Result<(Step, bool), String>) -> Decision {
    let decided = CONFIGURED.with_borrow_mut(|configured| {
        let configured = configured.as_mut().ok_or("a call before configure")?;
        decide(configured)
    });
    let (step, waits) = decided.unwrap_or_else(|why| (misused(&why), false));
    Decision {
        step: wire::encode_step(&step),
        waits,
    }
}

/// What a host gets that calls out of turn or in another version's encoding: a request is refused, never let through.
fn misused(why: &str) -> Step {
    eprintln!("heddle:gateway/policy: the host broke the protocol: {why}");
    Step::Respond(refuse(
        Reason::Internal,
        "the gateway lost track of the request",
        &clock::entropy(),
    ))
}
