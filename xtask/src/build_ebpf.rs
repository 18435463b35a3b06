//! `cargo xtask build-ebpf`: compiles the kernel's half into `target/ebpf`, where the agent's build script picks it up.
//!
//! Two toolchains can do it, and the first that is complete is taken: rustup's nightly with `rust-src` (it builds
//! `core` for the BPF target itself), or Debian's `rustc-web`, which brings `core` ready made. Both need
//! `bpf-linker`. When neither is complete the error says what is missing from each. Nothing is installed here; that
//! is the `setup` verb.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The programs run in the kernel of the machine they are built on, or of one like it.
const TARGET: &str = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// Debian's second compiler; `cargo` and everything else stay those of rustup.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler that can make BPF objects on this machine.
enum Toolchain {
    /// rustup's nightly: `core` is built from `rust-src`.
    Nightly,
    /// `rustc-web` with `libstd-rust-web-dev-bpf`: `core` is there.
    Debian,
}

/// Builds the programs and returns where the object lies. Costs half a second when nothing changed.
pub(crate) fn run() -> Result<PathBuf> {
    run_in(&workspace())
}

/// [`run`] in another work tree.
pub(crate) fn run_in(root: &Path) -> Result<PathBuf> {
    let linker = bpf_linker();
    let toolchain = choose(linker.is_some())?;
    let linker = linker.expect("choose refuses without a linker");
    let status = command(&toolchain, &linker)
        .current_dir(root)
        .args(["build", "--package", "weft-programs", "--release"])
        .args(["--target", TARGET, "--target-dir", "target/ebpf"])
        .status()
        .context("cannot run cargo for the eBPF programs")?;
    if !status.success() {
        bail!(
            "the eBPF programs did not build (see above). If the linker complains about bitcode, bpf-linker was built with an older \
             LLVM than the compiler's: run `cargo xtask setup`"
        );
    }
    let object = object_in(root);
    fs::metadata(&object).with_context(|| format!("cargo succeeded but {} is not there", object.display()))?;
    Ok(object)
}

/// Where the object of a work tree lies.
pub(crate) fn object_in(root: &Path) -> PathBuf {
    root.join("target/ebpf").join(TARGET).join("release/weft-programs")
}

/// What this machine lacks to build the programs; `None` when nothing does.
pub(crate) fn missing() -> Option<String> {
    choose(bpf_linker().is_some()).err().map(|why| why.to_string())
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies inside the workspace").to_owned()
}

fn choose(linker: bool) -> Result<Toolchain> {
    let nightly = nightly_problem();
    let debian = debian_problem();
    match (linker, &nightly, &debian) {
        (true, None, _) => return Ok(Toolchain::Nightly),
        (true, _, None) => return Ok(Toolchain::Debian),
        _ => {}
    }
    let mut why = String::from("no toolchain here can build the eBPF programs:");
    if !linker {
        why.push_str("\n  - bpf-linker is not on PATH (`cargo install bpf-linker`)");
    }
    if let (Some(nightly), Some(debian)) = (nightly, debian) {
        let _ = write!(why, "\n  - {nightly}\n  - or else: {debian}");
    }
    why.push_str("\n`cargo xtask setup` installs what is missing.");
    bail!(why)
}

/// Nightly without `rust-src` installs happily and then cannot build `core`: test for the sources themselves.
fn nightly_problem() -> Option<String> {
    let output = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .env_remove("RUSTUP_TOOLCHAIN")
        .output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        return Some(
            "rustup has no nightly toolchain (`rustup toolchain install nightly --component rust-src`)".into(),
        );
    };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let sources = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    (!sources.exists())
        .then(|| "rustup's nightly lacks rust-src (`rustup component add rust-src --toolchain nightly`)".into())
}

fn debian_problem() -> Option<String> {
    let advice = "`apt-get install rustc-web libstd-rust-web-dev-bpf`";
    let output = Command::new(DEBIAN_RUSTC).args(["--print", "target-libdir", "--target", TARGET]).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        return Some(format!("{DEBIAN_RUSTC} is not there or does not know {TARGET} ({advice})"));
    };
    let libraries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let has_core = fs::read_dir(libraries).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    });
    (!has_core).then(|| format!("{DEBIAN_RUSTC} has no `core` for {TARGET} ({advice})"))
}

/// On PATH, or where `cargo install` puts it: root's PATH often lacks that directory.
fn bpf_linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    env::split_paths(&path)
        .chain(cargo_home.map(|home| home.join("bin")))
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
}

/// cargo for the BPF target. What the outer cargo put into the environment would leak the workspace's compiler,
/// wrapper and flags into this build, so it is taken out.
fn command(toolchain: &Toolchain, linker: &Path) -> Command {
    let mut command = match toolchain {
        Toolchain::Nightly => {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo", "-Zbuild-std=core"]);
            command
        }
        Toolchain::Debian => {
            let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", DEBIAN_RUSTC);
            command
        }
    };
    for leaked in
        ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"]
    {
        command.env_remove(leaked);
    }
    if matches!(toolchain, Toolchain::Nightly) {
        for leaked in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
            command.env_remove(leaked);
        }
    }
    let prefix = format!("CARGO_TARGET_{}", TARGET.to_uppercase().replace('-', "_"));
    command
        .env(format!("{prefix}_LINKER"), linker)
        .env(format!("{prefix}_RUSTFLAGS"), "-Cdebuginfo=2 -Clink-arg=--btf");
    command
}
