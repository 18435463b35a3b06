//! `weft ca sign`: a certificate for a peer that is not an agent of the mesh.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Subcommand;
use weft::config::duration;
use weft::identity::ca::EmbeddedCa;
use weft_core::model::Identity;

use super::Output;

/// Enough for any service account's certificate to be used for a day's debugging, and no more than a quarter's.
const LIFETIME_MAX: Duration = Duration::from_secs(90 * 24 * 3600);

#[derive(Debug, Subcommand)]
pub(super) enum CaVerb {
    /// Make a key and have the embedded CA sign a certificate for it
    Sign(SignArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct SignArgs {
    /// The embedded CA's directory
    #[arg(long, env = "WEFT_CA", value_name = "DIR")]
    ca: PathBuf,
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

pub(super) fn run(verb: &CaVerb) -> anyhow::Result<Output> {
    let CaVerb::Sign(args) = verb;
    let identity: Identity = args.identity.parse().context("--identity")?;
    let lifetime = duration(&args.lifetime).map_err(anyhow::Error::msg).context("--lifetime")?;
    ensure!(!lifetime.is_zero() && lifetime <= LIFETIME_MAX, "--lifetime: use more than 0 and at most 2160h");
    let ca = EmbeddedCa::open(&args.ca, &identity.trust_domain)?;
    ca.mint(&identity, lifetime)?.write(&args.out)?;
    let out = args.out.display();
    Ok(format!("{identity}: {out}/cert.pem, {out}/key.pem, {out}/roots.pem, good for {}\n", args.lifetime).into())
}
