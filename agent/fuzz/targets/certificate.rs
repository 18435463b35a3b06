//! A peer's leaf certificate, as DER: no panic, and whoever is named is named by a valid SPIFFE identity.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls::pki_types::CertificateDer;
use weft::identity::PeerCertificate;
use weft_core::model::Identity;

fuzz_target!(|der: &[u8]| {
    let Ok(leaf) = PeerCertificate::read(&CertificateDer::from(der)) else { return };
    assert_eq!(leaf.identity.to_string().parse::<Identity>().as_ref(), Ok(&leaf.identity));
});
