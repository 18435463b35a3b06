//! Echoes over many connections, from one thread: at a fixed rate, or as fast as answers come.
//!
//! At a fixed rate ([`Pace::Open`]) a request has a time it is due, and its latency counts from then: one that waits
//! for its connection's last answer waits on the record, and those unanswered at the end count with the time they have
//! waited. As fast as answers come ([`Pace::Closed`]) there is no such time; use it for rates, not for tails.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::outcome::{latencies, note};
use super::pace::Schedule;
use super::protocol::Ask;
use super::watch::Used;
use super::{Outcome, Watch, Window, socket};

/// How long answers are waited for after the last request.
const GRACE: Duration = Duration::from_secs(2);

/// How requests follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// This many a second over all connections, due at even times.
    Open(u64),
    /// On each connection the next when the last is answered.
    Closed,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Echo {
    /// Where to connect.
    pub to: SocketAddr,
    /// Connections at once.
    pub connections: usize,
    /// Bytes of a request and of its answer.
    pub size: usize,
    /// How requests follow each other.
    pub pace: Pace,
    /// When it counts.
    pub window: Window,
}

/// A connection, and the request it has under way.
struct Lane {
    stream: TcpStream,
    /// When the request under way was meant to start.
    pending: Option<Instant>,
    /// Bytes of its answer so far.
    got: usize,
    /// Requests due since, waiting for the connection.
    waiting: VecDeque<Instant>,
    broken: bool,
}

/// Runs it.
///
/// # Errors
/// When not all connections can be opened.
pub fn run(echo: &Echo, watches: &[Watch]) -> io::Result<Outcome> {
    let mut run = Run::prepare(echo)?;
    let begin = Instant::now();
    let (from, end) = (begin + echo.window.warmup, begin + echo.window.warmup + echo.window.length);
    run.counts_from = from;
    let mut schedule = match echo.pace {
        Pace::Open(per_second) => Some(Schedule::new(begin, end, per_second)),
        Pace::Closed => None,
    };
    if schedule.is_none() {
        (0..run.lanes.len()).for_each(|lane| run.request(lane, begin, end));
    }
    let mut used = None;
    let mut after = None;
    loop {
        let now = Instant::now();
        if now >= from && used.is_none() {
            used = Some(Used::read(watches));
        }
        if now >= end && after.is_none() {
            after = Some(Used::read(watches));
        }
        while let Some((number, due)) = schedule.as_mut().and_then(|schedule| schedule.take(now)) {
            let lane = usize::try_from(number).unwrap_or_default() % run.lanes.len();
            run.lanes[lane].waiting.push_back(due);
            run.next(lane);
        }
        let done = now >= end && run.lanes.iter().all(|lane| lane.pending.is_none() && lane.waiting.is_empty());
        if done || now >= end + GRACE {
            break;
        }
        let wake = schedule.as_ref().and_then(Schedule::due).unwrap_or(if now < end { end } else { end + GRACE });
        let wake = if now < from { wake.min(from) } else { wake };
        run.wait(wake, (schedule.is_none()).then_some(end))?;
    }
    run.give_up(Instant::now());
    let mut outcome = run.outcome;
    outcome.operations(&run.latencies, echo.window.length.as_secs_f64());
    if let (Some(before), Some(after)) = (used, after) {
        outcome.values.extend(after.since(&before));
    }
    Ok(outcome)
}

struct Run {
    lanes: Vec<Lane>,
    epoll: Epoll,
    timer: TimerFd,
    message: Vec<u8>,
    scratch: Vec<u8>,
    counts_from: Instant,
    latencies: Histogram<u64>,
    outcome: Outcome,
}

/// The timer's place among the epoll's data; lanes are counted from 0.
const TIMER: u64 = u64::MAX;

impl Run {
    /// Opens all connections and has one request answered on each.
    fn prepare(echo: &Echo) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // The kernel groups timers of ordinary processes within 50 us of each other.
        let _ = nix::sys::prctl::set_timerslack(1);
        epoll.add(timer.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        let message = vec![b'.'; echo.size];
        let mut scratch = vec![0; echo.size.max(1)];
        let mut lanes = Vec::with_capacity(echo.connections);
        for number in 0..echo.connections.max(1) {
            let mut stream = socket::open(echo.to, Ask::Echo)?;
            stream.write_all(&message)?;
            stream.read_exact(&mut scratch[..message.len()])?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
            lanes.push(Lane { stream, pending: None, got: 0, waiting: VecDeque::new(), broken: false });
        }
        let (latencies, outcome) = (latencies(), Outcome::default());
        Ok(Self { lanes, epoll, timer, message, scratch, counts_from: Instant::now(), latencies, outcome })
    }

    /// Sends a request now unless the time is over.
    fn request(&mut self, lane: usize, now: Instant, end: Instant) {
        if now < end {
            self.lanes[lane].waiting.push_back(now);
            self.next(lane);
        }
    }

    /// Sends the next waiting request if the connection is free.
    fn next(&mut self, number: usize) {
        let lane = &mut self.lanes[number];
        if lane.broken {
            for _ in lane.waiting.drain(..) {
                self.outcome.fail("the connection had broken");
            }
            return;
        }
        if lane.pending.is_some() {
            return;
        }
        let Some(due) = lane.waiting.pop_front() else { return };
        lane.pending = Some(due);
        lane.got = 0;
        // One request at a time is far less than any socket's buffer: a short write is a failure, not a case.
        match lane.stream.write(&self.message) {
            Ok(n) if n == self.message.len() => {}
            Ok(_) => self.broke(number, "a short write"),
            Err(error) => self.broke(number, &socket::reason(&error)),
        }
    }

    fn broke(&mut self, number: usize, reason: &str) {
        let lane = &mut self.lanes[number];
        lane.broken = true;
        if lane.pending.take().is_some() {
            self.outcome.fail(reason);
        }
        let _ = self.epoll.delete(&lane.stream);
        self.next(number);
    }

    /// Waits until `wake` or for answers, and takes these. With `closed`, each answer is followed by a request until then.
    fn wait(&mut self, wake: Instant, closed: Option<Instant>) -> io::Result<()> {
        let left = wake.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        self.timer.set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty())?;
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            if event.data() != TIMER {
                self.answer(usize::try_from(event.data()).unwrap_or_default(), closed);
            }
        }
        Ok(())
    }

    fn answer(&mut self, number: usize, closed: Option<Instant>) {
        let lane = &mut self.lanes[number];
        match lane.stream.read(&mut self.scratch) {
            Ok(0) => self.broke(number, "the server ended the connection"),
            Ok(n) => {
                lane.got += n;
                if lane.got < self.message.len() {
                    return;
                }
                let now = Instant::now();
                if let Some(due) = lane.pending.take()
                    && due >= self.counts_from
                {
                    note(&mut self.latencies, now - due);
                }
                match closed {
                    Some(end) => self.request(number, now, end),
                    None => self.next(number),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.broke(number, &socket::reason(&error)),
        }
    }

    /// Counts what was never answered, with the time it has waited.
    fn give_up(&mut self, now: Instant) {
        for lane in &mut self.lanes {
            for due in lane.pending.take().into_iter().chain(lane.waiting.drain(..)) {
                note(&mut self.latencies, now - due);
                self.outcome.fail("unanswered at the end");
            }
        }
    }
}
