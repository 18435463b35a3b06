//! The plain relay as a process: `weft-relay --listen ADDRESS --upstream ADDRESS`.

use std::net::SocketAddr;

use clap::Parser;

/// Relays TCP connections and does nothing else.
#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where to connect
    #[arg(long)]
    upstream: SocketAddr,
    /// Threads, each with a runtime and a listener of its own
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

fn main() -> anyhow::Result<()> {
    let Arguments { listen, upstream, workers } = Arguments::parse();
    Ok(weft_bench::relay::run(listen, upstream, workers)?)
}
