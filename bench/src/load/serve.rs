//! The server of every measure: does what the first bytes of a connection ask ([`Ask`]).
//!
//! Echoes run on one thread, which is more than any proxy in between can keep busy; senders of bulk get a thread each,
//! since one could not fill the direct path.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::protocol::{Ask, HEADER};
use super::socket::{make_room, reason};

/// Descriptors the server makes room for: ten thousand idle connections and as many that come and go.
const DESCRIPTORS: u64 = 65_536;

/// What a sender of bulk writes at once.
const CHUNK: usize = 128 * 1024;

/// Serves for ever.
///
/// # Errors
/// When the address cannot be bound.
pub fn run(address: SocketAddr) -> io::Result<()> {
    make_room(DESCRIPTORS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        serve(listen(address)?).await;
        Ok(())
    })
}

/// A listener with a queue as long as the kernel allows.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// Serves whatever comes to a listener.
pub async fn serve(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(async move {
                // The client sees and counts what goes wrong.
                let _ = answer(stream).await;
            })),
            Err(error) => {
                eprintln!("accepting: {}", reason(&error));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await?;
    match Ask::decode(header) {
        None => Err(io::ErrorKind::InvalidData.into()),
        Some(Ask::Echo) => echo(stream).await,
        Some(Ask::Once(bytes)) => {
            let mut message = vec![0; bytes as usize];
            stream.read_exact(&mut message).await?;
            stream.write_all(&message).await
        }
        Some(Ask::Source(milliseconds)) => {
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            let until = Instant::now() + Duration::from_millis(milliseconds.into());
            std::thread::Builder::new().name("source".into()).spawn(move || send(stream, until)).map(drop)
        }
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n]).await?,
        }
    }
}

fn send(mut stream: std::net::TcpStream, until: Instant) {
    let chunk = vec![b'.'; CHUNK];
    while Instant::now() < until && stream.write_all(&chunk).is_ok() {}
}
