use identity::ServiceName;
use rcgen::{CertificateParams, KeyPair};
use routing::config::Source;

use super::super::Policies;
use super::*;

fn compile(text: &str) -> Result<Policies, String> {
    let bank = "bank.test".parse().unwrap();
    Policies::compile(&Source::new("mesh.toml", text), &bank).map_err(|mistakes| mistakes.to_string())
}

fn external(keys: &str) -> External {
    let policies = compile(&format!("[external.partner]\n{keys}")).unwrap();
    policies.external(&ServiceName::new("partner").unwrap()).unwrap().clone()
}

/// The first mistake of `[external.partner]` with these keys, without its file.
fn mistake(keys: &str) -> String {
    let mistakes = compile(&format!("[external.partner]\n{keys}")).unwrap_err();
    mistakes.strip_prefix("mesh.toml:").unwrap().to_owned()
}

#[test]
fn it_is_at_addresses_at_a_name_or_where_srv_records_say() {
    let fixed = external("endpoints = [\"10.0.0.7:5432\", \"[2001:db8::7]:5432\"]");
    let addresses = ["10.0.0.7:5432", "[2001:db8::7]:5432"].map(|address| address.parse().unwrap());
    assert_eq!(fixed.place, Place::Fixed(addresses.into()));
    assert_eq!((fixed.way.speech, &fixed.way.tls), (Speech::Http1, &None));
    let host = external("dns = \"DB.Example.com.\"\nport = 5432\nprotocol = \"tcp\"");
    let place = Place::Host {
        name: "db.example.com".into(),
        port: 5432,
    };
    assert_eq!((host.place, host.way.speech), (place, Speech::Tcp));
    let service = external("srv = \"_pg._tcp.example.com\"\nprotocol = \"grpc\"");
    assert_eq!(
        (service.place, service.way.speech),
        (Place::Service("_pg._tcp.example.com".into()), Speech::Http2)
    );
}

#[test]
fn answers_are_held_from_1_s_to_5_min_unless_it_says_otherwise() {
    let at = "dns = \"a.test\"\nport = 1\n";
    let ttl = |keys: &str| {
        let Ttl { min, max } = external(&format!("{at}{keys}")).ttl;
        (min.as_secs(), max.as_secs())
    };
    assert_eq!(ttl(""), (1, 300));
    assert_eq!(ttl("min_ttl = \"10s\"\nmax_ttl = \"1h\""), (10, 3600));
    assert_eq!(ttl("min_ttl = \"10m\""), (600, 600));
    for (keys, expected) in [
        ("min_ttl = \"500ms\"", "4:11: error: `min_ttl` is 500ms, expected 1s to 1h"),
        ("max_ttl = \"2h\"", "4:11: error: `max_ttl` is 2h, expected 1s to 1h"),
        (
            "max_ttl = \"10s\"\nmin_ttl = \"20s\"",
            "4:11: error: `max_ttl` is shorter than `min_ttl`",
        ),
    ] {
        assert_eq!(mistake(&format!("{at}{keys}")), expected);
    }
}

#[test]
fn each_mistake_is_told_at_its_place_with_its_mend() {
    for (keys, expected) in [
        (
            "",
            "1:11: error: `partner` is nowhere\n  hint: add endpoints = [\"IP:PORT\"], or dns = \"HOST\" and port = N, or srv = \
             \"_NAME._tcp.DOMAIN\"",
        ),
        (
            "endpoints = [\"10.0.0.7:1\"]\ndns = \"a.test\"\nport = 1",
            "1:11: error: `partner` is in several places\n  hint: keep one of `endpoints`, `dns` and `srv`; a route may split between \
             several names",
        ),
        (
            "endpoints = []",
            "2:13: error: `endpoints` is empty\n  hint: name where it is, as in [\"10.0.0.7:5432\"]",
        ),
        (
            "endpoints = [\"10.0.0.7:1\", \"db.test:5432\"]",
            "2:28: error: `db.test:5432` is not IP:PORT\n  hint: a name is asked of DNS: dns = \"db.test\" and port = 5432",
        ),
        (
            "endpoints = [\"10.0.0.7\"]",
            "2:14: error: `10.0.0.7` is not IP:PORT\n  hint: write an address and its port, as in \"10.0.0.7:5432\" or \
             \"[2001:db8::7]:5432\"",
        ),
        (
            "endpoints = [\"10.0.0.7:1\"]\nport = 5432",
            "3:8: error: `port` has no effect here\n  hint: endpoints have their ports, and SRV records say them; `port` is for `dns`",
        ),
        (
            "endpoints = [\"10.0.0.7:1\"]\nmin_ttl = \"1s\"",
            "3:11: error: fixed endpoints are not asked of DNS\n  hint: take it out",
        ),
        (
            "dns = \"a.test\"",
            "2:7: error: A and AAAA records say no port\n  hint: add port = 443, say, or ask for SRV records: srv = \
             \"_NAME._tcp.DOMAIN\"",
        ),
        ("dns = \"a.test\"\nport = 0", "3:8: error: a port is 0, expected 1 to 65535"),
        (
            "dns = \"10.0.0.7\"\nport = 1",
            "2:7: error: `10.0.0.7` is no host name for `dns`\n  hint: write an address as endpoints = [\"IP:PORT\"]",
        ),
        (
            "srv = \"pg.example.com\"",
            "2:7: error: `pg.example.com` is no name of SRV records\n  hint: write _NAME._tcp.DOMAIN, as in \
             \"_postgresql._tcp.example.com\"",
        ),
        (
            "endpoints = [\"10.0.0.7:1\"]\nprotocol = \"http\"",
            "3:12: error: `http` is no protocol\n  hint: did you mean `http1`?",
        ),
        (
            "endpoints = [\"10.0.0.7:1\"]\ntls = true",
            "3:7: error: there is no name to find in its certificate\n  hint: add host = \"api.example.com\", say: the name that it is \
             known by",
        ),
        (
            "endpoints = [\"10.0.0.7:1\"]\nca = \"x\"",
            "3:6: error: `ca` has no effect without TLS\n  hint: add tls = true",
        ),
        (
            "dns = \"a.test\"\nport = 1\ntls = true\nca = \"x\"",
            "5:6: error: `ca` has no certificates of authorities, or one that cannot be read\n  hint: write the text of a PEM file \
             between \"\"\" and \"\"\": -----BEGIN CERTIFICATE----- …",
        ),
        (
            "endpoint = [\"10.0.0.7:1\"]",
            "2:1: error: unknown key `endpoint`\n  hint: did you mean `endpoints`?",
        ),
    ] {
        assert_eq!(mistake(keys), expected, "{keys}");
    }
    let hosts = [
        "",
        "a b",
        "-a.test",
        "a-.test",
        "a..test",
        "a_b.test",
        "https://a.test",
        "a.test:80",
        "1.2.3.4",
        "7",
    ];
    for host in hosts {
        let keys = format!("dns = \"{host}\"\nport = 1");
        assert!(mistake(&keys).contains("is no host name"), "{host}");
    }
    let long = ["a".repeat(64), vec!["a".repeat(63); 4].join(".")];
    for host in long {
        assert!(
            mistake(&format!("dns = \"{host}\"\nport = 1")).contains("is no host name"),
            "{host}"
        );
    }
    let many = vec!["\"10.0.0.7:1\""; MAX_ENDPOINTS + 1].join(",");
    assert!(mistake(&format!("endpoints = [{many}]")).contains("at most 256"));
}

#[test]
fn a_name_is_verified_by_the_authorities_that_are_named() {
    let key = KeyPair::generate().unwrap();
    let ca = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem();
    let own = external(&format!("dns = \"a.test\"\nport = 443\ntls = true\nca = \"\"\"\n{ca}\"\"\""));
    let of_the_system = external("dns = \"a.test\"\nport = 443\ntls = true");
    assert_ne!(own.way, of_the_system.way);
    assert_eq!(of_the_system.way.tls, Some(Tls::expecting("a.test").unwrap()));
    let named = external("srv = \"_https._tcp.a.test\"\ntls = true\nhost = \"api.a.test\"");
    assert_eq!(named.way.tls, Some(Tls::expecting("api.a.test").unwrap()));
    assert_eq!(external("dns = \"a.test\"\nport = 80\ntls = false").way.tls, None);
}

const PARTNER: &str = "[external.partner]\nendpoints = [\"10.0.0.7:80\"]\n";

#[test]
fn what_only_a_service_of_the_mesh_could_heed_is_not_said_of_it() {
    let said = |rest: &str| {
        let mistakes = compile(&format!("{PARTNER}{rest}")).map(|_| ()).unwrap_err();
        mistakes
            .lines()
            .next()
            .unwrap()
            .strip_prefix("mesh.toml:")
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        said("[[rules]]\nname = \"a\"\naction = \"deny\"\nto = [\"accounts\", \"partner\"]"),
        "6:19: error: the rule protects nothing: `partner` is outside the mesh"
    );
    for (key, value, place) in [
        ("policy", "{ default = \"deny\" }", "3:11"),
        ("health", "{ tcp = true }", "4:10"),
        ("zone", "{ prefer = true }", "4:8"),
    ] {
        assert_eq!(
            said(&format!("[services.partner]\n{key} = {value}")),
            format!("{place}: error: `{key}` has no effect: `partner` is outside the mesh")
        );
    }
    let used = "[services.partner]\nbalance = \"round-robin\"\noutlier = { consecutive_failures = 3 }\nbreaker = { max_requests = 10 }";
    assert!(compile(&format!("{PARTNER}{used}")).is_ok());
}

#[test]
fn no_call_to_a_service_of_the_mesh_is_led_to_where_nothing_is_encrypted() {
    let route = |to: &str, keys: &str| format!("[[routes]]\nname = \"a\"\nto = [{to}]\n{keys}\n");
    for keys in [
        "service = \"partner\"",
        "split = [{ service = \"partner\", weight = 1 }, { version = \"1\", weight = 1 }]",
        "mirror = { service = \"partner\" }",
    ] {
        let mistakes = compile(&format!("{PARTNER}{}", route("\"partner\", \"accounts\"", keys)))
            .map(|_| ())
            .unwrap_err();
        assert!(
            mistakes.contains("error: calls to `accounts` are encrypted, and `partner` is outside the mesh and without TLS")
                && mistakes.contains("hint: add tls = true to [external.partner]"),
            "{keys}: {mistakes}"
        );
        let other = "[external.other]\nendpoints = [\"10.0.0.8:80\"]\n";
        assert!(
            compile(&format!("{PARTNER}{other}{}", route("\"other\"", keys))).is_ok(),
            "{keys}"
        );
        let over_tls = format!(
            "{PARTNER}tls = true\nhost = \"partner.test\"\n{}",
            route("\"accounts\"", keys)
        );
        assert!(compile(&over_tls).is_ok(), "{keys}");
    }
}

#[test]
fn a_service_that_is_served_in_the_mesh_is_not_placed_outside() {
    let bank = "bank.test".parse().unwrap();
    let source = Source::new("mesh.toml", PARTNER);
    let served = |name: &str| Policies::compile_beside(&source, &bank, &|service| service.as_str() == name);
    let mistakes = served("partner").unwrap_err().to_string();
    assert!(
        mistakes.starts_with("mesh.toml:1:11: error: `partner` is a service of this mesh"),
        "{mistakes}"
    );
    assert!(served("accounts").unwrap().is_external(&ServiceName::new("partner").unwrap()));
}
