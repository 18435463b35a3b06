//! Dials made from inside a pod's network namespace on the pod's behalf. The sockets are made there and used from any
//! thread; that the connect hook lets them through is the doing of the agent's cgroup, not of a mark.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{FromRawFd as _, IntoRawFd as _},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use weft_abi::Marks;

use super::NetNs;

/// Source ports of deliveries: above the kernel's default ephemeral range, so that they take nothing from the pod's own
/// dials and do not meet the client's live connections.
const DELIVERY_PORTS: std::ops::RangeInclusive<u16> = 61_000..=65_535;

/// Where deliveries go when one client holds most of [`DELIVERY_PORTS`] towards one port of an application: below the
/// ephemeral range. Second choice, because an application that starts later may want such a port for a listener.
const MORE_DELIVERY_PORTS: std::ops::RangeInclusive<u16> = 10_240..=32_767;

/// How many source ports a delivery tries among the first, and then among the others. With half of the others in use
/// this fails once in 10^7.
const DELIVERY_ATTEMPTS: (usize, usize) = (12, 24);

/// Dials a peer's tunnel port from the pod's own address.
pub async fn tunnel(ns: &NetNs, source: IpAddr, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = ns.run(|| bound(source, to))??;
    connect(socket, to, timeout).await
}

/// Dials what the application dialled, unchanged, from the address it used.
pub async fn pass_through(ns: &NetNs, source: IpAddr, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    tunnel(ns, source, to, timeout).await
}

/// Connects to the application at `to` so that it sees `client` as its peer. Refused like any other connect if nobody
/// listens there.
pub async fn deliver(ns: &NetNs, client: IpAddr, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut attempt = 0;
    loop {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let ports = if attempt < DELIVERY_ATTEMPTS.0 { DELIVERY_PORTS } else { MORE_DELIVERY_PORTS };
        let port = rand::random_range(ports);
        let result = match ns.run(|| as_client(SocketAddr::new(client, port), to))? {
            Ok(socket) => connect(socket, to, left).await,
            Err(error) => Err(error),
        };
        attempt += 1;
        match result {
            Err(error) if port_was_taken(&error) && attempt < DELIVERY_ATTEMPTS.0 + DELIVERY_ATTEMPTS.1 => {}
            other => return other,
        }
    }
}

fn port_was_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// A socket bound to one of the pod's addresses. The port is left to connect, which may then share it among
/// destinations; chosen at bind, every dial would take one of the pod's ports for itself.
fn bound(source: IpAddr, to: SocketAddr) -> io::Result<Socket> {
    let socket = stream(to)?;
    if source.is_ipv4() == to.is_ipv4() && !source.is_unspecified() {
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// A socket that speaks with the client's address. Bound to lo, or the lookup hook would take the SYN for one from
/// outside; marked, so that the route to lo is found for what is not the pod's own address.
fn as_client(client: SocketAddr, to: SocketAddr) -> io::Result<Socket> {
    if client.is_ipv4() != to.is_ipv4() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "client and application are of different families"));
    }
    let socket = stream(to)?;
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    socket.set_mark(Marks::STEERED)?;
    socket.bind_device(Some(b"lo"))?;
    socket.set_reuse_address(true)?;
    socket.bind(&client.into())?;
    Ok(socket)
}

/// Options of the IPv4 level work on IPv6 sockets as well and set the same bits.
fn stream(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

async fn connect(socket: Socket, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    // SAFETY: `into_raw_fd` gives up the descriptor, so the standard stream is its only owner.
    let stream = unsafe { std::net::TcpStream::from_raw_fd(socket.into_raw_fd()) };
    let connecting = TcpSocket::from_std_stream(stream).connect(to);
    tokio::time::timeout(timeout, connecting).await.unwrap_or_else(|_| {
        let why = format!("no answer from {to} within {timeout:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    })
}
