//! Many connections: calls counted by outcome, groups held open, and loops that call until told to stop.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use weft_tests::app::protocol::Identity;
use weft_tests::app::{Calls, Held, Summary};

use crate::conn::{connect, elapsed, reason};
use crate::table::{Table, lock};

/// Counts outcomes as they come.
struct Tally {
    start: Instant,
    inner: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    summary: Summary,
    times: Vec<f32>,
    last_good: Option<Instant>,
}

impl Tally {
    fn new() -> Self {
        Self { start: Instant::now(), inner: Mutex::default() }
    }

    fn count(&self, to: SocketAddr, took: Duration, outcome: Result<(Identity, SocketAddr), String>) {
        let mut counts = lock(&self.inner);
        match outcome {
            Ok((identity, peer)) => {
                let now = Instant::now();
                let since = counts.last_good.replace(now).unwrap_or(self.start);
                let gap = u64::try_from((now - since).as_millis()).unwrap_or(u64::MAX);
                let summary = &mut counts.summary;
                summary.ok += 1;
                summary.longest_gap_ms = summary.longest_gap_ms.max(gap);
                summary.untruthful += u64::from(peer != to);
                summary.seen_as.insert(identity.peer.ip());
                *summary.names.entry(identity.name).or_default() += 1;
                counts.times.push(took.as_secs_f32() * 1000.0);
            }
            Err(reason) => *counts.summary.errors.entry(reason).or_default() += 1,
        }
    }

    fn summary(&self) -> Summary {
        let counts = lock(&self.inner);
        let mut summary = counts.summary.clone();
        let mut times = counts.times.clone();
        times.sort_unstable_by(f32::total_cmp);
        summary.median_ms = times.get(times.len() / 2).copied().unwrap_or_default().into();
        summary.slowest_ms = times.last().map_or(0, |&slowest| slowest as u64);
        summary.took_ms = elapsed(self.start);
        summary
    }
}

/// Makes the calls and waits for all.
pub(crate) async fn call(calls: &Calls) -> Summary {
    let tally = Arc::new(Tally::new());
    let left = Arc::new(AtomicU64::new(calls.count));
    let mut workers = JoinSet::new();
    for _ in 0..calls.concurrency {
        let (calls, tally, left) = (calls.clone(), tally.clone(), left.clone());
        workers.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                one_call(&calls, &tally).await;
            }
        });
    }
    workers.join_all().await;
    tally.summary()
}

async fn one_call(calls: &Calls, tally: &Tally) {
    let start = Instant::now();
    let whole = async {
        let mut stream = connect(calls.to, &calls.options).await.map_err(|e| format!("connect: {}", reason(&e)))?;
        let answer = ask(&mut stream, &calls.line).await?;
        stream.shutdown().await.map_err(|e| format!("finish: {}", reason(&e)))?;
        let rest = stream.read(&mut [0; 16]).await.map_err(|e| format!("end: {}", reason(&e)))?;
        if rest == 0 { Ok(answer) } else { Err("end: bytes after the answer".to_owned()) }
    };
    let outcome =
        timeout(Duration::from_millis(calls.deadline_ms), whole).await.unwrap_or_else(|_| Err("call: TimedOut".into()));
    tally.count(calls.to, start.elapsed(), outcome);
}

/// Sends a line and reads the backend's identity.
async fn ask(stream: &mut TcpStream, line: &str) -> Result<(Identity, SocketAddr), String> {
    let peer = stream.peer_addr().map_err(|e| format!("getpeername: {}", reason(&e)))?;
    stream.set_nodelay(true).map_err(|e| reason(&e))?;
    stream.write_all(format!("{line}\n").as_bytes()).await.map_err(|e| format!("send: {}", reason(&e)))?;
    let mut answer = String::new();
    let read = BufReader::with_capacity(512, stream).read_line(&mut answer).await;
    match read.map_err(|e| format!("answer: {}", reason(&e)))? {
        0 => Err("answer: FIN instead of one".into()),
        _ => {
            serde_json::from_str(&answer).map(|identity| (identity, peer)).map_err(|_| "answer: not an identity".into())
        }
    }
}

/// Opens connections, at most `concurrency` being opened at once, and keeps those that answered.
pub(crate) async fn hold(table: &Table, calls: &Calls) -> Held {
    let tally = Arc::new(Tally::new());
    let left = Arc::new(AtomicU64::new(calls.count));
    let mut workers = JoinSet::new();
    for _ in 0..calls.concurrency {
        let (calls, tally, left) = (calls.clone(), tally.clone(), left.clone());
        workers.spawn(async move {
            let mut kept = Vec::new();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                kept.extend(open_one(&calls, &tally).await);
            }
            kept
        });
    }
    let streams: Vec<_> = workers.join_all().await.into_iter().flatten().collect();
    Held { group: table.add_group(streams), opened: tally.summary() }
}

async fn open_one(calls: &Calls, tally: &Tally) -> Option<TcpStream> {
    let start = Instant::now();
    let whole = async {
        let mut stream = connect(calls.to, &calls.options).await.map_err(|e| format!("connect: {}", reason(&e)))?;
        ask(&mut stream, &calls.line).await.map(|answer| (answer, stream))
    };
    let outcome =
        timeout(Duration::from_millis(calls.deadline_ms), whole).await.unwrap_or_else(|_| Err("open: TimedOut".into()));
    let (outcome, stream) = match outcome {
        Ok((answer, stream)) => (Ok(answer), Some(stream)),
        Err(reason) => (Err(reason), None),
    };
    tally.count(calls.to, start.elapsed(), outcome);
    stream
}

/// Sends a line on every connection of a group; those that fail leave it.
pub(crate) async fn poke(table: &Table, group: u64) -> Result<Summary> {
    let tally = Arc::new(Tally::new());
    let mut pokes = JoinSet::new();
    for mut stream in table.take_group(group)? {
        let tally = tally.clone();
        pokes.spawn(async move {
            let start = Instant::now();
            let to = stream.peer_addr();
            let outcome = timeout(Duration::from_secs(20), ask(&mut stream, "poke"))
                .await
                .unwrap_or_else(|_| Err("poke: TimedOut".into()));
            let good = outcome.is_ok();
            if let Ok(to) = to {
                tally.count(to, start.elapsed(), outcome);
            } else {
                tally.count(([0, 0, 0, 0], 0).into(), start.elapsed(), Err("poke: not connected any more".into()));
            }
            good.then_some(stream)
        });
    }
    let kept = pokes.join_all().await.into_iter().flatten().collect();
    table.put_group_back(group, kept);
    Ok(tally.summary())
}

/// Calls that go on until stopped.
pub(crate) struct Looping {
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl Looping {
    pub(crate) fn report(&self) -> Summary {
        self.tally.summary()
    }
}

/// Starts a loop; yields its number.
pub(crate) fn start_loop(table: &Table, calls: Calls, interval_ms: u64) -> u64 {
    let tally = Arc::new(Tally::new());
    let stop = Arc::new(AtomicBool::new(false));
    let calls = Arc::new(calls);
    let worker = |_| {
        let (calls, tally, stop) = (calls.clone(), tally.clone(), stop.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                one_call(&calls, &tally).await;
                tokio::time::sleep(Duration::from_millis(interval_ms)).await;
            }
        })
    };
    let workers = (0..calls.concurrency).map(worker).collect();
    table.add_loop(Arc::new(Looping { tally, stop, workers: Mutex::new(workers) }))
}

/// Ends a loop once its calls under way are done.
pub(crate) async fn stop_loop(table: &Table, number: u64) -> Result<Summary> {
    let looping = table.looping(number)?;
    looping.stop.store(true, Ordering::Relaxed);
    let workers = std::mem::take(&mut *lock(&looping.workers));
    for worker in workers {
        worker.await?;
    }
    Ok(looping.report())
}
