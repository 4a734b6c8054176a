//! `heddle:gateway/policy`: the exchange for a host that moves the bytes itself. It tells what happened and does what it is
//! told; bodies and sockets never enter this instance.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use gateway::exchange::{Step, refuse, wire};
use gateway::{Gateway, Memory, Source};
use routing::Reason;

use crate::clock;

use self::bindings::exports::heddle::gateway::policy::{self, File, Guest, GuestExchange, Variable};

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
}

struct Policy;

impl Guest for Policy {
    type Exchange = Exchange;

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
            })
        });
        Ok(())
    }
}

struct Exchange(RefCell<gateway::Exchange>);

impl GuestExchange for Exchange {
    fn start(arrival: Vec<u8>) -> (Option<policy::Exchange>, Vec<u8>) {
        let started = wire::decode_arrival(&arrival)
            .map_err(|error| error.to_string())
            .and_then(|arrival| {
                CONFIGURED.with_borrow_mut(|configured| {
                    let Configured { gateway, memory } = configured.as_mut().ok_or("start before configure")?;
                    Ok(gateway::Exchange::start(gateway, memory, &arrival.arrival()))
                })
            });
        match started {
            Ok((exchange, step)) => (
                exchange.map(|exchange| policy::Exchange::new(Self(RefCell::new(exchange)))),
                wire::encode_step(&step),
            ),
            Err(why) => (None, wire::encode_step(&misused(&why))),
        }
    }

    fn on(&self, event: Vec<u8>) -> Vec<u8> {
        let step = wire::decode_event(&event)
            .map_err(|error| error.to_string())
            .and_then(|(event, now)| {
                CONFIGURED.with_borrow_mut(|configured| {
                    let Configured { memory, .. } = configured.as_mut().ok_or("an event before configure")?;
                    Ok(self.0.borrow_mut().on(memory, event, now))
                })
            });
        wire::encode_step(&step.unwrap_or_else(|why| misused(&why)))
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
