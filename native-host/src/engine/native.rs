//! The gateway linked into this program.

use std::cell::RefCell;
use std::sync::Arc;

use gateway::exchange::{Arrival, Event, Step};
use gateway::{Exchange, Gateway, Memory};
use routing::Now;

use super::{Decider, Engine, Fault};
use crate::inbound::Head;
use crate::keys::KeyStore;

/// The gateway and what this core remembers between its exchanges.
#[derive(Debug)]
pub(crate) struct Native {
    gateway: Arc<Gateway>,
    memory: RefCell<Memory>,
}

impl Native {
    pub(crate) fn new(gateway: Arc<Gateway>) -> Self {
        let memory = RefCell::new(Memory::new(&gateway));
        Self { gateway, memory }
    }
}

impl Engine for Native {
    type Exchange = Exchange;

    fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    fn succeed(&self, gateway: Arc<Gateway>, _keys: &Arc<KeyStore>, decider: Decider) -> Option<Self> {
        matches!(decider, Decider::Native).then(|| Self::new(gateway))
    }

    fn start(&self, arrival: &Arrival<'_>, _head: &Head) -> Result<(Option<Exchange>, Step), Fault> {
        Ok(Exchange::start(&self.gateway, &mut self.memory.borrow_mut(), arrival))
    }

    fn on(&self, exchange: &mut Exchange, event: Event, now: Now) -> Result<Step, Fault> {
        Ok(exchange.on(&mut self.memory.borrow_mut(), event, now))
    }
}
