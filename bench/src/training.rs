//! A short run of each kind of work that native-host does, for a profile by which its code is laid out.

use anyhow::{Result, ensure};

use crate::benches::{edge, policy, proxy, tls};
use crate::contestants::native_host::{Engine, native_host};
use crate::lab::Lab;
use crate::load::Load;
use crate::load::handshakes::handshakes;
use crate::load::transfer::{Direction, MEBIBYTE, Transfer};
use crate::upstream::Upstream;

const CONNECTIONS: u32 = 32;

/// Has native-host work, in one process after the other, each of which ends by a signal.
pub(crate) fn train(lab: &Lab) -> Result<()> {
    let upstream = Upstream::start(lab)?;
    plain(lab, &upstream)?;
    with_policy(lab, &upstream)?;
    at_the_edge(lab, &upstream)?;
    with_tls(lab, &upstream)
}

/// HTTP/1.1, and large bodies both ways.
fn plain(lab: &Lab, upstream: &Upstream) -> Result<()> {
    let bank = proxy::config(lab, upstream.address)?;
    let host = native_host(lab, Engine::Native, &bank)?.ready(proxy::PATH, "")?;
    answered("HTTP/1.1", &proxy::load(lab, &host, CONNECTIONS, lab.seconds)?)?;
    for (direction, what) in [(Direction::Download, "downloads"), (Direction::Upload, "uploads")] {
        let transfer = Transfer {
            direction,
            bytes: MEBIBYTE,
            connections: 4,
            pause: None,
        };
        answered(what, &transfer.run(host.address, lab.seconds)?)?;
    }
    Ok(())
}

/// Signed tokens, a limit and header edits, on both engines.
fn with_policy(lab: &Lab, upstream: &Upstream) -> Result<()> {
    let asked = policy::Asked::prepare(lab, upstream.address)?;
    for engine in [Engine::Native, Engine::Wasm] {
        let host = asked.ready(native_host(lab, engine, &asked.config)?)?;
        answered(engine.label(), &asked.load(lab, &host, lab.seconds)?)?;
    }
    Ok(())
}

fn at_the_edge(lab: &Lab, upstream: &Upstream) -> Result<()> {
    let bank = edge::config(lab, upstream.address)?;
    let host = native_host(lab, Engine::Edge, &bank)?.ready(proxy::PATH, "")?;
    answered(Engine::Edge.label(), &proxy::load(lab, &host, CONNECTIONS, lab.seconds)?)
}

/// HTTP/2 and HTTP/1.1 over TLS, and handshakes.
fn with_tls(lab: &Lab, upstream: &Upstream) -> Result<()> {
    let certificate = tls::certificate(lab)?;
    let bank = tls::config(lab, upstream.address, &certificate)?;
    let host = tls::ready(lab, native_host(lab, Engine::Native, &bank)?)?;
    answered("HTTP/2", &tls::kept(lab, &host, tls::STREAMS, lab.seconds)?)?;
    answered("HTTP/1.1 over TLS", &tls::kept(lab, &host, 1, lab.seconds)?)?;
    answered("handshakes", &handshakes(lab, host.address, lab.seconds)?)
}

/// A run of errors, or of nothing, would lay out the wrong code.
fn answered(what: &str, load: &Load) -> Result<()> {
    ensure!(load.errors.is_none(), "{what}: answered with errors: {load:?}");
    ensure!(load.requests > 0, "{what}: answered nothing");
    Ok(())
}
