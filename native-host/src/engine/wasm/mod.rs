//! The gateway in its sandbox: one guest instance per core decides, and is replaced when it fails.
//!
//! A guest that traps, spins or outgrows its memory takes down everything that its instance remembered, and so the other
//! exchanges that were waiting in it. The machine inside is deterministic, so each of those is told its events again in a
//! fresh instance ([`Live`] has them), and goes on as if nothing had been. Only the request that made the guest fail fails.

mod cache;
mod instance;
mod machine;
mod traps;
pub(crate) mod variables;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use gateway::Gateway;
use gateway::exchange::{Arrival, Event, Step, wire};
use routing::Now;
use wasmtime::component::ResourceAny;

use super::{Decider, Engine, Fault};
use crate::inbound::Head;
use crate::keys::KeyStore;
use crate::metrics::Guests;
use instance::Instance;

pub(crate) use instance::{Blueprint, Fresh, Setup};
pub(crate) use machine::{Exports, Machine, Opened};

/// The engine whose decisions are made by a component.
#[derive(Debug)]
pub(crate) struct Wasm {
    gateway: Arc<Gateway>,
    guest: Rc<RefCell<Guest>>,
}

impl Wasm {
    /// Decides with an instance, and with others like it where it fails.
    pub(crate) fn new(fresh: Fresh, gateway: Arc<Gateway>, guests: Arc<Guests>, keys: Arc<KeyStore>) -> Self {
        let Fresh { blueprint, instance } = fresh;
        let guest = Guest {
            blueprint,
            gateway: Arc::clone(&gateway),
            guests,
            keys,
            instance: Some(instance),
            live: HashMap::new(),
            next: 0,
        };
        Self {
            gateway,
            guest: Rc::new(RefCell::new(guest)),
        }
    }
}

impl Engine for Wasm {
    type Exchange = InGuest;

    fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// What waits in the guest of this snapshot ends there.
    fn succeed(&self, gateway: Arc<Gateway>, keys: &Arc<KeyStore>, decider: Decider) -> Option<Self> {
        let Decider::Guest(fresh) = decider else { return None };
        let guests = Arc::clone(&self.guest.borrow().guests);
        Some(Self::new(*fresh, gateway, guests, Arc::clone(keys)))
    }

    fn start(&self, arrival: &Arrival<'_>, head: &Head) -> Result<(Option<InGuest>, Step), Fault> {
        let encoded = match head {
            Head::Parsed(head) => wire::encode_arrival(arrival, head.fields()),
            Head::Raw(head) => wire::encode_arrival(arrival, head.fields().map(|(name, value)| (text(name), value))),
        };
        let (live, step) = self.guest.borrow_mut().start(encoded, arrival.now)?;
        Ok((
            live.map(|id| InGuest {
                id,
                guest: Rc::clone(&self.guest),
            }),
            step,
        ))
    }

    fn on(&self, exchange: &mut InGuest, event: Event, now: Now) -> Result<Step, Fault> {
        self.guest.borrow_mut().on(exchange.id, &event, now)
    }
}

/// An exchange that waits in the guest.
#[derive(Debug)]
pub(crate) struct InGuest {
    id: u64,
    guest: Rc<RefCell<Guest>>,
}

impl Drop for InGuest {
    fn drop(&mut self) {
        self.guest.borrow_mut().end(self.id);
    }
}

/// A core's instance and the exchanges that wait in it.
#[derive(Debug)]
struct Guest {
    blueprint: Arc<Blueprint>,
    gateway: Arc<Gateway>,
    guests: Arc<Guests>,
    keys: Arc<KeyStore>,
    /// None where the last one failed and no new one could be made.
    instance: Option<Instance>,
    live: HashMap<u64, Live>,
    next: u64,
}

/// An exchange that waits in the guest, with all that is needed to bring it about again.
#[derive(Debug)]
struct Live {
    /// None where it did not survive a neighbour's fault.
    resource: Option<ResourceAny>,
    arrival: Vec<u8>,
    started: Now,
    /// What it was told, verdicts on signatures left out: a fresh instance has an empty cache of them and asks where the
    /// first one knew, so they are given natively whenever they are asked for.
    events: Vec<(Vec<u8>, Now)>,
    /// A hash of each step that came, those that ask for a signature or for keys left out: one for the arrival and one per event.
    steps: Vec<u64>,
}

impl Guest {
    fn start(&mut self, arrival: Vec<u8>, now: Now) -> Result<(Option<u64>, Step), Fault> {
        let instance = self.instance()?;
        let (resource, encoded) = match instance.start(&arrival) {
            Ok(started) => started,
            Err(fault) => return Err(self.replace(fault)),
        };
        let step = self.decode(&encoded)?;
        let Some(resource) = resource else { return Ok((None, step)) };
        let mut live = Live {
            resource: Some(resource),
            arrival,
            started: now,
            events: Vec::new(),
            steps: Vec::new(),
        };
        live.came(&step, &encoded);
        self.next += 1;
        self.live.insert(self.next, live);
        Ok((Some(self.next), step))
    }

    fn on(&mut self, id: u64, event: &Event, now: Now) -> Result<Step, Fault> {
        let encoded = wire::encode_event(event, now);
        let resource = self.live.get(&id).and_then(|live| live.resource).ok_or(Fault::Diverged)?;
        let answer = match self.instance()?.on(resource, &encoded) {
            Ok(answer) => answer,
            Err(fault) => {
                // The culprit is not to be replayed.
                self.live.remove(&id);
                return Err(self.replace(fault));
            }
        };
        let step = self.decode(&answer)?;
        if let Some(live) = self.live.get_mut(&id) {
            if !matches!(event, Event::Verified(_) | Event::Keys(_)) {
                live.events.push((encoded, now));
            }
            live.came(&step, &answer);
        }
        Ok(step)
    }

    fn end(&mut self, id: u64) {
        let Some(resource) = self.live.remove(&id).and_then(|live| live.resource) else {
            return;
        };
        let Some(instance) = &mut self.instance else { return };
        if let Err(fault) = instance.end(resource) {
            self.replace(fault);
        }
    }

    /// A guest whose steps cannot be read is as good as one that trapped.
    fn decode(&mut self, step: &[u8]) -> Result<Step, Fault> {
        wire::decode_step(step).map_err(|error| {
            tracing::error!(%error, "the guest's step cannot be read: was it built from another version of the gateway?");
            Fault::Trapped
        })
    }

    /// The instance; a new one where the last could not be replaced.
    fn instance(&mut self) -> Result<&mut Instance, Fault> {
        if self.instance.is_none() {
            self.instance = self.fresh();
        }
        self.instance.as_mut().ok_or(Fault::Unavailable)
    }

    fn fresh(&self) -> Option<Instance> {
        Instance::new(&self.blueprint)
            .inspect_err(|error| tracing::error!(error = format!("{error:#}"), "no guest could be started"))
            .ok()
    }

    /// Puts a fresh instance in the place of the one that failed and brings the waiting exchanges about in it.
    fn replace(&mut self, fault: Fault) -> Fault {
        tracing::error!(%fault, waiting = self.live.len(), "the guest failed and is replaced");
        self.guests.replaced(fault);
        // Each round loses at least the exchange that made the fresh instance fail, so it ends.
        'fresh: loop {
            self.instance = None;
            let Some(mut instance) = self.fresh() else {
                self.live.values_mut().for_each(|live| live.resource = None);
                return fault;
            };
            for live in self.live.values_mut().filter(|live| live.resource.is_some()) {
                match live.replay(&mut instance, &self.gateway, &self.keys) {
                    Ok(resource) => live.resource = Some(resource),
                    Err(Fault::Diverged) => live.resource = None,
                    Err(again) => {
                        live.resource = None;
                        self.guests.replaced(again);
                        continue 'fresh;
                    }
                }
            }
            self.instance = Some(instance);
            return fault;
        }
    }
}

impl Live {
    fn came(&mut self, step: &Step, encoded: &[u8]) {
        if !matches!(step, Step::Verify(_) | Step::Fetch(_)) {
            self.steps.push(hash(encoded));
        }
    }

    /// Tells a fresh instance everything that the lost one was told, and compares what comes of it.
    fn replay(&self, instance: &mut Instance, gateway: &Gateway, keys: &KeyStore) -> Result<ResourceAny, Fault> {
        let (resource, mut encoded) = instance.start(&self.arrival)?;
        let resource = resource.ok_or(Fault::Diverged)?;
        let mut now = self.started;
        let mut events = self.events.iter();
        let mut steps = self.steps.iter();
        loop {
            let step = wire::decode_step(&encoded).map_err(|_| Fault::Diverged)?;
            let told = match step {
                Step::Verify(verify) => Some(Event::Verified(gateway.verify(&verify))),
                Step::Fetch(fetch) => Some(Event::Keys(keys.held(&fetch))),
                _ => None,
            };
            if let Some(event) = told {
                encoded = instance.on(resource, &wire::encode_event(&event, now))?;
                continue;
            }
            if steps.next() != Some(&hash(&encoded)) {
                return Err(Fault::Diverged);
            }
            let Some((event, when)) = events.next() else {
                return Ok(resource);
            };
            now = *when;
            encoded = instance.on(resource, event)?;
        }
    }
}

/// A name that the codec has checked to be a token.
fn text(name: &[u8]) -> &str {
    std::str::from_utf8(name).unwrap_or_default()
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
