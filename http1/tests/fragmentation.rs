//! A message means the same however the network cuts it.

mod corpus;

use corpus::{REFUSED_REQUESTS, TAKEN_REQUESTS};
use http1::{BodyDecoder, Decoded, Error, Limits, RequestDecoder, RequestHead};
use proptest::prelude::*;

/// What a connection's bytes amount to: every message, and the error that ended it.
#[derive(Debug, Default, PartialEq)]
struct Transcript {
    messages: Vec<(String, Vec<u8>, bool)>,
    error: Option<Error>,
}

/// Decodes a connection whose bytes arrive up to each of `arrivals`.
fn transcribe(input: &[u8], arrivals: impl Iterator<Item = usize>) -> Transcript {
    let limits = Limits::default();
    let (mut decoder, mut head) = (RequestDecoder::new(limits), RequestHead::default());
    let mut body: Option<(BodyDecoder, Vec<u8>)> = None;
    let (mut transcript, mut start) = (Transcript::default(), 0);
    for end in arrivals {
        loop {
            if let Some((decoder, data)) = &mut body {
                let piece = match decoder.decode(&input[start..end]) {
                    Ok(piece) => piece,
                    Err(error) => {
                        return Transcript {
                            error: Some(error),
                            ..transcript
                        };
                    }
                };
                data.extend_from_slice(&input[start..end][piece.data]);
                start += piece.consumed;
                if piece.end {
                    let line = format!(
                        "{} {} {} {:?}",
                        head.method(),
                        head.authority(),
                        head.path(),
                        head.fields().collect::<Vec<_>>()
                    );
                    transcript.messages.push((line, data.clone(), head.keep_alive()));
                    body = None;
                } else if start == end {
                    break;
                }
            } else {
                match decoder.decode(&input[start..end], &mut head) {
                    Ok(Decoded::Head(used)) => {
                        start += used;
                        body = Some((BodyDecoder::new(head.framing(), limits), Vec::new()));
                    }
                    Ok(Decoded::Incomplete | Decoded::Http2) => break,
                    Err(error) => {
                        return Transcript {
                            error: Some(error),
                            ..transcript
                        };
                    }
                }
            }
        }
    }
    transcript
}

fn cases() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let refused = REFUSED_REQUESTS.iter().map(|&(name, input, _)| (name, input.to_vec()));
    refused.chain(TAKEN_REQUESTS.iter().map(|&(name, input)| (name, input.to_vec())))
}

#[test]
fn every_case_decodes_alike_byte_by_byte() {
    for (name, input) in cases() {
        let whole = transcribe(&input, std::iter::once(input.len()));
        assert_eq!(transcribe(&input, 1..=input.len()), whole, "{name}");
    }
}

#[test]
fn every_case_decodes_alike_cut_in_two_anywhere() {
    for (name, input) in cases() {
        let whole = transcribe(&input, std::iter::once(input.len()));
        for cut in 0..input.len() {
            assert_eq!(
                transcribe(&input, [cut, input.len()].into_iter()),
                whole,
                "{name}, cut at {cut}"
            );
        }
    }
}

proptest! {
    #[test]
    fn every_pair_of_messages_decodes_alike_however_it_is_cut(
        picked in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let all: Vec<_> = cases().map(|(_, input)| input).collect();
        let input: Vec<u8> = picked.iter().flat_map(|index| index.get(&all).clone()).collect();
        let mut arrivals: Vec<_> = cuts.iter().map(|cut| cut.index(input.len())).chain([input.len()]).collect();
        arrivals.sort_unstable();
        let whole = transcribe(&input, std::iter::once(input.len()));
        prop_assert_eq!(transcribe(&input, arrivals.into_iter()), whole);
    }
}
