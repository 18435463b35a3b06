//! Requests that are signed and those that are not, and answers as different authorities give them.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
    SanType,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
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

/// An authority's certificate, signed by another's or by itself.
fn authority(name: &str, key: &KeyPair, by: Option<&Issuer<'_, &KeyPair>>) -> rcgen::Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    match by {
        Some(issuer) => params.signed_by(key, issuer),
        None => params.self_signed(key),
    }
    .unwrap()
}

/// The octets of the key in a PKCS #8 document: for RSA that is PKCS #1.
fn within_pkcs8(key: &KeyPair) -> Vec<u8> {
    use x509_parser::der_parser::parse_der;
    let der = key.serialize_der();
    let (_, document) = parse_der(&der).unwrap();
    document.as_sequence().unwrap()[2].as_slice().unwrap().to_vec()
}

/// SEC 1 as Go and OpenSSL write a P-256 key: the scalar, the curve's name, the point.
fn sec1(key: &KeyPair) -> Vec<u8> {
    let inner = within_pkcs8(key);
    let (_, fields) = x509_parser::der_parser::parse_der(&inner).unwrap();
    let scalar = fields.as_sequence().unwrap()[1].as_slice().unwrap().to_vec();
    let mut der = vec![0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
    der.extend(scalar);
    der.extend([0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42, 0x00]);
    der.extend(key.public_key_raw());
    der
}

#[test]
fn keys_are_read_in_every_form_an_authority_s_secret_has_them_in() {
    let text = |tag: &str, der: Vec<u8>| ::pem::encode(&::pem::Pem::new(tag, der));
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let (ec, p384, ed) = (p256(), KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384), KeyPair::generate_for(&PKCS_ED25519));
    let (p384, ed) = (p384.unwrap(), ed.unwrap());
    let parameters = text("EC PARAMETERS", vec![0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]);
    for (form, key, text) in [
        ("PKCS #8 of RSA", &rsa, rsa.serialize_pem()),
        ("PKCS #1", &rsa, text("RSA PRIVATE KEY", within_pkcs8(&rsa))),
        ("PKCS #8 of P-256", &ec, ec.serialize_pem()),
        ("SEC 1", &ec, text("EC PRIVATE KEY", sec1(&ec))),
        ("SEC 1 as OpenSSL writes it", &ec, parameters + &text("EC PRIVATE KEY", sec1(&ec))),
        ("PKCS #8 of P-384", &p384, p384.serialize_pem()),
        ("PKCS #8 of Ed25519", &ed, ed.serialize_pem()),
    ] {
        let root = authority("root", key, None).der().clone();
        let signer = Signer::read(&root, &text, &domain()).unwrap_or_else(|e| panic!("{form}: {e}"));
        signer.check(&domain(), &[], &[root]).unwrap_or_else(|e| panic!("{form}: {e}"));
    }
}

#[test]
fn an_intermediate_is_believed_with_its_chain_and_its_root_only() {
    let keys = [(); 4].map(|()| p256());
    let [root_key, middle_key, own_key, other_key] = &keys;
    let root = authority("root", root_key, None);
    let by_root = Issuer::from_ca_cert_der(root.der(), root_key).unwrap();
    let middle = authority("middle", middle_key, Some(&by_root));
    let by_middle = Issuer::from_ca_cert_der(middle.der(), middle_key).unwrap();
    // Named as the one that signed it: by its names alone it would pass for a root.
    let own = authority("middle", own_key, Some(&by_middle));
    let signer = Signer::read(own.der(), &own_key.serialize_pem(), &domain()).unwrap();
    let (root, middle, own) = (root.der().clone(), middle.der().clone(), own.der().clone());
    let check = |chain: &[CertificateDer<'static>], anchor: &CertificateDer<'static>| {
        signer.check(&domain(), chain, std::slice::from_ref(anchor))
    };
    assert_eq!(check(&[own.clone(), middle.clone()], &root), Ok(()));
    assert_eq!(check(&[own.clone(), middle.clone(), root.clone()], &root), Ok(()), "a root more does no harm");
    assert_eq!(check(std::slice::from_ref(&own), &middle), Ok(()), "an anchor need not be a root");
    let other = authority("root", other_key, None).der().clone();
    for (chain, anchor) in [(vec![own.clone()], &root), (vec![middle.clone()], &root), (vec![own, middle], &other)] {
        assert!(matches!(check(&chain, anchor), Err(SignerError::Unbelieved(_))), "{} in the chain", chain.len());
    }
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
