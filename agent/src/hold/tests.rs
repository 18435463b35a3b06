//! The holder against a real client, real sockets and packets nobody sends.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::PathBuf,
    thread,
};

use proptest::prelude::*;
use weft_abi::{ListenerKey, ListenerRole};

use super::{
    Client, Holder,
    client::Session,
    wire::{LENGTH, Operation, Packet},
};

fn holder() -> (tempfile::TempDir, PathBuf, Client) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hold.sock");
    let holder = Holder::bind(&path).unwrap();
    thread::spawn(move || holder.run());
    let client = Client::connect(&path).unwrap();
    (directory, path, client)
}

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

fn key(cookie: u64, role: ListenerRole) -> ListenerKey {
    ListenerKey { cookie, role: role as u64 }
}

#[test]
fn connections_that_queued_while_nobody_accepted_are_served_by_the_next() {
    let (_directory, _, client) = holder();
    let first = listener();
    let address = first.local_addr().unwrap();
    client.put(key(7, ListenerRole::Inbound), first.as_fd()).unwrap();
    let mut queued = TcpStream::connect(address).unwrap();
    drop(first);
    let mut waiting = TcpStream::connect(address).expect("the holder keeps the port open");
    let mut taken = client.take_all().unwrap();
    assert_eq!(taken.len(), 1);
    let (found, descriptor) = taken.pop().unwrap();
    assert_eq!(found, key(7, ListenerRole::Inbound));
    let successor = TcpListener::from(descriptor);
    for stream in [&mut queued, &mut waiting] {
        let (mut accepted, _) = successor.accept().unwrap();
        accepted.write_all(b"!").unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
    }
}

#[test]
fn a_dropped_pods_port_closes_and_others_stay() {
    let (_directory, _, client) = holder();
    let (gone, stays) = (listener(), listener());
    client.put(key(1, ListenerRole::Outbound), gone.as_fd()).unwrap();
    client.put(key(2, ListenerRole::Outbound), stays.as_fd()).unwrap();
    let (gone_at, stays_at) = (gone.local_addr().unwrap(), stays.local_addr().unwrap());
    drop((gone, stays));
    client.drop(1).unwrap();
    assert_eq!(client.count().unwrap(), 1);
    assert_eq!(TcpStream::connect(gone_at).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    TcpStream::connect(stays_at).unwrap();
}

#[test]
fn what_does_not_listen_is_not_kept() {
    let (_directory, _, client) = holder();
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.put(key(1, ListenerRole::Outbound), socket.as_fd()).unwrap_err();
    assert_eq!(client.count().unwrap(), 0);
}

#[test]
fn nobody_else_can_open_the_socket() {
    let (_directory, path, _client) = holder();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_second_holder_takes_over_and_the_first_goes_on_for_those_connected_to_it() {
    let (directory, path, client) = holder();
    let (kept, later) = (listener(), listener());
    client.put(key(7, ListenerRole::Inbound), kept.as_fd()).unwrap();
    let with_first = Session::open(&path).unwrap();
    let second = Holder::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // What is asked before the second serves waits for it.
    let asking = thread::spawn(move || client.take_all().map(|taken| (taken, client)));
    thread::spawn(move || second.run());
    let (taken, client) = asking.join().unwrap().unwrap();
    assert_eq!(taken.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [key(7, ListenerRole::Inbound)]);
    client.put(key(8, ListenerRole::Inbound), later.as_fd()).unwrap();
    assert_eq!(client.count().unwrap(), 2);
    assert_eq!(with_first.take_all().unwrap().len(), 1, "the first holder still answers, and for itself");
    let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["hold.sock"], "nothing is left beside the socket");
}

#[test]
fn a_holder_that_never_answers_is_succeeded_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hold.sock");
    // It listens, and hangs up on whoever asks.
    let dying = super::server::listen_at(&path).unwrap();
    let hanging_up = thread::spawn(move || drop(crate::sys::rights::accept(dying.as_fd()).unwrap()));
    let successor = Holder::bind(&path).unwrap();
    hanging_up.join().unwrap();
    thread::spawn(move || successor.run());
    assert_eq!(Client::connect(&path).unwrap().count().unwrap(), 0);
}

#[test]
fn a_socket_file_nobody_answers_at_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hold.sock");
    drop(Holder::bind(&path).unwrap());
    Holder::bind(&path).expect("a dead holder's file is no obstacle");
}

proptest! {
    #[test]
    fn packets_survive_the_wire(role: u64, cookie: u64) {
        for operation in [
            Operation::Put, Operation::TakeAll, Operation::Drop, Operation::Count, Operation::Done, Operation::Item,
            Operation::Refused,
        ] {
            let packet = Packet { operation, role, cookie };
            prop_assert_eq!(Packet::decode(&packet.encode()), Some(packet));
        }
    }

    #[test]
    fn bytes_are_a_packet_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Some(packet) = Packet::decode(&bytes) {
            prop_assert_eq!(&packet.encode()[..], &bytes[..LENGTH]);
        }
    }
}
