//! An aggregate on its way: branches that wait for nobody go out together, the others as soon as what they need is there.
//!
//! What a failed branch means:
//!
//! | the branch is | and it | then the answer is |
//! |---|---|---|
//! | any | answers with a status that its `status` names | what that says: a status of its own, or given without the branch |
//! | required | answers 404 | 404: what the request asks for is not there |
//! | required | answers otherwise than 2xx, or no JSON, or cannot be reached | 502, which names the branch |
//! | required | does not answer in time | 504, which names the branch |
//! | optional | fails in any way | given without it: its `fallback` or `null`, and its name in `x-heddle-partial` |
//!
//! Other 4xx of a branch are not passed on: they judge a request that the client did not make. Of a branch with `for_each`, each item is
//! judged like this; what fails of an optional one is `null` in the list.

mod answer;
mod values;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use routing::{Now, RequestHead};
use serde_json::Value;

use super::forwarded;
use super::request::Request;
use super::trace::Trace;
use super::{Answer, Attempt, AttemptBody, AttemptId, BodyRead, Edit, Event, Failure, Inherit, Respond, Step, names};
use crate::aggregate::{Aggregate, Branch};
use crate::config::{Action, policy_edit_count};
pub(crate) use values::ITEM;

use answer::{Miss, head_verdict, missed, parsed};
use values::Values;

/// How far an aggregate is.
#[derive(Debug)]
pub(super) struct Gathering {
    /// One for each branch.
    states: Vec<State>,
    /// Fields of branches that become the answer's.
    fields: Vec<(HeaderName, HeaderValue)>,
    /// How many bytes of branches are held.
    held: usize,
}

#[derive(Debug)]
enum State {
    /// It waits for other branches.
    Waiting,
    /// It was asked for.
    Asked,
    /// It was asked for item by item.
    Items(Items),
    /// It is there.
    There {
        /// Its JSON, as it came.
        json: Bytes,
        /// The same in parsed form, where another branch needs it.
        value: Option<Value>,
        /// Whether nothing is missing in it.
        is_whole: bool,
    },
    /// It failed, and something stands in for it.
    Missing,
}

/// The items of a branch with `for_each`.
#[derive(Debug)]
struct Items {
    /// The JSON of each that is there.
    there: Vec<Option<Bytes>>,
    /// Which are under way.
    under_way: Vec<bool>,
}

/// The most branches of one aggregate: an attempt's number is its item's times this, and its branch's.
pub(crate) const MAX_BRANCHES: usize = 32;

impl Gathering {
    /// Asks for the branches that wait for nobody.
    pub(super) fn start(request: &Request, now: Now) -> (Self, Step) {
        let aggregate = aggregate(request);
        let mut this = Self {
            states: aggregate.branches.iter().map(|_| State::Waiting).collect(),
            fields: Vec::new(),
            held: 0,
        };
        let step = this.advance(request, aggregate, now);
        (this, step)
    }

    /// Tells what became of a branch.
    pub(super) fn on(&mut self, request: &Request, event: Event, now: Now) -> Step {
        let aggregate = aggregate(request);
        let (attempt, outcome) = match event {
            Event::Head { attempt, status, fields } => {
                let Some((_, branch, _)) = self.asked(attempt, aggregate) else {
                    return Step::Pending;
                };
                match head_verdict(branch, status, &fields) {
                    Ok(()) => {
                        self.take_fields(branch, &fields);
                        return Step::Pending;
                    }
                    Err(miss) => (attempt, Err(miss)),
                }
            }
            Event::UpstreamBody { attempt, body } => {
                let body = match body {
                    BodyRead::Whole(body) => Ok(body),
                    BodyRead::TooLarge => Err(Miss::TooLarge),
                    BodyRead::Broken => Err(Miss::Failed(Failure::Reset)),
                };
                (attempt, body)
            }
            Event::Failed { attempt, failure, .. } => (attempt, Err(Miss::Failed(failure))),
            Event::Body(_) | Event::Verified(_) | Event::Keys(_) | Event::Entered(_) | Event::Taken(_) | Event::Time => {
                return Step::Pending;
            }
        };
        // Where it was given up already, there is nothing to say.
        let Some((at, branch, item)) = self.asked(attempt, aggregate) else {
            return Step::Pending;
        };
        let outcome = outcome.and_then(|body| self.hold(body, aggregate));
        let settled = match item {
            None => outcome.and_then(|body| parsed(body, branch)).map_or_else(
                |miss| missed(branch, &miss).map(|()| State::Missing),
                |(json, value)| {
                    Ok(State::There {
                        json,
                        value,
                        is_whole: true,
                    })
                },
            ),
            Some(item) => self.item(at, item, branch, outcome),
        };
        match settled {
            Ok(state) => {
                self.states[at] = state;
                self.advance(request, aggregate, now)
            }
            Err(problem) => request.refuse(problem),
        }
    }

    /// The branch that an attempt is of, and its item, where news of it still matters.
    fn asked<'a>(&self, attempt: AttemptId, aggregate: &'a Aggregate) -> Option<(usize, &'a Branch, Option<usize>)> {
        let number = usize::try_from(attempt.0).ok()?;
        let (at, item) = (number % MAX_BRANCHES, number / MAX_BRANCHES);
        let branch = aggregate.branches.get(at)?;
        match self.states.get(at)? {
            State::Asked => Some((at, branch, None)),
            State::Items(items) if *items.under_way.get(item)? => Some((at, branch, Some(item))),
            _ => None,
        }
    }

    fn hold(&mut self, body: Bytes, aggregate: &Aggregate) -> Result<Bytes, Miss> {
        self.held = self.held.saturating_add(body.len());
        match u64::try_from(self.held).is_ok_and(|held| held <= aggregate.max_answer) {
            true => Ok(body),
            false => Err(Miss::TooLarge),
        }
    }

    fn take_fields(&mut self, branch: &Branch, fields: &HeaderMap) {
        for name in &branch.response_headers {
            // The first branch that says it has said it.
            if !self.fields.iter().any(|(taken, _)| taken == name) {
                let values = fields.get_all(name).iter();
                self.fields.extend(values.map(|value| (name.clone(), value.clone())));
            }
        }
    }

    /// Settles an item, and the branch with the last of them.
    fn item(
        &mut self,
        at: usize,
        item: usize,
        branch: &Branch,
        outcome: Result<Bytes, Miss>,
    ) -> Result<State, super::problem::Problem> {
        let State::Items(mut items) = std::mem::replace(&mut self.states[at], State::Asked) else {
            return Ok(State::Missing);
        };
        items.under_way[item] = false;
        match outcome.and_then(|body| parsed(body, branch)) {
            Ok((json, _)) => items.there[item] = Some(json),
            Err(miss) => missed(branch, &miss)?,
        }
        if items.under_way.contains(&true) {
            return Ok(State::Items(items));
        }
        Ok(items.settled(branch))
    }

    /// Asks for every branch that has what it needs; answers where all is there.
    fn advance(&mut self, request: &Request, aggregate: &Aggregate, now: Now) -> Step {
        let mut attempts = Vec::new();
        // A branch that fails for want of a value may settle others, so this goes on until nothing changes.
        while let Some((at, branch)) = self.ready(aggregate) {
            let asked = match &branch.for_each {
                None => self.ask(at, branch, request, aggregate, now, &mut attempts),
                Some(_) => self.ask_each(at, branch, request, aggregate, now, &mut attempts),
            };
            let state = asked.or_else(|miss| missed(branch, &miss).map(|()| State::Missing));
            match state {
                Ok(state) => self.states[at] = state,
                Err(problem) => return request.refuse(problem),
            }
        }
        if !attempts.is_empty() {
            return Step::Send {
                route: request.route,
                attempts,
            };
        }
        if self
            .states
            .iter()
            .any(|state| matches!(state, State::Asked | State::Items(_)))
        {
            return Step::Pending;
        }
        self.answer(request, aggregate)
    }

    fn ask(
        &self,
        at: usize,
        branch: &Branch,
        request: &Request,
        aggregate: &Aggregate,
        now: Now,
        attempts: &mut Vec<Attempt>,
    ) -> Result<State, Miss> {
        let target = branch.path.render_target(&self.values(request, aggregate, None));
        let target = target.ok_or(Miss::Reference)?.into_owned();
        attempts.push(attempt(request, aggregate, at, branch, target, now));
        Ok(State::Asked)
    }

    /// Asks for each item of the list that a branch goes through.
    fn ask_each(
        &self,
        at: usize,
        branch: &Branch,
        request: &Request,
        aggregate: &Aggregate,
        now: Now,
        attempts: &mut Vec<Attempt>,
    ) -> Result<State, Miss> {
        let for_each = branch.for_each.as_ref().ok_or(Miss::Reference)?;
        let list = self.values(request, aggregate, None).list(for_each).ok_or(Miss::Reference)?;
        if list.len() > for_each.max_items {
            return Err(Miss::TooMany);
        }
        let mut items = Items {
            there: vec![None; list.len()],
            under_way: vec![false; list.len()],
        };
        for (item, value) in list.iter().enumerate() {
            match branch.path.render_target(&self.values(request, aggregate, Some(value))) {
                Some(target) => {
                    items.under_way[item] = true;
                    attempts.push(attempt(
                        request,
                        aggregate,
                        item * MAX_BRANCHES + at,
                        branch,
                        target.into_owned(),
                        now,
                    ));
                }
                // It is `null` in the list of an optional branch.
                None if !branch.required => {}
                None => return Err(Miss::Reference),
            }
        }
        Ok(match items.under_way.contains(&true) {
            true => State::Items(items),
            false => items.settled(branch),
        })
    }

    fn values<'a>(&'a self, request: &'a Request, aggregate: &'a Aggregate, item: Option<&'a Value>) -> Values<'a> {
        Values {
            request,
            aggregate,
            states: &self.states,
            item,
        }
    }

    fn ready<'a>(&self, aggregate: &'a Aggregate) -> Option<(usize, &'a Branch)> {
        let is_settled = |&at: &usize| matches!(self.states.get(at), Some(State::There { .. } | State::Missing));
        let mut waiting = aggregate.branches.iter().enumerate().zip(&self.states);
        waiting
            .find(|((_, branch), state)| matches!(state, State::Waiting) && branch.needs.iter().all(is_settled))
            .map(|(branch, _)| branch)
    }

    fn answer(&self, request: &Request, aggregate: &Aggregate) -> Step {
        let mut body = Vec::with_capacity(256);
        let mut missing = Vec::new();
        for (at, (branch, state)) in aggregate.branches.iter().zip(&self.states).enumerate() {
            body.push(if at == 0 { b'{' } else { b',' });
            body.extend_from_slice(branch.member.as_bytes());
            body.push(b':');
            let is_whole = match state {
                State::There { json, is_whole, .. } => {
                    body.extend_from_slice(json);
                    *is_whole
                }
                _ => {
                    let fallback = branch.fallback.as_ref().unwrap_or(&Value::Null);
                    serde_json::to_writer(&mut body, fallback).expect("a JSON value is JSON, and memory takes it");
                    false
                }
            };
            if !is_whole {
                missing.push(&*branch.name);
            }
        }
        body.push(b'}');
        let mut fields: HeaderMap = self.fields.iter().cloned().collect();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !missing.is_empty()
            && let Ok(missing) = HeaderValue::from_str(&missing.join(","))
        {
            fields.insert(names::PARTIAL, missing);
        }
        request.finish(&mut fields);
        Step::Respond(Respond {
            route: Some(request.route),
            status: 200,
            fields,
            body: body.into(),
            reason: None,
        })
    }
}

impl Items {
    /// The list, where nothing of it is under way any more; `null` stands for what is not there.
    fn settled(self, branch: &Branch) -> State {
        let mut json = vec![b'['];
        for (at, item) in self.there.iter().enumerate() {
            if at > 0 {
                json.push(b',');
            }
            json.extend_from_slice(item.as_deref().unwrap_or(b"null"));
        }
        json.push(b']');
        State::There {
            value: branch.is_needed.then(|| serde_json::from_slice(&json).unwrap_or_default()),
            json: json.into(),
            is_whole: self.there.iter().all(Option::is_some),
        }
    }
}

/// A branch's request. It carries none of the client's fields but those that are about the answer, those that the branch asks for, and
/// what the route sets: the client's credentials and cookies are not for services that the client did not name.
fn attempt(request: &Request, aggregate: &Aggregate, number: usize, branch: &Branch, target: String, now: Now) -> Attempt {
    let mut edits = Vec::with_capacity(request.edits.len() + 1 + policy_edit_count(&request.policy().request_edits));
    edits.push(Edit::Set(ACCEPT, HeaderValue::from_static("application/json")));
    let selected = request
        .selected
        .iter()
        .filter(|(name, _)| branch.request_headers.contains(name));
    edits.extend(selected.map(|(name, value)| Edit::Add(name.clone(), value.clone())));
    // These come after the client's, so that they have the last word.
    edits.extend_from_slice(&request.edits);
    request.request_edits(&mut edits);
    let deadline = branch
        .timeout
        .map_or(request.deadline, |timeout| request.deadline.min(now.moment + timeout));
    Attempt {
        id: AttemptId(u32::try_from(number).unwrap_or(u32::MAX)),
        upstream: branch.upstream,
        affinity: request.affinity(branch.upstream),
        method: Some(Method::GET),
        target: Some(target),
        host: None,
        inherit: Inherit::Nothing,
        edits: edits.into(),
        body: AttemptBody::Empty,
        max_body: None,
        deadline,
        answer: Answer::Read {
            limit: aggregate.max_body,
        },
    }
}

fn aggregate(request: &Request) -> &Aggregate {
    match &request.policy().action {
        Action::Aggregate(aggregate) => aggregate,
        _ => unreachable!("only an aggregate's route gathers"),
    }
}

/// Takes along what a branch's request keeps of the client's fields: the language and the trace.
pub(super) fn inherit(head: &RequestHead<'_>, trace: &Trace, edits: &mut Vec<Edit>) {
    forwarded::copy(head.fields, ACCEPT_LANGUAGE, edits);
    if trace.continued {
        forwarded::copy(head.fields, names::TRACESTATE, edits);
    }
}

/// Notes the fields that branches ask for, while the head is there.
pub(super) fn select(head: &RequestHead<'_>, aggregate: &Aggregate) -> Vec<(HeaderName, HeaderValue)> {
    let of = |name: &HeaderName| {
        let values = head.fields.all(name.as_str());
        let values = values.filter_map(|value| HeaderValue::from_bytes(value).ok());
        values.map(|value| (name.clone(), value)).collect::<Vec<_>>()
    };
    aggregate.request_headers.iter().flat_map(of).collect()
}
