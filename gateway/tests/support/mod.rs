//! A driver that moves no bytes: scripted upstreams, and a clock that is moved.

#![allow(clippy::unwrap_used, reason = "a harness that fails is a failed test")]
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway::exchange::{
    Answer, Arrival, Attempt, AttemptId, BodyRead, Edit, Event, Failure, Fetch, Inherit, Keys, Respond, RouteId, Step, failed,
    wire,
};
use gateway::{Exchange, Gateway, Memory, Source};
use http::{HeaderMap, HeaderName, HeaderValue};
use routing::policy::{Limiter, Occupancy};
use routing::{Moment, Now, RequestHead, Scheme};

/// 2023-11-14T22:13:20Z.
pub(crate) const UNIX: u64 = 1_700_000_000;

pub(crate) fn fields(list: &[(impl AsRef<str>, impl AsRef<str>)]) -> HeaderMap {
    list.iter()
        .map(|(name, value)| {
            (
                name.as_ref().parse::<HeaderName>().unwrap(),
                value.as_ref().parse::<HeaderValue>().unwrap(),
            )
        })
        .collect()
}

/// Compiles a config that names no files and no variables.
pub(crate) fn compile(config: &str) -> Arc<Gateway> {
    compile_with(config, &[], &[])
}

pub(crate) fn compile_with(config: &str, files: &[(&str, &str)], variables: &[(&str, &str)]) -> Arc<Gateway> {
    let mut read = |path: &str| {
        let found = files.iter().find(|(name, _)| *name == path);
        found
            .map(|(_, text)| text.as_bytes().to_vec())
            .ok_or_else(|| format!("{path}: no such file"))
    };
    let variable = |name: &str| {
        variables
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, value)| (*value).to_owned())
    };
    match Gateway::compile(&Source::new("gateway.toml", config), &mut read, &variable) {
        Ok(gateway) => Arc::new(gateway),
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}

/// A client's request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: String,
    pub(crate) scheme: Scheme,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Option<BodyRead>,
    pub(crate) peer: Option<IpAddr>,
}

impl Request {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            host: "api.bank.example".to_owned(),
            scheme: Scheme::Http,
            fields: HeaderMap::new(),
            body: None,
            peer: Some(IpAddr::from([192, 0, 2, 7])),
        }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.fields.append(name, value.parse().unwrap());
        self
    }

    pub(crate) fn body(mut self, content_type: &str, body: &str) -> Self {
        self.fields.insert("content-type", content_type.parse().unwrap());
        self.fields.insert("content-length", body.len().into());
        self.body = Some(BodyRead::Whole(Bytes::copy_from_slice(body.as_bytes())));
        self
    }
}

/// What an upstream does with an attempt.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) upstream: String,
    /// Only for an attempt with this target.
    pub(crate) target: Option<String>,
    pub(crate) after: Duration,
    pub(crate) outcome: Result<(u16, HeaderMap, Bytes), Failure>,
}

impl Script {
    pub(crate) fn answers(upstream: &str, status: u16, body: &str) -> Self {
        let outcome = Ok((status, HeaderMap::new(), Bytes::copy_from_slice(body.as_bytes())));
        Self {
            upstream: upstream.to_owned(),
            target: None,
            after: Duration::ZERO,
            outcome,
        }
    }

    pub(crate) fn fails(upstream: &str, failure: Failure) -> Self {
        Self {
            upstream: upstream.to_owned(),
            target: None,
            after: Duration::ZERO,
            outcome: Err(failure),
        }
    }

    pub(crate) fn hangs(upstream: &str) -> Self {
        Self::answers(upstream, 200, "").after(u64::MAX)
    }

    pub(crate) fn after(self, millis: u64) -> Self {
        Self {
            after: Duration::from_millis(millis),
            ..self
        }
    }
}

/// An attempt as an upstream saw it.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) upstream: String,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: Option<String>,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
    /// How long after the request's arrival.
    pub(crate) at: Duration,
}

/// What the client got.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) reason: Option<String>,
    pub(crate) route: Option<String>,
    /// How long after the request's arrival.
    pub(crate) at: Duration,
}

impl Got {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

/// A gateway between a client and scripted upstreams.
pub(crate) struct Network {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) memory: Memory,
    pub(crate) limiter: Limiter,
    /// The quotas that are shared, as long as their store answers.
    pub(crate) store: Option<Limiter>,
    pub(crate) occupancy: Arc<Occupancy>,
    pub(crate) now: Now,
    pub(crate) scripts: Vec<Script>,
    pub(crate) sent: Vec<Sent>,
    /// How many signatures were checked.
    pub(crate) verified: usize,
    /// What issuers publish, by the names of their `[auth]`.
    pub(crate) key_sets: BTreeMap<&'static str, String>,
    /// For whose keys a driver was asked.
    pub(crate) fetches: Vec<Fetch>,
    /// Every event and step of the last exchange.
    pub(crate) log: Vec<(Option<(Event, Now)>, Step)>,
    /// The entropy of the next exchange.
    pub(crate) entropy: [u8; 32],
}

struct Flight {
    attempt: Attempt,
    at: Moment,
    outcome: Result<(u16, HeaderMap, Bytes), Failure>,
    head_told: bool,
}

impl Network {
    pub(crate) fn new(gateway: &Arc<Gateway>) -> Self {
        Self {
            gateway: Arc::clone(gateway),
            memory: Memory::new(gateway),
            limiter: Limiter::new(1024, 0),
            store: Some(Limiter::new(1024, 0)),
            occupancy: Arc::default(),
            now: Now {
                moment: Moment(1_000_000_000),
                unix: UNIX,
            },
            scripts: Vec::new(),
            sent: Vec::new(),
            verified: 0,
            key_sets: BTreeMap::new(),
            fetches: Vec::new(),
            log: Vec::new(),
            entropy: std::array::from_fn(|at| u8::try_from(at).unwrap()),
        }
    }

    /// Adds what upstreams do, in the order of the attempts.
    pub(crate) fn script(&mut self, scripts: impl IntoIterator<Item = Script>) -> &mut Self {
        self.scripts.extend(scripts);
        self
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.move_to(self.now.moment + by);
    }

    fn move_to(&mut self, moment: Moment) {
        let start = Moment(1_000_000_000);
        self.now = Now {
            moment,
            unix: UNIX + moment.since(start).as_secs(),
        };
    }

    /// Sends a request and drives its exchange to the end.
    pub(crate) fn send(&mut self, request: &Request) -> Got {
        let start = self.now.moment;
        self.log.clear();
        self.sent.clear();
        let arrival = Arrival {
            head: RequestHead {
                method: &request.method,
                scheme: request.scheme,
                authority: &request.host,
                target: &request.target,
                fields: &request.fields,
                peer: request.peer,
            },
            has_body: request.body.is_some(),
            now: self.now,
            entropy: self.entropy,
        };
        // Over the wire and back, as to a guest.
        let list = request.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let bytes = wire::encode_arrival(&arrival, list);
        let decoded = wire::decode_arrival(&bytes).unwrap();
        let (mut exchange, step) = Exchange::start(&self.gateway, &mut self.memory, &decoded.arrival());
        let mut step = self.note(None, step);
        let mut flights: Vec<Flight> = Vec::new();
        let mut held: Vec<(AttemptId, u16, HeaderMap, Bytes)> = Vec::new();
        let mut route = RouteId(u32::MAX);
        let mut entered;
        loop {
            let mut wait = None;
            let mut event = None;
            match step {
                Step::Read { limit } => event = Some(Event::Body(read(request, limit))),
                Step::Verify(verify) => {
                    self.verified += 1;
                    event = Some(Event::Verified(self.gateway.verify(&verify)));
                }
                Step::Fetch(fetch) => event = Some(Event::Keys(self.fetch(fetch))),
                Step::Enter { key, limit } => {
                    entered = self.occupancy.enter(key, limit);
                    event = Some(Event::Entered(entered.is_some()));
                }
                Step::Take(takes) => {
                    let half = self.limiter.take_here(&takes, self.now.moment);
                    let elsewhere = half.elsewhere();
                    let said = self.store.as_ref().map(|store| store.take_all(&elsewhere, self.now.moment));
                    event = Some(Event::Taken(half.settle(&self.limiter, said, self.now.moment)));
                }
                Step::Send { route: of, attempts } => {
                    route = of;
                    let flown = attempts.into_iter().map(|attempt| self.fly(request, attempt, start));
                    // What becomes of a copy is nobody's business.
                    flights.extend(flown.filter(|flight| flight.attempt.answer != Answer::Discard));
                }
                Step::Wait { until } => wait = Some(until),
                Step::Pending => {}
                Step::Forward { attempt, edits, .. } => {
                    let at = held
                        .iter()
                        .position(|(id, ..)| *id == attempt)
                        .expect("a forwarded answer was told");
                    let (_, status, fields, body) = held.swap_remove(at);
                    return self.forwarded(route, status, fields, &edits, body, start);
                }
                Step::Respond(respond) => return self.responded(respond, start),
            }
            let event = match event {
                Some(event) => event,
                None => {
                    let next = flights
                        .iter()
                        .enumerate()
                        .min_by_key(|(_, flight)| flight.at)
                        .map(|(at, flight)| (at, flight.at));
                    match (next, wait) {
                        (Some((_, at)), Some(until)) if until <= at => {
                            self.move_to(until);
                            Event::Time
                        }
                        (None, Some(until)) => {
                            self.move_to(until.max(self.now.moment));
                            Event::Time
                        }
                        (None, None) => panic!("the exchange waits for nothing: {:?}", self.log),
                        (Some((at, moment)), _) => {
                            self.move_to(moment.max(self.now.moment));
                            let mut flight = flights.swap_remove(at);
                            match self.land(&mut flight, exchange.is_some(), route, &mut held, start) {
                                Landed::Event(event) => {
                                    if flight.head_told {
                                        flights.push(flight);
                                    }
                                    event
                                }
                                Landed::Got(got) => return got,
                            }
                        }
                    }
                }
            };
            let exchange = exchange.as_mut().expect("an exchange whose step was not its last is there");
            let (event, now) = wire::decode_event(&wire::encode_event(&event, self.now)).unwrap();
            let next = exchange.on(&mut self.memory, event.clone(), now);
            step = self.note(Some((event, now)), next);
        }
    }

    fn note(&mut self, event: Option<(Event, Now)>, step: Step) -> Step {
        let step = wire::decode_step(&wire::encode_step(&step)).unwrap();
        self.log.push((event, step.clone()));
        step
    }

    fn fly(&mut self, request: &Request, attempt: Attempt, start: Moment) -> Flight {
        let upstream = self.gateway.upstream(attempt.upstream).unwrap().name.to_string();
        let mut fields = match attempt.inherit {
            Inherit::Request => request.fields.clone(),
            Inherit::Nothing => HeaderMap::new(),
        };
        gateway::strip_hop_by_hop(&mut fields);
        gateway::apply(&attempt.edits, &mut fields);
        let target = attempt.target.clone().unwrap_or_else(|| request.target.clone());
        let body = match (&request.body, attempt.body) {
            (Some(BodyRead::Whole(body)), gateway::exchange::AttemptBody::Request) => body.clone(),
            _ => Bytes::new(),
        };
        if attempt.max_body.is_some_and(|max| u64::try_from(body.len()).unwrap() > max) {
            // The upstream saw a part of it, and nobody hears of that.
            return Flight {
                at: self.now.moment,
                attempt,
                outcome: Err(Failure::BodyTooLarge),
                head_told: false,
            };
        }
        let place = self
            .scripts
            .iter()
            .position(|script| script.upstream == upstream && script.target.as_ref().is_none_or(|own| *own == target));
        let script = self
            .scripts
            .remove(place.unwrap_or_else(|| panic!("nobody expects {target} at {upstream}")));
        self.sent.push(Sent {
            upstream,
            method: attempt
                .method
                .as_ref()
                .map_or(request.method.as_str(), |method| method.as_str())
                .to_owned(),
            target,
            host: attempt.host.as_ref().map(|host| host.to_str().unwrap().to_owned()),
            fields,
            body,
            at: self.now.moment.since(start),
        });
        let at = self.now.moment + script.after;
        match script.outcome {
            _ if at >= attempt.deadline => Flight {
                at: attempt.deadline,
                attempt,
                outcome: Err(Failure::Timeout),
                head_told: false,
            },
            outcome => Flight {
                at,
                attempt,
                outcome,
                head_told: false,
            },
        }
    }

    fn fetch(&mut self, fetch: Fetch) -> Keys {
        self.fetches.push(fetch);
        let published = &self.gateway.key_sets()[usize::try_from(fetch.set.0).unwrap()];
        match self.key_sets.get(published.auth.as_str()) {
            Some(set) if fetch.known == Some(gateway::keys::version(set.as_bytes())) => Keys::Unchanged,
            Some(set) => Keys::Set(set.clone().into()),
            None if fetch.known.is_some() => Keys::Unchanged,
            None => Keys::Unavailable,
        }
    }

    fn land(
        &mut self,
        flight: &mut Flight,
        has_exchange: bool,
        route: RouteId,
        held: &mut Vec<(AttemptId, u16, HeaderMap, Bytes)>,
        start: Moment,
    ) -> Landed {
        let attempt = flight.attempt.id;
        let (status, fields, body) = match flight.outcome.clone() {
            Ok(answer) => answer,
            Err(failure) if has_exchange => {
                let replayable = failure == Failure::Connect || flight.attempt.body == gateway::exchange::AttemptBody::Empty;
                return Landed::Event(Event::Failed {
                    attempt,
                    failure,
                    replayable,
                });
            }
            Err(failure) => return Landed::Got(self.responded(failed(route, &flight.attempt, failure), start)),
        };
        match &flight.attempt.answer {
            Answer::Forward { judge, .. } if judge.contains(&status) => {
                held.push((attempt, status, fields.clone(), body));
                Landed::Event(Event::Head { attempt, status, fields })
            }
            Answer::Discard => panic!("a copy has nothing to tell"),
            Answer::Forward { edits, .. } => {
                let edits = edits.clone();
                Landed::Got(self.forwarded(route, status, fields, &edits, body, start))
            }
            Answer::Read { limit } if flight.head_told => {
                flight.head_told = false;
                let too_large = u64::try_from(body.len()).unwrap() > *limit;
                let body = if too_large {
                    BodyRead::TooLarge
                } else {
                    BodyRead::Whole(body)
                };
                Landed::Event(Event::UpstreamBody { attempt, body })
            }
            Answer::Read { .. } => {
                flight.head_told = true;
                Landed::Event(Event::Head { attempt, status, fields })
            }
        }
    }

    fn forwarded(&self, route: RouteId, status: u16, mut fields: HeaderMap, edits: &[Edit], body: Bytes, start: Moment) -> Got {
        gateway::strip_hop_by_hop(&mut fields);
        gateway::apply(edits, &mut fields);
        let route = self.gateway.route(route).map(|route| route.name.to_string());
        Got {
            status,
            fields,
            body,
            reason: None,
            route,
            at: self.now.moment.since(start),
        }
    }

    fn responded(&self, respond: Respond, start: Moment) -> Got {
        Got {
            status: respond.status,
            fields: respond.fields,
            body: respond.body,
            reason: respond.reason.map(|reason| reason.label().to_owned()),
            route: respond
                .route
                .and_then(|route| self.gateway.route(route))
                .map(|route| route.name.to_string()),
            at: self.now.moment.since(start),
        }
    }
}

enum Landed {
    Event(Event),
    Got(Got),
}

fn read(request: &Request, limit: u64) -> BodyRead {
    match request.body.clone().expect("only a body that is there is read") {
        BodyRead::Whole(body) if u64::try_from(body.len()).unwrap() > limit => BodyRead::TooLarge,
        body => body,
    }
}

/// Tells the same events at the same times to a new exchange, and gives its steps.
pub(crate) fn replay(network: &Network, request: &Request, entropy: [u8; 32], at: Now) -> Vec<Step> {
    let mut memory = Memory::new(&network.gateway);
    let arrival = Arrival {
        head: RequestHead {
            method: &request.method,
            scheme: request.scheme,
            authority: &request.host,
            target: &request.target,
            fields: &request.fields,
            peer: request.peer,
        },
        has_body: request.body.is_some(),
        now: at,
        entropy,
    };
    let mut events: VecDeque<_> = network.log.iter().filter_map(|(event, _)| event.clone()).collect();
    let (mut exchange, step) = Exchange::start(&network.gateway, &mut memory, &arrival);
    let mut steps = vec![step];
    while let Some((event, now)) = events.pop_front() {
        steps.push(exchange.as_mut().unwrap().on(&mut memory, event, now));
    }
    steps
}

/// A token signed with HS256.
pub(crate) fn token(secret: &str, claims: &serde_json::Value) -> String {
    token_of(None, secret, claims)
}

/// The same, of another type than `JWT`.
pub(crate) fn token_of(typ: Option<&str>, secret: &str, claims: &serde_json::Value) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","typ":"{}"}}"#, typ.unwrap_or("JWT"))),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let signature = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}
