//! A capture of what passes between nodes, put back into TCP streams: the proof of what is on the wire and what is not.
//!
//! A packet socket in the fabric's namespace sees every frame that a node sends, at the port where it enters the bridge.
//! Segments are ordered by sequence number, so a payload cut over many segments is still found.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::lab::Lab;

/// `PACKET_OUTGOING` of linux/if_packet.h: what a port sends to its node was already seen entering at another port.
const OUTGOING: u8 = 4;

/// Enough for what a journey sends while its reader thread waits for a processor.
const KERNEL_BUFFER: usize = 64 << 20;

/// A running capture; it stops when dropped.
pub struct Capture {
    stop: Arc<AtomicBool>,
    flows: Arc<Mutex<Flows>>,
    reader: Option<JoinHandle<()>>,
}

/// One direction of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The sender.
    pub from: SocketAddr,
    /// The receiver.
    pub to: SocketAddr,
}

type Flows = BTreeMap<Flow, Stream>;

/// A direction's bytes, by distance from its first sequence number.
#[derive(Clone, Debug, Default)]
struct Stream {
    start: u32,
    segments: BTreeMap<u32, Vec<u8>>,
}

impl Capture {
    /// Starts to capture on the lab's fabric.
    ///
    /// # Errors
    /// When the kernel refuses a packet socket.
    pub fn start(lab: &Lab) -> Result<Self> {
        let socket = lab.fabric().run(|| {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
                .context("opening a packet socket")?;
            setsockopt(&socket, sockopt::RcvBufForce, &KERNEL_BUFFER)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 50_000))?;
            Ok(socket)
        })?;
        let (stop, flows) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Flows::new())));
        let reader = {
            let (stop, flows) = (stop.clone(), flows.clone());
            std::thread::Builder::new().name("capture".into()).spawn(move || read(&socket, &stop, &flows))?
        };
        Ok(Self { stop, flows, reader: Some(reader) })
    }

    /// The directions seen so far that carried bytes, with the number of bytes.
    #[must_use]
    pub fn flows(&self) -> Vec<(Flow, u64)> {
        self.lock().iter().map(|(&flow, stream)| (flow, stream.length())).filter(|(_, length)| *length > 0).collect()
    }

    /// The directions whose bytes contain `needle`.
    #[must_use]
    pub fn containing(&self, needle: &[u8]) -> Vec<Flow> {
        self.lock().iter().filter(|(_, stream)| contains(&stream.bytes(), needle)).map(|(&flow, _)| flow).collect()
    }

    /// Bytes in TLS application-data records of directions to or from this port.
    ///
    /// # Errors
    /// When such a direction carries anything that is not a TLS record.
    pub fn tls_bytes(&self, port: u16) -> Result<u64> {
        let flows = self.lock();
        let mut total = 0;
        for (flow, stream) in flows.iter().filter(|(flow, _)| flow.from.port() == port || flow.to.port() == port) {
            total += tls_application_bytes(&stream.bytes()).with_context(|| format!("{} -> {}", flow.from, flow.to))?;
        }
        Ok(total)
    }

    fn lock(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn read(socket: &OwnedFd, stop: &AtomicBool, flows: &Mutex<Flows>) {
    // A frame of a veth may be a whole 64 KiB segmentation unit and its headers.
    let mut buffer = vec![0; 70_000];
    while !stop.load(Ordering::Relaxed) {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((length, Some(from))) if from.pkttype() != OUTGOING => {
                if let Some(segment) = parse(&buffer[..length]) {
                    add(&mut flows.lock().unwrap_or_else(PoisonError::into_inner), segment);
                }
            }
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

struct Segment<'a> {
    flow: Flow,
    sequence: u32,
    syn: bool,
    payload: &'a [u8],
}

fn add(flows: &mut Flows, segment: Segment<'_>) {
    let first = segment.sequence.wrapping_add(u32::from(segment.syn));
    // A SYN begins a new connection, perhaps on the ports of an old one, unless it is the same SYN again; a first segment
    // without one joins midway.
    let known = flows.get(&segment.flow).map(|stream| stream.start);
    if known.is_none_or(|start| segment.syn && start != first) {
        flows.insert(segment.flow, Stream { start: first, segments: BTreeMap::new() });
    }
    let Some(stream) = flows.get_mut(&segment.flow) else { return };
    if !segment.payload.is_empty() {
        let held = stream.segments.entry(first.wrapping_sub(stream.start)).or_default();
        // What is sent again is often only the beginning of what was sent there first.
        if segment.payload.len() > held.len() {
            *held = segment.payload.to_vec();
        }
    }
}

impl Stream {
    fn length(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// The bytes in order, retransmissions once.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        for (&at, segment) in &self.segments {
            let overlap = bytes.len().saturating_sub(at as usize);
            bytes.extend_from_slice(segment.get(overlap..).unwrap_or_default());
        }
        bytes
    }
}

/// Ethernet, IPv4 or IPv6 without extension headers, TCP.
fn parse(frame: &[u8]) -> Option<Segment<'_>> {
    let (source, destination, tcp) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let packet = frame.get(14..)?;
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let length = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
            // Zero: a segmentation unit beyond 64 KiB; the rest of the frame is all of it.
            let end = if length == 0 { packet.len() } else { length.min(packet.len()) };
            let address =
                |at: usize| Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?)));
            (*packet.get(9)? == 6).then_some(())?;
            (address(12)?, address(16)?, packet.get(header..end)?)
        }
        [0x86, 0xdd] => {
            let packet = frame.get(14..)?;
            let address =
                |at: usize| Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?)));
            (*packet.get(6)? == 6).then_some(())?;
            (address(8)?, address(24)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let flow = Flow { from: SocketAddr::new(source, port(0)?), to: SocketAddr::new(destination, port(2)?) };
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment { flow, sequence, syn: tcp.get(13)? & 0x02 != 0, payload: tcp.get(header..)? })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|window| window == needle)
}

/// Walks a direction's TLS records; yields the bytes in application-data ones.
fn tls_application_bytes(mut bytes: &[u8]) -> Result<u64> {
    let mut total = 0;
    while let Some((header, rest)) = bytes.split_first_chunk::<5>() {
        let (kind, version, length) = (header[0], header[1], usize::from(u16::from_be_bytes([header[3], header[4]])));
        if !(20..=23).contains(&kind) || version != 3 || length > 16_640 {
            bail!("not a TLS record: {header:02x?}");
        }
        let length = length.min(rest.len());
        if kind == 23 {
            total += length as u64;
        }
        bytes = &rest[length..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow { from: ([10, 0, 0, 1], 1000).into(), to: ([10, 0, 0, 2], 80).into() }
    }

    #[test]
    fn segments_out_of_order_and_sent_twice_make_one_stream() {
        let mut flows = Flows::new();
        let start = u32::MAX - 2;
        add(&mut flows, Segment { flow: flow(), sequence: start, syn: true, payload: &[] });
        let send = |flows: &mut Flows, at: u32, payload: &[u8]| {
            let sequence = start.wrapping_add(1).wrapping_add(at);
            add(flows, Segment { flow: flow(), sequence, syn: false, payload });
        };
        send(&mut flows, 5, b" world");
        send(&mut flows, 0, b"hello");
        send(&mut flows, 0, b"hello");
        send(&mut flows, 3, b"lo wo");
        send(&mut flows, 5, b" w");
        add(&mut flows, Segment { flow: flow(), sequence: start, syn: true, payload: &[] });
        assert_eq!(flows[&flow()].bytes(), b"hello world");
    }

    #[test]
    fn plaintext_is_no_tls_record() {
        assert!(tls_application_bytes(b"GET / HTTP/1.1\r\n").is_err());
        assert_eq!(tls_application_bytes(&[22, 3, 1, 0, 2, 9, 9, 23, 3, 3, 0, 3, 1, 2, 3]).unwrap_or(0), 3);
    }
}
