//! Preflights: what a browser asks before a page of another site may send a request (CORS).

use http::{HeaderMap, HeaderValue};
use routing::filter::Cors;
use routing::matching::View;
use routing::table::Find;

use super::{Respond, RouteId, names};
use crate::Gateway;

/// The answer to a preflight for a request that a route with `cors` would take. Anything else goes its way: an `OPTIONS` for a route
/// without `cors` is that route's, or its upstream's, to answer.
///
/// Of the request that it asks for, a preflight has the host, the path, the query and the method, but none of the header fields, so that a
/// rule which asks for one is not found by it.
pub(super) fn preflight(gateway: &Gateway, view: &View<'_>, request_id: &HeaderValue) -> Option<Respond> {
    let method = Cors::preflight(view.method, view.fields)?;
    let asked = View { method, ..view.clone() };
    let Find::Found(found) = gateway.find(&asked) else {
        return None;
    };
    let cors = found.route.policy.cors.as_ref()?;
    let mut fields: HeaderMap = cors.answer(view.fields).into_iter().collect();
    fields.insert(names::REQUEST_ID, request_id.clone());
    Some(Respond {
        route: Some(RouteId(found.id.route)),
        // No content, and a success: a browser takes any 2xx, and some proxies only those that have nothing to cache.
        status: 204,
        fields,
        body: bytes::Bytes::new(),
        reason: None,
    })
}
