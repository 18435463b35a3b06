//! What of steering needs no kernel: the journal, the lock and the words of errors. The rest is in `tests/steering`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{Entry, InboundModes, SteerError, journal::Journal, owner::Owner, tables::Modes};
use weft_abi::{Address, PortMode};

fn entry(cookie: u64) -> Entry {
    Entry {
        uid: "7f3c".into(),
        cookie,
        netns: "/proc/1234/ns/net".into(),
        addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        sysctls: BTreeMap::from([("net.ipv4.tcp_fwmark_accept".into(), "0".into())]),
    }
}

#[test]
fn a_journal_gives_back_what_was_written_and_survives_a_torn_write() {
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::open(state.path()).unwrap();
    journal.write(&entry(1)).unwrap();
    journal.write(&entry(2)).unwrap();
    // A crash between writing aside and renaming.
    fs::write(state.path().join("enrolments/3.new"), "{\"uid\":").unwrap();
    let mut found = Journal::open(state.path()).unwrap().all().unwrap();
    found.sort_by_key(|entry| entry.cookie);
    assert_eq!(found, [entry(1), entry(2)]);
    journal.remove(1).unwrap();
    journal.remove(1).unwrap();
    assert_eq!(journal.read(1).unwrap(), None);
    assert_eq!(journal.read(2).unwrap(), Some(entry(2)));
}

#[test]
fn an_unreadable_entry_hides_no_other_and_is_kept() {
    let state = tempfile::tempdir().unwrap();
    let journal = Journal::open(state.path()).unwrap();
    journal.write(&entry(1)).unwrap();
    fs::write(state.path().join("enrolments/2.json"), "not json").unwrap();
    assert_eq!(journal.all().unwrap(), [entry(1)]);
    assert!(state.path().join("enrolments/2.json").exists());
    assert!(journal.close().is_err(), "nothing unread is thrown away");
}

#[test]
fn the_lock_names_its_owner_and_ends_with_it() {
    let state = tempfile::tempdir().unwrap();
    let owner = Owner::acquire(state.path()).unwrap();
    let error = Owner::acquire(state.path()).unwrap_err();
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    drop(owner);
    Owner::acquire(state.path()).unwrap();
}

#[test]
fn a_pods_identity_has_no_address_where_the_pod_has_none() {
    let single = Entry { addresses: vec!["10.0.0.2".parse().unwrap()], ..entry(9) };
    let identity = single.identity();
    assert_eq!(identity.cookie, 9);
    assert_eq!(identity.own[1], Address::UNSPECIFIED);
}

#[test]
fn port_zero_is_the_default_and_no_port() {
    let modes = InboundModes {
        default: PortMode::Pass,
        ports: BTreeMap::from([(0, PortMode::Refuse), (80, PortMode::Judge)]),
        probes: BTreeSet::from([80, 81]),
    };
    let words = [(0, PortMode::Pass.word(false)), (80, PortMode::Judge.word(true)), (81, PortMode::Pass.word(true))];
    assert_eq!(Modes::from(&modes), Modes::from(words));
}

#[test]
fn errors_say_what_to_do() {
    assert!(SteerError::NoPrograms.to_string().contains("cargo xtask build-ebpf"));
    let not_bpffs = SteerError::NotBpffs { path: "/sys/fs/bpf".into() };
    assert!(not_bpffs.to_string().contains("mount -t bpf bpf /sys/fs/bpf"));
}
