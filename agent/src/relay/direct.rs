//! TCP to TCP: pass-through of unmeshed destinations, and delivery of plaintext.

use std::pin::pin;

use tokio::net::TcpStream;

use super::socket::{Pace, broken, finish, reset, write_some};
use super::{End, Flow, Outcome, Side};

/// Which of a pump's two sockets failed.
enum Failed {
    From,
    To,
}

/// Relays until both sides have finished, one is reset, or it is killed.
pub async fn tcp_to_tcp(near: TcpStream, far: TcpStream, flow: &Flow) -> Outcome {
    let end = join(&near, &far, flow).await;
    if end != End::Fin {
        reset(near);
        reset(far);
    }
    Outcome::new(&flow.traffic, end)
}

async fn join(near: &TcpStream, far: &TcpStream, flow: &Flow) -> End {
    let traffic = &flow.traffic;
    let mut there = pin!(pump(near, far, |bytes| traffic.count_sent(bytes)));
    let mut back = pin!(pump(far, near, |bytes| traffic.count_received(bytes)));
    let (mut sent, mut received) = (false, false);
    while !(sent && received) {
        tokio::select! {
            () = flow.kill.ended() => return End::Killed,
            end = &mut there, if !sent => match end {
                Ok(()) => sent = true,
                Err(Failed::From) => return End::Reset(Side::Near),
                Err(Failed::To) => return End::Reset(Side::Far),
            },
            end = &mut back, if !received => match end {
                Ok(()) => received = true,
                Err(Failed::From) => return End::Reset(Side::Far),
                Err(Failed::To) => return End::Reset(Side::Near),
            },
            // Nobody reads from a side that has finished, so nobody else would see its reset.
            () = broken(near), if sent => return End::Reset(Side::Near),
            () = broken(far), if received => return End::Reset(Side::Far),
        }
    }
    End::Fin
}

async fn pump(from: &TcpStream, to: &TcpStream, count: impl Fn(usize)) -> Result<(), Failed> {
    let mut pace = Pace::new();
    loop {
        from.readable().await.map_err(|_| Failed::From)?;
        // Lives while there is something to read, no longer.
        let mut buffer = pace.buffer(usize::MAX);
        loop {
            buffer.clear();
            match from.try_read_buf(&mut buffer) {
                Ok(0) => {
                    finish(to);
                    return Ok(());
                }
                Ok(filled) => {
                    write_all(from, to, &buffer).await?;
                    count(filled);
                    pace.step(filled).await;
                    if buffer.capacity() < pace.size() {
                        buffer = pace.buffer(usize::MAX);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(Failed::From),
            }
        }
    }
}

async fn write_all(from: &TcpStream, to: &TcpStream, mut data: &[u8]) -> Result<(), Failed> {
    loop {
        let written = write_some(to, data).map_err(|_| Failed::To)?;
        data = &data[written..];
        if data.is_empty() {
            return Ok(());
        }
        tokio::select! {
            ready = to.writable() => ready.map_err(|_| Failed::To)?,
            () = broken(from) => return Err(Failed::From),
        }
    }
}
