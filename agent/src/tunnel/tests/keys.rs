//! More bytes than one key may seal, through tunnels that live on: KeyUpdate in both directions (RFC 8446, section 4.6.3).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::apps::{echo_app, ping_pong};
use super::rig::{Plan, Rig, within};
use crate::tunnel::Protocol;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Records that one key may seal. A tunnel changes it some 1,000 records before.
const LIMIT: u64 = 1024 + 64;
/// In either direction, in bytes; a record holds 16 KiB at the most.
const BYTES: usize = 48 << 20;

/// The cipher as it is, but that its keys may seal so little.
fn limited(suite: SupportedCipherSuite) -> Arc<CryptoProvider> {
    let known = suite.tls13().expect("a suite of TLS 1.3");
    let common = CipherSuiteCommon {
        suite: known.common.suite,
        hash_provider: known.common.hash_provider,
        confidentiality_limit: LIMIT,
    };
    let suite = Tls13CipherSuite { common, hkdf_provider: known.hkdf_provider, aead_alg: known.aead_alg, quic: None };
    let cipher_suites = vec![SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))];
    Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
}

/// A byte of the pattern, which does not repeat within a record.
fn byte(at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16).wrapping_mul(0x9d) as u8
}

/// Sends the pattern to an app that echoes, and compares what comes back.
async fn echo_all(rig: &Rig, to: std::net::SocketAddr) {
    let (mut read, mut write) = rig.connect(to).await.into_split();
    let writer = tokio::spawn(async move {
        for start in (0..BYTES).step_by(1 << 16) {
            let chunk: Vec<u8> = (start..start + (1 << 16)).map(byte).collect();
            write.write_all(&chunk).await.unwrap();
        }
        write.shutdown().await.unwrap();
    });
    let (mut at, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        let size = within("more of the echo", read.read(&mut buffer)).await.unwrap();
        if size == 0 {
            break;
        }
        let wrong = buffer[..size].iter().zip(at..).position(|(got, at)| *got != byte(at));
        assert_eq!(wrong, None, "behind {at} bytes");
        at += size;
    }
    assert_eq!(at, BYTES);
    writer.await.unwrap();
}

async fn goes_on_past_the_limit(suite: SupportedCipherSuite, protocol: Protocol) {
    let rig = Rig::with(Plan { provider: Some(limited(suite)), ..Plan::speaking(protocol) }).await;
    let echo = echo_app(V4).await;
    // A stream beside it, to look at the tunnel by.
    let beside = rig.stream(echo).await.unwrap();
    echo_all(&rig, echo).await;
    assert_eq!(*rig.client_seen.protocols.lock().unwrap(), [protocol], "one tunnel carried all of it");
    assert_eq!(rig.client_seen.closings(), [""; 0]);
    if let Some((sealed, opened)) = beside.under_keys() {
        let records = (BYTES / (16 * 1024)) as u64;
        assert!(records > 2 * LIMIT && sealed < LIMIT && opened < LIMIT, "{sealed} and {opened} of {records} and more");
    }
    ping_pong(&mut rig.connect(echo).await, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weft_tunnel_changes_its_keys_and_goes_on_whatever_the_cipher() {
    for suite in [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ] {
        goes_on_past_the_limit(suite, Protocol::Weft).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_of_hbone_does_too() {
    goes_on_past_the_limit(cipher_suite::TLS13_AES_128_GCM_SHA256, Protocol::Hbone).await;
}
