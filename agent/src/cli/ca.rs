//! `weft ca sign` and `weft ca request`: certificates for peers that are not agents, from the embedded CA or from one over
//! the network.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use weft::config::{DEFAULT_CA_ROOT_FILE, DEFAULT_CA_TOKEN_FILE, duration};
use weft::identity::ca::EmbeddedCa;
use weft::identity::{RemoteCa, RemoteSettings, mint};
use weft_core::model::Identity;

use super::Output;

/// Enough for any service account's certificate to be used for a day's debugging, and no more than a quarter's.
const LIFETIME_MAX: Duration = Duration::from_secs(90 * 24 * 3600);

#[derive(Debug, Subcommand)]
pub(super) enum CaVerb {
    /// Make a key and have the embedded CA sign a certificate for it
    Sign(SignArgs),
    /// Make a key and ask a certificate authority over the network, as an agent does, to sign a certificate for it
    Request(RequestArgs),
}

/// What every certificate needs.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// Who the certificate is for, spiffe://<trust domain>/ns/<namespace>/sa/<service account>
    #[arg(long, value_name = "SPIFFE-ID")]
    identity: String,
    /// How long it is good for
    #[arg(long, value_name = "TIME", default_value = "1h")]
    lifetime: String,
    /// Where cert.pem, key.pem and roots.pem are written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// The embedded CA's directory
    #[arg(long, env = "WEFT_CA", value_name = "DIR")]
    ca: PathBuf,
    #[command(flatten)]
    wanted: Wanted,
}

#[derive(Debug, Args)]
pub(super) struct RequestArgs {
    /// Host and port of the authority
    #[arg(long, env = "WEFT_CA_ADDRESS", value_name = "HOST:PORT")]
    ca_address: String,
    /// The name in its certificate [default: the host of --ca-address]
    #[arg(long, env = "WEFT_CA_NAME", value_name = "NAME")]
    ca_name: Option<String>,
    /// The roots it is verified by
    #[arg(long, env = "WEFT_CA_ROOT_FILE", value_name = "FILE", default_value = DEFAULT_CA_ROOT_FILE)]
    ca_root_file: PathBuf,
    /// The token it is shown
    #[arg(long, env = "WEFT_CA_TOKEN_FILE", value_name = "FILE", default_value = DEFAULT_CA_TOKEN_FILE)]
    ca_token_file: PathBuf,
    /// The cluster's name
    #[arg(long, env = "WEFT_CLUSTER", value_name = "NAME", default_value = "Kubernetes")]
    cluster: String,
    #[command(flatten)]
    wanted: Wanted,
}

pub(super) fn run(verb: &CaVerb) -> anyhow::Result<Output> {
    match verb {
        CaVerb::Sign(args) => {
            let (identity, lifetime) = read(&args.wanted)?;
            let ca = EmbeddedCa::open(&args.ca, &identity.trust_domain)?;
            ca.mint(&identity, lifetime)?.write(&args.wanted.out)?;
            Ok(said(&args.wanted, &identity))
        }
        CaVerb::Request(args) => {
            let (identity, lifetime) = read(&args.wanted)?;
            let ca = RemoteCa::new(RemoteSettings {
                address: args.ca_address.clone(),
                name: args.ca_name.clone(),
                root_file: args.ca_root_file.clone(),
                token_file: args.ca_token_file.clone(),
                cluster: args.cluster.clone(),
            });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(mint(&ca, &identity, lifetime))?.write(&args.wanted.out)?;
            Ok(said(&args.wanted, &identity))
        }
    }
}

fn read(wanted: &Wanted) -> anyhow::Result<(Identity, Duration)> {
    let identity: Identity = wanted.identity.parse().context("--identity")?;
    let lifetime = duration(&wanted.lifetime).map_err(anyhow::Error::msg).context("--lifetime")?;
    ensure!(!lifetime.is_zero() && lifetime <= LIFETIME_MAX, "--lifetime: use more than 0 and at most 2160h");
    Ok((identity, lifetime))
}

fn said(wanted: &Wanted, identity: &Identity) -> Output {
    let out = wanted.out.display();
    format!(
        "{identity}: {out}/cert.pem, {out}/key.pem, {out}/roots.pem, good for {} or what the authority allows\n",
        wanted.lifetime
    )
    .into()
}
