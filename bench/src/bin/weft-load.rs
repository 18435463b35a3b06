//! The load as a process: one server or one client of [`weft_bench::load`]; a client prints its outcome as a line of JSON.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use weft_bench::load::echo::{Echo, Pace};
use weft_bench::load::http::{At, Requests, Speaks};
use weft_bench::load::{Outcome, Watch, Window, bulk, connect, echo, hook, http, idle, mixed, rtt, serve};

/// Puts a load on a subject, or serves one.
#[derive(Parser)]
enum Arguments {
    /// Serve every measure
    Serve {
        #[arg(long)]
        listen: SocketAddr,
        /// Where to serve HTTP
        #[arg(long)]
        http: Option<SocketAddr>,
    },
    /// Ping-pong on one connection
    Rtt {
        #[command(flatten)]
        common: Common,
        /// Bytes of a message
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
    /// Echoes over several connections
    Echo {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 64)]
        size: usize,
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Requests a second over all connections; without it each follows the last answer
        #[arg(long)]
        rate: Option<u64>,
    },
    /// Requests of HTTP
    Http {
        #[command(flatten)]
        common: Common,
        /// http1, http2 or grpc
        #[arg(long)]
        speaks: Speaks,
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Requests at once on each connection of HTTP/2
        #[arg(long, default_value_t = 1)]
        streams: usize,
        /// Requests a second over all connections; without it each follows the last answer
        #[arg(long)]
        rate: Option<u64>,
    },
    /// New connections
    Connect {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 1)]
        concurrency: usize,
    },
    /// Bulk from the server
    Bulk {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 1)]
        flows: usize,
    },
    /// Echoes beside bulk
    Mixed {
        #[command(flatten)]
        common: Common,
        #[arg(long, default_value_t = 4)]
        flows: usize,
        #[arg(long, default_value_t = 200)]
        rate: u64,
    },
    /// Idle connections, held until the process is ended
    Idle {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        count: usize,
        /// http1, http2 or grpc; without it bytes
        #[arg(long)]
        speaks: Option<Speaks>,
    },
    /// The cost of `connect()` in two cgroups in turn
    Hook {
        /// A closed port
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        without: PathBuf,
        #[arg(long)]
        with: PathBuf,
        #[arg(long, default_value_t = 100)]
        bursts: usize,
    },
}

/// What clients of a window have in common.
#[derive(Args)]
struct Common {
    #[arg(long)]
    to: SocketAddr,
    /// Length of the window, in milliseconds
    #[arg(long, default_value_t = 1000)]
    window: u64,
    /// NAME=CGROUP whose CPU time to report
    #[arg(long)]
    watch: Vec<Watch>,
}

impl Common {
    fn window(&self) -> Window {
        Window::of(Duration::from_millis(self.window))
    }
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse() {
        Arguments::Serve { listen, http } => {
            if let Some(at) = http {
                std::thread::Builder::new().name("http".into()).spawn(move || http::serve_on(at))?;
            }
            Ok(serve::run(listen)?)
        }
        Arguments::Idle { to, count: connections, speaks: Some(speaks) } => {
            match http::hold(At { to, speaks, connections }, say)? {}
        }
        Arguments::Idle { to, count, speaks: None } => {
            let (held, outcome) = idle::open(to, count)?;
            say(&outcome);
            loop {
                std::thread::park();
                assert!(!held.is_empty(), "nothing to hold");
            }
        }
        window => {
            say(&measure(window)?);
            Ok(())
        }
    }
}

fn measure(arguments: Arguments) -> std::io::Result<Outcome> {
    match arguments {
        Arguments::Rtt { common, size } => rtt::run(common.to, size, common.window(), &common.watch),
        Arguments::Echo { common, size, connections, rate } => {
            let pace = rate.map_or(Pace::Closed, Pace::Open);
            let echo = Echo { to: common.to, connections, size, pace, window: common.window() };
            echo::run(&echo, &common.watch)
        }
        Arguments::Http { common, speaks, connections, streams, rate } => {
            let pace = rate.map_or(Pace::Closed, Pace::Open);
            let at = At { to: common.to, speaks, connections };
            let requests = Requests { at, streams, pace, window: common.window() };
            http::run(&requests, &common.watch)
        }
        Arguments::Connect { common, concurrency } => {
            connect::run(common.to, concurrency, common.window(), &common.watch)
        }
        Arguments::Bulk { common, flows } => bulk::run(common.to, flows, common.window(), &common.watch),
        Arguments::Mixed { common, flows, rate } => mixed::run(common.to, flows, rate, common.window(), &common.watch),
        Arguments::Hook { to, without, with, bursts } => hook::run(to, [&without, &with], bursts),
        Arguments::Serve { .. } | Arguments::Idle { .. } => Err(std::io::Error::other("runs for ever")),
    }
}

/// An outcome is told by a line.
fn say(outcome: &Outcome) {
    println!("{}", serde_json::to_string(outcome).expect("names and numbers"));
}
