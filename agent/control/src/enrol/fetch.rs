//! What is read of a cluster to judge a namespace: all Pods, Namespaces and NetworkPolicies, since peers are anywhere; of
//! that namespace alone where more is forbidden; and its Services and policies.

use weft_core::model::{Name, TrustDomain};

use super::EnrolError;
use super::cluster::{Cluster, Seen};
use crate::install::InstallError;
use crate::install::api::Api;
use crate::install::check::Finding;

/// API groups of networks that know policies beside NetworkPolicy, which are not judged.
const OTHER_POLICIES: [(&str, &str); 4] = [
    ("cilium.io", "CiliumNetworkPolicies"),
    ("crd.projectcalico.org", "Calico's policies"),
    ("crd.antrea.io", "Antrea's policies"),
    ("policy.networking.k8s.io", "cluster-wide network policies"),
];

pub(super) async fn cluster(api: &Api<'_>, name: &Name, trust_domain: &TrustDomain) -> Result<Cluster, EnrolError> {
    let mut cluster = Cluster::new(trust_domain);
    let space = api.get(&format!("/api/v1/namespaces/{name}")).await?;
    cluster.add(Seen::Namespace, space.ok_or_else(|| EnrolError::NoNamespace(name.to_string()))?);
    let mut hidden = Vec::new();
    if !list(api, "/api/v1/namespaces", Seen::Namespace, &mut cluster).await? {
        hidden.push("Namespaces");
    }
    for (group, plural, seen, what) in [
        ("/api/v1", "pods", Seen::Pod, "Pods"),
        ("/apis/networking.k8s.io/v1", "networkpolicies", Seen::NetworkPolicy, "NetworkPolicies"),
    ] {
        if !list(api, &format!("{group}/{plural}"), seen, &mut cluster).await? {
            hidden.push(what);
            own(api, (group, name, plural), seen, &mut cluster).await?;
        }
    }
    own(api, ("/api/v1", name, "services"), Seen::Service, &mut cluster).await?;
    own(api, (WEFT, name, "peerauthentications"), Seen::PeerAuthentication, &mut cluster).await?;
    own(api, (WEFT, name, "authorizationpolicies"), Seen::AuthorizationPolicy, &mut cluster).await?;
    if !hidden.is_empty() {
        let what = format!("of other namespaces you may not list {}: peers there are not judged", hidden.join(", "));
        cluster.remarks.push(Finding::remark(what, "have somebody look who may list them in the whole cluster"));
    }
    for (group, what) in OTHER_POLICIES {
        if api.get(&format!("/apis/{group}")).await.is_ok_and(|found| found.is_some()) {
            let what = format!("the cluster's network knows {what}, which are not judged here");
            cluster.remarks.push(Finding::remark(what, "see that they let TCP 15008 through between pods"));
        }
    }
    Ok(cluster)
}

const WEFT: &str = "/apis/weft.dev/v1alpha1";

async fn own(
    api: &Api<'_>,
    (group, name, plural): (&str, &Name, &str),
    seen: Seen,
    cluster: &mut Cluster,
) -> Result<(), EnrolError> {
    api.each(&format!("{group}/namespaces/{name}/{plural}"), |object| cluster.add(seen, object)).await?;
    Ok(())
}

/// Adds what a list holds; `false` if it is forbidden.
async fn list(api: &Api<'_>, path: &str, seen: Seen, cluster: &mut Cluster) -> Result<bool, EnrolError> {
    match api.each(path, |object| cluster.add(seen, object)).await {
        Ok(()) => Ok(true),
        Err(InstallError::Forbidden { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
