//! The published trust anchors: a ConfigMap that agents mount, and on it what each replica has to know of the others' roots.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use weft_ca::{certificates, pem_of};

use super::trust::{Anchor, Terms, plan};

/// The ConfigMap.
pub(super) const NAME: &str = "weft-root-bundle";
/// Its key: PEM.
pub(super) const KEY: &str = "roots.pem";
/// When each of the certificates came and was replaced, in their order.
const HISTORY: &str = "weft.dev/roots";
/// Attempts to write what another replica writes at the same time.
const ATTEMPTS: usize = 5;

/// What [`HISTORY`] says of one certificate, in seconds since the epoch.
#[derive(Default, Serialize, Deserialize)]
struct Times {
    since: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<u64>,
}

/// Publishes what follows from the root's anchors and what is published; yields what is published then.
///
/// `remembered` is what this replica last saw, for a bundle that somebody has deleted.
pub(super) async fn publish(
    client: &Client,
    namespace: &str,
    current: &[CertificateDer<'static>],
    remembered: &[Anchor],
    (now, terms): (u64, Terms),
) -> Result<Vec<Anchor>, kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let found = api.get_opt(NAME).await?;
        let published = found.as_ref().map_or_else(|| remembered.to_vec(), read);
        let next = plan(current, &published, now, terms);
        if found.is_some() && next == published {
            return Ok(next);
        }
        let written = match found {
            Some(found) => api.replace(NAME, &PostParams::default(), &write(found, &next)).await,
            None => api.create(&PostParams::default(), &write(ConfigMap::default(), &next)).await,
        };
        match written {
            Ok(_) => return Ok(next),
            // Another replica was faster: what it wrote is what to go on from.
            Err(kube::Error::Api(status)) if status.code == 409 => last = Some(kube::Error::Api(status)),
            Err(error) => return Err(error),
        }
    }
    match last {
        Some(error) => Err(error),
        None => Ok(remembered.to_vec()),
    }
}

/// What a ConfigMap publishes. A certificate of which it does not say when it came has always been there.
pub(super) fn read(bundle: &ConfigMap) -> Vec<Anchor> {
    let text = bundle.data.as_ref().and_then(|data| data.get(KEY)).map_or("", String::as_str);
    let history = bundle.metadata.annotations.as_ref().and_then(|all| all.get(HISTORY));
    let history: Vec<Times> = history.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let mut times = history.into_iter();
    let known = certificates(text).unwrap_or_default().into_iter();
    known
        .map(|certificate| {
            let Times { since, replaced } = times.next().unwrap_or_default();
            Anchor { certificate, since, replaced }
        })
        .collect()
}

fn write(found: ConfigMap, anchors: &[Anchor]) -> ConfigMap {
    let mut bundle = found;
    let certificates: Vec<_> = anchors.iter().map(|anchor| anchor.certificate.clone()).collect();
    let times: Vec<_> = anchors.iter().map(|a| Times { since: a.since, replaced: a.replaced }).collect();
    let history = serde_json::to_string(&times).unwrap_or_default();
    bundle.metadata = ObjectMeta { name: Some(NAME.into()), ..bundle.metadata };
    bundle.metadata.annotations.get_or_insert_default().insert(HISTORY.into(), history);
    bundle.data.get_or_insert_default().insert(KEY.into(), pem_of(&certificates));
    bundle
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_core::model::TrustDomain;

    #[test]
    fn what_is_written_is_read() {
        let domain = TrustDomain::new("cluster.local").unwrap();
        let anchor = |since, replaced| {
            let made = weft_ca::make_root(&domain).unwrap();
            Anchor { certificate: certificates(&made.certificate).unwrap().remove(0), since, replaced }
        };
        let anchors = [anchor(5, None), anchor(0, Some(7))];
        let mut written = write(ConfigMap::default(), &anchors);
        assert_eq!(read(&written), anchors);
        written.metadata.annotations = None;
        assert_eq!(read(&written)[0].since, 0, "somebody's own bundle is trusted already");
        assert!(read(&ConfigMap::default()).is_empty());
    }
}
