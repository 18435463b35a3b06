//! The threads of the data path: one per core, each with a runtime of its own.
//!
//! A connection lives on one of them from its accept to its end, and so does the tunnel it travels in: nobody waits for
//! another thread's lock, nobody is woken on another core, and what many connections have to say is written at once. On
//! two cores that is 20 against 40 us of CPU an operation at 32 connections, and 1.06 against 1.38 CPU-seconds a gigabyte.
//!
//! A pod's listeners live on a worker too, its home. Connections stay where they were accepted unless others have much
//! less to do: the way to another thread costs more than a short connection does. What is not a connection runs elsewhere.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::drain::Drain;
use crate::sys::netns;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// Which worker this thread is, from 1; 0 on every other thread.
#[must_use]
pub fn number() -> usize {
    NUMBER.get()
}

/// How many connections more than the idlest worker one may have and still keep what it accepts: a burst of short
/// connections stays together, a pool of long ones is spread.
const SLACK: usize = 4;

/// The workers of this process. They end with the last clone.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    next: AtomicUsize,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    /// Connections and tunnels it carries.
    carries: Arc<AtomicUsize>,
}

/// A connection's place on a worker, given back when dropped.
#[derive(Debug)]
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is being placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// One connection.
    Connection,
    /// A tunnel, and with it all connections it will carry.
    Tunnel,
}

impl Workers {
    /// Starts `count` of them, at least one.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(count: usize) -> io::Result<Arc<Self>> {
        let stop = CancellationToken::new();
        let started = (1..=count.max(1))
            .map(|number| start(number, stop.clone()).map(|handle| Worker { handle, carries: Arc::default() }));
        Ok(Arc::new(Self { workers: started.collect::<io::Result<_>>()?, next: AtomicUsize::new(0), stop }))
    }

    /// How many there are; their numbers go from 1 to this.
    #[must_use]
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// Where the next listener is to live: they take turns.
    #[must_use]
    pub fn home(&self) -> &Handle {
        &self.workers[self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len()].handle
    }

    /// Runs `begin` with a connection that was accepted on this thread, here or on a worker with less to do, and then what it
    /// answers, as one of `drain`'s tasks. Making a connection takes kilobytes of state and carrying it a few hundred bytes: so
    /// what makes it is in a box of its own that goes when it is made, and an idle connection is the task without it.
    pub fn carry<B, F, R>(&self, drain: &Drain, tcp: TcpStream, load: Load, begin: B)
    where
        B: FnOnce(TcpStream) -> F + Send + 'static,
        F: Future<Output = Option<R>> + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let number = self.place(load);
        let worker = &self.workers[number - 1];
        worker.carries.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(&worker.carries));
        if number == self::number() {
            return drain.spawn(both(Box::pin(begin(tcp)), seat));
        }
        // It is told to the worker's own poll, and forgotten by this one's.
        let Ok(tcp) = tcp.into_std() else { return };
        let begun = Box::pin(async move {
            match TcpStream::from_std(tcp) {
                Ok(tcp) => begin(tcp).await,
                Err(_) => None,
            }
        });
        drain.spawn_on(&worker.handle, both(begun, seat));
    }

    /// The number of the worker that gets the next connection.
    fn place(&self, load: Load) -> usize {
        let carries = |worker: &Worker| worker.carries.load(Ordering::Relaxed);
        let idlest = self.workers.iter().enumerate().min_by_key(|(_, worker)| carries(worker));
        let (idlest, least) = idlest.map_or((1, 0), |(index, worker)| (index + 1, carries(worker)));
        let slack = if load == Load::Tunnel { 0 } else { SLACK };
        match number().checked_sub(1).and_then(|here| self.workers.get(here)) {
            Some(here) if carries(here) <= least + slack => number(),
            _ => idlest,
        }
    }
}

/// Both parts of a connection, one after the other.
async fn both<R: Future<Output = ()>>(begun: Pin<Box<impl Future<Output = Option<R>>>>, _seat: Seat) {
    let rest = begun.await;
    if let Some(rest) = rest {
        rest.await;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn start(number: usize, stop: CancellationToken) -> io::Result<Handle> {
    let (tell, told) = mpsc::sync_channel(1);
    let work = move || {
        NUMBER.set(number);
        let runtime = match netns::settle().and_then(|()| Builder::new_current_thread().enable_all().build()) {
            Ok(runtime) => runtime,
            Err(error) => return drop(tell.send(Err(error))),
        };
        let _ = tell.send(Ok(runtime.handle().clone()));
        runtime.block_on(stop.cancelled());
    };
    thread::Builder::new().name(format!("worker-{number}")).spawn(work)?;
    told.recv().map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listeners_take_turns_and_workers_end_with_their_owner() {
        let workers = Workers::start(2).unwrap();
        let mut turns = Vec::new();
        for _ in 0..4 {
            turns.push(workers.home().spawn(async { number() }).await.unwrap());
        }
        assert_eq!(turns, [1, 2, 1, 2]);
        assert_eq!(number(), 0);
        let forever = workers.home().spawn(std::future::pending::<()>());
        drop(workers);
        assert!(forever.await.unwrap_err().is_cancelled());
    }

    /// Accepts `count` connections on worker 1; answers which worker carries each. They stay open until `done`.
    async fn spread(workers: &Arc<Workers>, count: usize, load: Load, done: &CancellationToken) -> Vec<usize> {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let (inner, done) = (Arc::clone(workers), done.clone());
        let accepting = async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            for _ in 0..count {
                let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let (tcp, _) = listener.accept().await.unwrap();
                let (tell, done) = (tell.clone(), done.clone());
                inner.carry(&Drain::new(), tcp, load, async move |tcp| {
                    // Readable once the client is gone: it is told to this worker's poll.
                    drop(client);
                    tcp.readable().await.unwrap();
                    tell.send(number()).unwrap();
                    Some(async move { done.cancelled().await })
                });
            }
        };
        workers.workers[0].handle.spawn(accepting).await.unwrap();
        let mut at = Vec::new();
        for _ in 0..count {
            at.push(told.recv().await.unwrap());
        }
        at.sort_unstable();
        at
    }

    #[tokio::test]
    async fn connections_stay_until_others_have_much_less_to_do() {
        let workers = Workers::start(2).unwrap();
        let done = CancellationToken::new();
        assert_eq!(spread(&workers, 5, Load::Connection, &done).await, [1, 1, 1, 1, 1]);
        assert_eq!(spread(&workers, 4, Load::Connection, &done).await, [1, 1, 2, 2]);
        done.cancel();
        while workers.workers.iter().any(|worker| worker.carries.load(Ordering::Relaxed) > 0) {
            tokio::task::yield_now().await;
        }
        let done = CancellationToken::new();
        assert_eq!(spread(&workers, 4, Load::Tunnel, &done).await, [1, 1, 2, 2]);
        done.cancel();
    }
}
