//! The gateway in its sandbox: one guest instance per core decides, and is replaced when it fails.
//!
//! A guest that traps, spins or outgrows its memory takes down everything that its instance remembered, and so the other
//! exchanges that were waiting in it. The machine inside is deterministic, so each of those is told its events again in a
//! fresh instance ([`Live`] has them), and goes on as if nothing had been. Only the request that made the guest fail fails.

mod cache;
mod contents;
mod imports;
mod instance;
mod machine;
pub(crate) mod variables;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use gateway::Gateway;
use gateway::exchange::{Arrival, Event, Step, wire};
use routing::Now;

use super::{Decider, Engine, Fault};
use crate::inbound::Head;
use crate::keys::KeyStore;
use crate::metrics::Guests;
use instance::Instance;

pub(crate) use instance::{Blueprint, Fresh, Setup};
pub(crate) use machine::{Machine, Opened};

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
        let (id, step) = self.guest.borrow_mut().start(encoded, arrival.now)?;
        let exchange = id.map(|id| InGuest {
            id: Some(id),
            guest: Rc::clone(&self.guest),
        });
        Ok((exchange, step))
    }

    fn on(&self, exchange: &mut InGuest, event: Event, now: Now) -> Result<Step, Fault> {
        let Some(id) = exchange.id else { return Ok(Step::Pending) };
        let (waits, step) = self.guest.borrow_mut().on(id, &event, now)?;
        exchange.id = waits.then_some(id);
        Ok(step)
    }
}

/// An exchange in the guest.
#[derive(Debug)]
pub(crate) struct InGuest {
    /// None when it is over.
    id: Option<u64>,
    guest: Rc<RefCell<Guest>>,
}

impl Drop for InGuest {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.guest.borrow_mut().end(id);
        }
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
    /// It did not survive a neighbour's fault.
    lost: bool,
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
        let id = self.next;
        self.next += 1;
        let decided = match self.instance()?.start(id, &arrival) {
            Ok(decided) => decided,
            Err(fault) => return Err(self.replace(fault)),
        };
        let step = self.decode(&decided.step)?;
        if !decided.waits {
            return Ok((None, step));
        }
        let mut live = Live {
            lost: false,
            arrival,
            started: now,
            events: Vec::new(),
            steps: Vec::new(),
        };
        live.came(&step, &decided.step);
        self.live.insert(id, live);
        Ok((Some(id), step))
    }

    /// The next step, and whether the exchange waits for what becomes of it.
    fn on(&mut self, id: u64, event: &Event, now: Now) -> Result<(bool, Step), Fault> {
        let encoded = wire::encode_event(event, now);
        if self.live.get(&id).is_none_or(|live| live.lost) {
            return Err(Fault::Diverged);
        }
        let decided = match self.instance()?.on(id, &encoded) {
            Ok(decided) => decided,
            Err(fault) => {
                // The culprit is not to be replayed.
                self.live.remove(&id);
                return Err(self.replace(fault));
            }
        };
        let step = self.decode(&decided.step)?;
        if !decided.waits {
            self.live.remove(&id);
        } else if let Some(live) = self.live.get_mut(&id) {
            if !matches!(event, Event::Verified(_) | Event::Keys(_)) {
                live.events.push((encoded, now));
            }
            live.came(&step, &decided.step);
        }
        Ok((decided.waits, step))
    }

    fn end(&mut self, id: u64) {
        if self.live.remove(&id).is_none_or(|live| live.lost) {
            return;
        }
        let Some(instance) = &mut self.instance else { return };
        if let Err(fault) = instance.end(id) {
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
                self.live.values_mut().for_each(|live| live.lost = true);
                return fault;
            };
            for (&id, live) in self.live.iter_mut().filter(|(_, live)| !live.lost) {
                match live.replay(id, &mut instance, &self.gateway, &self.keys) {
                    Ok(()) => {}
                    Err(Fault::Diverged) => {
                        live.lost = true;
                        if let Err(again) = instance.end(id) {
                            self.guests.replaced(again);
                            continue 'fresh;
                        }
                    }
                    Err(again) => {
                        live.lost = true;
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
    fn replay(&self, id: u64, instance: &mut Instance, gateway: &Gateway, keys: &KeyStore) -> Result<(), Fault> {
        let mut decided = instance.start(id, &self.arrival)?;
        let mut now = self.started;
        let mut events = self.events.iter();
        let mut steps = self.steps.iter();
        loop {
            if !decided.waits {
                return Err(Fault::Diverged);
            }
            let step = wire::decode_step(&decided.step).map_err(|_| Fault::Diverged)?;
            let told = match step {
                Step::Verify(verify) => Some(Event::Verified(gateway.verify(&verify))),
                Step::Fetch(fetch) => Some(Event::Keys(keys.held(&fetch))),
                _ => None,
            };
            if let Some(event) = told {
                decided = instance.on(id, &wire::encode_event(&event, now))?;
                continue;
            }
            if steps.next() != Some(&hash(&decided.step)) {
                return Err(Fault::Diverged);
            }
            let Some((event, when)) = events.next() else {
                return Ok(());
            };
            now = *when;
            decided = instance.on(id, event)?;
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
