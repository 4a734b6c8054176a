//! A chunked body decodes alike in one piece and in pieces of any size, and written anew it is read back.
#![no_main]

use http1::{BodyDecoder, Error, Framing, Limits};

fn read(input: &[u8], step: usize) -> Result<(Vec<u8>, usize, BodyDecoder), Error> {
    let mut decoder = BodyDecoder::new(
        Framing::Chunked,
        Limits {
            extensions: 64,
            trailers: 256,
            ..Limits::default()
        },
    );
    let (mut data, mut at, mut end) = (Vec::new(), 0, 0);
    while !decoder.is_done() && (at < input.len() || end < input.len()) {
        if at == end {
            end = (end + step).min(input.len());
        }
        let piece = decoder.decode(&input[at..end])?;
        data.extend_from_slice(&input[at..end][piece.data]);
        at += piece.consumed;
    }
    Ok((data, at, decoder))
}

libfuzzer_sys::fuzz_target!(|input: (&[u8], u8)| {
    let (bytes, step) = input;
    let whole = read(bytes, bytes.len().max(1));
    let pieces = read(bytes, usize::from(step).max(1));
    match (whole, pieces) {
        (Err(one), Err(other)) => assert_eq!(one, other),
        (Ok((data, used, decoder)), Ok((other_data, other_used, other))) => {
            assert_eq!((&data, used, decoder.is_done()), (&other_data, other_used, other.is_done()));
            if !decoder.is_done() {
                return;
            }
            let mut out = Vec::new();
            let mut encoder = http1::encode_request(b"PUT", b"/", b"a", Framing::Chunked, [], &mut out).expect("it is plain");
            let head = out.len();
            encoder.write(&data, &mut out).expect("it has no length");
            encoder.finish(decoder.trailers(), &mut out).expect("they were decoded");
            // Written anew, `a:b` is `a: b`: the section may outgrow the limit that it was read with.
            let mut again = BodyDecoder::new(Framing::Chunked, Limits::default());
            let (mut data_again, mut at) = (Vec::new(), head);
            while !again.is_done() {
                let piece = again.decode(&out[at..]).expect("it was written here");
                data_again.extend_from_slice(&out[at..][piece.data]);
                at += piece.consumed;
            }
            assert_eq!((data_again, at), (data, out.len()));
        }
        (one, other) => panic!("{:?} {:?}", one.err(), other.err()),
    }
});
