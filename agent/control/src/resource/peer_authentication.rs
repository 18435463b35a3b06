//! `weft.dev PeerAuthentication`.

use std::collections::BTreeMap;

use weft_core::model::{MtlsMode, PeerAuthentication};

use super::Findings;
use crate::crd;

/// Converts a PeerAuthentication.
pub fn convert(object: &crd::PeerAuthentication, findings: &mut Findings) -> Option<PeerAuthentication> {
    let name = super::object_name(&object.metadata, findings);
    let spec = &object.spec;
    let mut ports = BTreeMap::new();
    for (crd::PortKey(text), mtls) in &spec.port_level_mtls {
        let port = text.parse::<u16>().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| format!("{text:?} is not a port: use 1 to 65535"));
        if let Some(port) = findings.keep(format!("spec.portLevelMtls[{text}]"), port) {
            ports.insert(port, mode(mtls.mode));
        }
    }
    if spec.mtls.is_none() && spec.port_level_mtls.is_empty() {
        findings.warning("spec", "says nothing: set mtls.mode or portLevelMtls");
    }
    let selector = super::selector(spec.selector.as_ref());
    Some(PeerAuthentication { name: name?, selector, mode: spec.mtls.as_ref().map(|mtls| mode(mtls.mode)), ports })
}

fn mode(mode: crd::MtlsModeName) -> MtlsMode {
    match mode {
        crd::MtlsModeName::Strict => MtlsMode::Strict,
        crd::MtlsModeName::Permissive => MtlsMode::Permissive,
    }
}
