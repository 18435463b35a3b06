//! The rules and the route that keep a steered SYN inside its pod: packets with the mesh's mark are looked up in a table
//! of ours, whose only route delivers everything to lo, and those it does not fit go nowhere. They exist inside the pod's
//! namespace and nowhere else.

use std::{io, net::IpAddr};

use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteMessage, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use weft_abi::{LOOPBACK_IFINDEX, Marks};

use super::NetNs;

/// The routing table of ours in each pod.
pub const TABLE: u32 = 15_008;

/// Before the main table's rule and most others', behind the local table's, which must keep the pod's own addresses.
pub const PRIORITY: u32 = 98;

/// Adds rules and route for each of the pod's addresses. What is there already counts as done.
pub async fn add(ns: &NetNs, addresses: &[IpAddr]) -> io::Result<()> {
    with_handle(ns, async |handle| {
        for &address in addresses {
            tolerate(handle.route().add(local_route(address)).execute().await, libc::EEXIST)?;
            // ABI 1 matched the mesh's other bit as well.
            tolerate(handle.rule().del(rule_masked(address, Marks::MASK)).execute().await, libc::ENOENT)?;
            for rule in [rule(address), end(address)] {
                let mut request = handle.rule().add();
                *request.message_mut() = rule;
                tolerate(request.execute().await, libc::EEXIST)?;
            }
        }
        Ok(())
    })
    .await
}

/// Takes them away again. What is gone already counts as done.
pub async fn remove(ns: &NetNs, addresses: &[IpAddr]) -> io::Result<()> {
    with_handle(ns, async |handle| {
        for &address in addresses {
            tolerate(handle.rule().del(end(address)).execute().await, libc::ENOENT)?;
            tolerate(handle.rule().del(rule(address)).execute().await, libc::ENOENT)?;
            tolerate(handle.rule().del(rule_masked(address, Marks::MASK)).execute().await, libc::ENOENT)?;
            tolerate(handle.route().del(local_route(address)).execute().await, libc::ESRCH)?;
        }
        Ok(())
    })
    .await
}

async fn with_handle(ns: &NetNs, work: impl AsyncFnOnce(Handle) -> io::Result<()>) -> io::Result<()> {
    let (connection, handle, _) = ns.run(rtnetlink::new_connection)??;
    let connection = tokio::spawn(connection);
    let result = work(handle).await;
    connection.abort();
    result
}

/// The source has to be named: left to itself the kernel would pick the destination as source of a packet it delivers
/// to itself, and connect would fail with ENETUNREACH.
fn local_route(address: IpAddr) -> RouteMessage {
    match address {
        IpAddr::V4(v4) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .table_id(TABLE)
            .output_interface(LOOPBACK_IFINDEX)
            .pref_source(v4)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .kind(RouteType::Local)
            .table_id(TABLE)
            .output_interface(LOOPBACK_IFINDEX)
            .pref_source(v6)
            .build(),
    }
}

/// Of the mesh's bits only one: what else the mark says changes nothing about the way.
fn rule(address: IpAddr) -> RuleMessage {
    rule_masked(address, Marks::STEERED)
}

fn rule_masked(address: IpAddr, mask: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::FwMark(Marks::STEERED),
        RuleAttribute::FwMask(mask),
        RuleAttribute::Table(TABLE),
    ];
    rule
}

/// What has the mark and no place in the table ends here. The table's route does not fit a socket that was bound to another
/// device than lo after its connect was steered: the SYN's next try would leave the pod by the main table, past the mesh.
fn end(address: IpAddr) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    rule.header.action = RuleAction::Prohibit;
    rule.attributes = vec![
        RuleAttribute::Priority(PRIORITY + 1),
        RuleAttribute::FwMark(Marks::STEERED),
        RuleAttribute::FwMask(Marks::STEERED),
    ];
    rule
}

fn tolerate(result: Result<(), rtnetlink::Error>, errno: i32) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -errno => Ok(()),
        Err(rtnetlink::Error::NetlinkError(error)) => Err(error.to_io()),
        Err(other) => Err(io::Error::other(other.to_string())),
    }
}
