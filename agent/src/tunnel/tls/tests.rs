//! TLS without sockets: keys renewed in the middle, goodbyes, and a peer that breaks off anywhere.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::time::Instant;
use weft_core::model::{Identity, TrustDomain};

use super::Tls;
use crate::identity::ca::EmbeddedCa;
use crate::identity::{Identities, Settings};
use crate::tunnel::buffer::Buffer;

/// Two ends that have shaken hands, and what each has said and the other not heard.
struct Pair {
    client: Tls,
    server: Tls,
    up: Buffer,
    down: Buffer,
}

async fn pair() -> Pair {
    let state = TempDir::new().unwrap();
    let ca = EmbeddedCa::open(state.path(), &TrustDomain::new("cluster.local").unwrap()).unwrap();
    let store = Identities::new(Arc::new(ca), Settings::default());
    let names = ["client", "server"].map(|name| format!("spiffe://cluster.local/ns/shop/sa/{name}"));
    let mut credentials = Vec::new();
    for name in &names {
        let identity: Identity = name.parse().unwrap();
        store.ensure(&identity);
        credentials.push(store.wait(&identity, Instant::now() + Duration::from_secs(20)).await.unwrap());
    }
    let server: Identity = names[1].parse().unwrap();
    let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
    let alpn = vec![b"weft/1".to_vec()];
    let client = Tls::client(credentials[0].client_config(&server).unwrap(), name, alpn.clone()).unwrap();
    let server = Tls::server(credentials[1].server_config_for(&alpn)).unwrap();
    let mut pair = Pair { client, server, up: Buffer::default(), down: Buffer::default() };
    while pair.client.is_handshaking() || pair.server.is_handshaking() {
        assert_eq!(pair.exchange(usize::MAX), (Vec::new(), Vec::new()));
    }
    pair
}

impl Pair {
    /// Delivers what was said, in pieces of `piece` bytes; answers what the server and the client have heard.
    fn exchange(&mut self, piece: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        self.client.receive(&mut self.up, |_| {}).unwrap();
        deliver(&mut self.up, &mut self.server, &mut self.down, piece, &mut at_server);
        deliver(&mut self.down, &mut self.client, &mut self.up, piece, &mut at_client);
        (at_server, at_client)
    }
}

fn deliver(from: &mut Buffer, to: &mut Tls, answers: &mut Buffer, piece: usize, heard: &mut Vec<u8>) {
    for bytes in from.bytes().chunks(piece.min(from.len().max(1))) {
        to.incoming().room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        to.incoming().filled(bytes.len());
        to.receive(answers, |record| heard.extend_from_slice(record)).unwrap();
    }
    from.consume(from.len());
}

#[tokio::test]
async fn keys_may_change_at_any_time_and_records_be_cut_anywhere() {
    let mut pair = pair().await;
    for round in 0..40_usize {
        if round % 3 == 0 {
            pair.client.update_keys(&mut pair.up);
        }
        if round % 4 == 0 {
            pair.server.update_keys(&mut pair.down);
        }
        let (up, down) = (vec![round as u8; 1 + round * 1000], vec![!(round as u8); 1 + round * 700]);
        pair.client.seal(&up, &mut pair.up).unwrap();
        pair.server.seal(&down, &mut pair.down).unwrap();
        let (mut at_server, mut at_client) = pair.exchange(1 + round * 97);
        let more = pair.exchange(usize::MAX);
        at_server.extend(more.0);
        at_client.extend(more.1);
        assert!(at_server == up && at_client == down, "round {round}");
    }
}

#[tokio::test]
async fn writing_while_a_record_is_incomplete_disturbs_neither() {
    let mut pair = pair().await;
    pair.client.seal(&[1; 5000], &mut pair.up).unwrap();
    let whole: Vec<u8> = pair.up.bytes().to_vec();
    pair.up.consume(whole.len());
    let mut heard = Vec::new();
    for (index, piece) in whole.chunks(whole.len() / 7).enumerate() {
        pair.server.incoming().room(piece.len())[..piece.len()].copy_from_slice(piece);
        pair.server.incoming().filled(piece.len());
        pair.server.receive(&mut pair.down, |record| heard.extend_from_slice(record)).unwrap();
        pair.server.seal(&[index as u8; 100], &mut pair.down).unwrap();
    }
    assert_eq!(heard, [1; 5000]);
    assert_eq!(pair.exchange(usize::MAX).1.len(), 100 * whole.chunks(whole.len() / 7).len());
}

#[tokio::test]
async fn a_goodbye_is_heard_and_what_follows_it_is_not() {
    let mut pair = pair().await;
    pair.client.seal(b"last", &mut pair.up).unwrap();
    pair.client.close(&mut pair.up).unwrap();
    assert_eq!(pair.exchange(usize::MAX).0, b"last");
    assert!(pair.server.peer_closed() && !pair.client.peer_closed());
    pair.server.seal(b"still", &mut pair.down).unwrap();
    assert_eq!(pair.exchange(usize::MAX).1, b"still");
}

#[tokio::test]
async fn a_record_that_was_touched_is_an_error_with_an_alert() {
    let mut pair = pair().await;
    pair.client.seal(b"secret", &mut pair.up).unwrap();
    let mut bytes = pair.up.bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    pair.server.incoming().room(bytes.len())[..bytes.len()].copy_from_slice(&bytes);
    pair.server.incoming().filled(bytes.len());
    assert!(pair.server.receive(&mut pair.down, |_| panic!("believed")).is_err());
    assert!(!pair.down.is_empty(), "the peer is told");
}

/// What follows holds rustls' record layer and [`Records`] against each other: each end is one of them.
mod records {
    use std::ops::Range;

    use super::super::{PREFIX, Records, SUFFIX};
    use super::{Buffer, Pair, Tls, pair};

    fn records(tls: Tls) -> Records {
        tls.into_records().unwrap()
    }

    /// Delivers in pieces of `piece` bytes; answers what was heard.
    fn hear(from: &mut Buffer, to: &mut Records, answers: &mut Buffer, piece: usize) -> Vec<u8> {
        let (mut heard, mut parts) = (Vec::new(), Vec::<Range<usize>>::new());
        for bytes in from.bytes().chunks(piece) {
            to.incoming().room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
            to.incoming().filled(bytes.len());
            to.receive(answers, &mut parts).unwrap();
            parts.drain(..).for_each(|part| heard.extend_from_slice(to.opened(part)));
        }
        from.consume(from.len());
        heard
    }

    fn fill(records: &mut Records, bytes: &[u8]) {
        records.incoming().room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        records.incoming().filled(bytes.len());
    }

    /// Seals as streams do: the plaintext is put to where it is sealed.
    fn seal_in_place(records: &mut Records, plain: &[u8], out: &mut Buffer) {
        records.renew(out).unwrap();
        let size = PREFIX + plain.len() + SUFFIX;
        let record = &mut out.room(size)[..size];
        record[PREFIX..PREFIX + plain.len()].copy_from_slice(plain);
        records.seal_in_place(record).unwrap();
        out.filled(size);
    }

    #[tokio::test]
    async fn both_layers_understand_each_other_whatever_the_keys() {
        let Pair { client, mut server, mut up, mut down } = pair().await;
        let mut client = records(client);
        for round in 0..40_usize {
            if round % 3 == 0 {
                client.update_keys(&mut up).unwrap();
            }
            if round % 4 == 0 {
                // rustls asks for ours to be changed with its own.
                server.update_keys(&mut down);
            }
            let (said, answer) = (vec![round as u8; 1 + round * 400], vec![!(round as u8); 1 + round * 700]);
            seal_in_place(&mut client, &said, &mut up);
            client.seal(&said, &mut up).unwrap();
            server.seal(&answer, &mut down).unwrap();
            let mut at_client = hear(&mut down, &mut client, &mut up, 1 + round * 97);
            let mut at_server = Vec::new();
            super::deliver(&mut up, &mut server, &mut down, 1 + round * 89, &mut at_server);
            at_client.extend(hear(&mut down, &mut client, &mut up, usize::MAX));
            assert!(at_server == [said.clone(), said].concat() && at_client == answer, "round {round}");
        }
        client.close(&mut up).unwrap();
        super::deliver(&mut up, &mut server, &mut down, usize::MAX, &mut Vec::new());
        assert!(server.peer_closed());
        server.close(&mut down).unwrap();
        hear(&mut down, &mut client, &mut up, usize::MAX);
        assert!(client.peer_closed());
        assert!(client.seal(b"more", &mut up).is_err(), "nothing follows a goodbye");
    }

    #[tokio::test]
    async fn keys_are_changed_before_they_have_sealed_too_much() {
        let Pair { client, server, mut up, mut down } = pair().await;
        let (mut client, mut server) = (records(client), records(server));
        client.limit_records(1100);
        for round in 0..5000_u32 {
            let said = round.to_be_bytes();
            seal_in_place(&mut client, &said, &mut up);
            assert_eq!(hear(&mut up, &mut server, &mut down, usize::MAX), said);
        }
        let (sealed, _) = client.under_keys();
        assert!(sealed < 1100, "{sealed} under one key");
        // Who does not ask gets nothing sealed beyond it.
        let record = || vec![0; PREFIX + 4 + SUFFIX];
        let more = (0..1200).filter(|_| client.seal_in_place(&mut record()).is_ok()).count();
        assert_eq!(client.under_keys().0, 1100, "{more} more");
    }

    #[tokio::test]
    async fn whatever_is_wrong_ends_it_with_an_alert() {
        type Break = fn(&mut Vec<u8>);
        let breaks: [(&str, Break); 6] = [
            ("the tag", |bytes| *bytes.last_mut().unwrap() ^= 1),
            ("the length", |bytes| bytes[4] ^= 1),
            ("the type", |bytes| bytes[0] = 22),
            ("the version", |bytes| bytes[2] = 1),
            ("a record that is too long", |bytes| bytes[3] = 0xff),
            ("a record again", |bytes| bytes.extend(bytes.clone())),
        ];
        for (what, damage) in breaks {
            let Pair { client, server, mut up, mut down } = pair().await;
            let (mut client, mut server) = (records(client), records(server));
            client.seal(&[7; 300], &mut up).unwrap();
            let mut bytes = up.bytes().to_vec();
            damage(&mut bytes);
            // More than any length may promise.
            bytes.extend([0; 70_000]);
            fill(&mut server, &bytes);
            let mut parts = Vec::new();
            assert!(server.receive(&mut down, &mut parts).is_err(), "{what}");
            assert_eq!(parts.len(), usize::from(what == "a record again"), "{what}");
            assert!(server.seal(b"more", &mut Buffer::default()).is_err(), "{what}");
            fill(&mut client, down.bytes());
            let told = client.receive(&mut up, &mut parts).unwrap_err();
            assert!(matches!(told, rustls::Error::AlertReceived(_)), "{what}: {told}");
        }
    }

    #[tokio::test]
    async fn only_what_may_follow_a_handshake_is_taken() {
        // Split over records, with tickets between, which a client passes over.
        let Pair { client, server, mut up, mut down } = pair().await;
        let (mut client, mut server) = (records(client), records(server));
        server.seal_message(&[4, 0, 0, 3, 1, 2, 3, 4, 0, 0, 2, 9], &mut down).unwrap();
        server.seal_message(&[9], &mut down).unwrap();
        server.seal(b"data", &mut down).unwrap();
        assert_eq!(hear(&mut down, &mut client, &mut up, 3), b"data");
        // Nothing may come between the parts.
        let Pair { client, server, mut up, mut down } = pair().await;
        let (mut client, mut server) = (records(client), records(server));
        server.seal_message(&[4, 0, 0, 2, 9], &mut down).unwrap();
        server.seal(b"data", &mut down).unwrap();
        fill(&mut client, down.bytes());
        let mut parts = Vec::new();
        assert!(client.receive(&mut up, &mut parts).is_err() && parts.is_empty());
        // Anything else is refused: a server gets no tickets, and keys change at the end of a record.
        for message in [&[4, 0, 0, 0][..], &[24, 0, 0, 1, 2], &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], &[1, 0, 0, 0]] {
            let Pair { client, server, mut up, mut down } = pair().await;
            let (mut client, mut server) = (records(client), records(server));
            client.seal_message(message, &mut up).unwrap();
            fill(&mut server, up.bytes());
            assert!(server.receive(&mut down, &mut Vec::new()).is_err(), "{message:?}");
        }
    }
}
