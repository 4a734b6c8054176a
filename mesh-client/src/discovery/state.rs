//! What is known of one service, and how an update changes it. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_api::v1;
use mesh_api::v1::update::Kind;

use super::{Attributes, Endpoint};
use crate::tls::Protocol;

/// The endpoints of one service and the revision that they are of.
#[derive(Debug, Default)]
pub(super) struct State {
    endpoints: BTreeMap<String, Endpoint>,
    revision: u64,
}

impl State {
    /// What to resume from; 0 where nothing is known.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// The endpoints, ordered by id.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.values().cloned().collect()
    }

    /// Applies what the control plane said of `service`; what it says of others is not ours. True where that changed the
    /// endpoints.
    pub(super) fn apply(&mut self, service: &str, response: v1::WatchResponse) -> bool {
        let mut changed = false;
        // A snapshot that does not name the service says that it has no endpoints.
        if response.snapshot && !self.endpoints.is_empty() && !resets(service, &response) {
            self.endpoints.clear();
            changed = true;
        }
        for update in response.updates.into_iter().filter_map(|update| update.kind) {
            changed |= match update {
                Kind::Reset(reset) if reset.service == service => self.reset(reset.endpoints),
                Kind::Add(endpoint) if endpoint.service == service => self.add(endpoint),
                Kind::Remove(gone) if gone.service == service && gone.expired => self.expire(&gone.endpoint_id),
                Kind::Remove(gone) if gone.service == service => self.endpoints.remove(&gone.endpoint_id).is_some(),
                _ => false,
            };
        }
        self.revision = response.revision;
        changed
    }

    fn reset(&mut self, endpoints: Vec<v1::Endpoint>) -> bool {
        let endpoints = endpoints
            .into_iter()
            .filter_map(usable)
            .map(|endpoint| (endpoint.id().to_owned(), endpoint))
            .collect();
        let changed = self.endpoints != endpoints;
        self.endpoints = endpoints;
        changed
    }

    /// An endpoint of which the control plane has not heard for a whole lease: out, unless it is the last. A control plane that was
    /// cut off comes back with the leases of everybody expired, and hears of them only a moment later.
    fn expire(&mut self, id: &str) -> bool {
        let Some(known) = self.endpoints.remove(id) else {
            return false;
        };
        if self.endpoints.is_empty() {
            let expired = Attributes {
                expired: true,
                ..(*known.0).clone()
            };
            self.endpoints.insert(id.to_owned(), Endpoint(Arc::new(expired)));
        }
        true
    }

    fn add(&mut self, endpoint: v1::Endpoint) -> bool {
        let id = endpoint.id.clone();
        match usable(endpoint) {
            Some(endpoint) => {
                self.endpoints.retain(|_, known| !known.has_expired());
                self.endpoints.insert(id, endpoint.clone()) != Some(endpoint)
            }
            // New attributes that cannot be used make a known endpoint unusable.
            None => self.endpoints.remove(&id).is_some(),
        }
    }
}

fn resets(service: &str, response: &v1::WatchResponse) -> bool {
    response
        .updates
        .iter()
        .any(|update| matches!(&update.kind, Some(Kind::Reset(reset)) if reset.service == service))
}

/// An endpoint that this member can talk to: an address with a port, and a protocol that it knows.
fn usable(endpoint: v1::Endpoint) -> Option<Endpoint> {
    let address = endpoint
        .address
        .parse::<http::uri::Authority>()
        .ok()
        .filter(|address| address.port_u16().is_some());
    let protocol = Protocol::named(&endpoint.protocol);
    let (Some(_), Some(protocol)) = (address, protocol) else {
        tracing::warn!(
            id = endpoint.id,
            address = endpoint.address,
            protocol = endpoint.protocol,
            "an endpoint cannot be used"
        );
        return None;
    };
    let health = endpoint.health().into();
    Some(Endpoint(Arc::new(Attributes {
        id: endpoint.id,
        address: endpoint.address,
        protocol,
        version: endpoint.version,
        zone: endpoint.zone,
        // proto3 cannot tell 0 from absent.
        weight: u16::try_from(endpoint.weight.max(1)).unwrap_or(u16::MAX),
        health,
        expired: false,
        outward: None,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(service: &str, id: &str, port: u16) -> v1::Endpoint {
        v1::Endpoint {
            id: id.into(),
            service: service.into(),
            address: format!("127.0.0.1:{port}"),
            ..v1::Endpoint::default()
        }
    }

    fn said(revision: u64, snapshot: bool, updates: Vec<Kind>) -> v1::WatchResponse {
        let updates = updates.into_iter().map(|kind| v1::Update { kind: Some(kind) }).collect();
        v1::WatchResponse {
            revision,
            updates,
            snapshot,
            confirm: 0,
        }
    }

    fn reset(service: &str, endpoints: Vec<v1::Endpoint>) -> Kind {
        Kind::Reset(v1::Reset {
            service: service.into(),
            endpoints,
        })
    }

    fn known() -> State {
        let mut state = State::default();
        let both = vec![endpoint("accounts", "b", 2), endpoint("accounts", "a", 1)];
        assert!(state.apply("accounts", said(7, true, vec![reset("accounts", both)])));
        state
    }

    fn ids(state: &State) -> Vec<String> {
        state.endpoints().iter().map(|endpoint| endpoint.id().to_owned()).collect()
    }

    #[test]
    fn a_reset_takes_the_place_of_what_was_known() {
        let mut state = known();
        assert_eq!((ids(&state), state.revision()), (vec!["a".into(), "b".into()], 7));
        assert!(state.apply(
            "accounts",
            said(9, true, vec![reset("accounts", vec![endpoint("accounts", "c", 3)])])
        ));
        assert_eq!((ids(&state), state.revision()), (vec!["c".to_owned()], 9));
    }

    #[test]
    fn what_changed_since_is_applied_in_order() {
        let mut state = known();
        assert!(state.apply(
            "accounts",
            said(8, false, vec![gone("a", false), Kind::Add(endpoint("accounts", "c", 3))])
        ));
        assert_eq!(ids(&state), ["b", "c"]);
    }

    fn gone(id: &str, expired: bool) -> Kind {
        Kind::Remove(v1::Remove {
            service: "accounts".into(),
            endpoint_id: id.into(),
            expired,
        })
    }

    #[test]
    fn the_last_endpoint_stays_when_its_lease_expires_until_another_comes() {
        let mut state = known();
        assert!(state.apply("accounts", said(8, false, vec![gone("a", true)])));
        assert_eq!(ids(&state), ["b"], "there is another");
        assert!(state.apply("accounts", said(9, false, vec![gone("b", true)])));
        assert_eq!(state.endpoints().first().map(Endpoint::has_expired), Some(true));
        assert_eq!(ids(&state), ["b"]);
        let mut other = known();
        for state in [&mut state, &mut other] {
            state.apply("accounts", said(10, false, vec![Kind::Add(endpoint("accounts", "c", 3))]));
        }
        assert_eq!(
            (ids(&state), ids(&other)),
            (vec!["c".to_owned()], ["a", "b", "c"].map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn the_last_endpoint_goes_when_it_says_goodbye_and_comes_back_when_it_is_heard_of() {
        let mut state = known();
        let both = vec![gone("a", false), gone("b", true)];
        assert!(state.apply("accounts", said(8, false, both)));
        assert!(state.apply("accounts", said(9, false, vec![Kind::Add(endpoint("accounts", "b", 2))])));
        assert_eq!(state.endpoints().first().map(Endpoint::has_expired), Some(false));
        assert!(state.apply("accounts", said(10, false, vec![gone("b", false)])));
        assert!(ids(&state).is_empty());
    }

    #[test]
    fn the_same_again_is_no_change() {
        let mut state = known();
        assert!(!state.apply("accounts", said(8, false, vec![Kind::Add(endpoint("accounts", "a", 1))])));
        assert!(!state.apply("accounts", said(9, false, vec![])));
        assert_eq!(state.revision(), 9);
    }

    #[test]
    fn new_attributes_take_the_place_of_old_ones() {
        let mut state = known();
        assert!(state.apply("accounts", said(8, false, vec![Kind::Add(endpoint("accounts", "a", 9))])));
        assert_eq!(state.endpoints().first().map(Endpoint::address), Some("127.0.0.1:9"));
    }

    #[test]
    fn a_snapshot_that_does_not_name_the_service_empties_it() {
        let mut state = known();
        assert!(!state.apply("accounts", said(8, false, vec![])));
        assert!(state.apply("accounts", said(9, true, vec![])));
        assert!(ids(&state).is_empty());
    }

    #[test]
    fn what_is_said_of_other_services_is_not_ours() {
        let mut state = known();
        let others = vec![reset("rates", vec![]), Kind::Add(endpoint("rates", "x", 4))];
        assert!(!state.apply("accounts", said(8, false, others)));
        assert_eq!(ids(&state), ["a", "b"]);
    }

    #[test]
    fn an_endpoint_that_cannot_be_used_is_left_out() {
        let mut state = known();
        let http1 = v1::Endpoint {
            protocol: "http/1.1".into(),
            ..endpoint("accounts", "c", 3)
        };
        let nowhere = v1::Endpoint {
            address: "no port".into(),
            ..endpoint("accounts", "a", 1)
        };
        assert!(state.apply("accounts", said(8, false, vec![Kind::Add(http1), Kind::Add(nowhere)])));
        assert_eq!(ids(&state), ["b"]);
    }
}
