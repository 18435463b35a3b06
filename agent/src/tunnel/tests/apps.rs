//! What the streams of a [rig](super::rig) end at, and the cable between its nodes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::relay::{Flow, tcp_to_tcp};

pub(super) async fn socket_pair(ip: IpAddr) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// An app: `serve` runs for every connection.
pub(super) async fn app<F>(ip: IpAddr, serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(tcp));
        }
    });
    address
}

pub(super) async fn echo_app(ip: IpAddr) -> SocketAddr {
    app(ip, |mut tcp| async move {
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// An app that accepts and never reads, and keeps what it accepted.
pub(super) async fn stuck_app(ip: IpAddr) -> SocketAddr {
    app(ip, |tcp| async move {
        std::future::pending::<()>().await;
        drop(tcp);
    })
    .await
}

pub(super) async fn ping_pong(tcp: &mut TcpStream, times: usize) {
    for turn in 0..times {
        let message = (turn as u64).to_be_bytes();
        let mut answer = [0; 8];
        tcp.write_all(&message).await.unwrap();
        tcp.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, message);
    }
}

/// A middlebox that can stop forwarding without closing anything: a node that lost power.
pub(super) struct Cable {
    pub(super) port: u16,
    cut: Arc<AtomicU64>,
}

impl Cable {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((server.ip(), 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(AtomicU64::new(0));
        let generation = Arc::clone(&cut);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let born = generation.load(Ordering::SeqCst);
                let generation = Arc::clone(&generation);
                tokio::spawn(async move {
                    let far = TcpStream::connect(server).await.unwrap();
                    let flow = Flow::default();
                    let relay = tcp_to_tcp(near, far, &flow);
                    let severed = async {
                        while generation.load(Ordering::SeqCst) == born {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    };
                    tokio::pin!(relay);
                    tokio::select! {
                        _ = &mut relay => return,
                        () = severed => {}
                    }
                    // Neither polled nor dropped: the sockets stay open and silent.
                    std::future::pending::<()>().await;
                    relay.await;
                });
            }
        });
        Self { port, cut }
    }

    /// Silences every connection made so far; later ones pass.
    pub(super) fn cut(&self) {
        self.cut.fetch_add(1, Ordering::SeqCst);
    }
}
