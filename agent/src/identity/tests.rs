//! Certificates from an authority on disk to a handshake: what is believed, what is refused, and what a rotation leaves alone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::time::Instant;
use weft_core::model::{Identity, TrustDomain};

use super::ca::EmbeddedCa;
use super::key::FreshKey;
use super::verify::{read_leaf, read_own_domain};
use super::*;

fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

fn identity(name: &str) -> Identity {
    format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
}

fn request(identity: &Identity, lifetime: Duration) -> (FreshKey, CertificateRequest) {
    let key = FreshKey::generate(identity).unwrap();
    let request = CertificateRequest { identity: identity.clone(), csr: key.csr.clone(), lifetime };
    (key, request)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = soon();
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn root_is_private_and_survives() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ca");
    EmbeddedCa::open(&path, &domain()).unwrap();
    let before = fs::read(path.join("root.crt")).unwrap();
    assert_eq!(fs::metadata(path.join("root.key")).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
    EmbeddedCa::open(&path, &domain()).unwrap();
    assert_eq!(fs::read(path.join("root.crt")).unwrap(), before);
    let left: BTreeSet<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["lock", "root.crt", "root.key"].map(Into::into).into());
}

#[test]
fn agents_sharing_a_directory_make_one_root() {
    let dir = TempDir::new().unwrap();
    let open = || {
        let ca = EmbeddedCa::open(dir.path(), &domain()).unwrap();
        fs::read(ca.root_certificate()).unwrap()
    };
    let roots: BTreeSet<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(roots.len(), 1);
}

#[test]
fn a_key_others_could_read_is_refused_with_its_remedy() {
    let dir = TempDir::new().unwrap();
    EmbeddedCa::open(dir.path(), &domain()).unwrap();
    let key = dir.path().join("root.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = EmbeddedCa::open(dir.path(), &domain()).unwrap_err();
    assert!(matches!(error, CaError::KeyExposed { mode: 0o640, .. }), "{error}");
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn a_directory_others_may_write_to_is_refused_with_its_remedy() {
    let dir = TempDir::new().unwrap();
    for mode in [0o770, 0o1777] {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = EmbeddedCa::open(dir.path(), &domain()).unwrap_err();
        assert!(error.to_string().contains("chmod go-w"), "{error}");
        assert!(!dir.path().join("root.key").exists());
    }
}

#[test]
fn damaged_or_foreign_roots_are_refused() {
    let dir = TempDir::new().unwrap();
    let ca = EmbeddedCa::open(dir.path(), &domain()).unwrap();
    let other = TrustDomain::new("other.mesh").unwrap();
    assert!(matches!(EmbeddedCa::open(dir.path(), &other), Err(CaError::OtherTrustDomain { .. })));

    let second = TempDir::new().unwrap();
    let foreign = EmbeddedCa::open(second.path(), &domain()).unwrap();
    fs::copy(foreign.root_certificate(), ca.root_certificate()).unwrap();
    assert!(matches!(EmbeddedCa::open(dir.path(), &domain()), Err(CaError::Damaged { .. })));
    fs::write(ca.root_certificate(), "nothing").unwrap();
    assert!(matches!(EmbeddedCa::open(dir.path(), &domain()), Err(CaError::Damaged { .. })));

    fs::remove_file(second.path().join("root.key")).unwrap();
    assert!(matches!(EmbeddedCa::open(second.path(), &domain()), Err(CaError::KeyMissing { .. })));
}

#[test]
fn a_crash_between_key_and_certificate_is_repaired() {
    let dir = TempDir::new().unwrap();
    EmbeddedCa::open(dir.path(), &domain()).unwrap();
    fs::remove_file(dir.path().join("root.crt")).unwrap();
    let ca = EmbeddedCa::open(dir.path(), &domain()).unwrap();
    ca.issue(&request(&identity("a"), Duration::from_secs(60)).1).unwrap();
}

#[test]
fn leaves_name_exactly_what_was_asked() {
    let dir = TempDir::new().unwrap();
    let ca = EmbeddedCa::open(dir.path(), &domain()).unwrap();
    let (key, asked) = request(&identity("cart"), Duration::from_secs(3600));
    let issued = ca.issue(&asked).unwrap();
    let leaf = read_leaf(&issued.chain[0]).unwrap();
    assert_eq!(leaf.identity, identity("cart"));
    let now = SystemTime::now();
    assert!(leaf.not_before <= now - Duration::from_secs(60), "a peer whose clock is behind must accept it");
    assert!(leaf.not_after <= now + Duration::from_secs(3600) && leaf.not_after > now + Duration::from_secs(3500));
    Credentials::new(&identity("cart"), key.signing, issued.chain.clone(), issued.anchors.clone()).unwrap();

    let other = FreshKey::generate(&identity("cart")).unwrap();
    let wrong_key = Credentials::new(&identity("cart"), other.signing, issued.chain.clone(), issued.anchors.clone());
    assert!(matches!(wrong_key, Err(CredentialsError::Unusable { .. })));
    let wrong_name = Credentials::new(&identity("till"), Arc::clone(&other_key()), issued.chain, issued.anchors);
    assert!(matches!(wrong_name, Err(CredentialsError::Unusable { .. })));
}

fn other_key() -> Arc<dyn rustls::sign::SigningKey> {
    FreshKey::generate(&identity("x")).unwrap().signing
}

#[test]
fn requests_for_others_are_refused() {
    let dir = TempDir::new().unwrap();
    let ca = EmbeddedCa::open(dir.path(), &domain()).unwrap();
    let (_, mut asked) = request(&identity("cart"), Duration::from_secs(60));
    asked.identity = identity("till");
    assert!(matches!(ca.issue(&asked), Err(AuthorityError::Refused { .. })));
    let foreign: Identity = "spiffe://other.mesh/ns/shop/sa/cart".parse().unwrap();
    assert!(matches!(ca.issue(&request(&foreign, Duration::from_secs(60)).1), Err(AuthorityError::Refused { .. })));
    let (_, mut torn) = request(&identity("cart"), Duration::from_secs(60));
    torn.csr = torn.csr[..100].to_vec().into();
    assert!(matches!(ca.issue(&torn), Err(AuthorityError::Refused { .. })));
}

#[test]
fn only_one_workload_of_this_mesh_is_a_name() {
    let certificate = |names: &[&str]| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.strip_prefix("dns:") {
                Some(name) => SanType::DnsName(name.try_into().unwrap()),
                None => SanType::URI((*name).try_into().unwrap()),
            })
            .collect();
        let key = KeyPair::generate().unwrap();
        CertificateDer::from(params.self_signed(&key).unwrap())
    };
    let read = |names: &[&str]| read_own_domain(&certificate(names), &domain()).map(|leaf| leaf.identity);
    let good = "spiffe://cluster.local/ns/shop/sa/cart";
    assert_eq!(read(&[good]), Ok(identity("cart")));
    assert_eq!(read(&[good, "dns:cart.shop"]), Ok(identity("cart")));
    assert_eq!(read(&[]), Err(PeerError::NoIdentity));
    assert_eq!(read(&["dns:cart.shop"]), Err(PeerError::NoIdentity));
    assert_eq!(read(&[good, good]), Err(PeerError::ManyIdentities(2)));
    assert!(matches!(read(&["https://cluster.local/ns/shop/sa/cart"]), Err(PeerError::Form(_))));
    assert!(matches!(read(&["spiffe://cluster.local/cart"]), Err(PeerError::Form(_))));
    assert!(matches!(read(&["spiffe://other.mesh/ns/shop/sa/cart"]), Err(PeerError::OtherTrustDomain { .. })));
    assert!(matches!(read_leaf(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])), Err(PeerError::Malformed(_))));
}

/// The embedded authority with an off switch.
struct Switched {
    ca: EmbeddedCa,
    off: AtomicBool,
    asked: AtomicUsize,
}

impl Switched {
    fn new(dir: &TempDir) -> Arc<Self> {
        let ca = EmbeddedCa::open(dir.path(), &domain()).unwrap();
        Arc::new(Self { ca, off: AtomicBool::new(false), asked: AtomicUsize::new(0) })
    }
}

impl Authority for Switched {
    fn sign(&self, request: CertificateRequest) -> BoxFuture<'_, Result<Issued, AuthorityError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.off.load(Ordering::Relaxed) {
            return std::future::ready(Err(AuthorityError::Unreachable("switched off".to_owned()))).boxed();
        }
        self.ca.sign(request)
    }

    fn anchors(&self) -> BoxFuture<'_, Result<Vec<CertificateDer<'static>>, AuthorityError>> {
        self.ca.anchors()
    }
}

fn settings(lifetime: Duration) -> Settings {
    Settings {
        lifetime,
        retry_min: Duration::from_millis(10),
        retry_max: Duration::from_millis(50),
        anchors_every: Duration::from_millis(50),
        metrics: None,
        ..Settings::default()
    }
}

#[tokio::test]
async fn certificates_rotate_before_they_expire() {
    let dir = TempDir::new().unwrap();
    let store = Identities::new(Switched::new(&dir), settings(Duration::from_secs(3)));
    store.ensure(&identity("cart"));
    let first = store.wait(&identity("cart"), soon()).await.unwrap();
    let born = Instant::now();
    until("a second certificate", || {
        let now = store.credentials(&identity("cart")).expect("there is always a valid one");
        now.leaf().serial != first.leaf().serial
    })
    .await;
    let share = born.elapsed().as_secs_f64() / 3.0;
    assert!((0.25..0.9).contains(&share), "rotated at {share} of its life");
}

#[tokio::test]
async fn failures_back_off_keep_what_is_valid_and_never_hand_out_what_expired() {
    let dir = TempDir::new().unwrap();
    let authority = Switched::new(&dir);
    let store = Identities::new(Arc::clone(&authority) as Arc<dyn Authority>, settings(Duration::from_secs(2)));
    store.ensure(&identity("cart"));
    let first = store.wait(&identity("cart"), soon()).await.unwrap();
    authority.off.store(true, Ordering::Relaxed);
    until("a failed renewal", || store.states()[0].failure.is_some()).await;
    let held = store.credentials(&identity("cart")).expect("a failed renewal takes nothing away");
    assert_eq!(held.leaf().serial, first.leaf().serial);
    until("expiry", || store.credentials(&identity("cart")).is_none()).await;
    let asked = authority.asked.load(Ordering::Relaxed);
    assert!(asked < 200, "{asked} requests: there is no pause between them");
    let error = store.wait(&identity("cart"), Instant::now() + Duration::from_millis(20)).await.unwrap_err();
    assert!(error.to_string().contains("switched off"), "{error}");
    authority.off.store(false, Ordering::Relaxed);
    store.wait(&identity("cart"), soon()).await.unwrap();
    assert!(store.states()[0].failure.is_none());
}

/// An authority whose clock is off by so many seconds.
struct Skewed {
    root: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    seconds: AtomicI64,
}

impl Skewed {
    fn by(seconds: i64) -> Arc<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().into();
        Arc::new(Self { root: Issuer::new(params, key), certificate, seconds: AtomicI64::new(seconds) })
    }
}

impl Authority for Skewed {
    fn sign(&self, request: CertificateRequest) -> BoxFuture<'_, Result<Issued, AuthorityError>> {
        let mut asked = rcgen::CertificateSigningRequestParams::from_der(&request.csr).unwrap();
        let now = time::OffsetDateTime::now_utc() + time::Duration::seconds(self.seconds.load(Ordering::Relaxed));
        asked.params.not_before = now - Duration::from_secs(300);
        asked.params.not_after = now + request.lifetime;
        let leaf = asked.signed_by(&self.root).unwrap();
        std::future::ready(Ok(Issued { chain: vec![leaf.into()], anchors: vec![self.certificate.clone()] })).boxed()
    }

    fn anchors(&self) -> BoxFuture<'_, Result<Vec<CertificateDer<'static>>, AuthorityError>> {
        std::future::ready(Ok(vec![self.certificate.clone()])).boxed()
    }
}

#[tokio::test]
async fn an_authority_an_hour_off_takes_nothing_away_and_is_named() {
    for (seconds, said) in [(3600, "will be valid in 54 minutes"), (-3600, "has not been valid for 5")] {
        let authority = Skewed::by(seconds);
        let metrics = crate::telemetry::Metrics::new();
        let settings = Settings { metrics: Some(metrics.clone()), ..settings(Duration::from_secs(3)) };
        let store = Identities::new(Arc::clone(&authority) as Arc<dyn Authority>, settings);
        store.ensure(&identity("cart"));
        let error = store.wait(&identity("cart"), Instant::now() + Duration::from_millis(500)).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert!(error.to_string().contains("clock right"), "{error}");
        assert!(metrics.text().unwrap().contains("weft_certificate_failures_total{reason=\"clock\"}"));
        // It is set right, then off again: what was issued in between serves on.
        authority.seconds.store(0, Ordering::Relaxed);
        let first = store.wait(&identity("cart"), soon()).await.unwrap();
        authority.seconds.store(seconds, Ordering::Relaxed);
        until("a renewal that cannot be used", || store.states()[0].failure.is_some()).await;
        assert_eq!(store.credentials(&identity("cart")).unwrap().leaf().serial, first.leaf().serial);
    }
}

#[tokio::test]
async fn a_new_root_is_adopted_without_restart() {
    let dir = TempDir::new().unwrap();
    let store = Identities::new(Switched::new(&dir), settings(Duration::from_secs(3600)));
    store.ensure(&identity("cart"));
    let first = store.wait(&identity("cart"), soon()).await.unwrap();
    assert_eq!(first.anchors().len(), 1);
    let next = TempDir::new().unwrap();
    let next_ca = EmbeddedCa::open(next.path(), &domain()).unwrap();
    fs::copy(next_ca.root_certificate(), dir.path().join("trust.crt")).unwrap();
    until("two anchors", || store.credentials(&identity("cart")).is_some_and(|held| held.anchors().len() == 2)).await;
    let held = store.credentials(&identity("cart")).unwrap();
    assert_eq!(held.leaf(), first.leaf(), "the certificate itself stays");
}

#[tokio::test]
async fn only_wanted_identities_are_kept() {
    let dir = TempDir::new().unwrap();
    let store = Identities::new(Switched::new(&dir), settings(Duration::from_secs(3600)));
    store.keep_only(&[identity("a"), identity("b")].into());
    store.wait(&identity("b"), soon()).await.unwrap();
    store.keep_only(&[identity("b"), identity("c")].into());
    assert!(store.credentials(&identity("a")).is_none());
    let kept: BTreeSet<_> = store.states().into_iter().map(|state| state.identity).collect();
    assert_eq!(kept, [identity("b"), identity("c")].into());
    assert!(store.wait(&identity("a"), soon()).await.is_err(), "asking for a stranger does not wait");
}

#[test]
fn minted_bundles_are_complete_and_private() {
    let dir = TempDir::new().unwrap();
    let ca = EmbeddedCa::open(dir.path(), &domain()).unwrap();
    let out = dir.path().join("out");
    ca.mint(&identity("peer"), Duration::from_secs(60)).unwrap().write(&out).unwrap();
    assert_eq!(fs::metadata(out.join("key.pem")).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read(out.join("roots.pem")).unwrap().len(), fs::read(ca.root_certificate()).unwrap().len());
    assert!(fs::read_to_string(out.join("cert.pem")).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
}
