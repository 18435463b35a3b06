//! The words between a journey and `lab-app`: one command a line in, one answer a line out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::http::{Ask, Http, Requests};
use super::payload::{Payload, Sum};

/// A numbered command.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the answer; several commands may be under way.
    pub id: u64,
    /// What to do.
    pub command: Command,
}

/// The answer to the command of the same number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The command's number.
    pub id: u64,
    /// What came of it, or the reason nothing did.
    pub result: Result<Value, String>,
}

/// What `lab-app` can be told.
#[derive(Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is documented at the method of `App` that sends it")]
pub enum Command {
    Listen(Listen),
    Unlisten { listener: u64 },
    Seen { listener: u64 },
    Accept { listener: u64 },
    Open { to: SocketAddr, options: Options },
    Send { conn: u64, payload: Payload, chunk: usize, urgent: bool },
    Receive { conn: u64, until: Until },
    Frames { conn: u64, kinds: Vec<u8>, stream: u32 },
    Exchange { conn: u64, payload: Payload },
    Finish { conn: u64 },
    Reset { conn: u64 },
    Close { conn: u64 },
    Reconnect { conn: u64, to: SocketAddr },
    Call(Calls),
    Hold(Calls),
    Poke { group: u64 },
    Release { group: u64 },
    StartLoop { calls: Calls, interval_ms: u64 },
    LoopReport { looping: u64 },
    StopLoop { looping: u64 },
    Fetch { to: SocketAddr, http: Http, ask: Ask, deadline_ms: u64 },
    Row { to: SocketAddr, http: Http, ask: Ask, count: u64, deadline_ms: u64 },
    Ask(Requests),
    Unread { requests: Requests },
    Read { unread: u64 },
    StartAsking(Requests),
    AskedSoFar { asking: u64 },
    StopAsking { asking: u64 },
}

/// A listener to open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listen {
    /// Where; port 0 picks one.
    pub address: SocketAddr,
    /// The name it gives itself in answers.
    pub name: String,
    /// What it does with connections.
    pub behaviour: Behaviour,
    /// Length of the accept queue.
    pub backlog: u32,
}

/// What a listener does with each connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behaviour {
    /// Answers each line with one JSON line: its name and both addresses of the connection. FIN is answered by FIN.
    Identify,
    /// As `Identify`, but thinks for so long first.
    Slow {
        /// Milliseconds.
        delay_ms: u64,
    },
    /// Sends every byte back; FIN is answered by FIN once all is sent.
    Echo,
    /// Speaks first: its name and a newline. Then as `Echo`.
    Greet,
    /// Reads to the end, then answers `<bytes> <sum>` and finishes.
    Digest,
    /// Sends the payload and finishes, while it reads all the peer sends.
    Source(Payload),
    /// An HTTP server: each request is answered with what it looked like.
    Http,
    /// Accepts and never reads.
    Stall,
    /// Reads a byte and resets the connection.
    Rst,
    /// Leaves connections to the journey, which takes them by `accept`.
    Manual,
    /// Does not even accept: connections stay in the kernel's queue.
    Deaf,
}

/// Options of a connection to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Local address to bind first.
    pub bind: Option<SocketAddr>,
    /// `SO_REUSEADDR`, for binding a port that is in use elsewhere.
    pub reuse_address: bool,
    /// Ask for MPTCP.
    pub mptcp: bool,
    /// `TCP_FASTOPEN_CONNECT`: the first write carries the SYN.
    pub fast_open: bool,
    /// `SO_BINDTODEVICE`.
    pub device: Option<String>,
    /// `SO_RCVBUF`, to make a slow reader stall early.
    pub receive_buffer: Option<usize>,
    /// Time the connect may take.
    pub deadline_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind: None,
            reuse_address: false,
            mptcp: false,
            fast_open: false,
            device: None,
            receive_buffer: None,
            deadline_ms: 10_000,
        }
    }
}

/// When a read is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// After a newline.
    Line,
    /// After an empty line, as ends the head of an HTTP message.
    Head,
    /// After this many bytes.
    Bytes(u64),
    /// When the peer finishes or resets.
    End,
}

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// FIN.
    Fin,
    /// RST, or the local end was aborted.
    Reset,
}

/// An open connection, as `getsockname` and `getpeername` tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Its number in later commands.
    pub conn: u64,
    /// The local address.
    pub local: SocketAddr,
    /// The peer's address.
    pub peer: SocketAddr,
    /// Milliseconds the connect took.
    pub took_ms: u64,
}

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Sum of the bytes handed to the kernel.
    pub sum: Sum,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The first 64 KiB, bytes that are not UTF-8 replaced.
    pub text: String,
    /// Sum of all bytes.
    pub sum: Sum,
    /// How the direction ended, if it did.
    pub end: Option<End>,
}

/// What came of sending and reading at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchanged {
    /// What was sent.
    pub sent: Sum,
    /// What was read.
    pub received: Sum,
    /// How the peer's direction ended.
    pub end: End,
}

/// Many calls: connect, one line there, one line back, FIN both ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Whom to call.
    pub to: SocketAddr,
    /// How often.
    pub count: u64,
    /// How many at once.
    pub concurrency: usize,
    /// The line sent, without its newline.
    pub line: String,
    /// Time for one call, connect to FIN.
    pub deadline_ms: u64,
    /// Options of every connection.
    pub options: Options,
}

impl Calls {
    /// One call of `to`.
    #[must_use]
    pub fn to(to: SocketAddr) -> Self {
        Self { to, count: 1, concurrency: 1, line: "hello".into(), deadline_ms: 10_000, options: Options::default() }
    }

    /// `count` calls, `concurrency` at once.
    #[must_use]
    pub fn times(self, count: u64, concurrency: usize) -> Self {
        Self { count, concurrency, ..self }
    }

    /// With this line.
    #[must_use]
    pub fn line(self, line: impl Into<String>) -> Self {
        Self { line: line.into(), ..self }
    }

    /// With this long for each call.
    #[must_use]
    pub fn deadline_ms(self, deadline_ms: u64) -> Self {
        Self { deadline_ms, ..self }
    }
}

/// What came of many calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Calls that went well to the last FIN.
    pub ok: u64,
    /// The others, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Calls answered, by the name the backend gave.
    pub names: BTreeMap<String, u64>,
    /// Calls whose `getpeername` was not the address dialled.
    pub untruthful: u64,
    /// Source addresses the backends reported.
    pub seen_as: BTreeSet<IpAddr>,
    /// Milliseconds of the slowest good call.
    pub slowest_ms: u64,
    /// Milliseconds of the median good call.
    pub median_ms: f64,
    /// The longest time between two good calls, in milliseconds.
    pub longest_gap_ms: u64,
    /// Milliseconds it all took.
    pub took_ms: u64,
}

impl Summary {
    /// Number of failed calls.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// Connections held open, and what came of opening them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The group's number in later commands.
    pub group: u64,
    /// What came of opening them and sending a first line.
    pub opened: Summary,
}

/// What a listener has seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Requests an `Http` listener has answered, or was working on.
    #[serde(default)]
    pub requests: u64,
    /// Bytes of their bodies.
    #[serde(default)]
    pub body_bytes: u64,
    /// Requests an `Http` listener was working on when the client gave them up.
    #[serde(default)]
    pub cancelled: u64,
    /// Addresses that connected.
    pub peers: BTreeSet<IpAddr>,
    /// The last connections that ended, at most 1,000.
    pub records: Vec<Record>,
}

/// A connection that ended, as the listening process saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Peer address.
    pub peer: SocketAddr,
    /// Local address.
    pub local: SocketAddr,
    /// Bytes read.
    pub received: Sum,
    /// How the peer ended it.
    pub end: End,
}

/// The line an `Identify` listener answers with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The listener's name.
    pub name: String,
    /// The peer it sees.
    pub peer: SocketAddr,
    /// The address it was reached at.
    pub local: SocketAddr,
}
