//! A lab that is configured by an API server: the lab's objects in it, the mesh's kinds and rights, and its pods laid out as
//! kubelet and containerd do it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use gateway_api::apis::experimental::{
    grpcroutes::GrpcRoute, httproutes::HttpRoute, referencegrants::ReferenceGrant, tcproutes::TcpRoute,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::api_server::Origin;
use super::shared::{KUBECONFIG, Upstream};
use super::{ApiServer, Lab, Manifests, NetNs, binary};

/// The rights the lab's agents and controllers have, and no other.
const AGENTS: &str = include_str!("../../../deploy/agent-rbac.yaml");
const CONTROLLERS: &str = include_str!("../../../deploy/controller-rbac.yaml");

impl Lab {
    /// An empty lab with an API server and a controller, which its agents will follow in the place of a directory of
    /// manifests. The kinds of `weft.dev` are installed from `weft crds`, and Gateway API's kinds of routes and grants.
    /// The server is that of the kubeconfig in the environment's `WEFT_TEST_KUBECONFIG`, dialled from where the test was
    /// started; without it, the double.
    ///
    /// # Errors
    /// As [`Lab::new`], and when the server does not start, or has objects that are not the lab's and are in its way.
    pub fn cluster(name: &str) -> Result<Self> {
        match Upstream::named() {
            Some(upstream) => Self::cluster_with(name, &Origin::Real(&upstream)),
            None => Self::cluster_with(name, &Origin::Double(None)),
        }
    }

    /// As [`Self::cluster`], of a kubeconfig whose server is dialled in this network namespace.
    ///
    /// # Errors
    /// As [`Self::cluster`].
    pub fn cluster_of(name: &str, kubeconfig: &Path, netns: &NetNs) -> Result<Self> {
        Self::cluster_with(name, &Origin::Real(&Upstream::of(kubeconfig, netns.path())))
    }

    /// As [`Self::cluster`], and these objects (one a line, as a backup of etcd has them) are there from the start.
    ///
    /// # Errors
    /// As [`Self::cluster`], and always where the API server shall not be the double.
    pub fn restored_cluster(name: &str, objects: &Path) -> Result<Self> {
        demand_double("begins with the double's memory restored")?;
        Self::cluster_with(name, &Origin::Double(Some(objects)))
    }

    fn cluster_with(name: &str, origin: &Origin<'_>) -> Result<Self> {
        let lab = Self::bare_cluster(name, origin)?;
        lab.demand_room()?;
        lab.install_kinds()?;
        if let Some(api) = lab.api() {
            lab.admit(AGENTS, "weft-agent", &api.agents)?;
            lab.admit(CONTROLLERS, "weft-controller", &api.controllers)?;
        }
        lab.namespace(super::NAMESPACE)?;
        lab.start_controller()?;
        Ok(lab)
    }

    /// As [`Self::cluster`], but what is in it of the mesh is what `deploy/weft.yaml` says: see
    /// [`Lab::start_deployment`] and [`Lab::start_daemonset`].
    ///
    /// # Errors
    /// As [`Self::restored_cluster`].
    pub fn installed(name: &str) -> Result<Self> {
        demand_double(
            "starts the DaemonSet's and the Deployment's pods itself, as a real cluster's controllers do too",
        )?;
        let lab = Self::bare_cluster(name, &Origin::Double(None))?;
        lab.install_kinds()?;
        lab.install_manifests()?;
        lab.namespace(super::NAMESPACE)?;
        Ok(lab)
    }

    /// As [`Lab::cluster`], but nothing of the mesh is in it yet: whoever installs it does so by the program's own verbs.
    ///
    /// # Errors
    /// As [`Self::restored_cluster`].
    pub fn uninstalled(name: &str) -> Result<Self> {
        demand_double("begins without the mesh, and ends without it")?;
        let lab = Self::bare_cluster(name, &Origin::Double(None))?;
        lab.install(gateway_kinds()?)?;
        lab.namespace(super::NAMESPACE)?;
        Ok(lab)
    }

    fn bare_cluster(name: &str, origin: &Origin<'_>) -> Result<Self> {
        let mut lab = Self::bare(name)?;
        let server = ApiServer::start(&lab, origin)?;
        lab.manifests = Manifests::new(lab.run.path(), Some(server));
        Ok(lab)
    }

    /// Fails with the first object that is in the way of what the lab is about to make; nothing is made before.
    fn demand_room(&self) -> Result<()> {
        let Some(api) = self.api() else { return Ok(()) };
        let mut wanted = definitions()?;
        for file in [AGENTS, CONTROLLERS] {
            wanted.extend(serde_saphyr::from_multiple::<Value>(file).context("a file of deploy/")?);
        }
        for (kind, name) in [("Namespace", super::NAMESPACE), ("Node", "a"), ("Node", "b")] {
            wanted.push(json!({"kind": kind, "metadata": {"name": name}}));
        }
        api.demand_room(&wanted)
    }

    /// The API server, in a lab that has one.
    #[must_use]
    pub fn api(&self) -> Option<&ApiServer> {
        self.manifests.server()
    }

    /// Puts every object of a file of `deploy/` into the cluster.
    pub(super) fn deploy(&self, file: &str) -> Result<()> {
        let api = self.api().context("a lab without an API server")?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(file).context("a file of deploy/")?;
        objects.iter().try_for_each(|object| api.put(object))
    }

    /// Gives an account the rights of its file in `deploy/` and no other, and who uses this kubeconfig the account.
    fn admit(&self, rights: &str, account: &str, kubeconfig: &Path) -> Result<()> {
        let Some(api) = self.api() else { return Ok(()) };
        self.deploy(rights)?;
        let token = api.token("weft-system", account, &[], &Value::Null)?;
        let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(api.admin())?)?;
        config["users"] = json!([{"name": "admin", "user": {"token": token}}]);
        std::fs::write(kubeconfig, serde_saphyr::to_string(&config)?).context("writing a kubeconfig")
    }

    fn install_kinds(&self) -> Result<()> {
        self.install([definitions()?, gateway_kinds()?].concat())
    }

    fn install(&self, definitions: Vec<Value>) -> Result<()> {
        let Some(api) = self.api() else { return Ok(()) };
        for definition in &definitions {
            if !api.has_of_others(definition)? {
                api.put(definition)?;
            }
        }
        definitions.iter().try_for_each(|definition| api.serves(definition))
    }
}

/// The kinds of `weft.dev`.
fn definitions() -> Result<Vec<Value>> {
    let crds = super::run_command(&[binary("weft")?.display().to_string(), "crds".into()], "")?;
    let definitions: Vec<Value> = serde_saphyr::from_multiple(&crds).context("the output of weft crds")?;
    ensure!(!definitions.is_empty(), "weft crds prints nothing");
    Ok(definitions)
}

/// Gateway API's kinds of routes and grants.
fn gateway_kinds() -> Result<Vec<Value>> {
    let kinds = [TcpRoute::crd(), HttpRoute::crd(), GrpcRoute::crd(), ReferenceGrant::crd()];
    kinds.into_iter().map(|kind| Ok(acceptable(serde_json::to_value(kind)?))).collect()
}

/// A kind of Gateway API as its Rust types describe it, with what API servers demand of a definition beside that: a schema,
/// and for a group of Kubernetes' own a word on who approved of it.
pub(super) fn acceptable(mut definition: Value) -> Value {
    for version in definition["spec"]["versions"].as_array_mut().into_iter().flatten() {
        if version.pointer("/schema/openAPIV3Schema/type").is_none() {
            version["schema"] =
                json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        }
    }
    definition["metadata"]["annotations"]["api-approved.kubernetes.io"] = "unapproved, for a test".into();
    definition
}

/// Fails in a run against a real cluster.
pub(super) fn demand_double(why: &str) -> Result<()> {
    if Upstream::named().is_some() {
        bail!("this journey {why}: it cannot run with {KUBECONFIG} set");
    }
    Ok(())
}

/// The cgroup of a pod and of one of its containers, as kubelet and containerd name them with the systemd driver.
pub(super) fn cgroups(node: &Path, uid: &str, container: &str) -> (PathBuf, PathBuf) {
    let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
    let pod = node.join("kubepods.slice/kubepods-burstable.slice").join(slice);
    let id: String = container.bytes().chain(uid.bytes()).map(|byte| format!("{byte:02x}")).collect();
    let scope = pod.join(format!("cri-containerd-{:0>64.64}.scope", id));
    (pod, scope)
}
