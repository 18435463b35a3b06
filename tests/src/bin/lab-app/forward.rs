//! Carries TCP connections from one network namespace into another: how the nodes of a lab reach an API server that is not
//! on their network. Bytes are passed as they are; whoever dials speaks TLS with the server itself.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use nix::sched::{CloneFlags, setns};
use tokio::net::{TcpListener, TcpStream};

/// From where to where.
#[derive(Args)]
pub(crate) struct Forward {
    /// Where to listen, in the namespace this is started in.
    #[arg(long)]
    listen: SocketAddr,
    /// File of the network namespace to dial in.
    #[arg(long)]
    from: PathBuf,
    /// What to dial: a host and a port.
    #[arg(long)]
    to: String,
}

impl Forward {
    pub(crate) fn run(self) -> Result<()> {
        // A socket stays in the namespace it was made in; threads that are made from here on are in the other.
        let listener = std::net::TcpListener::bind(self.listen).with_context(|| format!("at {}", self.listen))?;
        listener.set_nonblocking(true)?;
        let from = File::open(&self.from).with_context(|| format!("opening {}", self.from.display()))?;
        setns(from, CloneFlags::CLONE_NEWNET).context("entering the network namespace to dial in")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(carry(listener, self.to))
    }
}

async fn carry(listener: std::net::TcpListener, to: String) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (mut near, _) = listener.accept().await.context("accepting")?;
        let to = to.clone();
        tokio::spawn(async move {
            let mut far = match TcpStream::connect(&to).await {
                Ok(far) => far,
                Err(problem) => return eprintln!("{to} cannot be reached from here: {problem}"),
            };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
    }
}
