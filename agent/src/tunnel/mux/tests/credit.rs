//! Flow control, exhaustively: every reachable state of small windows, with every size of write, read and delivery.

use std::collections::{HashSet, VecDeque};

use crate::tunnel::mux::{Inbound, Malformed, Outbound, Windows};

/// Both ends of a direction and what is under way between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    to_send: u32,
    sender: Outbound,
    /// Sizes of DATA frames under way; the last may carry the end.
    data: VecDeque<(u32, bool)>,
    receiver: Inbound,
    credit: VecDeque<u32>,
    taken: u32,
}

impl World {
    fn new(windows: &Windows, total: u32) -> Self {
        Self {
            to_send: total,
            sender: Outbound::new(windows),
            data: VecDeque::new(),
            receiver: Inbound::new(windows),
            credit: VecDeque::new(),
            taken: 0,
        }
    }

    fn is_done(&self, total: u32) -> bool {
        self.receiver.ended() && self.taken == total && self.data.is_empty() && self.credit.is_empty()
    }

    /// Every state one step away. `growth` says whether the budget has room, which may change at any time.
    fn next(&self, windows: &Windows) -> Vec<Self> {
        let mut all = Vec::new();
        let most = self.to_send.min(self.sender.credit());
        for (size, end) in (1..=most).map(|size| (size, size == self.to_send)).chain([(0, true)]) {
            if self.sender.ended() || (size == 0 && self.to_send > 0) {
                continue;
            }
            let mut world = self.clone();
            world.sender.sent(size, end);
            world.to_send -= size;
            world.data.push_back((size, end));
            all.push(world);
        }
        if let Some(&(size, end)) = self.data.front() {
            let mut world = self.clone();
            world.data.pop_front();
            world.receiver.received(size, end).expect("an honest sender never exceeds its credit");
            all.push(world);
        }
        for size in 1..=self.receiver.held() {
            for growth in [false, true] {
                let mut world = self.clone();
                let grant = world.receiver.took(size, windows, |_| growth);
                world.taken += size;
                world.credit.extend(grant);
                all.push(world);
            }
        }
        if let Some(amount) = self.credit.front() {
            let mut world = self.clone();
            world.sender.granted(*amount).expect("grants are never empty and never overflow");
            world.credit.pop_front();
            all.push(world);
        }
        all
    }

    fn check(&self, windows: &Windows) {
        let under_way: u32 = self.data.iter().map(|(size, _)| size).sum();
        let granted: u32 = self.credit.iter().sum();
        let senders = self.sender.credit() + under_way + granted;
        assert_eq!(senders, self.receiver.may_come(), "the ends disagree: {self:?}");
        assert_eq!(self.receiver.accounted(), self.receiver.window(), "the sum is not kept: {self:?}");
        assert!(self.receiver.held() <= self.receiver.window(), "more is held than the window: {self:?}");
        assert!(self.receiver.window() <= windows.most.max(windows.initial), "the window outgrew its bound: {self:?}");
    }
}

#[test]
fn every_state_of_small_windows_goes_on_and_keeps_the_sum() {
    let mut visited = 0;
    for (initial, most, total) in
        [(1, 1, 8), (1, 8, 16), (2, 2, 10), (2, 8, 16), (3, 3, 12), (3, 12, 16), (4, 8, 16), (5, 5, 14), (6, 12, 16)]
    {
        let windows = Windows { initial, most };
        let first = World::new(&windows, total);
        let (mut seen, mut queue) = (HashSet::from([first.clone()]), vec![first]);
        while let Some(world) = queue.pop() {
            world.check(&windows);
            let next = world.next(&windows);
            // Each step brings bytes or grants further and none takes any back: a way on from every state is a way to the end.
            assert!(!next.is_empty() || world.is_done(total), "stuck with windows of {initial} to {most}: {world:?}");
            queue.extend(next.into_iter().filter(|world| seen.insert(world.clone())));
        }
        visited += seen.len();
    }
    assert!(visited > 50_000, "only {visited} states were visited");
}

#[test]
fn a_sender_that_lies_is_found_out_at_the_first_byte() {
    let windows = Windows { initial: 4, most: 8 };
    for honest in 0..=4 {
        let mut receiver = Inbound::new(&windows);
        receiver.received(honest, false).unwrap();
        assert_eq!(receiver.clone().received(5 - honest, false), Err(Malformed::CreditExceeded));
        // What lies unread gives no credit back; what was taken does, once it has been granted.
        let granted = receiver.took(honest, &windows, |_| false);
        assert_eq!(granted, (honest >= 2).then_some(honest), "half of the window is worth a frame");
        assert_eq!(receiver.received(4, true).is_ok(), honest == 0 || granted.is_some());
    }
    let mut sender = Outbound::new(&windows);
    assert_eq!(sender.granted(0), Err(Malformed::CreditAmount));
    assert_eq!(sender.granted(u32::MAX), Err(Malformed::CreditAmount));
}

#[test]
fn windows_grow_for_those_who_read_and_only_for_them() {
    let windows = Windows::DEFAULT;
    let mut reader = Inbound::new(&windows);
    let mut moved = 0;
    while reader.window() < windows.most {
        reader.received(64 << 10, false).unwrap();
        let _ = reader.took(64 << 10, &windows, |_| true);
        moved += 64 << 10;
        assert!(moved <= 8 << 20, "it does not grow");
    }
    let mut slow = Inbound::new(&windows);
    slow.received(256 << 10, false).unwrap();
    for _ in 0..1000 {
        // Always something lying: never more than it began with.
        if slow.took(32 << 10, &windows, |_| true).is_some() {
            slow.received(64 << 10, false).unwrap();
        }
        slow.received(0, false).unwrap();
        if slow.held() < 64 << 10 {
            slow.received(32 << 10, false).unwrap();
        }
        assert_eq!(slow.window(), windows.initial);
    }
    let mut poor = Inbound::new(&windows);
    for _ in 0..1000 {
        poor.received(64 << 10, false).unwrap();
        let _ = poor.took(64 << 10, &windows, |_| false);
    }
    assert_eq!(poor.window(), windows.initial, "without budget there is no growth");
}
