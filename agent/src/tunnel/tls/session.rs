//! A TLS connection without a socket: bytes of the peer in, records out, and the other way round.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, Error, ServerConfig};

use super::records::{Records, Secrets};
use crate::tunnel::buffer::Buffer;

/// What a record adds to its plaintext, with some to spare: header, type, tag.
const OVERHEAD: usize = 64;
/// More than any handshake record.
const RECORD: usize = 17 * 1024;
/// Steps of one call that bring nothing: more would mean that rustls waits for something we do not do.
const FRUITLESS: usize = 16;

enum Connection {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// See the module.
pub(in crate::tunnel) struct Tls {
    connection: Connection,
    /// What the peer has sent and was not opened yet. rustls keeps offsets into it (of a handshake message in several
    /// records) and must see the same bytes again whenever it is asked for anything, also to write: with others it panics.
    incoming: Buffer,
    peer_closed: bool,
    failed: bool,
}

/// What comes after a step.
enum Step {
    More,
    Done,
    Closed,
}

impl Tls {
    /// # Errors
    /// When the library refuses the configuration.
    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Self, Error> {
        let connection = UnbufferedClientConnection::new_with_alpn(config, name, alpn)?;
        Ok(Self {
            connection: Connection::Client(Box::new(connection)),
            incoming: Buffer::default(),
            peer_closed: false,
            failed: false,
        })
    }

    /// # Errors
    /// When the library refuses the configuration.
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let connection = UnbufferedServerConnection::new(config)?;
        Ok(Self {
            connection: Connection::Server(Box::new(connection)),
            incoming: Buffer::default(),
            peer_closed: false,
            failed: false,
        })
    }

    pub(super) fn is_handshaking(&self) -> bool {
        match &self.connection {
            Connection::Client(connection) => connection.is_handshaking(),
            Connection::Server(connection) => connection.is_handshaking(),
        }
    }

    /// Goes on without rustls' record layer: see [`Records`].
    ///
    /// # Errors
    /// When the handshake is not over, or the configuration keeps its secrets.
    pub(in crate::tunnel) fn into_records(self) -> Result<Records, Error> {
        let (extracted, secrets) = match self.connection {
            Connection::Client(connection) => {
                let (extracted, connection) = connection.dangerous_into_kernel_connection()?;
                (extracted, Secrets::Client(Box::new(connection)))
            }
            Connection::Server(connection) => {
                let (extracted, connection) = connection.dangerous_into_kernel_connection()?;
                (extracted, Secrets::Server(Box::new(connection)))
            }
        };
        Records::new(extracted, secrets, self.incoming, self.peer_closed)
    }

    /// The protocol both ends have agreed on.
    pub(in crate::tunnel) fn alpn(&self) -> Option<&[u8]> {
        match &self.connection {
            Connection::Client(connection) => connection.alpn_protocol(),
            Connection::Server(connection) => connection.alpn_protocol(),
        }
    }

    pub(in crate::tunnel) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match &self.connection {
            Connection::Client(connection) => connection.peer_certificates(),
            Connection::Server(connection) => connection.peer_certificates(),
        }
    }

    /// Whether the peer has said that nothing follows.
    pub(in crate::tunnel) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Where to put what the peer has sent; [`Tls::receive`] must follow before anything is written.
    pub(in crate::tunnel) fn incoming(&mut self) -> &mut Buffer {
        &mut self.incoming
    }

    /// Takes every complete record off what has come in, hands what apps have sent to `each`, and appends what TLS itself
    /// has to say to `out`.
    ///
    /// # Errors
    /// The peer broke TLS or was not believed; `out` then ends with the alert that says so.
    pub(in crate::tunnel) fn receive(&mut self, out: &mut Buffer, mut each: impl FnMut(&[u8])) -> Result<(), Error> {
        if self.failed {
            return Err(Error::HandshakeNotComplete);
        }
        let mut fruitless = 0;
        while fruitless <= FRUITLESS {
            let before = self.incoming.len();
            match self.step(out, &mut each) {
                Ok(true) => fruitless = if self.incoming.len() == before { fruitless + 1 } else { 0 },
                Ok(false) => break,
                Err(error) => {
                    self.tell(out);
                    return Err(error);
                }
            }
        }
        self.incoming.rest();
        Ok(())
    }

    /// Answers whether there is more to do.
    fn step(&mut self, out: &mut Buffer, each: &mut dyn FnMut(&[u8])) -> Result<bool, Error> {
        let (taken, stepped) = match &mut self.connection {
            Connection::Client(c) => step(c.process_tls_records(self.incoming.bytes_mut()), out, each),
            Connection::Server(c) => step(c.process_tls_records(self.incoming.bytes_mut()), out, each),
        };
        self.incoming.consume(taken);
        let step = stepped?;
        self.peer_closed |= matches!(step, Step::Closed);
        Ok(matches!(step, Step::More))
    }

    /// Collects the alert that goes with an error. Nothing more may be asked of rustls then.
    fn tell(&mut self, out: &mut Buffer) {
        self.failed = true;
        while self.wants_write() {
            if self.step(out, &mut |_| {}).is_err() {
                return;
            }
        }
    }

    fn wants_write(&self) -> bool {
        match &self.connection {
            Connection::Client(connection) => connection.wants_write(),
            Connection::Server(connection) => connection.wants_write(),
        }
    }

    /// Appends `plain` as records of at most 16 KiB, behind a KeyUpdate when one is due.
    ///
    /// # Errors
    /// When the connection may not be written to any more.
    pub(in crate::tunnel) fn seal(&mut self, plain: &[u8], out: &mut Buffer) -> Result<(), Error> {
        self.write(&Say::Plain(plain), out)
    }

    /// Appends the goodbye: nothing follows.
    ///
    /// # Errors
    /// When the connection may not be written to any more.
    pub(in crate::tunnel) fn close(&mut self, out: &mut Buffer) -> Result<(), Error> {
        self.write(&Say::Goodbye, out)
    }

    /// Changes the keys this end writes with, as rustls does by itself before their limit.
    #[cfg(test)]
    pub(in crate::tunnel) fn update_keys(&mut self, out: &mut Buffer) {
        self.write(&Say::NewKeys, out).unwrap();
    }

    fn write(&mut self, what: &Say<'_>, out: &mut Buffer) -> Result<(), Error> {
        if self.failed {
            return Err(Error::HandshakeNotComplete);
        }
        let mut wanted = OVERHEAD;
        if let Say::Plain(plain) = what {
            wanted += plain.len();
        }
        for _ in 0..FRUITLESS {
            let (taken, written) = match &mut self.connection {
                Connection::Client(c) => say(c.process_tls_records(self.incoming.bytes_mut()), what, wanted, out),
                Connection::Server(c) => say(c.process_tls_records(self.incoming.bytes_mut()), what, wanted, out),
            };
            self.incoming.consume(taken);
            match written? {
                Written::Yes => return Ok(()),
                Written::NotYet => {}
                Written::Needs(size) => wanted = size,
            }
        }
        Err(Error::General("TLS does not come to write".to_owned()))
    }
}

enum Say<'a> {
    Plain(&'a [u8]),
    Goodbye,
    #[cfg(test)]
    NewKeys,
}

enum Written {
    Yes,
    NotYet,
    Needs(usize),
}

/// Answers what is to be taken off the incoming bytes, beside what was done.
fn say<D>(
    status: UnbufferedStatus<'_, '_, D>,
    what: &Say<'_>,
    wanted: usize,
    out: &mut Buffer,
) -> (usize, Result<Written, Error>) {
    (status.discard, status.state.and_then(|state| write(state, what, wanted, out)))
}

fn write<D>(
    state: ConnectionState<'_, '_, D>,
    what: &Say<'_>,
    wanted: usize,
    out: &mut Buffer,
) -> Result<Written, Error> {
    match state {
        ConnectionState::WriteTraffic(mut traffic) => {
            let room = out.room(wanted);
            let written = match what {
                Say::Plain(plain) => traffic.encrypt(plain, room),
                Say::Goodbye => traffic.queue_close_notify(room),
                #[cfg(test)]
                Say::NewKeys => return traffic.refresh_traffic_keys().map(|()| Written::Yes),
            };
            match written {
                Ok(size) => {
                    out.filled(size);
                    Ok(Written::Yes)
                }
                Err(EncryptError::InsufficientSize(size)) => Ok(Written::Needs(size.required_size)),
                Err(EncryptError::EncryptExhausted) => Err(Error::EncryptError),
            }
        }
        ConnectionState::EncodeTlsData(mut data) => {
            encode(out, |room| data.encode(room))?;
            Ok(Written::NotYet)
        }
        ConnectionState::TransmitTlsData(sent) => {
            sent.done();
            Ok(Written::NotYet)
        }
        ConnectionState::PeerClosed => Ok(Written::NotYet),
        _ => Err(Error::HandshakeNotComplete),
    }
}

fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut Buffer,
    each: &mut dyn FnMut(&[u8]),
) -> (usize, Result<Step, Error>) {
    let mut taken = status.discard;
    let stepped = status.state.and_then(|state| match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                taken += record.discard;
                each(record.payload);
            }
            Ok(Step::More)
        }
        ConnectionState::EncodeTlsData(mut data) => encode(out, |room| data.encode(room)).map(|()| Step::More),
        ConnectionState::TransmitTlsData(sent) => {
            // It is in the buffer, which is written in order: as good as sent.
            sent.done();
            Ok(Step::More)
        }
        ConnectionState::PeerClosed | ConnectionState::Closed => Ok(Step::Closed),
        _ => Ok(Step::Done),
    });
    (taken, stepped)
}

fn encode(out: &mut Buffer, mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) -> Result<(), Error> {
    let mut wanted = RECORD;
    loop {
        match write(out.room(wanted)) {
            Ok(size) => {
                out.filled(size);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) if size.required_size > wanted => wanted = size.required_size,
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}
