//! What a pod's own firewall does to steering: everything usual is harmless, and two things are not.

use std::net::SocketAddr;

use weft::steer::Steering;

use crate::harness::{TestPod, VIP4, VIP6, World, accept, assert_idle, verdict};

/// Dials both VIPs with a second's patience; whether each connect succeeded.
fn dial_both(pod: &TestPod) -> [bool; 2] {
    let mut app = pod.app();
    [VIP4, VIP6].map(|vip| {
        app.run(&format!("__import__('socket').create_connection(('{vip}', 80), timeout=1).close()")).is_ok()
    })
}

/// Connects the kernel gave to the agent so far, of those the hook marked.
fn arrived(steering: &Steering) -> (u64, u64) {
    (verdict(steering, "connect_steer"), verdict(steering, "lookup_assign_outbound"))
}

#[test]
fn invariant_07_conntrack_strict_filters_and_masquerade_do_not_break_steering() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        pod.nft(
            "add table inet own; \
             add chain inet own in { type filter hook input priority 0; policy drop; }; \
             add rule inet own in ct state invalid drop; \
             add rule inet own in ct state established,related accept; \
             add rule inet own in iifname lo ct state new accept; \
             add rule inet own in meta l4proto 58 accept; \
             add chain inet own out { type filter hook output priority 0; policy accept; }; \
             add rule inet own out ct state invalid drop; \
             add chain inet own nat { type nat hook postrouting priority 100; }; \
             add rule inet own nat oifname != lo masquerade",
        );
        let enrolled = pod.enrolled(&steering).await;
        let mut app = pod.app();
        for vip in [VIP4, VIP6] {
            let to = SocketAddr::new(vip, 80);
            app.dial(to).unwrap();
            let (_, seen, from) = accept(&enrolled.outbound).await;
            assert_eq!((seen, from.ip()), (to, pod.address(vip)));
        }
    });
}

#[test]
fn invariant_07_rules_that_drop_the_pods_address_on_lo_stop_its_connects() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let enrolled = pod.enrolled(&steering).await;
        assert_eq!(dial_both(&pod), [true; 2], "without the rules");
        for vip in [VIP4, VIP6] {
            assert_eq!(accept(&enrolled.outbound).await.1, SocketAddr::new(vip, 80));
        }
        pod.nft(
            "add table inet own; \
             add chain inet own in { type filter hook input priority 0; policy accept; }; \
             add rule inet own in iifname lo ip saddr != 127.0.0.0/8 drop; \
             add rule inet own in iifname lo ip6 saddr != ::1 drop",
        );
        let before = arrived(&steering);
        assert_eq!(dial_both(&pod), [false; 2], "closed, not around the mesh");
        assert_eq!(arrived(&steering), (before.0 + 2, before.1), "marked and never delivered");
        assert_idle(&enrolled.outbound);
    });
}

#[test]
fn invariant_07_rules_that_overwrite_the_mark_lead_out_of_the_mesh() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let enrolled = pod.enrolled(&steering).await;
        pod.nft(
            "add table inet own; \
             add chain inet own out { type route hook output priority -150; }; \
             add rule inet own out meta mark set 0x99",
        );
        let before = arrived(&steering);
        dial_both(&pod);
        assert_eq!(arrived(&steering), (before.0 + 2, before.1), "marked, and rerouted without the mark");
        assert_idle(&enrolled.outbound);
    });
}
