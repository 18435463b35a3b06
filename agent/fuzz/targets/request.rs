//! A certificate request as the issuer is sent it (PKCS#10 in DER): no panic, and whoever may be certified has one valid
//! SPIFFE identity.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls::pki_types::CertificateSigningRequestDer;
use weft_ca::Request;
use weft_core::model::Identity;

fuzz_target!(|der: &[u8]| {
    let Ok(request) = Request::read(&CertificateSigningRequestDer::from(der)) else { return };
    assert_eq!(request.identity().to_string().parse::<Identity>().as_ref(), Ok(request.identity()));
});
