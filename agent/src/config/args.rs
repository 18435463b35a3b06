//! What the command line and the environment say, before anybody has looked at it.
//!
//! All values are text: clap stops at the first one it cannot read, and a person who starts an agent with three wrong
//! settings should hear of three.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

/// Where `weft hold` and the agent meet unless told otherwise.
pub const DEFAULT_HOLD_SOCKET: &str = "/run/weft/hold.sock";
/// Where the agent takes orders unless told otherwise.
pub const DEFAULT_ADMIN_SOCKET: &str = "/run/weft/admin.sock";

/// Where the DaemonSet mounts the mesh's roots.
pub const DEFAULT_CA_ROOT_FILE: &str = "/var/run/secrets/weft.dev/roots/roots.pem";
/// Where the DaemonSet mounts a token for the certificate authority.
pub const DEFAULT_CA_TOKEN_FILE: &str = "/var/run/secrets/weft.dev/token/token";

/// Settings of `weft agent`, as given.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Directory of Kubernetes manifests that configure the mesh; read again whenever it changes
    #[arg(long, env = "WEFT_MANIFESTS", value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// The mesh is configured by a cluster's API server, reached by the pod's service account or by --kubeconfig
    /// [default in a pod without --manifests]
    #[arg(long, env = "WEFT_KUBERNETES")]
    pub kubernetes: bool,

    /// A kubeconfig, whose current context says how to reach the cluster; implies --kubernetes
    #[arg(long, env = "WEFT_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The namespace the mesh itself is in: where the controller publishes what agents know of other nodes' pods
    #[arg(long, env = "WEFT_NAMESPACE", value_name = "NAMESPACE", default_value = weft_control::SYSTEM_NAMESPACE)]
    pub namespace: String,

    /// This node's name, as in the pods' spec.nodeName [default: $NODE_NAME, or the host's name]
    #[arg(long, alias = "node-name", env = "WEFT_NODE", value_name = "NAME")]
    pub node: Option<String>,

    /// The zone this node is in, for Services that prefer near endpoints [default: the label topology.kubernetes.io/zone
    /// of its Node object]
    #[arg(long, env = "WEFT_ZONE", value_name = "NAME")]
    pub zone: Option<String>,

    /// The mesh's trust domain: what identities begin with
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,

    /// Where this agent keeps what it must undo when pods leave the mesh
    #[arg(long, env = "WEFT_STATE", value_name = "DIR", default_value = "/var/lib/weft")]
    pub state: PathBuf,

    /// Where agents publish the pods they serve; shared by the nodes of a mesh [default: DIR/status of --state]
    #[arg(long, env = "WEFT_STATUS", value_name = "DIR")]
    pub status: Option<PathBuf>,

    /// The embedded CA; shared by the nodes of a mesh [default: DIR/ca of --state]
    #[arg(long, env = "WEFT_CA", value_name = "DIR")]
    pub ca: Option<PathBuf>,

    /// Host and port of a certificate authority that speaks Istio's protocol (`weft controller`, Istiod, istio-csr), in the
    /// place of the embedded CA
    #[arg(long, env = "WEFT_CA_ADDRESS", value_name = "HOST:PORT")]
    pub ca_address: Option<String>,

    /// The name in that authority's certificate [default: the host of --ca-address]
    #[arg(long, env = "WEFT_CA_NAME", value_name = "NAME")]
    pub ca_name: Option<String>,

    /// The mesh's roots in PEM, by which that authority is verified; read again when they change
    #[arg(long, env = "WEFT_CA_ROOT_FILE", value_name = "FILE", default_value = DEFAULT_CA_ROOT_FILE)]
    pub ca_root_file: PathBuf,

    /// The service account token shown to that authority; read again for every request
    #[arg(long, env = "WEFT_CA_TOKEN_FILE", value_name = "FILE", default_value = DEFAULT_CA_TOKEN_FILE)]
    pub ca_token_file: PathBuf,

    /// The cluster's name, for an authority that serves several
    #[arg(long, env = "WEFT_CLUSTER", value_name = "NAME", default_value = "Kubernetes")]
    pub cluster: String,

    /// The cgroup whose processes are steered [default: the root of the machine's cgroup2 hierarchy]
    #[arg(long, env = "WEFT_CGROUP", value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// Where sysctls of pods are written: in a container /proc/sys is read-only, so that the host's /proc/sys/net has to
    /// be mounted at DIR/net
    #[arg(long, env = "WEFT_PROC_SYS", value_name = "DIR", default_value = "/proc/sys")]
    pub proc_sys: PathBuf,

    /// The BPF file system, where steering is pinned so that it outlives the agent
    #[arg(long, env = "WEFT_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// Tells this agent's pins from those of another agent on the same machine
    #[arg(long, env = "WEFT_INSTANCE", value_name = "NAME", default_value = "default")]
    pub instance: String,

    /// The socket of `weft hold`, which keeps listening sockets open while the agent restarts
    #[arg(long, env = "WEFT_HOLD_SOCKET", value_name = "PATH", default_value = DEFAULT_HOLD_SOCKET)]
    pub hold_socket: PathBuf,

    /// The socket on which the agent takes orders from root
    #[arg(long, env = "WEFT_ADMIN_SOCKET", value_name = "PATH", default_value = DEFAULT_ADMIN_SOCKET)]
    pub admin_socket: PathBuf,

    /// Where /metrics, /readyz and /healthz are served, or off
    #[arg(long, env = "WEFT_METRICS_ADDRESS", value_name = "ADDRESS", default_value = "[::]:15020")]
    pub metrics_address: String,

    /// How long connections may go on after the agent was told to stop
    #[arg(long, env = "WEFT_DRAIN_DEADLINE", value_name = "TIME", default_value = "30s")]
    pub drain_deadline: String,

    /// What becomes of an agent that has handed over to another and drained: exit, or wait to be told to stop, where a
    /// supervisor would start it again and it would take everything back
    #[arg(long, env = "WEFT_AFTER_HANDOVER", value_name = "WHAT", default_value = "exit")]
    pub after_handover: String,

    /// The DaemonSet this agent is of. Told to stop once that is gone, it takes its pods out of the mesh: nobody is to
    /// come after it
    #[arg(long, env = "WEFT_DAEMONSET", value_name = "NAMESPACE/NAME")]
    pub daemonset: Option<String>,

    /// How long a pod's tunnel port is served after the pod has left the mesh
    #[arg(long, env = "WEFT_UNENROL_GRACE", value_name = "TIME", default_value = "5s")]
    pub unenrol_grace: String,

    /// How often it is looked, from other pods of the node, whether peers can reach the tunnel port of the node's pods; 0s for never
    #[arg(long, env = "WEFT_REACH_EVERY", value_name = "TIME", default_value = "60s")]
    pub reach_every: String,

    /// What becomes of connections of pods the agent has not yet seen: open lets them pass, closed refuses them
    #[arg(long, env = "WEFT_UNCLASSIFIED", value_name = "MODE", default_value = "open")]
    pub unclassified: String,

    /// What tunnels speak: weft/1 between agents that know it and hbone with all others, or one of the two only
    #[arg(long, env = "WEFT_TUNNEL_PROTOCOLS", value_name = "LIST", default_value = "weft/1,hbone")]
    pub tunnel_protocols: String,

    /// Threads that carry connections [default: one for each core the agent may use]
    #[arg(long, env = "WEFT_WORKERS", value_name = "N")]
    pub workers: Option<String>,

    /// Whether connections between pods of this node go directly where that is safe, attested by the kernel and not encrypted: on or off
    #[arg(long, env = "WEFT_FAST_PATH", value_name = "MODE", default_value = "on")]
    pub fast_path: String,

    /// Time for each attempt to connect to an endpoint
    #[arg(long, env = "WEFT_CONNECT_TIMEOUT", value_name = "TIME", default_value = "1s")]
    pub connect_timeout: String,

    /// Endpoints tried before a connection is refused
    #[arg(long, env = "WEFT_CONNECT_ATTEMPTS", value_name = "N", default_value = "3")]
    pub connect_attempts: String,

    /// How long an app may take for the head of a request over HTTP/1 once it has begun it
    #[arg(long, env = "WEFT_REQUEST_HEAD_TIMEOUT", value_name = "TIME", default_value = "60s")]
    pub request_head_timeout: String,

    /// Lifetime of the workloads' certificates; they are renewed at half to four fifths of it
    #[arg(long, env = "WEFT_CERTIFICATE_LIFETIME", value_name = "TIME", default_value = "24h")]
    pub certificate_lifetime: String,

    /// How log lines are written: text or json
    #[arg(long, env = "WEFT_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: String,

    /// Which log lines are written: a level, or target=level pairs; `weft log-level` changes it at run time
    #[arg(long, env = "WEFT_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    pub log_level: String,
}

/// What the kernel does with TCP connections of pods it has not been told about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unclassified {
    /// They pass.
    #[default]
    Open,
    /// They are refused until the agent has looked at the pod.
    Closed,
}

impl FromStr for Unclassified {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "open" => Ok(Self::Open),
            "closed" => Ok(Self::Closed),
            _ => Err(format!("{text:?} is neither \"open\" nor \"closed\"")),
        }
    }
}

/// What tunnels speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TunnelProtocols {
    /// Weft's own between agents that know it, HBONE with all others.
    #[default]
    Both,
    /// Weft's own only: other peers are turned away.
    Weft,
    /// HBONE only: for an upgrade that must be able to go back.
    Hbone,
}

impl FromStr for TunnelProtocols {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "weft/1,hbone" | "hbone,weft/1" => Ok(Self::Both),
            "weft/1" => Ok(Self::Weft),
            "hbone" => Ok(Self::Hbone),
            _ => Err(format!("{text:?} is neither \"weft/1,hbone\" nor one of the two")),
        }
    }
}
