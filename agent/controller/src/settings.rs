//! The controller's settings: read once, checked once, every problem reported together.
//!
//! [`ControllerArgs`] is what the command line and the environment say, as text; [`Settings`] is what it means.

mod issuer;

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use weft_control::SYSTEM_NAMESPACE;
use weft_core::model::{Name, TrustDomain};

pub use issuer::{IssuerArgs, IssuerSettings};

/// Where a pod finds the namespace it runs in.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Settings of `weft controller`, as given.
#[derive(Clone, Debug, Args)]
pub struct ControllerArgs {
    /// A kubeconfig, whose current context says how to reach the cluster [default: the pod's service account]
    #[arg(long, env = "WEFT_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// This replica's name, told apart from the others' [default: $POD_NAME, or the host's name]
    #[arg(long, env = "WEFT_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// The namespace of the controller's own objects [default: $POD_NAMESPACE, the pod's own, or weft-system]
    #[arg(long, env = "WEFT_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// The mesh's trust domain: what identities begin with
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,

    /// Where /metrics, /readyz and /healthz are served, or off
    #[arg(long, env = "WEFT_METRICS_ADDRESS", value_name = "ADDRESS", default_value = "[::]:15020")]
    pub metrics_address: String,

    /// Settings of the issuer
    #[command(flatten)]
    pub issuer: IssuerArgs,
}

/// Checked settings of a controller.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How to reach the cluster; by the pod's service account where absent.
    pub kubeconfig: Option<PathBuf>,
    /// This replica's name.
    pub name: String,
    /// The namespace of the controller's own objects.
    pub namespace: String,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Where metrics are served; `None` switches them off.
    pub metrics: Option<SocketAddr>,
    /// How certificates are issued; `None` if somebody else does.
    pub issuer: Option<IssuerSettings>,
}

impl Settings {
    /// Checks the settings.
    ///
    /// # Errors
    /// Every problem found, each beginning with its flag.
    pub fn check(args: &ControllerArgs) -> Result<Self, Vec<String>> {
        let mut check = Checker::default();
        match check.settings(args) {
            Some(settings) if check.0.is_empty() => Ok(settings),
            _ => Err(check.0),
        }
    }
}

#[derive(Default)]
struct Checker(Vec<String>);

impl Checker {
    /// Every setting is looked at before any `?`, so that all problems are reported at once.
    fn settings(&mut self, args: &ControllerArgs) -> Option<Settings> {
        let kubeconfig = args.kubeconfig.as_ref().map(|path| {
            let read = fs::metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
            self.keep("--kubeconfig", read).map(|_| path.clone())
        });
        let name = self.keep("--name", own_name(args.name.as_deref()));
        let name = name.and_then(|name| self.keep("--name", Name::new(&name)));
        let own = own_namespace(args.namespace.as_deref());
        let namespace = self.keep("--namespace", Name::new(&own));
        let issuer = issuer::check(&args.issuer, &own).map_err(|problems| self.0.extend(problems)).ok();
        let trust_domain = self.keep("--trust-domain", TrustDomain::new(&args.trust_domain));
        let metrics = self.address("--metrics-address", &args.metrics_address);
        Some(Settings {
            kubeconfig: match kubeconfig {
                Some(path) => Some(path?),
                None => None,
            },
            name: name?.to_string(),
            namespace: namespace?.to_string(),
            trust_domain: trust_domain?,
            metrics: metrics?,
            issuer: issuer?,
        })
    }

    fn keep<T, E: fmt::Display>(&mut self, flag: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.0.push(format!("{flag}: {error}"))).ok()
    }

    fn address(&mut self, flag: &str, text: &str) -> Option<Option<SocketAddr>> {
        if text == "off" {
            return Some(None);
        }
        let reason = |_| format!("{text:?} is not an address with a port, such as [::]:15020 (or off)");
        self.keep(flag, text.parse().map(Some).map_err(reason))
    }
}

/// The replica's name: as given, or as a Deployment's manifest passes it on, or the host's, which in a pod is the pod's.
fn own_name(given: Option<&str>) -> Result<String, String> {
    match given.map(str::to_owned).or_else(|| variable("POD_NAME")) {
        Some(name) => Ok(name),
        None => fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_lowercase())
            .map_err(|error| format!("the host's name cannot be read ({error}): give one")),
    }
}

fn own_namespace(given: Option<&str>) -> String {
    let mounted = || fs::read_to_string(OWN_NAMESPACE).ok().map(|text| text.trim().to_owned());
    given.map(str::to_owned).or_else(|| variable("POD_NAMESPACE")).or_else(mounted).unwrap_or(SYSTEM_NAMESPACE.into())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ControllerArgs,
    }

    fn check(args: &[&str]) -> Result<Settings, Vec<String>> {
        Settings::check(&Cli::try_parse_from([&["weft"], args].concat()).unwrap().args)
    }

    #[test]
    fn the_defaults() {
        let settings = check(&["--name=c-0"]).unwrap();
        assert_eq!((settings.namespace.as_str(), settings.trust_domain.as_str()), ("weft-system", "cluster.local"));
        assert_eq!(settings.metrics, Some("[::]:15020".parse().unwrap()));
        let issuer = settings.issuer.unwrap();
        assert_eq!(issuer.callers, ["system:serviceaccount:weft-system:weft-agent".to_owned()].into());
        assert!(issuer.names.contains(&"weft-controller.weft-system.svc".to_owned()), "{:?}", issuer.names);
        assert!(check(&["--name=c-0", "--issuer-address=off"]).unwrap().issuer.is_none());
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let wrong = [
            "--issuer-address=x",
            "--issuer-callers=agent",
            "--root-secret=A_B",
            "--issuer-lifetime-max=0s",
            "--name=UPPER",
            "--namespace=a_b",
            "--trust-domain=Not A Domain",
            "--metrics-address=1",
            "--kubeconfig=/nowhere/x",
        ];
        let errors = check(&wrong).unwrap_err();
        assert_eq!(errors.len(), wrong.len(), "{errors:?}");
        for argument in wrong {
            let flag = argument.split_once('=').unwrap().0;
            assert!(errors.iter().any(|problem| problem.starts_with(flag)), "{flag}: {errors:?}");
        }
    }
}
