//! The journey's end of a `lab-app` process: each method is one command, waits for its answer, and names what failed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::frames::Frames;
use super::http::{Answers, Ask, Http, Reply, Requests};
use super::payload::Payload;
use super::protocol::{
    Answer, Behaviour, Calls, Command, Exchanged, Held, Listen, Opened, Options, Received, Request, Seen, Sent,
    Summary, Until,
};
use crate::lab::Process;

/// No command of a healthy process takes longer.
const PATIENCE: Duration = Duration::from_secs(180);

type Waiting = Arc<Mutex<HashMap<u64, Sender<Result<Value, String>>>>>;

/// A running `lab-app`. Clones drive the same process; it ends with the lab or by [`App::process`].
#[derive(Clone)]
pub struct App {
    process: Process,
    input: Arc<Mutex<(u64, ChildStdin)>>,
    waiting: Waiting,
}

impl App {
    pub(crate) fn new(process: Process, input: ChildStdin, output: ChildStdout) -> Self {
        let waiting = Waiting::default();
        let answers = waiting.clone();
        std::thread::spawn(move || read_answers(output, &answers));
        Self { process, input: Arc::new(Mutex::new((0, input))), waiting }
    }

    /// The process itself.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Opens a listener; yields its number and address.
    ///
    /// # Errors
    /// When it cannot bind.
    pub fn listen(&self, address: SocketAddr, name: &str, behaviour: Behaviour) -> Result<(u64, SocketAddr)> {
        let listen = Listen { address, name: name.into(), behaviour, backlog: 4096 };
        self.ask(Command::Listen(listen))
    }

    /// Closes a listener; its connections live on.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn unlisten(&self, listener: u64) -> Result<()> {
        self.ask(Command::Unlisten { listener })
    }

    /// What a listener has seen so far.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn seen(&self, listener: u64) -> Result<Seen> {
        self.ask(Command::Seen { listener })
    }

    /// Takes the next connection of a `Manual` listener, waiting up to ten seconds for one.
    ///
    /// # Errors
    /// When none comes.
    pub fn accept(&self, listener: u64) -> Result<Opened> {
        self.ask(Command::Accept { listener })
    }

    /// Connects.
    ///
    /// # Errors
    /// The reason, beginning with the name of its `io::ErrorKind` (`ConnectionRefused`, `TimedOut`, …).
    pub fn open(&self, to: SocketAddr) -> Result<Opened> {
        self.open_with(to, Options::default())
    }

    /// Connects with options.
    ///
    /// # Errors
    /// As [`App::open`].
    pub fn open_with(&self, to: SocketAddr, options: Options) -> Result<Opened> {
        self.ask(Command::Open { to, options })
    }

    /// Dissolves an idle connection's association (`AF_UNSPEC`) and connects the same socket elsewhere.
    ///
    /// # Errors
    /// As [`App::open`].
    pub fn reconnect(&self, conn: u64, to: SocketAddr) -> Result<Opened> {
        self.ask(Command::Reconnect { conn, to })
    }

    /// Sends.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn send(&self, conn: u64, payload: Payload) -> Result<Sent> {
        self.ask(Command::Send { conn, payload, chunk: 65_536, urgent: false })
    }

    /// Sends in writes of `chunk` bytes, each its own segment.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn send_chunked(&self, conn: u64, payload: Payload, chunk: usize) -> Result<Sent> {
        self.ask(Command::Send { conn, payload, chunk, urgent: false })
    }

    /// Sends with the last byte urgent (`MSG_OOB`).
    ///
    /// # Errors
    /// When the connection broke.
    pub fn send_urgent(&self, conn: u64, payload: Payload) -> Result<Sent> {
        self.ask(Command::Send { conn, payload, chunk: 65_536, urgent: true })
    }

    /// Sends text.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn say(&self, conn: u64, text: &str) -> Result<Sent> {
        self.send(conn, Payload::Text(text.into()))
    }

    /// Reads; fails when nothing arrives for ten seconds.
    ///
    /// # Errors
    /// When it stalls. A reset is no error but an [`super::End`].
    pub fn receive(&self, conn: u64, until: Until) -> Result<Received> {
        self.ask(Command::Receive { conn, until })
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection broke.
    pub fn write(&self, conn: u64, bytes: &[u8]) -> Result<Sent> {
        self.send(conn, Payload::Bytes { bytes: bytes.to_vec(), times: 1 })
    }

    /// Reads HTTP/2 frames until one of these kinds, the last of `stream`, or the end of the connection; acknowledgements of
    /// settings do not count as settings. Fails when nothing arrives for ten seconds.
    ///
    /// # Errors
    /// When it stalls.
    pub fn frames(&self, conn: u64, kinds: &[u8], stream: u32) -> Result<Frames> {
        self.ask(Command::Frames { conn, kinds: kinds.to_vec(), stream })
    }

    /// Sends the payload and FIN while it reads to the peer's end.
    ///
    /// # Errors
    /// When it stalls.
    pub fn exchange(&self, conn: u64, payload: Payload) -> Result<Exchanged> {
        self.ask(Command::Exchange { conn, payload })
    }

    /// FIN, and goes on reading.
    ///
    /// # Errors
    /// When the connection broke before.
    pub fn finish(&self, conn: u64) -> Result<()> {
        self.ask(Command::Finish { conn })
    }

    /// RST.
    ///
    /// # Errors
    /// When there is no such connection.
    pub fn reset(&self, conn: u64) -> Result<()> {
        self.ask(Command::Reset { conn })
    }

    /// Closes the descriptor.
    ///
    /// # Errors
    /// When there is no such connection.
    pub fn close(&self, conn: u64) -> Result<()> {
        self.ask(Command::Close { conn })
    }

    /// Makes many calls and waits for all.
    ///
    /// # Errors
    /// When the process is gone; failed calls are counted in the summary.
    pub fn call(&self, calls: Calls) -> Result<Summary> {
        self.ask(Command::Call(calls))
    }

    /// One call that must succeed; yields the backend's name.
    ///
    /// # Errors
    /// The reason it failed.
    pub fn call_once(&self, to: SocketAddr) -> Result<String> {
        let summary = self.call(Calls::to(to))?;
        if summary.ok != 1 {
            bail!("a call of {to} failed: {:?}", summary.errors);
        }
        summary.names.into_keys().next().context("the backend gave no name")
    }

    /// Opens `calls.count` connections, sends a line on each, and keeps them.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn hold(&self, calls: Calls) -> Result<Held> {
        self.ask(Command::Hold(calls))
    }

    /// Sends a line on every held connection and waits for the answers.
    ///
    /// # Errors
    /// When there is no such group.
    pub fn poke(&self, group: u64) -> Result<Summary> {
        self.ask(Command::Poke { group })
    }

    /// Closes held connections.
    ///
    /// # Errors
    /// When there is no such group.
    pub fn release(&self, group: u64) -> Result<()> {
        self.ask(Command::Release { group })
    }

    /// Calls for ever, `concurrency` at once, `interval` between two calls of each.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn start_loop(&self, calls: Calls, interval: Duration) -> Result<u64> {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        self.ask(Command::StartLoop { calls, interval_ms })
    }

    /// What came of the loop so far.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn loop_report(&self, looping: u64) -> Result<Summary> {
        self.ask(Command::LoopReport { looping })
    }

    /// Ends the loop after the calls under way; yields what came of it.
    ///
    /// # Errors
    /// When there is none of that number.
    pub fn stop_loop(&self, looping: u64) -> Result<Summary> {
        self.ask(Command::StopLoop { looping })
    }

    /// One HTTP request, in a connection of its own.
    ///
    /// # Errors
    /// When there is no whole response.
    pub fn fetch(&self, to: SocketAddr, http: Http, ask: Ask) -> Result<Reply> {
        self.fetch_within(to, http, ask, 15_000)
    }

    /// The same, given up after so many milliseconds.
    ///
    /// # Errors
    /// As [`App::fetch`].
    pub fn fetch_within(&self, to: SocketAddr, http: Http, ask: Ask, deadline_ms: u64) -> Result<Reply> {
        self.ask(Command::Fetch { to, http, ask, deadline_ms })
    }

    /// The same request so often in a row, in one connection; yields every response.
    ///
    /// # Errors
    /// When one is not whole.
    pub fn row(&self, to: SocketAddr, http: Http, ask: Ask, count: u64) -> Result<Vec<Reply>> {
        self.ask(Command::Row { to, http, ask, count, deadline_ms: 15_000 })
    }

    /// Makes many HTTP requests and waits for all.
    ///
    /// # Errors
    /// When the process is gone; failures are counted.
    pub fn request(&self, requests: Requests) -> Result<Answers> {
        self.ask(Command::Ask(requests))
    }

    /// Asks as told over HTTP/2, and reads of the responses nothing but their heads; yields the number they are kept by.
    ///
    /// # Errors
    /// When one has no response.
    pub fn leave_unread(&self, requests: Requests) -> Result<u64> {
        self.ask(Command::Unread { requests })
    }

    /// Reads what was left unread; yields how many bytes that were.
    ///
    /// # Errors
    /// When one breaks off.
    pub fn read_unread(&self, unread: u64) -> Result<u64> {
        self.ask(Command::Read { unread })
    }

    /// Begins HTTP requests that go on until told to stop; yields their number.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn start_requests(&self, requests: Requests) -> Result<u64> {
        self.ask(Command::StartAsking(Requests { count: 0, ..requests }))
    }

    /// What came of them so far.
    ///
    /// # Errors
    /// When there are none of that number.
    pub fn answers(&self, asking: u64) -> Result<Answers> {
        self.ask(Command::AskedSoFar { asking })
    }

    /// Ends them; yields what came of them.
    ///
    /// # Errors
    /// When there are none of that number.
    pub fn stop_requests(&self, asking: u64) -> Result<Answers> {
        self.ask(Command::StopAsking { asking })
    }

    fn ask<R: DeserializeOwned>(&self, command: Command) -> Result<R> {
        let what = format!("{command:?}");
        let answer = self.send_request(command).with_context(|| format!("telling {} {what}", self.process.name()))?;
        let result = match answer.recv_timeout(PATIENCE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                bail!("{} did not answer {what} within {PATIENCE:?}", self.process.name())
            }
            Err(RecvTimeoutError::Disconnected) => bail!("{} ended before it answered {what}", self.process.name()),
        };
        let value =
            result.map_err(|reason| anyhow!(reason)).with_context(|| format!("{}: {what}", self.process.name()))?;
        serde_json::from_value(value).with_context(|| format!("the answer to {what}"))
    }

    fn send_request(&self, command: Command) -> Result<Receiver<Result<Value, String>>> {
        let (sender, receiver) = channel();
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input.0 += 1;
        let id = input.0;
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        let mut line = serde_json::to_vec(&Request { id, command })?;
        line.push(b'\n');
        input.1.write_all(&line).context("the process is gone")?;
        Ok(receiver)
    }
}

fn read_answers(output: ChildStdout, waiting: &Waiting) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let Ok(answer) = serde_json::from_str::<Answer>(&line) else {
            eprintln!("lab-app said something else than an answer: {line}");
            continue;
        };
        if let Some(sender) = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&answer.id) {
            let _ = sender.send(answer.result);
        }
    }
    // Dropping the senders tells every waiting command that no answer will come.
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}
