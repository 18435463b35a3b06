//! The codec reads what it writes, however it is split, and names what is wrong with the rest.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::tunnel::mux::{Code, Decoder, Frame, HEADER, Hello, Malformed, Open, PAYLOAD_MAX};

/// A frame that owns its data.
#[derive(Debug, Clone)]
enum Sent {
    Control(Frame<'static>),
    Data(u32, Vec<u8>, bool),
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let v6 =
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())).prop_filter("mapped", |ip| ip.to_canonical().is_ipv6());
    let ip = prop_oneof![any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())), v6];
    (ip, 1..=u16::MAX).prop_map(SocketAddr::from)
}

fn code() -> impl Strategy<Value = Code> {
    (0..8u8).prop_map(|byte| Code::read(byte).unwrap())
}

fn sent() -> impl Strategy<Value = Sent> {
    let stream = 1..=u32::MAX;
    let hello = (any::<u32>(), proptest::option::of("[a-z.=,]{0,60}"))
        .prop_map(|(streams, baggage)| Hello { streams, baggage });
    let open = (address(), address(), proptest::option::of("[a-z0-9.-]{1,80}"));
    let open = open.prop_map(|(to, from, host)| Open { to, from, host });
    prop_oneof![
        hello.prop_map(|hello| Sent::Control(Frame::Hello(hello))),
        (stream.clone(), open).prop_map(|(stream, open)| Sent::Control(Frame::Open(stream, open))),
        stream.clone().prop_map(|stream| Sent::Control(Frame::Accept(stream))),
        (stream.clone(), code()).prop_map(|(stream, code)| Sent::Control(Frame::Refuse(stream, code))),
        (stream.clone(), any::<u32>()).prop_map(|(stream, amount)| Sent::Control(Frame::Credit(stream, amount))),
        (stream.clone(), code()).prop_map(|(stream, code)| Sent::Control(Frame::Reset(stream, code))),
        any::<u64>().prop_map(|token| Sent::Control(Frame::Ping(token))),
        any::<u64>().prop_map(|token| Sent::Control(Frame::Pong(token))),
        (any::<u32>(), code()).prop_map(|(last, code)| Sent::Control(Frame::GoAway(last, code))),
        (stream, vec(any::<u8>(), 1..600), any::<bool>()).prop_map(|(stream, data, end)| Sent::Data(stream, data, end)),
    ]
}

fn write(frames: &[Sent]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        match frame {
            Sent::Control(frame) => frame.write(&mut out),
            Sent::Data(stream, bytes, end) => Frame::Data { stream: *stream, bytes, end: *end }.write(&mut out),
        }
    }
    out
}

/// Reads everything; parts of one DATA frame are put together again.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Sent>, Malformed> {
    let (mut decoder, mut all, mut whole) = (Decoder::default(), Vec::new(), true);
    for mut piece in pieces {
        while let Some(frame) = decoder.next(&mut piece)? {
            match (frame, all.last_mut()) {
                (Frame::Data { bytes, end, .. }, Some(Sent::Data(_, before, ended))) if !whole => {
                    before.extend_from_slice(bytes);
                    *ended |= end;
                }
                (Frame::Data { stream, bytes, end }, _) => all.push(Sent::Data(stream, bytes.to_vec(), end)),
                (frame, _) => all.push(Sent::Control(owned(frame))),
            }
            whole = decoder.finish().is_ok();
        }
    }
    decoder.finish()?;
    Ok(all)
}

fn owned(frame: Frame<'_>) -> Frame<'static> {
    match frame {
        Frame::Hello(hello) => Frame::Hello(hello),
        Frame::Open(stream, open) => Frame::Open(stream, open),
        Frame::Accept(stream) => Frame::Accept(stream),
        Frame::Refuse(stream, code) => Frame::Refuse(stream, code),
        Frame::Credit(stream, amount) => Frame::Credit(stream, amount),
        Frame::Reset(stream, code) => Frame::Reset(stream, code),
        Frame::Ping(token) => Frame::Ping(token),
        Frame::Pong(token) => Frame::Pong(token),
        Frame::GoAway(last, code) => Frame::GoAway(last, code),
        Frame::Data { .. } => unreachable!("data is put together apart"),
    }
}

fn split<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn any_split_gives_the_same_frames(frames in vec(sent(), 0..12), cuts in vec(any::<prop::sample::Index>(), 0..40)) {
        let bytes = write(&frames);
        let expected = format!("{frames:?}");
        prop_assert_eq!(format!("{:?}", read(split(&bytes, &cuts).into_iter()).unwrap()), expected.clone());
        prop_assert_eq!(format!("{:?}", read(bytes.chunks(1)).unwrap()), expected);
    }

    #[test]
    fn a_cut_within_a_frame_is_noticed(frame in sent(), cut in any::<prop::sample::Index>()) {
        let bytes = write(&[frame]);
        let cut = 1 + cut.index(bytes.len() - 1);
        if cut < bytes.len() {
            prop_assert_eq!(read([&bytes[..cut]].into_iter()).unwrap_err(), Malformed::Truncated);
        }
    }

    #[test]
    fn any_bytes_are_read_alike_however_split(bytes in vec(any::<u8>(), 0..200), cuts in vec(any::<prop::sample::Index>(), 0..20)) {
        let whole = format!("{:?}", read([&bytes[..]].into_iter()));
        prop_assert_eq!(format!("{:?}", read(split(&bytes, &cuts).into_iter())), whole);
    }
}

fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, flags];
    out.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

#[test]
fn every_malformed_frame_has_a_name() {
    let mapped = [&[1][..], &[0; 10], &[0xff, 0xff, 10, 0, 0, 1], &[0, 80], &[10, 0, 0, 2, 0, 9]].concat();
    let open = |fields: &[u8]| [&u16::try_from(fields.len()).unwrap().to_be_bytes()[..], fields].concat();
    let to_nothing = [0, 10, 0, 0, 1, 0, 0, 10, 0, 0, 2, 0, 9];
    let bad_host = [4, 10, 0, 0, 1, 0, 80, 10, 0, 0, 2, 0, 9, 1, b' '];
    let long_host = [4, 10, 0, 0, 1, 0, 80, 10, 0, 0, 2, 0, 9, 9, b'x'];
    let more = [0, 10, 0, 0, 1, 0, 80, 10, 0, 0, 2, 0, 9, 7];
    let not_text = [&[1, 0, 4, 0, 0, 0, 9, 2, 0, 1][..], &[0xff]].concat();
    for (bytes, why) in [
        (raw(0, 0, 1, &[]), Malformed::Kind(0)),
        (raw(11, 0, 1, &[]), Malformed::Kind(11)),
        (raw(5, 2, 1, b"x"), Malformed::Flags),
        (raw(6, 1, 1, &[0, 0, 0, 1]), Malformed::Flags),
        (raw(5, 0, 1, &vec![0; PAYLOAD_MAX + 1]), Malformed::Length),
        (raw(3, 0, 1, b"x"), Malformed::Length),
        (raw(4, 0, 1, b""), Malformed::Length),
        (raw(6, 0, 1, &[0; 3]), Malformed::Length),
        (raw(8, 0, 0, &[0; 7]), Malformed::Length),
        (raw(10, 0, 0, &[0; 4]), Malformed::Length),
        (raw(5, 0, 0, b"x"), Malformed::StreamNumber),
        (raw(8, 0, 1, &[0; 8]), Malformed::StreamNumber),
        (raw(5, 0, 1, b""), Malformed::EmptyData),
        (raw(4, 0, 1, &[8]), Malformed::Code),
        (raw(7, 0, 1, &[255]), Malformed::Code),
        (raw(1, 0, 0, b""), Malformed::HelloFields),
        (raw(1, 0, 0, &[1, 0, 3, 0, 0, 0]), Malformed::HelloFields),
        (raw(1, 0, 0, &[1, 0, 4, 0, 0, 0, 1, 1, 0, 4, 0, 0, 0, 1]), Malformed::HelloFields),
        (raw(1, 0, 0, &[1, 0, 9, 0]), Malformed::HelloFields),
        (raw(1, 0, 0, &[9, 0]), Malformed::HelloFields),
        (raw(1, 0, 0, &not_text), Malformed::HelloFields),
        (raw(2, 0, 1, &open(&[])), Malformed::OpenFields),
        (raw(2, 0, 1, &[0, 14, 0]), Malformed::OpenFields),
        (raw(2, 0, 1, &open(&[8, 0])), Malformed::OpenFields),
        (raw(2, 0, 1, &open(&to_nothing)), Malformed::OpenFields),
        (raw(2, 0, 1, &open(&mapped)), Malformed::OpenFields),
        (raw(2, 0, 1, &open(&bad_host)), Malformed::OpenFields),
        (raw(2, 0, 1, &open(&long_host)), Malformed::OpenFields),
        (raw(2, 0, 1, &open(&more)), Malformed::OpenFields),
        (raw(5, 0, 1, b"xy")[..HEADER + 1].to_vec(), Malformed::Truncated),
    ] {
        assert_eq!(read([&bytes[..]].into_iter()).unwrap_err(), why, "{bytes:?}");
    }
    let unknown_field = raw(1, 0, 0, &[77, 0, 2, 1, 2, 1, 0, 4, 0, 0, 0, 9]);
    let hello = read([&unknown_field[..]].into_iter()).unwrap();
    assert!(matches!(&hello[..], [Sent::Control(Frame::Hello(Hello { streams: 9, baggage: None }))]));
}
