//! Socket options and addresses that the data path needs and `std` does not offer.

use std::{
    io, mem,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

/// The mark of a socket; that of an accepted one is the mark of the SYN, where the namespace's sysctls say so.
pub fn mark(socket: &impl AsFd) -> io::Result<u32> {
    socket2::SockRef::from(socket).mark()
}

/// The address the application dialled: the local address of the socket that was accepted for it. IPv4 comes back as
/// IPv4, whatever family the listener had.
pub fn original_destination(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let address = SockRef::from(socket).local_addr()?;
    address.as_socket().map(canonical).ok_or_else(|| io::Error::other("not an internet socket"))
}

/// `::ffff:10.0.0.1` as `10.0.0.1`; flow labels and scopes are dropped from what is not link-local.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if !v6.ip().is_unicast_link_local() => {
            SocketAddr::new(IpAddr::V6(*v6.ip()).to_canonical(), v6.port())
        }
        other => other,
    }
}

/// Bytes a tunnel's socket takes that cannot be sent yet. What lies there waits in one line, whichever stream it is of: a
/// round trip beside bulk transfers waits for all of it.
pub const NOT_SENT_MAX: u32 = 128 * 1024;

/// Makes a connection one for a tunnel: nothing waits to be sent for lack of size, and no more than [`NOT_SENT_MAX`] for lack
/// of room at the peer.
pub fn for_tunnel(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    SockRef::from(tcp).set_tcp_notsent_lowat(NOT_SENT_MAX)
}

/// The shortest round trip the connection has seen of late, as TCP measures it.
pub fn shortest_round_trip(tcp: &TcpStream) -> io::Result<Duration> {
    /// Where `tcpi_min_rtt`, in microseconds, lies in `struct tcp_info` (linux/tcp.h); glibc's is older than the field.
    const MIN_RTT: usize = 148;
    let mut info = [0_u8; MIN_RTT + 4];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: both pointers are to live locals and `length` says how much room there is; any bytes are valid in it.
    let failed = unsafe {
        libc::getsockopt(tcp.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    match info.last_chunk().map(|micros| u32::from_ne_bytes(*micros)) {
        Some(micros) if length as usize == info.len() && micros != u32::MAX => Ok(Duration::from_micros(micros.into())),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Has the kernel look whether the other side is still there: the time before the first probe, between two, and how many.
pub fn set_keepalive(socket: &impl AsFd, (time, interval, probes): (Duration, Duration, u32)) -> io::Result<()> {
    let set = socket2::TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(probes);
    socket2::SockRef::from(socket).set_tcp_keepalive(&set)
}

/// Keeps urgent data in the stream, where a byte pump can carry it.
pub fn set_oob_inline(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_out_of_band_inline(true)
}

/// Reads what there is, as `TcpStream::try_read`, but a read that left room has drained the socket, and tokio is told so:
/// the next attempt, which would find nothing, costs no system call. A FIN that has come too is not forgotten by that.
///
/// Not for sockets of apps: a read stops before urgent data, with room and with more to come.
pub fn read_some(tcp: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    let outcome = tcp.try_io(Interest::READABLE, || {
        read = recv(tcp.as_raw_fd(), room, MsgFlags::empty())?;
        // Clears the readiness this read began with, and none that was reported since.
        if (1..room.len()).contains(&read) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(read) }
    });
    if read > 0 { Ok(read) } else { outcome }
}

/// Closing the socket from now on resets the connection instead of ending it in peace.
pub fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// Whether the socket accepts connections.
pub fn is_listening(socket: &impl AsFd) -> io::Result<bool> {
    SockRef::from(socket).is_listener()
}

/// The cookie of the network namespace the socket lives in.
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    let mut length = mem::size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals and `length` says how much room there is.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// The kernel's number for one socket, by which [`super::diag`] knows it.
pub fn cookie(socket: &impl AsFd) -> io::Result<u64> {
    SockRef::from(socket).cookie()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_come_back_as_what_they_stand_for() {
        let cases = [
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fe80::1%2]:80", "[fe80::1%2]:80"),
        ];
        for (given, expected) in cases {
            assert_eq!(canonical(given.parse().unwrap()), expected.parse().unwrap());
        }
    }

    #[tokio::test]
    async fn a_read_that_left_room_is_not_repeated_and_nothing_is_missed_by_that() {
        use tokio::io::AsyncWriteExt as _;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let mut room = [0; 8];
        for _ in 0..3 {
            peer.write_all(b"hello").await.unwrap();
            tcp.readable().await.unwrap();
            assert_eq!(read_some(&tcp, &mut room).unwrap(), 5);
            // What arrives now is reported when tokio next looks, and until then is not asked for.
            peer.write_all(b"again").await.unwrap();
            assert_eq!(read_some(&tcp, &mut room).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            tcp.readable().await.unwrap();
            assert_eq!(read_some(&tcp, &mut room).unwrap(), 5);
        }
        // Exactly what there was room for says nothing about what else there is.
        peer.write_all(b"0123456789").await.unwrap();
        tcp.readable().await.unwrap();
        assert_eq!(read_some(&tcp, &mut room).unwrap(), 8);
        assert_eq!(read_some(&tcp, &mut room).unwrap(), 2);
        // Bytes and FIN at once.
        peer.write_all(b"bye").await.unwrap();
        drop(peer);
        tcp.ready(Interest::READABLE).await.unwrap();
        let mut ends = Vec::new();
        while ends.last() != Some(&0) {
            tcp.readable().await.unwrap();
            ends.push(read_some(&tcp, &mut room).unwrap());
        }
        assert_eq!(ends, [3, 0]);
    }
}
