//! Certificates of the mesh's own authority that are not what a workload's are, at either end: each is refused in the
//! handshake under a name of its own.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::apps::{echo_app, ping_pong};
use super::hostile::is_turned_away;
use super::rig::{Rig, identity, within};

/// A leaf as the authority would sign it, but for what `spoil` does to it; with the key that goes with it.
fn signed(rig: &Rig, spoil: impl FnOnce(&mut CertificateParams)) -> Arc<SingleCertAndKey> {
    let read = |name: &str| std::fs::read_to_string(rig._state.path().join(name)).unwrap();
    let root = KeyPair::from_pem(&read("root.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("root.crt"), root).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri(&identity("server").to_string())];
    params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(7200)).into();
    spoil(&mut params);
    let key = KeyPair::generate().unwrap();
    certified(params.signed_by(&key, &issuer).unwrap().der().clone(), &key)
}

fn certified(leaf: CertificateDer<'static>, key: &KeyPair) -> Arc<SingleCertAndKey> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![leaf], key)))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// What is shown, and the name under which it is refused; `foreign` is the purpose that the other end's have.
fn spoilt(rig: &Rig, foreign: ExtendedKeyUsagePurpose) -> Vec<(Arc<SingleCertAndKey>, &'static str)> {
    let name = || uri(&identity("server").to_string());
    let later = || (SystemTime::now() + Duration::from_secs(3600)).into();
    vec![
        (signed(rig, |leaf| leaf.not_before = later()), "certificate_not_yet_valid"),
        (signed(rig, |leaf| leaf.subject_alt_names = vec![]), "certificate_without_identity"),
        (signed(rig, |leaf| leaf.subject_alt_names = vec![name(), name()]), "certificate_without_identity"),
        (
            signed(rig, |leaf| leaf.subject_alt_names = vec![uri("https://cluster.local")]),
            "certificate_without_identity",
        ),
        (signed(rig, |leaf| leaf.extended_key_usages = vec![foreign]), "certificate_invalid"),
        (
            signed(rig, |leaf| leaf.subject_alt_names = vec![uri("spiffe://other.mesh/ns/shop/sa/server")]),
            "other_trust_domain",
        ),
        (certified(vec![0x30, 3, 1, 2, 3].into(), &KeyPair::generate().unwrap()), "certificate_malformed"),
    ]
}

#[tokio::test]
async fn clients_whose_certificate_is_no_workloads_are_turned_away() {
    let rig = Rig::new().await;
    let config = rig.credentials("client").client_config(&identity("server")).unwrap();
    for (certificate, reason) in spoilt(&rig, ExtendedKeyUsagePurpose::ServerAuth) {
        let mut config = (*config).clone();
        config.client_auth_cert_resolver = certificate;
        is_turned_away(&rig, Arc::new(config), reason).await;
    }
    // What is spoilt in none of these ways is believed: the test can fail.
    let mut good = (*config).clone();
    good.client_auth_cert_resolver = signed(&rig, |_| {});
    good.alpn_protocols = vec![b"weft/1".to_vec()];
    let _tls = super::hostile::tls(&rig, Arc::new(good)).await.unwrap();
    super::rig::until("the tunnel", || rig.server_seen.opened.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn servers_whose_certificate_is_no_workloads_get_nothing() {
    let rig = Rig::new().await;
    let mut beside = rig.connect(echo_app(Ipv4Addr::LOCALHOST.into()).await).await;
    for (last, (certificate, reason)) in (1..).zip(spoilt(&rig, ExtendedKeyUsagePurpose::ClientAuth)) {
        let ip = Ipv4Addr::new(127, 0, 1, last);
        let listener = TcpListener::bind((ip, rig.port)).await.unwrap();
        let mut config = (*rig.credentials("server").server_config_for(&[b"weft/1".to_vec()])).clone();
        config.cert_resolver = certificate;
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let _ = TlsAcceptor::from(Arc::new(config.clone())).accept(tcp).await;
            }
        });
        let before = rig.client_seen.rejections().len();
        let answer = within("an answer", rig.pool.connect(&rig.request((ip, 80).into()))).await;
        assert_eq!(answer.unwrap_err().reason(), reason);
        assert_eq!(rig.client_seen.rejections()[before..], [reason]);
        ping_pong(&mut beside, 1).await;
    }
}
