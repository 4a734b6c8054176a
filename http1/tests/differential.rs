//! What we accept, hyper accepts and understands alike: the fuzz target's comparison over the corpus and over mutations of it.

mod corpus;

#[path = "../fuzz/src/against_hyper.rs"]
#[allow(unreachable_pub, reason = "it is the fuzz crate's public module")]
mod against_hyper;

use against_hyper::{compare, ours};
use corpus::{REFUSED_REQUESTS, TAKEN_REQUESTS};
use proptest::prelude::*;

#[test]
fn hyper_understands_every_request_that_we_take() {
    for (name, input) in TAKEN_REQUESTS {
        assert!(!ours(input).is_empty(), "{name}");
        compare(input);
    }
}

/// Bytes and words that smuggling is made of.
fn spice() -> impl Strategy<Value = Vec<u8>> {
    let words: [&[u8]; 26] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\t",
        b" ",
        b":",
        b",",
        b";",
        b"\0",
        b"\x0b",
        b"0",
        b"1",
        b"+",
        b"chunked",
        b"identity",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 3\r\n",
        b"Host: a\r\n",
        b"Connection: close\r\n",
        b"0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\xe9",
        b"/",
        b"?",
        b"HTTP/1.0",
        b"\r\n ",
    ];
    prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(<[u8]>::to_vec),
        any::<u8>().prop_map(|byte| vec![byte]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn hyper_understands_whatever_we_take_of_mutated_messages(
        picked in prop::collection::vec(any::<prop::sample::Index>(), 1..3),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, spice()), 0..4),
    ) {
        let all: Vec<&[u8]> =
            TAKEN_REQUESTS.iter().map(|case| case.1).chain(REFUSED_REQUESTS.iter().map(|case| case.1)).collect();
        let mut input: Vec<u8> = picked.iter().flat_map(|index| index.get(&all).to_vec()).collect();
        for (place, removed, added) in changes {
            let start = place.index(input.len() + 1);
            let end = input.len().min(start + removed);
            input.splice(start..end, added);
        }
        compare(&input);
    }
}
