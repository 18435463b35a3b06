//! Draws, proofs and counts against what they are to mean.

use core::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

/// A frontend whose endpoints have these shares of a thousand.
fn frontend(shares: &[u32]) -> Frontend {
    let mut frontend = Frontend { count: shares.len() as u32, ..Frontend::NONE };
    let mut sum = 0_u64;
    for (at, share) in shares.iter().enumerate() {
        sum += u64::from(*share);
        let last = (sum << 32) / 1000 - 1;
        frontend.choices[at] = Choice { port: at as u32, last: last as u32, ..Choice::default() };
    }
    frontend
}

proptest! {
    #[test]
    fn a_draw_falls_on_whose_stretch_it_is(number: u32, shares in proptest::collection::vec(1..60_u32, 0..=16)) {
        let drawn = frontend(&shares).draw(number).map(|choice| choice.port);
        let mut sum = 0_u64;
        let expected = shares.iter().position(|share| {
            sum += u64::from(*share);
            u64::from(number) < (sum << 32) / 1000
        });
        prop_assert_eq!(drawn, expected.map(|at| at as u32));
    }

    #[test]
    fn turns_are_never_far_off_a_share(start: u32, share in 20..980_u32, turns in 1..2000_u32) {
        let frontend = frontend(&[share]);
        let hits = (0..turns).filter(|n| frontend.draw(Frontend::turn(start.wrapping_add(*n))).is_some()).count();
        let due = f64::from(turns) * f64::from(share) / 1000.0;
        // The discrepancy of the golden section's multiples grows with the logarithm; 4 is never met below 2,000 turns.
        prop_assert!((hits as f64 - due).abs() < 4.0, "{hits} of {due}");
    }

    #[test]
    fn a_set_admits_exactly_whom_it_was_told(pods in proptest::collection::btree_set((0..600_u32, any::<bool>()), 0..40)) {
        let from = |v4: bool| if v4 { address("10.0.0.1") } else { address("fd00::1") };
        let mut set = AdmitSet::default();
        for (pod, v4) in &pods {
            set.admit(Slot::new(*pod, &from(*v4)));
        }
        for pod in 0..600 {
            for v4 in [true, false] {
                let wanted = pod < Slot::PODS && pods.contains(&(pod, v4));
                prop_assert_eq!(set.admits(Slot::new(pod, &from(v4))), wanted);
            }
        }
    }

    #[test]
    fn nothing_stale_foreign_or_forged_proves_anything(
        age in 0..30_000_000_000_u64, established in proptest::option::of(0..30_000_000_000_u64), right: bool,
        flags in 0..8_u32, own: bool,
    ) {
        let now = 100_000_000_000;
        let since = established.map(|ago| ago.min(age));
        let entry = Attested {
            destination: 7, opened: now - age, established: since.map_or(0, |ago| now - ago), ..Attested::default()
        };
        let pod = PodEntry { flags, slot: 0, own: [address("10.0.0.2"), Address::UNSPECIFIED] };
        let source = address(if own { "10.0.0.2" } else { "10.0.0.3" });
        let young = match since {
            Some(ago) => ago < Attested::ACK_NS,
            None => age < Attested::SYN_NS,
        };
        let expected = right && own && flags & 5 == 5 && young;
        prop_assert_eq!(entry.proves(if right { 7 } else { 8 }, &pod, &source, now), expected);
    }

    #[test]
    fn records_of_any_length_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..160)) {
        prop_assert_eq!(FlowRecord::read(&bytes).is_some(), bytes.len() >= size_of::<FlowRecord>());
    }
}

/// The states a socket goes through and what the kernel has counted as received at each.
fn counted(path: &[(u32, u64)], acked: u64) -> (u64, u64) {
    let mut flow = Flow::default();
    let mut old = state::SYN_SENT;
    for (new, received) in path {
        flow.step(old, *new, *received, 0, 1);
        old = *new;
    }
    traffic(flow.flags, acked, path.last().unwrap().1)
}

#[test]
fn payload_is_counted_without_syn_and_fin() {
    use state::*;
    type Case = (&'static str, &'static [(u32, u64)], u64, (u64, u64));
    let cases: [Case; 7] = [
        ("the client finishes first", &[(ESTABLISHED, 0), (FIN_WAIT1, 5), (FIN_WAIT2, 5), (CLOSE, 9)], 12, (10, 8)),
        ("the client leaves at once", &[(ESTABLISHED, 0), (FIN_WAIT1, 5), (FIN_WAIT2, 5), (CLOSE, 5)], 12, (10, 5)),
        ("the server finishes first", &[(ESTABLISHED, 0), (CLOSE_WAIT, 6), (LAST_ACK, 6), (CLOSE, 6)], 12, (10, 5)),
        ("both at once", &[(ESTABLISHED, 0), (FIN_WAIT1, 5), (CLOSING, 6), (CLOSE, 6)], 12, (10, 5)),
        ("a reset", &[(ESTABLISHED, 0), (CLOSE, 5)], 11, (10, 5)),
        ("a reset after the server had finished", &[(ESTABLISHED, 0), (CLOSE_WAIT, 6), (CLOSE, 6)], 11, (10, 5)),
        ("never established", &[(CLOSE, 0)], 0, (0, 0)),
    ];
    for (what, path, acked, expected) in cases {
        assert_eq!(counted(path, acked), expected, "{what}");
    }
}

#[test]
fn ends_are_told_apart() {
    assert_eq!(FlowEnd::of(state::SYN_SENT, false), FlowEnd::Refused);
    assert_eq!(FlowEnd::of(state::SYN_SENT, true), FlowEnd::Denied);
    assert_eq!(FlowEnd::of(state::ESTABLISHED, false), FlowEnd::Reset);
    assert_eq!(FlowEnd::of(state::CLOSE_WAIT, false), FlowEnd::Reset);
    assert_eq!(FlowEnd::of(state::FIN_WAIT2, false), FlowEnd::Finished);
    for raw in 0..9 {
        assert_eq!(FlowEnd::from_raw(raw).is_some(), (1..=5).contains(&raw));
    }
}
