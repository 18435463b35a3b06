//! What runs in pods: servers that say who they are, a client that dials a Service on and on and notes when somebody else begins
//! to answer, and one that dials until the kernel captures what it dials.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};

/// Time a connection gets.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two connections: what the time of a change is known to.
const PAUSE: Duration = Duration::from_millis(1);

/// Nanoseconds of the clock all processes of the machine share.
///
/// # Errors
/// Never on Linux.
pub fn monotonic() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}

/// Tells every client `name` and closes.
///
/// # Errors
/// When it cannot listen.
pub fn serve(listen: SocketAddr, name: &str) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listening on {listen}"))?;
    for stream in listener.incoming() {
        // A client that has gone already is no failure.
        let _ = stream.and_then(|mut stream| stream.write_all(name.as_bytes()));
    }
    Ok(())
}

/// Dials `to` until it is ended, and prints `TIME WHO` when another answers than before: the time at which the connection
/// began, and `!` with a reason for one that failed.
///
/// # Errors
/// When it cannot print.
pub fn watch(to: SocketAddr) -> Result<()> {
    let mut last = String::new();
    loop {
        let began = monotonic()?;
        let who = ask(to).unwrap_or_else(|error| format!("! {error}"));
        if who != last {
            println!("{began} {who}");
            last = who;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Dials `to` until the kernel has marked a connection, which captures it, and prints when that one began.
///
/// # Errors
/// When a socket cannot be made or read.
pub fn dial(to: SocketAddr) -> Result<()> {
    println!("dials");
    loop {
        let began = monotonic()?;
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        // Whatever becomes of it: the mark is set, or not, before the first packet is sent.
        let _ = socket.connect_timeout(&to.into(), PATIENCE);
        if socket.mark()? != 0 {
            println!("{began} marked");
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

fn ask(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut who = String::new();
    stream.read_to_string(&mut who)?;
    if who.is_empty() { Err(std::io::Error::other("nobody answered")) } else { Ok(who) }
}

/// What a watching client printed.
#[must_use]
pub fn answers(log: &str) -> Vec<(u64, &str)> {
    let lines = log.lines().filter_map(|line| line.split_once(' '));
    lines.filter_map(|(time, who)| Some((time.parse().ok()?, who))).collect()
}
