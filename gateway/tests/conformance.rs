//! The cases of `tests/conformance/cases/*.toml` on the pure core. Their format is described at the top of `routes.toml` there.

#![allow(clippy::unwrap_used, reason = "a suite that cannot be set up has failed")]

#[path = "../../tests/conformance/case.rs"]
mod case;
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use case::{Answer, Case, CaseRequest, File, Got, Sent};
use gateway::exchange::Failure;
use support::{Network, Request, Script, UNIX, compile_with, fields, token_of};

#[test]
fn every_case_is_decided_as_expected() {
    let mut failures = Vec::new();
    for (path, file) in case::files() {
        let name = path.file_name().unwrap().display();
        for case in &file.case {
            let differences = run(&file, case).into_iter();
            failures.extend(differences.map(|difference| format!("{name}: {}: {difference}", case.name)));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn run(file: &File, case: &Case) -> Vec<String> {
    // Ports are the harness's; on the pure core nobody listens.
    let ports: BTreeMap<_, _> = (0..10).map(|n| (format!("PORT_{n}"), (9100 + n).to_string())).collect();
    let files = file.files.iter().map(|(path, text)| (path.as_str(), text.as_str()));
    let variables = file
        .variables
        .iter()
        .chain(&ports)
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let gateway = compile_with(&file.config, &files.collect::<Vec<_>>(), &variables.collect::<Vec<_>>());
    let mut network = Network::new(&gateway);
    network.script(case.upstream.iter().map(script));
    let request = request(&case.request);
    let mut seen = Vec::new();
    for _ in 1..case.request.repeat {
        network.send(&request);
        seen.append(&mut network.sent);
    }
    let answer = network.send(&request);
    seen.append(&mut network.sent);
    let sent = seen.iter().map(|sent| Sent {
        upstream: sent.upstream.clone(),
        method: sent.method.clone(),
        target: sent.target.clone(),
        host: sent.host.clone(),
        fields: sent.fields.clone(),
        body: sent.body.to_vec(),
    });
    case.differences(&Got {
        status: answer.status,
        reason: answer.reason,
        fields: answer.fields,
        body: answer.body.to_vec(),
        sent: sent.collect(),
        unasked: network.scripts.len(),
    })
}

fn script(answer: &Answer) -> Script {
    let outcome = match answer.fail.as_deref() {
        None => Ok((
            answer.status.unwrap_or(200),
            fields(&answer.headers),
            answer.body.clone().into_bytes().into(),
        )),
        Some("connect") => Err(Failure::Connect),
        Some("reset") => Err(Failure::Reset),
        Some("timeout") => Err(Failure::Timeout),
        Some(other) => panic!("`{other}` is no way to fail"),
    };
    let hangs = answer.fail.as_deref() == Some("timeout");
    Script {
        upstream: answer.name.clone(),
        target: answer.target.clone(),
        after: if hangs { Duration::MAX } else { Duration::ZERO },
        outcome,
    }
}

fn request(case: &CaseRequest) -> Request {
    let mut request = Request::new(&case.method, &case.target);
    request.host = case.host.clone();
    request.fields = fields(&case.headers);
    if let Some(body) = &case.body {
        if !case.chunked {
            request.fields.insert("content-length", body.len().into());
        }
        request.body = Some(gateway::exchange::BodyRead::Whole(body.clone().into_bytes().into()));
    }
    if let Some(wanted) = &case.token {
        let bearer = format!(
            "Bearer {}",
            token_of(wanted.typ.as_deref(), &wanted.secret, &wanted.claims_at(UNIX))
        );
        request.fields.insert("authorization", bearer.parse().unwrap());
    }
    request
}
