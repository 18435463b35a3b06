//! TCP connections of a namespace as the kernel lists them, and their destruction. One is destroyed by its addresses and
//! its cookie together; a looser filter could hit a neighbour that reused the ports in between.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    },
    sys::{Socket, SocketAddr as Kernel, protocols::NETLINK_SOCK_DIAG},
};

use super::{NetNs, socket::canonical};

/// A TCP socket of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its own side.
    pub local: SocketAddr,
    /// The other side; unspecified for a listener.
    pub remote: SocketAddr,
    /// TCP state, in the kernel's numbers (1 is established, 10 listens).
    pub state: u8,
    /// Inode of the socket, as in `/proc/<pid>/fd`; 0 once nobody holds it.
    pub inode: u32,
    family: u8,
    id: SocketId,
}

/// The kernel's number of a listening socket's state.
pub const LISTEN: u8 = 10;

/// Every open connection, established or about to be. Sockets that only wait to be forgotten are left out.
pub fn connections(ns: &NetNs) -> io::Result<Vec<Connection>> {
    list(
        ns,
        StateFlags::ESTABLISHED
            | StateFlags::SYN_SENT
            | StateFlags::FIN_WAIT1
            | StateFlags::FIN_WAIT2
            | StateFlags::CLOSE_WAIT,
    )
}

/// Every listening TCP socket.
pub fn listeners(ns: &NetNs) -> io::Result<Vec<Connection>> {
    list(ns, StateFlags::LISTEN)
}

/// Whether a process holds the socket with these addresses: one that was closed lives on for a while without.
pub fn is_held(ns: &NetNs, local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
    let (family, mut id) = if local.is_ipv4() { (AF_INET, SocketId::new_v4()) } else { (AF_INET6, SocketId::new_v6()) };
    (id.source_address, id.source_port) = (local.ip(), local.port());
    (id.destination_address, id.destination_port) = (remote.ip(), remote.port());
    // INET_DIAG_NOCOOKIE: whichever socket has the addresses.
    id.cookie = [0xff; 8];
    let socket = ns.run(open)??;
    let message = SockDiagMessage::InetRequest(request(family, StateFlags::all(), id));
    send(&socket, NLM_F_REQUEST | NLM_F_ACK, message.into())?;
    let mut held = false;
    let answered = receive(&socket, |message| {
        if let SockDiagMessage::InetResponse(response) = message {
            held = response.header.inode != 0;
        }
    });
    match answered {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        answered => answered.map(|()| held),
    }
}

/// Destroys one socket: its holder reads ECONNABORTED, the peer gets a reset. False if it was gone already.
pub fn destroy(ns: &NetNs, connection: &Connection) -> io::Result<bool> {
    let request = request(connection.family, StateFlags::all(), connection.id.clone());
    let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
    let socket = ns.run(open)??;
    send(&socket, NLM_F_REQUEST | NLM_F_ACK, message.into())?;
    match receive(&socket, |_| {}) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Destroys every open connection that `doomed` names; returns how many there were.
pub fn destroy_matching(ns: &NetNs, doomed: impl Fn(&Connection) -> bool) -> io::Result<usize> {
    let mut destroyed = 0;
    for connection in connections(ns)?.iter().filter(|connection| doomed(connection)) {
        destroyed += usize::from(destroy(ns, connection)?);
    }
    Ok(destroyed)
}

fn list(ns: &NetNs, states: StateFlags) -> io::Result<Vec<Connection>> {
    let socket = ns.run(open)??;
    let mut found = Vec::new();
    for (family, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let message = SockDiagMessage::InetRequest(request(family, states.clone(), id));
        send(&socket, NLM_F_REQUEST | NLM_F_DUMP, message.into())?;
        receive(&socket, |message| {
            if let SockDiagMessage::InetResponse(response) = message {
                let id = response.header.socket_id;
                found.push(Connection {
                    local: address(id.source_address, id.source_port),
                    remote: address(id.destination_address, id.destination_port),
                    state: response.header.state,
                    inode: response.header.inode,
                    family,
                    id,
                });
            }
        })?;
    }
    Ok(found)
}

fn address(ip: IpAddr, port: u16) -> SocketAddr {
    canonical(SocketAddr::new(ip, port))
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&Kernel::new(0, 0))?;
    Ok(socket)
}

fn send<T: NetlinkSerializable>(socket: &Socket, flags: u16, payload: NetlinkPayload<T>) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

/// Reads answers until the kernel says that was all.
fn receive(socket: &Socket, mut each: impl FnMut(SockDiagMessage)) -> io::Result<()> {
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            // Messages are padded to four bytes; the last one need not be.
            let length = (message.header.length as usize).next_multiple_of(4).clamp(16, rest.len().max(16));
            rest = rest.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(message) => each(message),
                _ => {}
            }
        }
    }
}
