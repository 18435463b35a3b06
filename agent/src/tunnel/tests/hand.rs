//! One end of a Weft tunnel made by hand: real TLS, frames as one likes them.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::rig::{Rig, identity, within};
use crate::identity::Credentials;
use crate::tunnel::mux::{Decoder, Frame, Hello, Open};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// One end of its own making: real TLS, frames by hand.
pub(super) struct Hand {
    pub(super) tls: TlsStream<TcpStream>,
    decoder: Decoder,
}

impl Hand {
    /// A client that has shaken hands with the rig's server.
    pub(super) async fn shake(rig: &Rig) -> Self {
        Self::shake_at(rig, rig.port).await
    }

    /// The same, at another port.
    pub(super) async fn shake_at(rig: &Rig, port: u16) -> Self {
        let mut config = (*rig.credentials("client").client_config(&identity("server")).unwrap()).clone();
        config.alpn_protocols = vec![b"weft/1".to_vec()];
        let tcp = TcpStream::connect((V4, port)).await.unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(V4.into()), tcp).await.unwrap();
        Self { tls: tls.into(), decoder: Decoder::default() }
    }

    /// A server with these credentials, for one connection it has accepted.
    pub(super) async fn answer(credentials: &Credentials, tcp: TcpStream) -> std::io::Result<Self> {
        let config = credentials.server_config_for(&[b"weft/1".to_vec()]);
        let tls = TlsAcceptor::from(config).accept(tcp).await?;
        Ok(Self { tls: tls.into(), decoder: Decoder::default() })
    }

    /// As a server: waits until the client has opened a stream.
    pub(super) async fn asked(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            let size = within("the client's OPEN", self.tls.read(&mut buffer)).await.unwrap();
            let mut rest = &buffer[..size];
            while let Some(frame) = self.decoder.next(&mut rest).unwrap() {
                if matches!(frame, Frame::Open(..)) {
                    return;
                }
            }
            assert!(size > 0, "the client has closed");
        }
    }

    pub(super) async fn say(&mut self, frames: &[Frame<'_>]) {
        self.tls.write_all(&wire(frames)).await.unwrap();
        self.tls.flush().await.unwrap();
    }

    /// Everything the other end says until it closes, in words; data is left out.
    pub(super) async fn hear(&mut self) -> Vec<String> {
        let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let size = within("the other end's words", self.tls.read(&mut buffer)).await.unwrap_or(0);
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

/// Frames as they are sent.
pub(super) fn wire(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.write(&mut bytes));
    bytes
}

pub(super) fn hello() -> Frame<'static> {
    Frame::Hello(Hello { streams: 0, baggage: None })
}

pub(super) fn open(stream: u32, port: u16) -> Frame<'static> {
    let to = (V4, port).into();
    Frame::Open(stream, Open { to, from: (V4, 4711).into(), host: None })
}
