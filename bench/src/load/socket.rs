//! Sockets as the load wants them, and room for many.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::protocol::Ask;

/// Longer than any healthy subject takes for anything; what lasts longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Connects and says what the connection is for. Reads and writes that stall fail after [`PATIENCE`].
///
/// # Errors
/// As the socket's.
pub fn open(to: SocketAddr, ask: Ask) -> io::Result<TcpStream> {
    let mut stream = connect(to)?;
    stream.write_all(&ask.encode())?;
    Ok(stream)
}

/// Connects. Reads and writes that stall fail after [`PATIENCE`].
///
/// # Errors
/// As the socket's.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Makes room for at least this many descriptors, or for as many as the machine lets this process have; yields how many.
///
/// # Errors
/// When the kernel refuses even that.
pub fn make_room(descriptors: u64) -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= descriptors {
        return Ok(soft);
    }
    if setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors.max(hard)).is_ok() {
        return Ok(descriptors);
    }
    let room = hard.min(descriptors);
    setrlimit(Resource::RLIMIT_NOFILE, room, hard)?;
    Ok(room)
}

/// An error as a reason to count failures by: its kind, or what the system calls it.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |code| nix::Error::from_raw(code).to_string())
}
