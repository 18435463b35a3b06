//! The node's ends of its pods' links: which devices a pod's packets come in by, who else hears them, and whether there
//! is any other way out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::AsRawFd as _,
};

use futures_util::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, LinkUnspec, MulticastGroup,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        nsid::{NsidAttribute, NsidMessage},
    },
};
use tokio::task::JoinHandle;
use weft_abi::LOOPBACK_IFINDEX;

use super::NetNs;

/// A device of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index in the node's namespace.
    pub index: u32,
    /// Its name there.
    pub name: String,
    /// The bridge it is a port of, by index, or whatever else hands its frames on to other ports as they are.
    pub bridge: Option<u32>,
    /// For the end of a veth pair, the node's number for the namespace of the other end, if it is another one.
    pub peer: Option<i32>,
}

/// What leads out of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Exits {
    /// Ends of veth pairs.
    pub pairs: usize,
    /// Devices that reach a wire in another way: physical ones, and those that ride on a device of another namespace.
    pub others: usize,
    /// Hardware addresses of the ends, by the index of the other end.
    pub stations: BTreeMap<u32, [u8; 6]>,
}

/// A look at a namespace's devices.
pub struct Look {
    handle: Handle,
    connection: JoinHandle<()>,
    devices: Vec<Device>,
}

impl Look {
    /// Looks now.
    pub async fn at(ns: &NetNs) -> io::Result<Self> {
        let mut look = Self::open(ns)?;
        let links = list(&look.handle).await?;
        // Members of a VRF only share a routing table.
        let routes = |index: &u32| {
            links.iter().any(|link| link.header.index == *index && matches!(kind(link), Some(InfoKind::Vrf)))
        };
        look.devices = links.iter().filter_map(|link| device(link, routes)).collect();
        Ok(look)
    }

    fn open(ns: &NetNs) -> io::Result<Self> {
        let (connection, handle, _) = ns.run(rtnetlink::new_connection)??;
        Ok(Self { handle, connection: tokio::spawn(connection), devices: Vec::new() })
    }

    /// The ends of a pod's veth pairs.
    pub async fn of_pod(&self, pod: &NetNs) -> io::Result<Vec<&Device>> {
        let number = number(self.handle.clone(), pod).await?;
        Ok(self.devices.iter().filter(|device| number.is_some() && device.peer == number).collect())
    }

    /// The ports of a bridge.
    pub fn ports(&self, bridge: u32) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(move |device| device.bridge == Some(bridge))
    }

    /// The addresses of a device.
    pub async fn addresses(&self, index: u32) -> io::Result<Vec<IpAddr>> {
        let request = self.handle.address().get().set_link_index_filter(index).execute();
        let messages: Vec<_> = request.try_collect().await.map_err(other)?;
        let addresses = messages.into_iter().flat_map(|message| message.attributes).filter_map(|it| match it {
            AddressAttribute::Address(ip) => Some(ip),
            _ => None,
        });
        Ok(addresses.collect())
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The device to which kube-proxy's IPVS mode gives the addresses of all Services. Nobody connects from those.
const SERVICES: &str = "kube-ipvs0";

/// The addresses from which a namespace itself may connect to others.
pub async fn own_addresses(ns: &NetNs) -> io::Result<BTreeSet<IpAddr>> {
    let look = Look::open(ns)?;
    let services = list(&look.handle).await?.into_iter().filter(|link| name(link) == Some(SERVICES));
    let services: Vec<u32> = services.map(|link| link.header.index).collect();
    let messages: Vec<_> = look.handle.address().get().execute().try_collect().await.map_err(other)?;
    let mut own = BTreeSet::new();
    for message in messages.into_iter().filter(|message| !services.contains(&message.header.index)) {
        let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        own.extend(address(&message).filter(|ip| !ip.is_loopback() && !link_local(ip)));
    }
    Ok(own)
}

/// Brings up the loopback device of a namespace, and gives it these addresses too. What is there already counts as done.
pub async fn give_loopback(ns: &NetNs, addresses: &[IpAddr]) -> io::Result<()> {
    let look = Look::open(ns)?;
    let up = LinkUnspec::new_with_index(LOOPBACK_IFINDEX).up().build();
    look.handle.link().set(up).execute().await.map_err(other)?;
    for address in addresses {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let added = look.handle.address().add(LOOPBACK_IFINDEX, *address, prefix).replace().execute().await;
        added.map_err(other)?;
    }
    Ok(())
}

/// The address itself: where there is a peer's too, that is called the address and this one local.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

/// Tells when a namespace's devices change: one comes or goes, or becomes the port of a bridge.
pub struct Changes {
    messages: Box<dyn Stream<Item = ()> + Send + Unpin>,
    connection: JoinHandle<()>,
}

impl Changes {
    /// Watches from now on.
    pub fn of(ns: &NetNs) -> io::Result<Self> {
        Self::in_groups(ns, &[MulticastGroup::Link])
    }

    /// The same of its addresses.
    pub fn of_addresses(ns: &NetNs) -> io::Result<Self> {
        Self::in_groups(ns, &[MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr])
    }

    fn in_groups(ns: &NetNs, groups: &[MulticastGroup]) -> io::Result<Self> {
        let (connection, _, messages) = ns.run(|| rtnetlink::new_multicast_connection(groups))??;
        let connection = tokio::spawn(connection);
        Ok(Self { messages: Box::new(messages.map(drop)), connection })
    }

    /// Waits for the next change; those that have come together count as one. Once the kernel says no more, for ever.
    pub async fn next(&mut self) {
        if self.messages.next().await.is_none() {
            std::future::pending::<()>().await;
        }
        while let Some(Some(())) = self.messages.next().now_or_never() {}
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What leads out of a pod.
pub async fn exits(pod: &NetNs) -> io::Result<Exits> {
    let look = Look::open(pod)?;
    let mut exits = Exits::default();
    for link in list(&look.handle).await? {
        if is_pair(&link) {
            exits.pairs += 1;
            exits.stations.extend(station(&link));
        } else if !link.header.flags.contains(LinkFlags::Loopback) && reaches_out(&link) {
            exits.others += 1;
        }
    }
    Ok(exits)
}

fn device(link: &LinkMessage, routes: impl Fn(&u32) -> bool) -> Option<Device> {
    let mut device = Device { index: link.header.index, name: String::new(), bridge: None, peer: None };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Controller(of) => device.bridge = Some(*of).filter(|of| !routes(of)),
            LinkAttribute::LinkNetNsId(number) if is_pair(link) => device.peer = Some(*number),
            _ => {}
        }
    }
    (!device.name.is_empty()).then_some(device)
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// The hardware address of a veth pair's end, and the index of the other end.
fn station(link: &LinkMessage) -> Option<(u32, [u8; 6])> {
    let (mut other, mut station) = (None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Link(index) => other = Some(*index),
            LinkAttribute::Address(octets) => station = octets.as_slice().try_into().ok(),
            _ => {}
        }
    }
    other.zip(station)
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

async fn list(handle: &Handle) -> io::Result<Vec<LinkMessage>> {
    handle.link().get().execute().try_collect().await.map_err(other)
}

fn other(error: rtnetlink::Error) -> io::Error {
    io::Error::other(error.to_string())
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
