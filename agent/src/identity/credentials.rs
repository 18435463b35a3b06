//! A certificate with its key, and the TLS configurations built from it once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use weft_core::model::Identity;

use super::provider::provider;
use super::verify::{ClientIdentity, ServerIdentity, read_leaf, read_own_domain};
use super::{CredentialsError, PeerError};

/// What is offered and accepted inside TLS unless the caller says something else: HBONE.
const ALPN: &[u8] = b"h2";

/// What a certificate says about its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Whom it names.
    pub identity: Identity,
    /// Its serial number, hexadecimal with colons.
    pub serial: String,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

impl PeerCertificate {
    /// Reads whom a leaf names and for how long. Verifies nothing: that is the handshake's part.
    ///
    /// # Errors
    /// [`PeerError`] when it does not name exactly one workload.
    pub fn read(leaf: &CertificateDer<'_>) -> Result<Self, PeerError> {
        read_leaf(leaf)
    }
}

/// One identity's certificate chain, key and trust anchors.
///
/// TLS configurations are made once per certificate (and once per expected server), never per handshake.
pub struct Credentials {
    leaf: PeerCertificate,
    key: Arc<CertifiedKey>,
    anchors: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    server: Arc<ServerConfig>,
    /// The same for other protocols, made when first asked for.
    servers: Mutex<HashMap<Vec<Vec<u8>>, Arc<ServerConfig>>>,
    clients: Mutex<HashMap<Identity, Arc<ClientConfig>>>,
}

impl Credentials {
    /// Puts together what an authority issued for `identity` and the key it was issued for.
    ///
    /// # Errors
    /// [`CredentialsError::Unusable`] when the leaf names somebody else, belongs to another key, or no anchor is usable.
    pub fn new(
        identity: &Identity,
        key: Arc<dyn SigningKey>,
        chain: Vec<CertificateDer<'static>>,
        anchors: Vec<CertificateDer<'static>>,
    ) -> Result<Self, CredentialsError> {
        Self::under(provider(), identity, key, chain, anchors)
    }

    /// The same with another cryptography than the mesh's.
    ///
    /// # Errors
    /// As [`Credentials::new`].
    pub fn under(
        provider: Arc<CryptoProvider>,
        identity: &Identity,
        key: Arc<dyn SigningKey>,
        chain: Vec<CertificateDer<'static>>,
        anchors: Vec<CertificateDer<'static>>,
    ) -> Result<Self, CredentialsError> {
        let unusable = |reason: String| CredentialsError::Unusable { identity: identity.clone(), reason };
        let first = chain.first().ok_or_else(|| unusable("the chain is empty".to_owned()))?;
        let leaf = read_leaf(first).map_err(|e| unusable(e.to_string()))?;
        if leaf.identity != *identity {
            return Err(unusable(format!("it names {}", leaf.identity)));
        }
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|e| unusable(e.to_string()))?;
        Self::assemble(provider, leaf, Arc::new(key), anchors).map_err(unusable)
    }

    /// The same certificate under other trust anchors.
    ///
    /// # Errors
    /// [`CredentialsError::Unusable`] when no anchor is usable.
    pub fn with_anchors(&self, anchors: Vec<CertificateDer<'static>>) -> Result<Self, CredentialsError> {
        Self::assemble(Arc::clone(&self.provider), self.leaf.clone(), Arc::clone(&self.key), anchors)
            .map_err(|reason| CredentialsError::Unusable { identity: self.leaf.identity.clone(), reason })
    }

    fn assemble(
        provider: Arc<CryptoProvider>,
        leaf: PeerCertificate,
        key: Arc<CertifiedKey>,
        anchors: Vec<CertificateDer<'static>>,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for anchor in &anchors {
            roots.add(anchor.clone()).map_err(|e| format!("a trust anchor cannot be read: {e}"))?;
        }
        let roots = Arc::new(roots);
        let domain = leaf.identity.trust_domain.clone();
        let clients = ClientIdentity::new(domain, Arc::clone(&roots), Arc::clone(&provider))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| e.to_string())?
            .with_client_cert_verifier(Arc::new(clients))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&key))));
        server.alpn_protocols = vec![ALPN.to_vec()];
        // Tunnels are few and long: a ticket would only be a way to outlive a certificate.
        server.send_tls13_tickets = 0;
        // Tunnels seal their records themselves once the handshake is over.
        server.enable_secret_extraction = true;
        Ok(Self {
            leaf,
            key,
            anchors,
            roots,
            provider,
            server: Arc::new(server),
            servers: Mutex::default(),
            clients: Mutex::default(),
        })
    }

    /// Whom these credentials name.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.leaf.identity
    }

    /// The leaf's content.
    #[must_use]
    pub fn leaf(&self) -> &PeerCertificate {
        &self.leaf
    }

    /// Whether the certificate is valid at `now`.
    #[must_use]
    pub fn valid_at(&self, now: SystemTime) -> bool {
        now < self.leaf.not_after
    }

    /// The trust anchors, in DER.
    #[must_use]
    pub fn anchors(&self) -> &[CertificateDer<'static>] {
        &self.anchors
    }

    /// The configuration to accept tunnels with: a client certificate of this mesh is required.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// The same, with these protocols inside TLS, the preferred one first.
    #[must_use]
    pub fn server_config_for(&self, alpn: &[Vec<u8>]) -> Arc<ServerConfig> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = servers.get(alpn) {
            return Arc::clone(config);
        }
        let mut config = ServerConfig::clone(&self.server);
        config.alpn_protocols = alpn.to_vec();
        let config = Arc::new(config);
        servers.insert(alpn.to_vec(), Arc::clone(&config));
        config
    }

    /// The configuration to dial `server` with: nobody else is accepted.
    ///
    /// # Errors
    /// [`CredentialsError::Unusable`] when the library refuses to build it.
    pub fn client_config(&self, server: &Identity) -> Result<Arc<ClientConfig>, CredentialsError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = clients.get(server) {
            return Ok(Arc::clone(config));
        }
        let config =
            Arc::new(self.build_client(server).map_err(|e| CredentialsError::Unusable {
                identity: self.leaf.identity.clone(),
                reason: e.to_string(),
            })?);
        clients.insert(server.clone(), Arc::clone(&config));
        Ok(config)
    }

    fn build_client(&self, server: &Identity) -> Result<ClientConfig, rustls::Error> {
        let (roots, provider) = (Arc::clone(&self.roots), Arc::clone(&self.provider));
        let verifier = ServerIdentity { expected: server.clone(), roots, provider: Arc::clone(&provider) };
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        client.enable_secret_extraction = true;
        Ok(client)
    }

    /// Reads the certificate of a client whose handshake has succeeded under these credentials.
    ///
    /// # Errors
    /// [`PeerError`] when it does not name one workload of this mesh; the handshake has checked that already.
    pub fn read_peer(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<PeerCertificate, PeerError> {
        let leaf = chain.and_then(<[_]>::first).ok_or(PeerError::NoIdentity)?;
        read_own_domain(leaf, &self.leaf.identity.trust_domain)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}
