//! Brings TLS up over a fresh TCP connection, from either end.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;

use super::session::Tls;
use crate::tunnel::buffer::Buffer;

/// The size of a read in a handshake, in bytes: a flight with two certificates.
const READ: usize = 8 * 1024;

/// A connection both ends have proved themselves on.
pub(in crate::tunnel) struct Established {
    pub(in crate::tunnel) tcp: TcpStream,
    pub(in crate::tunnel) tls: Tls,
    /// What came behind the handshake.
    pub(in crate::tunnel) opened: Vec<u8>,
}

/// As client, offering `alpn`.
///
/// # Errors
/// With the TLS error inside, if it is one.
pub(in crate::tunnel) async fn connect(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    alpn: Vec<Vec<u8>>,
) -> io::Result<Established> {
    shake(tcp, Tls::client(config, name, alpn).map_err(io::Error::other)?).await
}

/// As server.
///
/// # Errors
/// With the TLS error inside, if it is one.
pub(in crate::tunnel) async fn accept(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Established> {
    shake(tcp, Tls::server(config).map_err(io::Error::other)?).await
}

async fn shake(tcp: TcpStream, mut tls: Tls) -> io::Result<Established> {
    let (mut out, mut opened, mut said) = (Buffer::default(), Vec::new(), false);
    loop {
        let received = tls.receive(&mut out, |record| opened.extend_from_slice(record));
        let flushed = flush(&tcp, &mut out).await;
        // The error says more than that its alert could not be sent.
        received.map_err(invalid)?;
        flushed?;
        if !tls.is_handshaking() {
            return Ok(Established { tcp, tls, opened });
        }
        tcp.readable().await?;
        match tcp.try_read(tls.incoming().room(READ)) {
            Ok(0) if !said => return Err(silent()),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(size) => {
                said = true;
                tls.incoming().filled(size);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !said => return Err(silent()),
            Err(error) => return Err(error),
        }
    }
}

/// The peer hung up and had not said a word.
fn silent() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

async fn flush(tcp: &TcpStream, out: &mut Buffer) -> io::Result<()> {
    while !out.is_empty() {
        tcp.writable().await?;
        match tcp.try_write(out.bytes()) {
            Ok(size) => out.consume(size),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    out.rest();
    Ok(())
}

pub(super) fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
