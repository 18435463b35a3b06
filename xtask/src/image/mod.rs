//! `cargo xtask image`: an OCI archive of the agent, made without a container engine: one static program in an empty root.
//!
//! The program is linked statically with glibc, position-independent as ever. glibc 2.34 and later resolve names without
//! loading anything; what they read (`/etc/resolv.conf`, `/etc/hosts`) kubelet mounts. The same sources, paths and
//! compiler give the same archive, bit for bit: files carry the time of the commit.

mod layout;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{Need, cargo_home, ensure};
use crate::shell::{cargo, on_path, root, run as run_command, say};
use crate::{build_ebpf, privileges};
use layout::{Image, Platform};

/// Where images are made.
const DIRECTORY: &str = "target/image";
/// What images are called unless told otherwise: the chart's default.
const REPOSITORY: &str = "ghcr.io/weft-mesh/weft";

/// What to make.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Architectures in the archive: amd64, arm64
    #[arg(long, value_delimiter = ',', default_value = Architecture::own().oci)]
    architecture: Vec<String>,
    /// Take this program instead of building one; for one architecture
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Unpack the archive, and run the journeys of the DaemonSet with it
    #[arg(long)]
    test: bool,
}

/// An architecture by its names.
struct Architecture {
    oci: &'static str,
    target: &'static str,
    /// The linker, where it is not this machine's own.
    linker: &'static str,
}

const ARCHITECTURES: [Architecture; 2] = [
    Architecture { oci: "amd64", target: "x86_64-unknown-linux-gnu", linker: "x86_64-linux-gnu-gcc" },
    Architecture { oci: "arm64", target: "aarch64-unknown-linux-gnu", linker: "aarch64-linux-gnu-gcc" },
];

impl Architecture {
    const fn own() -> &'static Self {
        if cfg!(target_arch = "aarch64") { &ARCHITECTURES[1] } else { &ARCHITECTURES[0] }
    }

    fn named(name: &str) -> Result<&'static Self> {
        ARCHITECTURES.iter().find(|known| known.oci == name).with_context(|| format!("{name:?} is not amd64 or arm64"))
    }
}

/// Makes the archive, and runs the journeys with it if asked to.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let wanted = arguments.architecture.iter().map(|name| Architecture::named(name)).collect::<Result<Vec<_>>>()?;
    let mut platforms = Vec::new();
    for architecture in wanted {
        let program = match &arguments.binary {
            Some(path) => path.clone(),
            None => build(architecture)?,
        };
        demand_static(&program)?;
        platforms.push(Platform { architecture: architecture.oci, program });
    }
    let version = env!("CARGO_PKG_VERSION");
    let image = Image { name: format!("{REPOSITORY}:{version}"), version, revision: revision(), created: created()? };
    let archive = root().join(DIRECTORY).join(format!("weft-{version}.oci.tar"));
    fs::create_dir_all(root().join(DIRECTORY))?;
    let digest = layout::write(&image, &platforms, File::create(&archive)?)?;
    println!("{} ({} bytes, {digest})", archive.display(), fs::metadata(&archive)?.len());
    if arguments.test { test(&archive) } else { Ok(()) }
}

fn build(architecture: &Architecture) -> Result<PathBuf> {
    ensure(&[Need::Ebpf])?;
    build_ebpf::run()?;
    say(&format!("compiling the agent for {}, static and optimised", architecture.target));
    let variable = |name: &str| format!("CARGO_TARGET_{}_{name}", architecture.target.to_uppercase().replace('-', "_"));
    let mut command = cargo();
    command.args(["build", "--profile", "image", "--package", "weft", "--bin", "weft"]);
    command.args(["--target", architecture.target, "--target-dir", DIRECTORY]);
    // No path of this machine in the program: it would tell builds apart, and where they were made.
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned(), remap(&root(), "/weft")];
    flags.extend(cargo_home().map(|home| remap(&home, "/cargo")));
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTFLAGS");
    if architecture.target != Architecture::own().target {
        if !on_path(architecture.linker) {
            let package = format!("g++-{}", architecture.linker.trim_end_matches("-gcc"));
            bail!("no {} to link for {}: apt-get install {package}", architecture.linker, architecture.target);
        }
        run_command(Command::new("rustup").args(["target", "add", architecture.target]))?;
        command.env(variable("LINKER"), architecture.linker);
    }
    run_command(&mut command)?;
    Ok(root().join(DIRECTORY).join(architecture.target).join("image/weft"))
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}

/// A program that asks for an interpreter would not start in an empty root. PT_INTERP is 3.
fn demand_static(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
    let word = |at: usize, length: usize| -> Option<u64> {
        let bytes = bytes.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let is_elf64 = bytes.starts_with(b"\x7fELF\x02\x01");
    let headers = (word(32, 8), word(54, 2), word(56, 2));
    let (true, (Some(at), Some(size), Some(count))) = (is_elf64, headers) else {
        bail!("{} is no program for a 64-bit little-endian machine", program.display());
    };
    for number in 0..count {
        let header = usize::try_from(at + number * size)?;
        if word(header, 4) == Some(3) {
            bail!("{} is linked dynamically: an empty root has no interpreter for it", program.display());
        }
    }
    Ok(())
}

fn revision() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The time of the commit, or of `SOURCE_DATE_EPOCH`, in seconds since 1970.
fn created() -> Result<u64> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return given.parse().context("SOURCE_DATE_EPOCH is no number of seconds");
    }
    let output = Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()).output();
    let time = output.ok().and_then(|output| String::from_utf8_lossy(&output.stdout).trim().parse().ok());
    Ok(time.unwrap_or_default())
}

/// Unpacks the archive as a runtime would and runs the DaemonSet's journeys on what comes out.
fn test(archive: &Path) -> Result<()> {
    let unpacked = root().join(DIRECTORY).join("rootfs");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked)?;
    }
    layout::unpack(archive, Architecture::own().oci, &unpacked)?;
    privileges::demand()?;
    crate::test::with_image(&unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_refused() {
        let own = std::env::current_exe().unwrap();
        assert!(demand_static(&own).unwrap_err().to_string().contains("dynamically"));
        let text = tempfile::NamedTempFile::new().unwrap();
        fs::write(text.path(), "#!/bin/sh\n").unwrap();
        assert!(demand_static(text.path()).is_err());
    }
}
