//! One end of a Weft tunnel made by hand: real TLS, frames as one likes them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::rig::{Rig, identity, within};
use crate::tunnel::mux::{Decoder, Frame, Hello, Open};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A client of its own making: real TLS, frames by hand.
pub(super) struct Hand {
    pub(super) tls: TlsStream<TcpStream>,
    decoder: Decoder,
}

impl Hand {
    pub(super) async fn shake(rig: &Rig) -> Self {
        let mut config = (*rig.credentials("client").client_config(&identity("server")).unwrap()).clone();
        config.alpn_protocols = vec![b"weft/1".to_vec()];
        let tcp = TcpStream::connect((V4, rig.port)).await.unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(V4.into()), tcp).await.unwrap();
        Self { tls, decoder: Decoder::default() }
    }

    pub(super) async fn say(&mut self, frames: &[Frame<'_>]) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes));
        self.tls.write_all(&bytes).await.unwrap();
        self.tls.flush().await.unwrap();
    }

    /// Everything the server says until it closes, in words; data is left out.
    pub(super) async fn hear(&mut self) -> Vec<String> {
        let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let size = within("the server's words", self.tls.read(&mut buffer)).await.unwrap_or(0);
            if size == 0 {
                return heard;
            }
            let mut rest = &buffer[..size];
            while let Some(frame) = self.decoder.next(&mut rest).unwrap() {
                if !matches!(frame, Frame::Data { .. } | Frame::Credit(..)) {
                    heard.push(format!("{frame:?}"));
                }
            }
        }
    }
}

pub(super) fn hello() -> Frame<'static> {
    Frame::Hello(Hello { streams: 0, baggage: None })
}

pub(super) fn open(stream: u32, port: u16) -> Frame<'static> {
    let to = (V4, port).into();
    Frame::Open(stream, Open { to, from: (V4, 4711).into(), host: None })
}
