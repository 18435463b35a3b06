//! TCP to a stream of an HBONE tunnel: RST is RST_STREAM, FIN is END_STREAM, a full socket is a closed window.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::socket::{Pace, Turns, broken, finish, reset, write_some};
use super::{End, Flow, LAST_BYTES, Side, Traffic};
use crate::tunnel::Lease;

/// A stream that could not send for this long has a reader that stopped: no other stream should share its tunnel.
/// Longer than a round trip between regions, which a full window also takes to move.
const STALLED_AFTER: Duration = Duration::from_millis(200);

/// Relays until both sides have finished, one is reset, or it is killed.
pub(super) async fn relay(
    near: TcpStream,
    (mut send, mut recv): (SendStream<Bytes>, RecvStream),
    lease: &Lease,
    flow: &Flow,
) -> End {
    let end = join(&near, &mut send, &mut recv, lease, flow).await;
    if end != End::Fin {
        send.send_reset(Reason::CANCEL);
        reset(near);
    }
    end
}

async fn join(
    near: &TcpStream,
    send: &mut SendStream<Bytes>,
    recv: &mut RecvStream,
    lease: &Lease,
    flow: &Flow,
) -> End {
    let mut there = pin!(upload(near, send, lease, &flow.traffic));
    let mut back = pin!(download(near, recv, &flow.traffic));
    let (mut sent, mut received) = (false, false);
    while !(sent && received) {
        tokio::select! {
            () = flow.kill.ended() => return End::Killed,
            end = &mut there, if !sent => match end {
                Ok(()) => sent = true,
                Err(Side::Near) => return End::Reset(Side::Near),
                Err(Side::Far) => {
                    // What the peer sent before it reset the stream still belongs to the app.
                    if !received {
                        let _ = timeout(LAST_BYTES, &mut back).await;
                    }
                    return End::Reset(Side::Far);
                }
            },
            end = &mut back, if !received => match end {
                Ok(()) => received = true,
                Err(side) => return End::Reset(side),
            },
            // Nobody reads from a side that has finished, so nobody else would see its reset.
            () = broken(near), if sent => return End::Reset(Side::Near),
        }
    }
    End::Fin
}

/// From the app to the tunnel. `Err` is the side that failed.
async fn upload(near: &TcpStream, send: &mut SendStream<Bytes>, lease: &Lease, traffic: &Traffic) -> Result<(), Side> {
    let mut pace = Pace::new();
    loop {
        // Capacity is asked for when there is something to send: what an idle stream holds, others lack.
        tokio::select! {
            ready = near.readable() => ready.map_err(|_| Side::Near)?,
            _ = poll_fn(|cx| send.poll_reset(cx)) => return Err(Side::Far),
        }
        loop {
            let room = capacity(near, send, lease, pace.size()).await?;
            let mut buffer = pace.buffer(room);
            match near.try_read_buf(&mut buffer) {
                Ok(0) => return send.send_data(Bytes::new(), true).map_err(|_| Side::Far),
                Ok(filled) => {
                    send.send_data(buffer.freeze(), false).map_err(|_| Side::Far)?;
                    traffic.count_sent(filled);
                    pace.step(filled).await;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(Side::Near),
            }
        }
        send.reserve_capacity(0);
    }
}

/// Waits until at least one byte may be sent; `wanted` is what would be welcome.
async fn capacity(near: &TcpStream, send: &mut SendStream<Bytes>, lease: &Lease, wanted: usize) -> Result<usize, Side> {
    send.reserve_capacity(wanted);
    let room = send.capacity();
    if room > 0 {
        return Ok(room);
    }
    let waited = async {
        match poll_fn(|cx| send.poll_capacity(cx)).await {
            Some(Ok(room)) => Ok(room),
            Some(Err(_)) | None => Err(Side::Far),
        }
    };
    let stalled = async {
        sleep(STALLED_AFTER).await;
        let _mark = lease.stall();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        room = waited => room,
        () = broken(near) => Err(Side::Near),
        () = stalled => Err(Side::Far),
    }
}

/// From the tunnel to the app. `Err` is the side that failed.
async fn download(near: &TcpStream, recv: &mut RecvStream, traffic: &Traffic) -> Result<(), Side> {
    let mut turns = Turns::default();
    while let Some(data) = recv.data().await {
        let data = data.map_err(|_| Side::Far)?;
        let mut rest = &data[..];
        while !rest.is_empty() {
            let written = write_some(near, rest).map_err(|_| Side::Near)?;
            rest = &rest[written..];
            if !rest.is_empty() {
                near.writable().await.map_err(|_| Side::Near)?;
            }
        }
        traffic.count_received(data.len());
        // The window opens by what the app has taken, so a slow app holds at most one window here.
        recv.flow_control().release_capacity(data.len()).map_err(|_| Side::Far)?;
        turns.step().await;
    }
    finish(near);
    Ok(())
}
