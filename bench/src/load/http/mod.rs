//! HTTP requests over kept connections: at a fixed rate, or as fast as answers come; HTTP/1.1, HTTP/2 and gRPC unary calls.
//!
//! What [`super::echo`] is for connections. Each lane carries one request at a time: a connection of HTTP/1, a stream of
//! HTTP/2. At a fixed rate a request that is due goes to the lane that is free first, and counts from when it was due.

mod lane;
mod pacer;
mod serve;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use super::echo::Pace;
use super::pace::Schedule;
use super::watch::Used;
use super::{Outcome, Watch, Window, socket};
use lane::Lane;
use pacer::Queue;
pub use serve::{PAGE, serve, serve_on};

/// How long answers are waited for after the last request.
const GRACE: Duration = Duration::from_secs(2);

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaks {
    /// HTTP/1.1, GET, the answer 1 KiB.
    Http1,
    /// The same over HTTP/2 with prior knowledge.
    Http2,
    /// Unary calls of 64 bytes, answered by 64 bytes and a status in trailers.
    Grpc,
}

impl FromStr for Speaks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "http1" => Ok(Self::Http1),
            "http2" => Ok(Self::Http2),
            "grpc" => Ok(Self::Grpc),
            _ => Err("http1, http2 or grpc".into()),
        }
    }
}

/// Connections of one kind.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Where to connect.
    pub to: SocketAddr,
    /// What is spoken there.
    pub speaks: Speaks,
    /// How many at once.
    pub connections: usize,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Requests {
    /// Over which connections.
    pub at: At,
    /// Requests at once on each, of HTTP/2.
    pub streams: usize,
    /// How requests follow each other.
    pub pace: Pace,
    /// When it counts.
    pub window: Window,
}

/// Runs it.
///
/// # Errors
/// When not all connections can be opened, each with a request answered.
pub fn run(requests: &Requests, watches: &[Watch]) -> io::Result<Outcome> {
    // The kernel groups timers of ordinary processes within 50 us of each other.
    let _ = nix::sys::prctl::set_timerslack(1);
    LocalSet::new().block_on(&runtime()?, load(requests, watches))
}

/// Opens connections, each proven by one request, tells `opened` of them, and holds them until the process is ended.
///
/// # Errors
/// When one of them cannot be opened.
pub fn hold(at: At, opened: impl FnOnce(&Outcome)) -> io::Result<Infallible> {
    socket::make_room(at.connections as u64 + 256)?;
    LocalSet::new().block_on(&runtime()?, async {
        let held = Lane::open(at, 1).await?;
        let mut outcome = Outcome::default();
        outcome.set("open", held.len() as f64);
        opened(&outcome);
        std::future::pending().await
    })
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn load(requests: &Requests, watches: &[Watch]) -> io::Result<Outcome> {
    let lanes = Lane::open(requests.at, requests.streams).await?;
    let begin = Instant::now();
    let from = begin + requests.window.warmup;
    let end = from + requests.window.length;
    let queue = Rc::new(match requests.pace {
        Pace::Open(per_second) => Queue::paced(Schedule::new(begin, end, per_second), lanes.len())?,
        Pace::Closed => Queue::eager(end, lanes.len()),
    });
    queue.counts_from(from);
    let pacer = tokio::task::spawn_local({
        let queue = Rc::clone(&queue);
        async move { queue.pace().await }
    });
    for (number, lane) in lanes.into_iter().enumerate() {
        tokio::task::spawn_local(lane.carry(number, Rc::clone(&queue)));
    }
    tokio::time::sleep_until(from.into()).await;
    let before = Used::read(watches);
    tokio::time::sleep_until(end.into()).await;
    let used: Vec<_> = Used::read(watches).since(&before).collect();
    pacer.await.map_err(io::Error::other)??;
    // An error says no more than that some are unanswered, which the queue counts.
    let _ = tokio::time::timeout_at((end + GRACE).into(), queue.done()).await;
    let mut outcome = queue.finish(requests.window.length);
    outcome.values.extend(used);
    Ok(outcome)
}
