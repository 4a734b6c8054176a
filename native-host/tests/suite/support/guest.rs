//! Guests: the real component, and that of `guest.wat` built into one of the real policy world.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use gateway::exchange::{KeyId, Respond, Step, Verify, VerifyKey, wire};
use http::HeaderMap;
use wit_component::{ComponentEncoder, StringEncoding};

/// The component that `cargo xtask component` built.
pub(crate) fn built() -> PathBuf {
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/gateway.wasm");
    let path = std::env::var_os("HEDDLE_COMPONENT").map_or_else(here, PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing: build it with `cargo xtask component`",
        path.display()
    );
    path
}

/// Writes the component of `guest.wat` to a file in `folder`.
pub(crate) fn misbehaving(folder: &Path) -> PathBuf {
    let respond = wire::encode_step(&Step::Respond(Respond {
        route: None,
        status: 200,
        fields: HeaderMap::new(),
        body: Bytes::from_static(b"well"),
        reason: None,
    }));
    let read = wire::encode_step(&Step::Read { limit: 100 });
    let read_otherwise = wire::encode_step(&Step::Read { limit: 101 });
    assert_eq!(read.len(), read_otherwise.len());
    let verify = wire::encode_step(&Step::Verify(Verify {
        key: VerifyKey::Known(KeyId(0)),
        algorithm: jsonwebtoken::Algorithm::HS256,
        message: "message".to_owned(),
        signature: "signature".to_owned(),
    }));
    let text = include_str!("guest.wat")
        .replace("{{RESPOND}}", &escaped(&respond))
        .replace("{{RESPOND_LENGTH}}", &respond.len().to_string())
        .replace("{{VERIFY}}", &escaped(&verify))
        .replace("{{VERIFY_LENGTH}}", &verify.len().to_string())
        .replace("{{READ}}", &escaped(&read))
        .replace("{{READ_OTHERWISE}}", &escaped(&read_otherwise))
        .replace("{{READ_LENGTH}}", &read.len().to_string());
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = wit_parser::Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway-component/wit");
    let (package, _) = resolve.push_path(wit).unwrap();
    let world = resolve.select_world(&[package], Some("policy-guest")).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let component = ComponentEncoder::default().module(&module).unwrap().encode().unwrap();
    let file = folder.join("misbehaving.wasm");
    std::fs::write(&file, component).unwrap();
    file
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\{byte:02x}")).collect()
}
