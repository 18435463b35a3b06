//! The two listeners of a pod: made inside its namespace, transparent, on a loopback address that the pod cannot mistake
//! for its own. SYNs reach them only because the lookup hook says so.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    ops::RangeInclusive,
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::sys::{NetNs, sysctl};

/// Ports tried for listeners: below what distributions use for ephemeral ports, above what services use.
const CANDIDATES: RangeInclusive<u16> = 17_000..=29_999;

/// SYNs that may wait while the agent is busy or being replaced.
const BACKLOG: i32 = 4_096;

/// Ports that no listener may take: the pod's own.
pub(super) struct Avoid<'a> {
    pub(super) declared: &'a [u16],
    pub(super) ephemeral: RangeInclusive<u16>,
}

impl<'a> Avoid<'a> {
    /// An application that binds a port on all addresses finds it taken if a listener has it on loopback: keep off the
    /// ports it declares, and off the range from which the kernel picks.
    pub(super) fn of(ns: &NetNs, declared: &'a [u16]) -> io::Result<Self> {
        let range = sysctl::read(ns, "net.ipv4.ip_local_port_range")?.unwrap_or_default();
        let mut ends = range.split_whitespace().map(|end| end.parse::<u16>().ok());
        let ephemeral = match (ends.next().flatten(), ends.next().flatten()) {
            (Some(low), Some(high)) => low..=high,
            _ => 32_768..=60_999,
        };
        Ok(Self { declared, ephemeral })
    }

    pub(super) fn forbids(&self, port: u16) -> bool {
        self.declared.contains(&port) || self.ephemeral.contains(&port)
    }
}

/// Opens a listener in the namespace this is called in.
pub(super) fn open(ns: &NetNs, avoid: &Avoid<'_>) -> io::Result<TcpListener> {
    ns.run(|| {
        let span = u32::from(*CANDIDATES.end() - *CANDIDATES.start()) + 1;
        let first: u32 = rand::random_range(0..span);
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for step in 0..span {
            let port = CANDIDATES.start() + ((first + step) % span) as u16;
            if avoid.forbids(port) {
                continue;
            }
            match bind(port) {
                Ok(listener) => return Ok(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    })?
}

/// One IPv6 socket on the mapped loopback address serves both families; where the kernel has no IPv6, an IPv4 one does.
fn bind(port: u16) -> io::Result<TcpListener> {
    let (socket, address) = match Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            (socket, SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port)))
        }
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            (socket, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        }
        Err(error) => return Err(error),
    };
    // Without it SYNs for addresses that are not the pod's are not answered.
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The port a listener has, if it still listens where this agent would have put it.
pub(super) fn port(listener: &TcpListener) -> Option<u16> {
    if !crate::sys::socket::is_listening(listener).ok()? {
        return None;
    }
    match listener.local_addr().ok()? {
        SocketAddr::V4(address) => (*address.ip() == Ipv4Addr::LOCALHOST).then(|| address.port()),
        SocketAddr::V6(address) => {
            let expected: Ipv6Addr = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
            (*address.ip() == expected).then(|| address.port())
        }
    }
}
