//! The records of an established TLS 1.3 connection, sealed and opened where they lie (RFC 8446, section 5).
//!
//! rustls shakes hands, proves identities and derives every key; it hands them over by the interface it has for the kernel's
//! TLS, and goes on deriving them when they change. What is done here is what the kernel would do: the framing of records,
//! the nonces, KeyUpdate, alerts. The gain is that nothing is copied: rustls takes a record's plaintext from one place and
//! puts its ciphertext into another, by way of two allocations, at a tenth of a gigabyte's CPU time each.

use std::ops::Range;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets, InvalidMessage};

use crate::tunnel::buffer::Buffer;

/// What lies in front of a record's plaintext: type, version, length.
pub(in crate::tunnel) const PREFIX: usize = 5;
/// What lies behind it: the real type and the tag.
pub(in crate::tunnel) const SUFFIX: usize = 1 + TAG;
/// The most plaintext a record has (section 5.1).
const PLAIN_MAX: usize = 1 << 14;
/// The most a record has behind its prefix (section 5.2).
const SEALED_MAX: usize = PLAIN_MAX + 256;
const TAG: usize = 16;
/// Records that may still be sealed when the keys are changed: as many as one turn seals, and more.
const RESERVE: u64 = 1024;
/// The most of a handshake message that is split over records: nothing but tickets comes, and nobody reads those.
const MESSAGE_MAX: usize = 64 * 1024;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// rustls' half of the connection: derives the next keys.
pub(super) enum Secrets {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

/// One direction's key.
struct Half {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Half {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("the negotiated cipher is not known here".to_owned())),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Error::EncryptError)?;
        let iv = iv.as_ref().try_into().map_err(|_| Error::EncryptError)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// The next record's nonce (section 5.3).
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, of_sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// See the module.
pub(in crate::tunnel) struct Records {
    secrets: Secrets,
    seal: Half,
    open: Half,
    /// How many records one key may seal.
    limit: u64,
    /// What the peer has sent and was not opened yet.
    incoming: Buffer,
    /// The beginning of a handshake message that is split over records.
    message: Vec<u8>,
    /// The peer wants this end's keys changed.
    update_due: bool,
    peer_closed: bool,
    /// This end has said that nothing follows.
    closed: bool,
    failed: bool,
}

impl Records {
    /// `incoming` is what has come behind the handshake and was not opened, `peer_closed` whether a goodbye was.
    ///
    /// # Errors
    /// When the cipher is none that is known here.
    pub(super) fn new(
        extracted: ExtractedSecrets,
        secrets: Secrets,
        incoming: Buffer,
        peer_closed: bool,
    ) -> Result<Self, Error> {
        let suite = match &secrets {
            Secrets::Client(connection) => connection.negotiated_cipher_suite(),
            Secrets::Server(connection) => connection.negotiated_cipher_suite(),
        };
        let suite = suite.tls13().ok_or_else(|| Error::General("TLS 1.3 is needed".to_owned()))?;
        Ok(Self {
            secrets,
            seal: Half::new(extracted.tx)?,
            open: Half::new(extracted.rx)?,
            limit: suite.common.confidentiality_limit,
            incoming,
            message: Vec::new(),
            update_due: false,
            peer_closed,
            closed: false,
            failed: false,
        })
    }

    /// Whether the peer has said that nothing follows.
    pub(in crate::tunnel) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Where to put what the peer has sent.
    pub(in crate::tunnel) fn incoming(&mut self) -> &mut Buffer {
        &mut self.incoming
    }

    /// What a part told by [`Records::receive`] holds, until more is put into [`Records::incoming`].
    pub(in crate::tunnel) fn opened(&self, part: Range<usize>) -> &[u8] {
        self.incoming.part(part)
    }

    /// Opens every complete record of what has come in, and tells where what apps have sent lies now. What TLS itself has to
    /// say is appended to `out`.
    ///
    /// # Errors
    /// The peer broke TLS or was not believed; `out` then ends with the alert that says so, and nothing more is opened.
    pub(in crate::tunnel) fn receive(&mut self, out: &mut Buffer, parts: &mut Vec<Range<usize>>) -> Result<(), Error> {
        let mut received = self.open_all(parts);
        if received.is_ok() && std::mem::take(&mut self.update_due) && !self.closed {
            received = self.update_keys(out);
        }
        received.inspect_err(|error| self.tell(error, out))
    }

    fn open_all(&mut self, parts: &mut Vec<Range<usize>>) -> Result<(), Error> {
        while !self.failed && !self.peer_closed {
            let start = self.incoming.start();
            let Some((head, _)) = self.incoming.bytes().split_first_chunk::<PREFIX>() else { return Ok(()) };
            let head = *head;
            let size = usize::from(u16::from_be_bytes([head[3], head[4]]));
            if head[..3] != [DATA, 3, 3] {
                return Err(unexpected(head[0]));
            }
            if size > SEALED_MAX {
                return Err(Error::PeerSentOversizedRecord);
            }
            let Some(sealed) = self.incoming.bytes_mut().get_mut(PREFIX..PREFIX + size) else { return Ok(()) };
            let nonce = self.open.nonce();
            let plain = self.open.key.open_in_place(nonce, Aad::from(head), sealed);
            let plain = plain.map_err(|_| Error::DecryptError)?;
            // The type is the last byte that is not padding (section 5.4).
            let end = plain.iter().rposition(|byte| *byte != 0).ok_or_else(|| unexpected(0))?;
            let part = start + PREFIX..start + PREFIX + end;
            let kind = plain[end];
            if end > PLAIN_MAX {
                return Err(Error::PeerSentOversizedRecord);
            }
            self.incoming.consume(PREFIX + size);
            match kind {
                // Nothing may come between the parts of a handshake message (RFC 8446, section 5.1).
                DATA if self.message.is_empty() => parts.push(part),
                ALERT => self.alert(part)?,
                HANDSHAKE => self.handshake(part)?,
                other => return Err(unexpected(other)),
            }
        }
        self.incoming.consume(self.incoming.len());
        Ok(())
    }

    fn alert(&mut self, part: Range<usize>) -> Result<(), Error> {
        match *self.incoming.part(part) {
            [_, alert] if AlertDescription::from(alert) == AlertDescription::CloseNotify => self.peer_closed = true,
            [_, alert] if AlertDescription::from(alert) == AlertDescription::UserCanceled => {}
            [_, alert] => return Err(Error::AlertReceived(AlertDescription::from(alert))),
            _ => return Err(InvalidMessage::MessageTooShort.into()),
        }
        Ok(())
    }

    /// What may come after the handshake: the peer's next keys, and tickets nobody uses (section 4.6).
    fn handshake(&mut self, part: Range<usize>) -> Result<(), Error> {
        self.message.extend_from_slice(self.incoming.part(part));
        while let [kind, a, b, c, rest @ ..] = &self.message[..] {
            let size = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if size > MESSAGE_MAX {
                return Err(InvalidMessage::HandshakePayloadTooLarge.into());
            }
            let Some(body) = rest.get(..size) else { return Ok(()) };
            match (*kind, &self.secrets) {
                // The last message of its record: what follows is sealed with other keys.
                (KEY_UPDATE, _) if matches!(body, [0 | 1]) && rest.len() == size => {
                    self.update_due |= *body == [1];
                    let next = match &mut self.secrets {
                        Secrets::Client(connection) => connection.update_rx_secret(),
                        Secrets::Server(connection) => connection.update_rx_secret(),
                    };
                    self.open = Half::new(next?)?;
                }
                (NEW_SESSION_TICKET, Secrets::Client(_)) => {}
                _ => return Err(unexpected(HANDSHAKE)),
            }
            self.message.drain(..4 + size);
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(())
    }

    /// Appends the alert that goes with an error.
    fn tell(&mut self, error: &Error, out: &mut Buffer) {
        let alert = match error {
            Error::AlertReceived(_) => None,
            Error::DecryptError => Some(AlertDescription::BadRecordMac),
            Error::PeerSentOversizedRecord => Some(AlertDescription::RecordOverflow),
            Error::InvalidMessage(_) => Some(AlertDescription::DecodeError),
            Error::InappropriateMessage { .. } => Some(AlertDescription::UnexpectedMessage),
            _ => Some(AlertDescription::InternalError),
        };
        if let Some(alert) = alert {
            let _ = self.seal_one(ALERT, &[2, u8::from(alert)], out);
        }
        self.failed = true;
    }

    /// Changes this end's keys if they have sealed nearly as much as they may. To be asked before [`Records::seal_in_place`].
    ///
    /// # Errors
    /// When the connection may not be written to any more.
    pub(in crate::tunnel) fn renew(&mut self, out: &mut Buffer) -> Result<(), Error> {
        if self.seal.sequence.saturating_add(RESERVE) >= self.limit { self.update_keys(out) } else { Ok(()) }
    }

    /// Changes this end's keys, and tells the peer under the old ones.
    pub(in crate::tunnel) fn update_keys(&mut self, out: &mut Buffer) -> Result<(), Error> {
        self.seal_one(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
        let next = match &mut self.secrets {
            Secrets::Client(connection) => connection.update_tx_secret(),
            Secrets::Server(connection) => connection.update_tx_secret(),
        };
        self.seal = Half::new(next?)?;
        Ok(())
    }

    /// Seals a record whose plaintext lies in it already, with [`PREFIX`] bytes before and [`SUFFIX`] behind it.
    ///
    /// # Errors
    /// When the connection may not be written to any more.
    pub(in crate::tunnel) fn seal_in_place(&mut self, record: &mut [u8]) -> Result<(), Error> {
        self.seal_as(DATA, record)
    }

    fn seal_as(&mut self, kind: u8, record: &mut [u8]) -> Result<(), Error> {
        // Nothing is sealed beyond what the key may, whoever forgot to ask `renew`, which comes long before.
        if self.closed || self.failed || self.seal.sequence >= self.limit {
            return Err(Error::EncryptError);
        }
        let sealed = record.len().checked_sub(PREFIX).filter(|size| (SUFFIX..=SEALED_MAX).contains(size));
        let size = sealed.and_then(|size| u16::try_from(size).ok()).ok_or(Error::EncryptError)?.to_be_bytes();
        let (head, rest) = record.split_at_mut(PREFIX);
        head.copy_from_slice(&[DATA, 3, 3, size[0], size[1]]);
        let (plain, tag) = rest.split_at_mut(rest.len() - TAG);
        plain[plain.len() - 1] = kind;
        let nonce = self.seal.nonce();
        let sealed = self.seal.key.seal_in_place_separate_tag(nonce, Aad::from(head), plain);
        tag.copy_from_slice(sealed.map_err(|_| Error::EncryptError)?.as_ref());
        Ok(())
    }

    /// Appends `plain` as records.
    ///
    /// # Errors
    /// When the connection may not be written to any more.
    pub(in crate::tunnel) fn seal(&mut self, plain: &[u8], out: &mut Buffer) -> Result<(), Error> {
        self.renew(out)?;
        plain.chunks(PLAIN_MAX).try_for_each(|plain| self.seal_one(DATA, plain, out))
    }

    /// Appends the goodbye: nothing follows.
    ///
    /// # Errors
    /// When the connection may not be written to any more.
    pub(in crate::tunnel) fn close(&mut self, out: &mut Buffer) -> Result<(), Error> {
        self.seal_one(ALERT, &[1, u8::from(AlertDescription::CloseNotify)], out)?;
        self.closed = true;
        Ok(())
    }

    fn seal_one(&mut self, kind: u8, plain: &[u8], out: &mut Buffer) -> Result<(), Error> {
        let size = PREFIX + plain.len() + SUFFIX;
        let record = &mut out.room(size)[..size];
        record[PREFIX..PREFIX + plain.len()].copy_from_slice(plain);
        self.seal_as(kind, record)?;
        out.filled(size);
        Ok(())
    }
}

#[cfg(test)]
impl Records {
    /// As if the cipher allowed so many records.
    pub(super) fn limit_records(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Records sealed under the present key, and opened under the peer's.
    pub(in crate::tunnel) fn under_keys(&self) -> (u64, u64) {
        (self.seal.sequence, self.open.sequence)
    }

    /// Handshake messages, or parts of them.
    pub(super) fn seal_message(&mut self, message: &[u8], out: &mut Buffer) -> Result<(), Error> {
        self.seal_one(HANDSHAKE, message, out)
    }
}

fn unexpected(kind: u8) -> Error {
    Error::InappropriateMessage { expect_types: vec![ContentType::ApplicationData], got_type: ContentType::from(kind) }
}
