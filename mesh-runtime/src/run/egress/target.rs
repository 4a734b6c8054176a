//! Where something from the program goes.
//!
//! On the proxy's port a request is told apart by its target alone (`GET http://statements.mesh/x`), or by `Host` where the target is a
//! path, so that both `http_proxy` and `MESH_EGRESS` work with any client. On a mapped port, and in a tunnel, the service is known.

use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri};
use identity::ServiceName;
use routing::Reason;

use super::outside::{Allowed, canonical};
use crate::run::answer::Refused;
use crate::run::fields::strip_hop_by_hop;

/// The end of the host names that are of the mesh.
const MESH: &str = ".mesh";

/// What a connection may ask for.
#[derive(Debug, Clone)]
pub(super) enum Scope {
    /// Any service, and what outside the mesh is on the list.
    Anywhere,
    /// One service, whatever its requests say.
    Service(ServiceName),
}

/// Where something goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Service(ServiceName),
    Outside,
}

/// Says where a request goes, and makes it the request that goes there.
pub(super) fn aim<B>(request: &mut Request<B>, scope: &Scope, outside: &[Allowed]) -> Result<Target, Refused> {
    let target = match scope {
        Scope::Service(service) => Target::Service(service.clone()),
        Scope::Anywhere => find(request, outside)?,
    };
    if let Target::Service(service) = &target {
        let path = request.uri().path_and_query().cloned();
        let uri = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(format!("{service}{MESH}"))
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
            .build();
        *request.uri_mut() = uri.map_err(|error| (Reason::MalformedRequest, error.to_string()))?;
    }
    strip_hop_by_hop(request.headers_mut());
    // The URL has the authority (RFC 9112 §3.2.2: it wins over Host).
    request.headers_mut().remove(HOST);
    Ok(target)
}

fn find<B>(request: &Request<B>, outside: &[Allowed]) -> Result<Target, Refused> {
    if request.uri().scheme().is_some_and(|scheme| *scheme != Scheme::HTTP) {
        let why = "the egress carries http:// URLs; the mesh encrypts them by itself, and https:// outside of it goes through CONNECT";
        return Err((Reason::Forbidden, why.to_owned()));
    }
    let why = "there is neither an absolute URL nor one Host";
    let authority = authority(request).ok_or((Reason::MalformedRequest, why.to_owned()))?;
    let port = authority.port_u16().unwrap_or(80);
    let target = destination(&authority, port, outside)?;
    match &target {
        Target::Service(service) if port != 80 => {
            let why = format!("a service of the mesh is named without a port, as in http://{service}.mesh/");
            Err((Reason::Forbidden, why))
        }
        // Only a proxy is asked for absolute URLs, so that no request can lead back here.
        Target::Outside if request.uri().scheme().is_none() => {
            let why = format!("{authority} is no host of the mesh, such as accounts.mesh");
            Err((Reason::Forbidden, why))
        }
        _ => Ok(target),
    }
}

/// Where an authority leads to, if that may be.
pub(super) fn destination(authority: &Authority, port: u16, outside: &[Allowed]) -> Result<Target, Refused> {
    let host = canonical(authority);
    if let Some(service) = host.strip_suffix(MESH) {
        return match ServiceName::new(service) {
            Ok(service) => Ok(Target::Service(service)),
            Err(error) => Err((Reason::Forbidden, format!("`{service}` is no service name: {error}"))),
        };
    }
    if outside.iter().any(|allowed| allowed.allows(&host, port)) {
        return Ok(Target::Outside);
    }
    let why = format!(
        "{host} is outside the mesh, and its port {port} is not on the list of what this program may reach; allow it with \
         --allow-egress {host}:{port}"
    );
    Err((Reason::Forbidden, why))
}

fn authority<B>(request: &Request<B>) -> Option<Authority> {
    if let Some(authority) = request.uri().authority() {
        return Some(authority.clone());
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aimed(scope: &Scope, uri: &str, host: Option<&str>) -> Result<(Target, String), Reason> {
        let mut request = Request::builder().uri(uri);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        let outside: [Allowed; 2] = ["example.com:80".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let mut request = request.body(()).unwrap();
        let target = aim(&mut request, scope, &outside).map_err(|(reason, _)| reason)?;
        assert!(!request.headers().contains_key(HOST));
        Ok((target, request.uri().to_string()))
    }

    fn service(name: &str) -> Target {
        Target::Service(name.parse().unwrap())
    }

    #[test]
    fn both_forms_of_a_target_are_carried() {
        for (uri, host) in [
            ("http://statements.mesh/x?y=1", None),
            ("http://statements.mesh/x?y=1", Some("elsewhere.example")),
            ("http://STATEMENTS.mesh.:80/x?y=1", None),
            ("/x?y=1", Some("statements.mesh")),
            ("/x?y=1", Some("statements.mesh:80")),
        ] {
            let expected = (service("statements"), "http://statements.mesh/x?y=1".to_owned());
            assert_eq!(aimed(&Scope::Anywhere, uri, host), Ok(expected), "{uri} {host:?}");
        }
        let expected = (service("statements"), "http://statements.mesh/".to_owned());
        assert_eq!(aimed(&Scope::Anywhere, "http://statements.mesh", None), Ok(expected));
    }

    #[test]
    fn outside_of_the_mesh_what_is_on_the_list_is_carried_as_it_is() {
        for uri in ["http://example.com/a", "http://EXAMPLE.com:80/a", "http://127.0.0.1:9901/a"] {
            assert_eq!(aimed(&Scope::Anywhere, uri, None), Ok((Target::Outside, uri.to_owned())));
        }
    }

    #[test]
    fn nothing_else_is_carried() {
        for (uri, host) in [
            ("http://elsewhere.example/", None),
            ("http://elsewhere.example/", Some("statements.mesh")),
            ("http://example.com:8080/", None),
            ("http://statements.mesh.example.com/", None),
            ("http://.mesh/", None),
            ("http://a.b.mesh/", None),
            ("http://statementsmesh/", None),
            ("https://statements.mesh/", None),
            ("https://example.com/", None),
            ("http://statements.mesh:22/", None),
            // A request that is no proxy's may be one of ours that came back.
            ("/", Some("127.0.0.1:40000")),
        ] {
            assert_eq!(aimed(&Scope::Anywhere, uri, host), Err(Reason::Forbidden), "{uri} {host:?}");
        }
    }

    #[test]
    fn a_request_without_a_target_is_malformed() {
        assert_eq!(aimed(&Scope::Anywhere, "/", None), Err(Reason::MalformedRequest));
        assert_eq!(aimed(&Scope::Anywhere, "/", Some("a b")), Err(Reason::MalformedRequest));
        let twice = Request::builder().uri("/").header(HOST, "a.mesh").header(HOST, "b.mesh");
        let refused = aim(&mut twice.body(()).unwrap(), &Scope::Anywhere, &[]).unwrap_err();
        assert_eq!(refused.0, Reason::MalformedRequest, "which one is meant?");
    }

    #[test]
    fn where_the_service_is_known_a_request_goes_there_whatever_it_says() {
        let scope = Scope::Service("statements".parse().unwrap());
        for (uri, host) in [
            ("/x", Some("localhost:9000")),
            ("/x", None),
            ("http://localhost:9000/x", None),
            ("http://accounts.mesh/x", None),
        ] {
            let expected = (service("statements"), "http://statements.mesh/x".to_owned());
            assert_eq!(aimed(&scope, uri, host), Ok(expected), "{uri} {host:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_allows_it() {
        let (_, why) = destination(&"api.example.com:443".parse().unwrap(), 443, &[]).unwrap_err();
        assert!(why.ends_with("--allow-egress api.example.com:443"), "{why}");
    }
}
