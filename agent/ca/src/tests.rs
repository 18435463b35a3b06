//! Requests that are signed and those that are not, and answers as different authorities give them.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};
use rustls::pki_types::CertificateSigningRequestDer;
use weft_core::model::{Identity, TrustDomain};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::protocol::{CertificateRequest, CertificateResponse, Chain};
use super::*;

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

fn signer() -> Signer {
    let made = make_root(&domain()).unwrap();
    Signer::read(&certificates(&made.certificate).unwrap()[0], &made.key, &domain()).unwrap()
}

fn asking(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = request_params(&CART.parse::<Identity>().unwrap()).unwrap();
    change(&mut params);
    params
}

fn csr(params: &CertificateParams, key: &KeyPair) -> CertificateSigningRequestDer<'static> {
    params.serialize_request(key).unwrap().into()
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn judged(change: impl FnOnce(&mut CertificateParams)) -> Result<Identity, RequestError> {
    Request::read(&csr(&asking(change), &p256())).map(|request| request.identity().clone())
}

#[test]
fn a_request_is_one_name_and_a_key() {
    assert_eq!(judged(|_| {}), Ok(CART.parse().unwrap()));
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let dns = SanType::DnsName("cart.shop".try_into().unwrap());
    assert_eq!(judged(|p| p.subject_alt_names.clear()), Err(RequestError::Names(0)));
    assert_eq!(judged(|p| p.subject_alt_names.push(uri(CART))), Err(RequestError::Names(2)));
    assert_eq!(judged(|p| p.subject_alt_names.push(dns.clone())), Err(RequestError::Names(2)));
    assert_eq!(judged(|p| p.subject_alt_names = vec![dns]), Err(RequestError::NoUri));
    assert!(matches!(
        judged(|p| p.subject_alt_names = vec![uri("https://cluster.local/ns/shop/sa/cart")]),
        Err(RequestError::Identity(_))
    ));
    let authority = judged(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(authority, Err(RequestError::Rights("an authority's certificate")));
    assert!(matches!(judged(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]), Err(RequestError::Rights(_))));
    let code = vec![ExtendedKeyUsagePurpose::CodeSigning];
    assert!(matches!(judged(|p| p.extended_key_usages = code), Err(RequestError::Rights(_))));
}

#[test]
fn keys_of_other_kinds_and_foreign_signatures_are_refused() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(Request::read(&csr(&asking(|_| {}), &key)).err(), Some(RequestError::Key), "{algorithm:?}");
    }
    // The name of one request in another that was signed for something else.
    let mut forged = csr(&asking(|_| {}), &p256()).to_vec();
    let at = forged.windows(4).position(|window| window == b"cart").unwrap();
    forged[at..at + 4].copy_from_slice(b"till");
    assert!(matches!(Request::read(&forged.into()), Err(RequestError::Malformed(_))));
}

#[test]
fn a_leaf_is_the_authority_s_to_fill_in() {
    let signer = signer();
    let wanted = asking(|p| {
        p.distinguished_name = DistinguishedName::new();
        p.distinguished_name.push(rcgen::DnType::CommonName, "admin");
    });
    let request = Request::read(&csr(&wanted, &p256())).unwrap();
    let leaf = signer.sign(&request, Duration::from_secs(3600)).unwrap();
    let (_, parsed) = X509Certificate::from_der(&leaf.certificate).unwrap();
    assert_eq!(parsed.subject().iter().count(), 0, "a subject was taken over");
    assert!(!parsed.is_ca());
    assert_eq!(parsed.raw_serial_as_string(), leaf.serial);
    let now = SystemTime::now();
    assert!(leaf.not_before <= now - Duration::from_secs(240), "a peer whose clock is behind must accept it");
    assert!(leaf.not_after <= now + Duration::from_secs(3600));
    let long = signer.sign(&request, Duration::from_secs(100 * 365 * 24 * 3600)).unwrap();
    assert!(long.not_after <= signer.not_after(), "no leaf outlives its authority");
}

#[test]
fn serial_numbers_are_encoded_as_they_are() {
    // A leading zero byte would come up once in 128.
    for serial in std::iter::repeat_with(crate::signer::random_serial).take(10_000) {
        let bytes = serial.to_bytes();
        assert_eq!(bytes.len(), 16);
        assert!((0x40..0x80).contains(&bytes[0]), "{bytes:02x?} is negative, or DER shortens it");
    }
}

#[test]
fn only_an_authority_of_this_mesh_signs() {
    let (one, two) = (make_root(&domain()).unwrap(), make_root(&domain()).unwrap());
    let certificate = certificates(&one.certificate).unwrap().remove(0);
    let read = |key: &str, domain: &TrustDomain| Signer::read(&certificate, key, domain).err();
    assert_eq!(read(&one.key, &domain()), None);
    assert_eq!(read(&two.key, &domain()), Some(SignerError::OtherKey));
    assert!(matches!(read("no key", &domain()), Some(SignerError::Key(_))));
    let other = TrustDomain::new("other.mesh").unwrap();
    assert!(matches!(read(&one.key, &other), Some(SignerError::OtherTrustDomain { .. })));
    let key = p256();
    let leaf = CertificateParams::default().self_signed(&key).unwrap();
    assert_eq!(Signer::read(leaf.der(), &key.serialize_pem(), &domain()).err(), Some(SignerError::NoAuthority));
}

#[test]
fn answers_of_different_authorities_read_the_same() {
    let [leaf, middle, one, two] =
        [(); 4].map(|()| certificates(&make_root(&domain()).unwrap().certificate).unwrap().remove(0));
    let wanted = Chain { chain: vec![leaf.clone(), middle.clone()], anchors: vec![one, two] };
    assert_eq!(CertificateResponse::new(&wanted).read(), Ok(wanted.clone()));
    let together = CertificateResponse { cert_chain: vec![pem_of(&wanted.chain), pem_of(&wanted.anchors)] };
    assert_eq!(together.read(), Ok(wanted));
    for wrong in [vec![], vec![pem_of(&[leaf])], vec![String::new(), pem_of(&[middle])], vec!["-----BEGIN".into()]] {
        assert!(CertificateResponse { cert_chain: wrong.clone() }.read().is_err(), "{wrong:?}");
    }
}

#[test]
fn the_messages_are_istio_s() {
    use prost::Message;
    let request = CertificateRequest::new("CSR".into(), 3600, CART.into());
    // Field 1, the text; field 3, a varint; field 4, the Struct.
    let bytes = request.encode_to_vec();
    assert_eq!(bytes[..5], [0x0a, 3, b'C', b'S', b'R']);
    assert_eq!(bytes[5..9], [0x18, 0x90, 0x1c, 0x22]);
    let read = CertificateRequest::decode(&bytes[..]).unwrap();
    assert_eq!(read.impersonated(), Some(CART));
    assert_eq!(
        CertificateResponse { cert_chain: vec!["a".into(), "b".into()] }.encode_to_vec(),
        [10, 1, 97, 10, 1, 98]
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0_usize..400, with in any::<u8>()) {
        let _ = Request::read(&bytes.into());
        // And what is nearly right.
        static GOOD: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let mut nearly = GOOD.get_or_init(|| csr(&asking(|_| {}), &p256()).to_vec()).clone();
        let at = at % nearly.len();
        nearly[at] = with;
        if let Ok(read) = Request::read(&nearly.into()) {
            prop_assert_eq!(read.identity().to_string(), CART, "what is read is what was signed");
        }
    }
}
