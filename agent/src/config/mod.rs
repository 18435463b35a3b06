//! The agent's settings: read once, checked once, every problem reported together.
//!
//! [`AgentArgs`] is what the command line and the environment say, as text; [`Config`] is what it means. Nothing else
//! of the crate reads arguments or environment variables.

mod args;
mod system;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_core::model::{Name, ObjectName, TrustDomain};

use crate::identity::RemoteSettings;
use crate::telemetry::logging;

pub use args::{
    AgentArgs, DEFAULT_ADMIN_SOCKET, DEFAULT_CA_ROOT_FILE, DEFAULT_CA_TOKEN_FILE, DEFAULT_HOLD_SOCKET, TunnelProtocols,
    Unclassified,
};
pub use system::cgroup as cgroup2;
pub use weft_core::parse_duration as duration;

/// Checked settings of an agent.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, as in the pods' `spec.nodeName`.
    pub node: String,
    /// The zone of the node, where its Node object is not to be asked.
    pub zone: Option<String>,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Where the mesh's objects come from.
    pub source: ConfigSource,
    /// The namespace the mesh itself is in, in a cluster.
    pub namespace: Name,
    /// Where agents publish the pods they serve.
    pub status: PathBuf,
    /// Where this agent keeps what it must undo.
    pub state: PathBuf,
    /// Who signs the workloads' certificates.
    pub ca: CaSource,
    /// The cgroup the steering programs are attached to.
    pub cgroup: PathBuf,
    /// Where sysctls are written.
    pub proc_sys: PathBuf,
    /// The BPF file system.
    pub bpffs: PathBuf,
    /// Tells this agent's pins from those of another on the same machine.
    pub instance: String,
    /// The holder's socket.
    pub hold_socket: PathBuf,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// Where metrics are served; `None` switches them off.
    pub metrics: Option<SocketAddr>,
    /// How long connections may go on after the agent was told to stop.
    pub drain_deadline: Duration,
    /// Whether an agent that has handed over and drained stays until it is told to stop.
    pub wait_after_handover: bool,
    /// The DaemonSet without which no agent is to come after this one.
    pub daemonset: Option<ObjectName>,
    /// How long port 15008 of a pod is served after it has left the mesh.
    pub unenrol_grace: Duration,
    /// How often it is looked whether peers can reach the tunnel port of this node's pods; zero for never.
    pub reach_every: Duration,
    /// What the kernel does with connections of pods it has not been told about.
    pub unclassified: Unclassified,
    /// Threads that carry connections.
    pub workers: usize,
    /// What tunnels speak.
    pub tunnel_protocols: TunnelProtocols,
    /// Whether connections between pods of this node may go directly.
    pub fast_path: bool,
    /// Time for each attempt to connect.
    pub connect_timeout: Duration,
    /// Endpoints tried for one connection.
    pub connect_attempts: usize,
    /// How long the head of a request over HTTP/1 may be unfinished.
    pub request_head_timeout: Duration,
    /// Lifetime of the certificates asked for.
    pub certificate_lifetime: Duration,
    /// How log lines are written.
    pub log_format: logging::Format,
    /// Which log lines are written.
    pub log_level: String,
}

/// Where the mesh's objects come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigSource {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// A cluster's API server.
    Kubernetes {
        /// How to reach it; by the pod's service account where absent.
        kubeconfig: Option<PathBuf>,
    },
}

/// Who signs the workloads' certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CaSource {
    /// The embedded CA in this directory; agents of one mesh share it.
    Embedded(PathBuf),
    /// An authority over the network.
    Remote(RemoteSettings),
}

impl ConfigSource {
    /// What the agent waits for until it has read everything once.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Manifests(_) => "manifests",
            Self::Kubernetes { .. } => "kubernetes",
        }
    }
}

/// Everything that is wrong with the settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [only] => f.write_str(only),
            many => {
                write!(f, "{} settings are wrong:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every problem found.
    pub fn check(args: &AgentArgs) -> Result<Self, ConfigErrors> {
        let mut check = Checker::default();
        let config = check.config(args);
        match config {
            Some(config) if check.0.is_empty() => Ok(config),
            _ => Err(ConfigErrors(check.0)),
        }
    }
}

#[derive(Default)]
struct Checker(Vec<String>);

impl Checker {
    /// Every setting is looked at before any `?`, so that all problems are reported at once.
    fn config(&mut self, args: &AgentArgs) -> Option<Config> {
        let node = self.keep("--node", system::node(args.node.as_deref()));
        let node = node.and_then(|node| self.keep("--node", Name::new(&node)));
        let trust_domain = self.keep("--trust-domain", TrustDomain::new(&args.trust_domain));
        let zone = self.zone(args.zone.as_deref());
        let source = self.source(args, system::in_cluster());
        let namespace = self.keep("--namespace", Name::new(&args.namespace));
        let cgroup = self.keep("--cgroup", system::cgroup(args.cgroup.as_deref()));
        let ca = self.ca(args);
        let instance = self.instance(&args.instance);
        let metrics = self.metrics(&args.metrics_address);
        let drain_deadline = self.duration("--drain-deadline", &args.drain_deadline, HOUR * 24);
        let wait_after_handover = self.after_handover(&args.after_handover);
        let daemonset = self.daemonset(args.daemonset.as_deref());
        let unenrol_grace = self.duration("--unenrol-grace", &args.unenrol_grace, HOUR);
        let reach_every = self.duration("--reach-every", &args.reach_every, HOUR);
        let connect_timeout = self.duration("--connect-timeout", &args.connect_timeout, MINUTE);
        let request_head_timeout = self.duration("--request-head-timeout", &args.request_head_timeout, HOUR);
        let certificate_lifetime = self.duration("--certificate-lifetime", &args.certificate_lifetime, HOUR * 24 * 90);
        let connect_attempts = self.attempts(&args.connect_attempts);
        let unclassified = self.keep("--unclassified", args.unclassified.parse());
        let tunnel_protocols = self.keep("--tunnel-protocols", args.tunnel_protocols.parse());
        let workers = self.workers(args.workers.as_deref());
        let fast_path = self.fast_path(&args.fast_path);
        let log_format = self.log_format(&args.log_format);
        self.keep("--log-level", logging::parse(&args.log_level));
        for (flag, timeout) in [
            ("--connect-timeout", connect_timeout),
            ("--request-head-timeout", request_head_timeout),
            ("--certificate-lifetime", certificate_lifetime),
        ] {
            if timeout == Some(Duration::ZERO) {
                self.0.push(format!("{flag}: must be more than 0"));
            }
        }
        let state = args.state.clone();
        Some(Config {
            node: node?.to_string(),
            zone,
            trust_domain: trust_domain?,
            source: source?,
            namespace: namespace?,
            status: args.status.clone().unwrap_or_else(|| state.join("status")),
            ca: ca?,
            state,
            cgroup: cgroup?,
            proc_sys: args.proc_sys.clone(),
            bpffs: args.bpffs.clone(),
            instance: instance?,
            hold_socket: args.hold_socket.clone(),
            admin_socket: args.admin_socket.clone(),
            metrics: metrics?,
            drain_deadline: drain_deadline?,
            wait_after_handover: wait_after_handover?,
            daemonset: daemonset?,
            unenrol_grace: unenrol_grace?,
            reach_every: reach_every?,
            unclassified: unclassified?,
            workers: workers?,
            tunnel_protocols: tunnel_protocols?,
            fast_path: fast_path?,
            connect_timeout: connect_timeout?,
            connect_attempts: connect_attempts?,
            request_head_timeout: request_head_timeout?,
            certificate_lifetime: certificate_lifetime?,
            log_format: log_format?,
            log_level: args.log_level.clone(),
        })
    }

    fn keep<T, E: fmt::Display>(&mut self, flag: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.0.push(format!("{flag}: {error}"))).ok()
    }

    fn source(&mut self, args: &AgentArgs, in_cluster: bool) -> Option<ConfigSource> {
        let kubernetes = args.kubernetes || args.kubeconfig.is_some();
        match &args.manifests {
            Some(_) if kubernetes => {
                self.0.push(
                    "--manifests: not together with --kubernetes or --kubeconfig: it is the one or the other".into(),
                );
                None
            }
            Some(path) => self.manifests(path).map(ConfigSource::Manifests),
            None if kubernetes || in_cluster => {
                if let Some(path) = &args.kubeconfig {
                    let read =
                        std::fs::metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
                    self.keep("--kubeconfig", read)?;
                }
                Some(ConfigSource::Kubernetes { kubeconfig: args.kubeconfig.clone() })
            }
            None => {
                let reason = "--manifests: name the directory that holds the mesh's Kubernetes manifests, or a cluster \
                              (--kubernetes in a pod, --kubeconfig FILE elsewhere)";
                self.0.push(reason.into());
                None
            }
        }
    }

    fn ca(&mut self, args: &AgentArgs) -> Option<CaSource> {
        let Some(address) = &args.ca_address else {
            return Some(CaSource::Embedded(args.ca.clone().unwrap_or_else(|| args.state.join("ca"))));
        };
        if args.ca.is_some() {
            self.0.push("--ca-address: not together with --ca, the embedded CA: it is the one or the other".into());
        }
        let parsed = address.parse::<http::uri::Authority>().ok().filter(|parsed| parsed.port_u16().is_some());
        let wrong = || format!("{address:?} is not a host with a port, such as weft-controller.weft-system.svc:15012");
        let address = self.keep("--ca-address", parsed.ok_or_else(wrong))?;
        Some(CaSource::Remote(RemoteSettings {
            address: address.to_string(),
            name: args.ca_name.clone(),
            root_file: args.ca_root_file.clone(),
            token_file: args.ca_token_file.clone(),
            cluster: args.cluster.clone(),
        }))
    }

    fn manifests(&mut self, path: &Path) -> Option<PathBuf> {
        let listed = std::fs::read_dir(path).map(|_| path.to_owned());
        self.keep("--manifests", listed.map_err(|error| format!("cannot read {}: {error}", path.display())))
    }

    fn instance(&mut self, text: &str) -> Option<String> {
        let valid = !text.is_empty() && text.len() <= 64 && Name::new(text).is_ok() && !text.contains('.');
        let reason = || format!("{text:?} is not a name for an instance: use up to 64 of a-z, 0-9 and '-'");
        self.keep("--instance", valid.then(|| text.to_owned()).ok_or_else(reason))
    }

    fn metrics(&mut self, text: &str) -> Option<Option<SocketAddr>> {
        if text == "off" {
            return Some(None);
        }
        let reason = |_| format!("{text:?} is not an address with a port, such as [::]:15020 (or off)");
        self.keep("--metrics-address", text.parse().map(Some).map_err(reason))
    }

    fn duration(&mut self, flag: &str, text: &str, most: Duration) -> Option<Duration> {
        let parsed = duration(text).and_then(|duration| {
            let fits = duration <= most;
            fits.then_some(duration).ok_or_else(|| format!("{text:?} is more than {}s", most.as_secs()))
        });
        self.keep(flag, parsed)
    }

    fn attempts(&mut self, text: &str) -> Option<usize> {
        let parsed = text.parse().ok().filter(|attempts| (1..=16).contains(attempts));
        self.keep("--connect-attempts", parsed.ok_or_else(|| format!("{text:?} is not a number from 1 to 16")))
    }

    fn workers(&mut self, text: Option<&str>) -> Option<usize> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let parsed = text.map_or_else(|| Some(cores()), |text| text.parse().ok().filter(|n| (1..=256).contains(n)));
        self.keep("--workers", parsed.ok_or_else(|| format!("{:?} is not a number from 1 to 256", text.unwrap_or(""))))
    }

    /// A zone is the value of a label.
    fn zone(&mut self, given: Option<&str>) -> Option<String> {
        let zone = given?;
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = zone.as_bytes();
        let inner = bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        let fits = bytes.len() <= 63 && inner && edge(bytes.first()) && edge(bytes.last());
        let reason = || format!("{zone:?} is no value of a label: use 1 to 63 letters, digits, '-', '_' and '.'");
        self.keep("--zone", fits.then(|| zone.to_owned()).ok_or_else(reason))
    }

    fn fast_path(&mut self, text: &str) -> Option<bool> {
        let parsed = match text {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(format!("{text:?} is neither \"on\" nor \"off\"")),
        };
        self.keep("--fast-path", parsed)
    }

    fn after_handover(&mut self, text: &str) -> Option<bool> {
        let parsed = match text {
            "exit" => Ok(false),
            "wait" => Ok(true),
            _ => Err(format!("{text:?} is neither \"exit\" nor \"wait\"")),
        };
        self.keep("--after-handover", parsed)
    }

    fn daemonset(&mut self, text: Option<&str>) -> Option<Option<ObjectName>> {
        let Some(text) = text else { return Some(None) };
        let name = text.split_once('/').and_then(|(namespace, name)| ObjectName::new(namespace, name).ok());
        let reason = || format!("{text:?} does not name a DaemonSet: write NAMESPACE/NAME");
        self.keep("--daemonset", name.ok_or_else(reason)).map(Some)
    }

    fn log_format(&mut self, text: &str) -> Option<logging::Format> {
        self.keep("--log-format", text.parse())
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
