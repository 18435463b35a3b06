//! The node's ends of its pods' links: which devices a pod's packets come in by, and whether there is any other way out.

use std::{io, os::fd::AsRawFd as _};

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        nsid::{NsidAttribute, NsidMessage},
    },
};

use super::NetNs;

/// The node's end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index in the node's namespace.
    pub index: u32,
    /// Its name there.
    pub name: String,
    /// The node's number for the namespace of the other end.
    peer: Option<i32>,
}

/// What leads out of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Exits {
    /// Ends of veth pairs.
    pub pairs: usize,
    /// Devices that reach a wire in another way: physical ones, and those that ride on a device of another namespace.
    pub others: usize,
}

/// Every end of a veth pair in a namespace, for [`of_pod`] to choose from.
pub async fn pairs(ns: &NetNs) -> io::Result<Vec<Device>> {
    let links = list(ns).await?;
    let devices = links.into_iter().filter(is_pair).filter_map(|link| {
        let index = link.header.index;
        let (mut name, mut peer) = (None, None);
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(found) => name = Some(found),
                LinkAttribute::LinkNetNsId(found) => peer = Some(found),
                _ => {}
            }
        }
        Some(Device { index, name: name?, peer })
    });
    Ok(devices.collect())
}

/// Those of `pairs`, listed in the namespace `node`, whose other end is in `pod`.
pub async fn of_pod(node: &NetNs, pairs: &[Device], pod: &NetNs) -> io::Result<Vec<Device>> {
    let number = with_handle(node, async |handle| number(handle, pod).await).await?;
    Ok(pairs.iter().filter(|device| number.is_some() && device.peer == number).cloned().collect())
}

/// What leads out of a pod.
pub async fn exits(pod: &NetNs) -> io::Result<Exits> {
    let mut exits = Exits::default();
    for link in list(pod).await? {
        if is_pair(&link) {
            exits.pairs += 1;
        } else if !link.header.flags.contains(LinkFlags::Loopback) && reaches_out(&link) {
            exits.others += 1;
        }
    }
    Ok(exits)
}

/// Physical devices have no kind; what rides on a device elsewhere names that device's namespace.
fn reaches_out(link: &LinkMessage) -> bool {
    let rides = link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)));
    rides || kind(link).is_none()
}

fn is_pair(link: &LinkMessage) -> bool {
    matches!(kind(link), Some(InfoKind::Veth))
}

fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        }),
        _ => None,
    })
}

async fn list(ns: &NetNs) -> io::Result<Vec<LinkMessage>> {
    with_handle(ns, async |handle| {
        handle.link().get().execute().try_collect().await.map_err(|error| io::Error::other(error.to_string()))
    })
    .await
}

/// The number by which a namespace knows another, if anything of the one has its other end in the other.
async fn number(mut handle: Handle, of: &NetNs) -> io::Result<Option<i32>> {
    use std::os::fd::AsFd as _;
    let fd = u32::try_from(of.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Fd(fd)];
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answers = handle.request(request).map_err(|error| io::Error::other(error.to_string()))?;
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(found)) => {
                let number = found.attributes.iter().find_map(|attribute| match attribute {
                    NsidAttribute::Id(number) if *number >= 0 => Some(*number),
                    _ => None,
                });
                return Ok(number);
            }
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            _ => {}
        }
    }
    Ok(None)
}

async fn with_handle<R>(ns: &NetNs, work: impl AsyncFnOnce(Handle) -> io::Result<R>) -> io::Result<R> {
    let (connection, handle, _) = ns.run(rtnetlink::new_connection)??;
    let connection = tokio::spawn(connection);
    let result = work(handle).await;
    connection.abort();
    result
}
