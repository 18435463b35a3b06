//! TCP to a stream of a Weft tunnel: the tunnel's driver writes to the app itself, and reads from it when many want to send.
//!
//! One small future per connection, without a buffer: what it reads goes through the thread's scratch into the tunnel, as far
//! as the tunnel has room, which is also what keeps one app from taking the tunnel for itself.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::socket::{broken, finish, reset_on_close, write_some, write_some_vectored};
use super::{End, Flow, LAST_BYTES, Side};
use crate::tunnel::{App, Drained, Handle, Sent};

/// Reads in a row before others get a turn.
const TURN: usize = 8;

/// The app's connection, shared with the tunnel's driver.
struct Near {
    tcp: TcpStream,
    flow: Arc<Flow>,
}

impl App for Near {
    fn read(&self, room: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let read = self.tcp.try_read_vectored(room)?;
        self.flow.traffic.count_sent(read);
        Ok(read)
    }

    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = match pieces {
            [piece] => write_some(&self.tcp, piece)?,
            pieces => write_some_vectored(&self.tcp, pieces)?,
        };
        self.flow.traffic.count_received(written);
        Ok(written)
    }

    fn finish(&self) {
        finish(&self.tcp);
    }
}

/// Relays until both sides have finished, one is reset, or it is killed.
pub(super) async fn relay(near: TcpStream, far: Handle, flow: Arc<Flow>) -> End {
    let near = Arc::new(Near { tcp: near, flow });
    far.attach(Arc::clone(&near) as Arc<dyn App>);
    let mut pump = Pump { near: Arc::clone(&near), far, sent: false, received: false, watch: None, last: None };
    let end = tokio::select! {
        biased;
        () = near.flow.kill.ended() => End::Killed,
        end = poll_fn(|cx| pump.poll(cx)) => end,
    };
    // The tunnel's end of the stream first: it lets go of the app's socket.
    drop(pump);
    if end != End::Fin {
        reset_on_close(&near.tcp);
    }
    end
}

struct Pump {
    near: Arc<Near>,
    far: Handle,
    sent: bool,
    received: bool,
    /// Sees the app's reset while nobody reads from it.
    watch: Option<BoxFuture<'static, ()>>,
    /// The time the app has for what came before the peer's reset.
    last: Option<Pin<Box<Sleep>>>,
}

impl Pump {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.far.register(cx.waker());
        if let Poll::Ready(end) = self.down(cx) {
            return Poll::Ready(end);
        }
        if !self.sent
            && let Poll::Ready(end) = self.up(cx)
        {
            return Poll::Ready(end);
        }
        if self.sent && self.received {
            return Poll::Ready(End::Fin);
        }
        if self.sent {
            return self.watch(cx);
        }
        Poll::Pending
    }

    /// From the tunnel to the app: only what its socket did not take when it came.
    fn down(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let drained = self.far.drain();
            match drained {
                Drained::Idle => return Poll::Pending,
                Drained::Ended => {
                    self.received = true;
                    return Poll::Pending;
                }
                Drained::Near => return Poll::Ready(End::Reset(Side::Near)),
                Drained::Far => return Poll::Ready(End::Reset(Side::Far)),
                Drained::Blocked | Drained::FarBlocked => {}
            }
            if drained == Drained::FarBlocked {
                let last = self.last.get_or_insert_with(|| Box::pin(sleep(LAST_BYTES)));
                if last.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(End::Reset(Side::Far));
                }
            }
            match self.near.tcp.poll_write_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(End::Reset(Side::Near)),
                Poll::Ready(Ok(())) => {}
            }
        }
    }

    /// From the app to the tunnel, a few reads at a time.
    fn up(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..TURN {
            match self.near.tcp.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(End::Reset(Side::Near)),
                Poll::Ready(Ok(())) => {}
            }
            match self.far.send() {
                Sent::Some => self.watch = None,
                // First the tunnel's driver writes it, then the app is asked for more.
                Sent::All => {
                    self.watch = None;
                    break;
                }
                Sent::End => {
                    self.sent = true;
                    self.watch = None;
                    return Poll::Pending;
                }
                Sent::Nothing => {}
                // The driver reads from the app when it is this stream's turn, and wakes this task when there is nothing.
                Sent::NoRoom => return Poll::Pending,
                Sent::NoCredit => return self.watch(cx),
                Sent::Near => return Poll::Ready(End::Reset(Side::Near)),
                Sent::Over => return Poll::Ready(End::Reset(Side::Far)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn watch(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let near = &self.near;
        let watch = self.watch.get_or_insert_with(|| {
            let near = Arc::clone(near);
            Box::pin(async move { broken(&near.tcp).await })
        });
        watch.as_mut().poll(cx).map(|()| End::Reset(Side::Near))
    }
}
