//! The keys that issuers publish, as an instance at the edge has them: fetched by its first request that needs them, and a cache. The
//! next instance fetches its own.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use gateway::Gateway;
use gateway::exchange::{BodyRead, Fetch, Keys};
use gateway::keys::{Found, MAX_ANSWER, Plan, Published, Schedule, Search, version};
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Uri};
use spin_sdk::wasip3::http::types::{Method, Request, Scheme};
use spin_sdk::wasip3::spawn;

use super::body::{self, Incoming};
use super::message::wasi_fields;
use super::{before, sleep};
use crate::clock;

/// How often a request looks whether the fetch that another one began is over.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The sets of this instance.
pub(super) struct KeyStore(Vec<Rc<Set>>);

struct Set {
    published: Published,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    held: Option<(u64, Bytes)>,
    schedule: Schedule,
    /// How many fetches are over.
    ended: u64,
}

impl KeyStore {
    pub(super) fn of(gateway: &Gateway) -> Self {
        let set = |published: &Published| {
            Rc::new(Set {
                published: published.clone(),
                state: RefCell::default(),
            })
        };
        Self(gateway.key_sets().iter().map(set).collect())
    }

    /// What there is, after fetching it where that is due.
    pub(super) async fn keys(&self, fetch: &Fetch) -> Keys {
        let set = usize::try_from(fetch.set.0).ok().and_then(|at| self.0.get(at));
        let Some(set) = set else { return Keys::Unavailable };
        let ended = set.state.borrow().ended;
        let now = clock::moment();
        let plan = set.state.borrow_mut().schedule.on_need(&set.published, fetch.anew, now);
        if matches!(plan, Plan::Fetch | Plan::UseAndFetch) {
            // It goes on where this request gives up.
            spawn(Rc::clone(set).fetch());
        }
        if matches!(plan, Plan::Fetch | Plan::Await) {
            let over = async {
                while set.state.borrow().ended == ended {
                    sleep(LOOK_AGAIN).await;
                }
            };
            // Whatever comes of it, what is held is what there is.
            let _over = before(fetch.deadline, over).await;
        }
        match &set.state.borrow().held {
            Some((version, _)) if fetch.known == Some(*version) => Keys::Unchanged,
            Some((_, set)) => Keys::Set(set.clone()),
            None => Keys::Unavailable,
        }
    }
}

impl Set {
    async fn fetch(self: Rc<Self>) {
        let searching = std::pin::pin!(search(&self.published));
        let found = match select(searching, std::pin::pin!(sleep(self.published.timeout))).await {
            Either::Left((found, _)) => found,
            Either::Right(_) => Err("there was no answer in time".to_owned()),
        };
        let mut state = self.state.borrow_mut();
        state.schedule.on_fetched(found.is_ok(), clock::moment());
        match found {
            Ok(set) => state.held = Some((version(&set), set)),
            Err(error) => eprintln!(
                "gateway: the keys of [auth.{}] cannot be fetched from {}: {error}",
                self.published.auth, self.published.location
            ),
        }
        state.ended += 1;
    }
}

async fn search(published: &Published) -> Result<Bytes, String> {
    let (mut search, mut url) = Search::begin(published);
    loop {
        let (status, body) = get(&url).await.map_err(|error| format!("{url}: {error}"))?;
        match search.on_answer(status, &body) {
            Found::Get(next) => url = next,
            Found::Set => return Ok(body),
            Found::Nothing(why) => return Err(format!("{url}: {why}")),
        }
    }
}

async fn get(url: &str) -> Result<(u16, Bytes), String> {
    let uri: Uri = url.parse().map_err(|_| "this is no URL")?;
    let mut fields = HeaderMap::new();
    fields.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let (request, _sent) = Request::new(wasi_fields(&fields), None, body::none(), None);
    let secure = uri.scheme_str() == Some("https");
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let is_made = request.set_method(&Method::Get).is_ok()
        && request
            .set_scheme(Some(if secure { &Scheme::Https } else { &Scheme::Http }))
            .is_ok()
        && request
            .set_authority(uri.authority().map(|authority| authority.as_str()))
            .is_ok()
        && request.set_path_with_query(Some(target)).is_ok();
    if !is_made {
        return Err("the host takes no such request".to_owned());
    }
    let response = spin_sdk::http::send(request)
        .await
        .map_err(|error| format!("no answer: {error}; does the application's manifest allow this host?"))?;
    let (head, mut body) = response.into_parts();
    let response = body.take_unstarted().ok_or("an answer without a body")?;
    let limit = u64::try_from(MAX_ANSWER).unwrap_or(u64::MAX);
    match Incoming::of_response(response).read(limit).await {
        BodyRead::Whole(body) => Ok((head.status.as_u16(), body)),
        BodyRead::TooLarge => Err(format!("the answer is longer than {MAX_ANSWER} bytes")),
        BodyRead::Broken => Err("the answer broke off".to_owned()),
    }
}
