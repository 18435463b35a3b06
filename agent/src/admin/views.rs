//! What the agent tells about itself, as JSON. Fields are added, never renamed: scripts read them.

use serde::{Deserialize, Serialize};

/// `GET /status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The node.
    pub node: String,
    /// The instance, which tells it from others on the machine.
    pub instance: String,
    /// The trust domain.
    pub trust_domain: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Conditions that keep it from being ready; empty when ready.
    pub waiting_for: Vec<String>,
    /// Whether the mesh is switched off on this node.
    pub disabled: bool,
    /// If it is: how, and what switches it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_because: Option<String>,
    /// Whether it is stopping and only lets connections end.
    pub draining: bool,
    /// How many changes of the configuration it has applied.
    pub generation: u64,
    /// Pods of this node that are enrolled.
    pub enrolled: usize,
    /// Pods of this node that are to be enrolled and are not yet.
    pub pending: usize,
    /// Connections open now.
    pub connections: usize,
    /// Tunnels open now.
    pub tunnels: usize,
    /// `on` while connections between pods of this node may go directly, or `off` and why.
    #[serde(default)]
    pub fast_path: String,
    /// What is wrong with the configuration.
    pub problems: Vec<String>,
    /// How the API server is followed; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesView>,
}

/// How the API server is followed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KubernetesView {
    /// For how long changes may have been missed; absent while every watch stands.
    pub stale_seconds: Option<u64>,
    /// A watch for each kind.
    pub watches: Vec<WatchView>,
}

/// The watch of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WatchView {
    /// The kind.
    pub kind: String,
    /// `starting`, `current`, `absent` (the cluster does not have the kind) or `stale`.
    pub state: String,
    /// Why it is stale.
    pub reason: Option<String>,
    /// Seconds since the API server was last heard on it.
    pub heard_seconds_ago: u64,
}

/// One of `GET /workloads`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkloadView {
    /// Namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// The name in metrics.
    pub workload: String,
    /// UID.
    pub uid: String,
    /// Node.
    pub node: String,
    /// Addresses.
    pub addresses: Vec<String>,
    /// SPIFFE ID.
    pub identity: String,
    /// `live`, `pending`, `leaving` or `outside`.
    pub mesh: String,
    /// Why it is pending or outside, if there is something to say.
    pub reason: Option<String>,
    /// When its certificate expires, in seconds since the epoch; this node's pods only.
    pub certificate_expiry: Option<u64>,
}

/// One of `GET /services`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Virtual addresses.
    pub addresses: Vec<String>,
    /// Ports.
    pub ports: Vec<ServicePortView>,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServicePortView {
    /// Its number.
    pub port: u16,
    /// `tcp`: connections are carried as they are; `http`: request by request.
    pub protocol: String,
    /// Why it is that.
    #[serde(default)]
    pub protocol_because: String,
    /// `appProtocol`, as declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// How endpoints are chosen.
    pub algorithm: String,
    /// Seconds for which a client keeps its endpoint after its last connection; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u64>,
    /// Why its connections never take the same-node fast path; absent where they may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_only: Option<String>,
    /// The route that divides its connections, as namespace/name.
    pub route: Option<String>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint of a service port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Address and port.
    pub address: String,
    /// The pod, as namespace/name, if it is one.
    pub workload: Option<String>,
    /// Its weight.
    pub weight: u32,
    /// Whether it may get connections.
    pub ready: bool,
    /// Whether it is reached by mTLS.
    pub mtls: bool,
    /// `node` or `zone` where it is preferred for being near; absent where it is as far as any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near: Option<String>,
}

/// One of `GET /connections`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectionView {
    /// Its number, unique while the agent runs.
    pub id: u64,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// `tunnel`, `plaintext`, `passthrough` or `same_node`, of which bytes are known only at the end.
    pub path: String,
    /// The client's address.
    pub source: String,
    /// The client's pod, as namespace/name.
    pub source_workload: Option<String>,
    /// The address dialled.
    pub destination: String,
    /// The endpoint chosen.
    pub endpoint: Option<String>,
    /// The server's pod, as namespace/name.
    pub destination_workload: Option<String>,
    /// The identity the other side proved.
    pub peer_identity: Option<String>,
    /// Bytes from client to server so far.
    pub sent: u64,
    /// Bytes from server to client so far.
    pub received: u64,
    /// Milliseconds since it was accepted.
    pub age_ms: u64,
}

/// `GET` and `PUT /log-level`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogLevel {
    /// The filter in force, or the one to put in force.
    pub filter: String,
}

/// The answer to an order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// What was done, in a sentence.
    pub done: String,
}

/// The body of an answer that is a refusal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub error: String,
}
