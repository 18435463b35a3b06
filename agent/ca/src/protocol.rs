//! Istio's protocol for certificates, `istio.v1.auth.IstioCertificateService/CreateCertificate`: two messages and a path.
//!
//! The messages are written down here instead of being generated: there are two, they have not changed since 2019, and a
//! generator would be a compiler for another language in the build of everybody.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rustls::pki_types::CertificateDer;

use crate::{certificates, pem_of};

/// The method's path.
pub const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// The longest message either side reads, in bytes: a request is about 600, an answer with four roots 4 kB.
pub const MESSAGE_MAX: usize = 64 << 10;
/// The request's metadata that names whom the caller asks for.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// `IstioCertificateRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// PKCS #10 in PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// How long the certificate shall last, in seconds; the authority may shorten it.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// Further words; [`CertificateRequest::impersonated`] is the one there is.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// `IstioCertificateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// PEM texts: the leaf first, intermediates, and in the last one every trust anchor.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

impl CertificateRequest {
    /// A request for `identity`, whose name is in the CSR as well.
    #[must_use]
    pub fn new(csr: String, validity_duration: i64, identity: String) -> Self {
        let name = Value { kind: Some(Kind::StringValue(identity)) };
        let metadata = Struct { fields: BTreeMap::from([(IMPERSONATED.to_owned(), name)]) };
        Self { csr, validity_duration, metadata: Some(metadata) }
    }

    /// Whom the caller asks for beside itself, if it says so.
    #[must_use]
    pub fn impersonated(&self) -> Option<&str> {
        match self.metadata.as_ref()?.fields.get(IMPERSONATED)?.kind.as_ref()? {
            Kind::StringValue(identity) => Some(identity),
            _ => None,
        }
    }
}

/// What an answer holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// The leaf, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// Trust anchors.
    pub anchors: Vec<CertificateDer<'static>>,
}

impl CertificateResponse {
    /// An answer.
    #[must_use]
    pub fn new(chain: &Chain) -> Self {
        let each = chain.chain.iter().map(|certificate| pem_of(std::slice::from_ref(certificate)));
        Self { cert_chain: each.chain([pem_of(&chain.anchors)]).collect() }
    }

    /// Reads an answer, whichever authority gave it: some put leaf and intermediates into one text.
    ///
    /// # Errors
    /// What is missing or cannot be read.
    pub fn read(&self) -> Result<Chain, String> {
        let [chain @ .., last] = &self.cert_chain[..] else { return Err("it is empty".into()) };
        let chain: Vec<_> = chain.iter().map(|text| certificates(text)).collect::<Result<Vec<_>, _>>()?.concat();
        let anchors = certificates(last)?;
        match (chain.is_empty(), anchors.is_empty()) {
            (true, _) => Err("it holds no certificate beside the root".into()),
            (_, true) => Err("it holds no root".into()),
            _ => Ok(Chain { chain, anchors }),
        }
    }
}
