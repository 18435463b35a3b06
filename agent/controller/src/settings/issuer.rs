//! Settings of the issuer: where it listens, whom it answers, and whose root it signs with.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use weft_core::model::Name;
use weft_core::parse_duration;

/// Settings of the issuer, as given.
#[derive(Clone, Debug, Args)]
pub struct IssuerArgs {
    /// Where certificates are asked for, by Istio's protocol; or off: somebody else signs
    #[arg(long, env = "WEFT_ISSUER_ADDRESS", value_name = "ADDRESS", default_value = "[::]:15012")]
    pub issuer_address: String,

    /// DNS names the issuer's own certificate carries [default: those of the Service weft-controller]
    #[arg(long, env = "WEFT_ISSUER_NAMES", value_name = "LIST")]
    pub issuer_names: Option<String>,

    /// The audience that callers' service account tokens must be for
    #[arg(long, env = "WEFT_ISSUER_AUDIENCE", value_name = "AUDIENCE", default_value = "weft-ca")]
    pub issuer_audience: String,

    /// Service accounts of node agents, namespace/name; nobody else gets a certificate [default: weft-agent of --namespace]
    #[arg(long, env = "WEFT_ISSUER_CALLERS", value_name = "LIST")]
    pub issuer_callers: Option<String>,

    /// The longest certificate that is signed
    #[arg(long, env = "WEFT_ISSUER_LIFETIME_MAX", value_name = "TIME", default_value = "24h")]
    pub issuer_lifetime_max: String,

    /// The Secret with the mesh's root (tls.crt, tls.key, and ca.crt where the first is an intermediate); made if absent
    #[arg(long, env = "WEFT_ROOT_SECRET", value_name = "NAME", default_value = "weft-root")]
    pub root_secret: String,

    /// The root's Secret is somebody else's to make, such as cert-manager's: it is waited for
    #[arg(long, env = "WEFT_ROOT_GIVEN")]
    pub root_given: bool,

    /// How long a new root is published before anything is signed with it: as long as the slowest node takes to hear of it
    #[arg(long, env = "WEFT_ROOT_SETTLE", value_name = "TIME", default_value = "5m")]
    pub root_settle: String,
}

/// Checked settings of the issuer.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    /// Where it listens.
    pub address: SocketAddr,
    /// DNS names of its certificate.
    pub names: Vec<String>,
    /// The audience of tokens.
    pub audience: String,
    /// User names of the service accounts it answers.
    pub callers: BTreeSet<String>,
    /// The longest certificate it signs.
    pub lifetime_max: Duration,
    /// The root's Secret, in the controller's namespace.
    pub root_secret: String,
    /// That Secret is not made.
    pub root_given: bool,
    /// How long a new root is published before it signs.
    pub root_settle: Duration,
}

/// The user name of a service account, as the API server writes it.
#[must_use]
pub(super) fn account_user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// Checks the settings; `None` inside if the issuer is off.
pub(super) fn check(args: &IssuerArgs, namespace: &str) -> Result<Option<IssuerSettings>, Vec<String>> {
    let mut problems = Vec::new();
    let mut note = |flag: &str, problem: &dyn Display| problems.push(format!("{flag}: {problem}"));
    let address: Option<SocketAddr> = match args.issuer_address.as_str() {
        "off" => None,
        text => text
            .parse()
            .map_err(|_| {
                note(
                    "--issuer-address",
                    &format!("{text:?} is not an address with a port, such as [::]:15012 (or off)"),
                )
            })
            .ok(),
    };
    let callers = callers(args.issuer_callers.as_deref(), namespace).map_err(|e| note("--issuer-callers", &e));
    let root_secret = Name::new(&args.root_secret).map_err(|e| note("--root-secret", &e));
    let lifetime_max = parse_duration(&args.issuer_lifetime_max)
        .and_then(|time| if time.is_zero() { Err("must be more than 0".into()) } else { Ok(time) })
        .map_err(|e| note("--issuer-lifetime-max", &e));
    let root_settle = parse_duration(&args.root_settle).map_err(|e| note("--root-settle", &e));
    if args.issuer_audience.is_empty() {
        note("--issuer-audience", &"must not be empty: any token of the cluster would do");
    }
    match (callers, root_secret, lifetime_max, root_settle) {
        (Ok(callers), Ok(root_secret), Ok(lifetime_max), Ok(root_settle)) if problems.is_empty() => {
            Ok(address.map(|address| IssuerSettings {
                address,
                names: names(args.issuer_names.as_deref(), namespace),
                audience: args.issuer_audience.clone(),
                callers,
                lifetime_max,
                root_secret: root_secret.to_string(),
                root_given: args.root_given,
                root_settle,
            }))
        }
        _ => Err(problems),
    }
}

fn names(given: Option<&str>, namespace: &str) -> Vec<String> {
    match given {
        Some(list) => list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect(),
        None => ["", ".svc", ".svc.cluster.local"].map(|end| format!("weft-controller.{namespace}{end}")).into(),
    }
}

fn callers(given: Option<&str>, namespace: &str) -> Result<BTreeSet<String>, String> {
    let Some(list) = given else { return Ok(BTreeSet::from([account_user(namespace, "weft-agent")])) };
    let each = list.split(',').map(|account| {
        let (namespace, name) = account.trim().split_once('/').unwrap_or_default();
        match (Name::new(namespace), Name::new(name)) {
            (Ok(namespace), Ok(name)) => Ok(account_user(namespace.as_str(), name.as_str())),
            _ => Err(format!("{account:?} is not a service account: write namespace/name")),
        }
    });
    each.collect()
}
