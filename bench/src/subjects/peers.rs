//! Other projects' proxies: mutual TLS 1.3 between the two, a worker a core, an access-log line a connection, all else as
//! its project ships it. Their configurations are the templates in `bench/peers`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::pair::Pair;
use super::{Subject, certs};

/// How a peer is run.
struct Peer {
    name: &'static str,
    /// The templates of the client's side and the server's.
    templates: [&'static str; 2],
    /// The program.
    program: fn() -> Result<PathBuf>,
    /// Its arguments, given its configuration and the number of cores.
    arguments: fn(&str, usize) -> Vec<String>,
}

const PEERS: [Peer; 8] = [
    Peer {
        name: "envoy-tls",
        templates: [
            include_str!("../../peers/envoy-tls-outbound.yaml"),
            include_str!("../../peers/envoy-tls-inbound.yaml"),
        ],
        program: envoy,
        arguments: envoy_arguments,
    },
    Peer {
        name: "envoy-h2",
        templates: [
            include_str!("../../peers/envoy-h2-outbound.yaml"),
            include_str!("../../peers/envoy-h2-inbound.yaml"),
        ],
        program: envoy,
        arguments: envoy_arguments,
    },
    Peer {
        name: "haproxy",
        templates: [include_str!("../../peers/haproxy-outbound.cfg"), include_str!("../../peers/haproxy-inbound.cfg")],
        program: || installed("haproxy"),
        arguments: haproxy_arguments,
    },
    Peer {
        name: "nginx",
        templates: [include_str!("../../peers/nginx-outbound.conf"), include_str!("../../peers/nginx-inbound.conf")],
        program: || installed("nginx"),
        arguments: nginx_arguments,
    },
    Peer {
        name: "http-envoy",
        templates: [
            include_str!("../../peers/envoy-http-outbound.yaml"),
            include_str!("../../peers/envoy-tls-inbound.yaml"),
        ],
        program: envoy,
        arguments: envoy_arguments,
    },
    Peer {
        name: "http-envoy-both",
        templates: [
            include_str!("../../peers/envoy-http-outbound.yaml"),
            include_str!("../../peers/envoy-http-both-inbound.yaml"),
        ],
        program: envoy,
        arguments: envoy_arguments,
    },
    Peer {
        name: "http-haproxy",
        templates: [
            include_str!("../../peers/haproxy-http-outbound.cfg"),
            include_str!("../../peers/haproxy-inbound.cfg"),
        ],
        program: || installed("haproxy"),
        arguments: haproxy_arguments,
    },
    Peer {
        name: "http-nginx",
        templates: [
            include_str!("../../peers/nginx-http-outbound.conf"),
            include_str!("../../peers/nginx-inbound.conf"),
        ],
        program: || installed("nginx"),
        arguments: nginx_arguments,
    },
];

/// Starts a peer's two proxies.
pub(super) fn start(pair: &Pair<'_>) -> Result<Subject> {
    let peer = PEERS.iter().find(|peer| peer.name == pair.name).context("nobody knows how to start it")?;
    let cores = std::thread::available_parallelism()?.get();
    let program = (peer.program)()?.display().to_string();
    let directory = pair.stage.lab.directory().join("peers");
    let certs = certs::write(&directory)?;
    let command = |side: &str, template: &str, listen, upstream| -> Result<Vec<String>> {
        let own = directory.join(format!("{}-{side}", peer.name));
        fs::create_dir_all(&own)?;
        let config = own.join("config.yaml");
        fs::write(&config, filled(template, listen, upstream, &own, &certs, cores)?)?;
        let arguments = (peer.arguments)(&config.display().to_string(), cores);
        Ok([vec![program.clone()], arguments].concat())
    };
    let [outbound, inbound] = peer.templates;
    pair.start_inbound(&command("inbound", inbound, pair.inbound, pair.server)?)?;
    pair.start_outbound(&command("outbound", outbound, pair.outbound, pair.inbound)?)?;
    Ok(pair.subject())
}

/// A template with its `@PLACES@` filled; one that is left is a mistake in the template.
fn filled(
    template: &str,
    listen: std::net::SocketAddr,
    upstream: std::net::SocketAddr,
    directory: &Path,
    certs: &Path,
    cores: usize,
) -> Result<String> {
    let mut text = template.to_owned();
    for (place, value) in [
        ("@LISTEN_IP@", listen.ip().to_string()),
        ("@LISTEN_PORT@", listen.port().to_string()),
        ("@UPSTREAM_IP@", upstream.ip().to_string()),
        ("@UPSTREAM_PORT@", upstream.port().to_string()),
        ("@CERTS@", certs.display().to_string()),
        ("@DIRECTORY@", directory.display().to_string()),
        ("@MODULES@", NGINX_MODULES.to_owned()),
        ("@CORES@", cores.to_string()),
    ] {
        text = text.replace(place, &value);
    }
    let place = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    match text.split('@').find(place) {
        Some(left) => bail!("nothing fills @{left}@"),
        None => Ok(text),
    }
}

/// Where Debian puts the stream module.
const NGINX_MODULES: &str = "/usr/lib/nginx/modules";

/// Where `cargo xtask bench` puts Envoy: a virtual environment of Python, whose `bin/envoy` only starts this file.
const ENVOY: &str = "target/bench/envoy";

fn envoy() -> Result<PathBuf> {
    let versions = fs::read_dir(Path::new(ENVOY).join("lib")).into_iter().flatten().flatten();
    let mut programs = versions.map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    let found = programs.find(|program| program.is_file());
    let found = found.with_context(|| format!("there is no Envoy in {ENVOY}: `cargo xtask setup` installs it"))?;
    Ok(found.canonicalize()?)
}

fn envoy_arguments(config: &str, cores: usize) -> Vec<String> {
    let concurrency = cores.to_string();
    let words = ["-c", config, "--concurrency", &concurrency, "--disable-hot-restart", "-l", "error"];
    words.map(str::to_owned).into()
}

fn haproxy_arguments(config: &str, _cores: usize) -> Vec<String> {
    ["-db", "-f", config].map(str::to_owned).into()
}

fn nginx_arguments(config: &str, _cores: usize) -> Vec<String> {
    ["-e", "stderr", "-c", config].map(str::to_owned).into()
}

fn installed(name: &str) -> Result<PathBuf> {
    let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
    let found = places.map(|place| Path::new(place).join(name)).into_iter().find(|program| program.is_file());
    found.with_context(|| format!("{name} is not installed: `cargo xtask setup` installs it"))
}

/// What each program says its version is.
#[must_use]
pub fn versions() -> Vec<(String, String)> {
    let ask = |name: &str, program: Result<PathBuf>, argument: &str| {
        let output = std::process::Command::new(program.ok()?).arg(argument).output().ok()?;
        // nginx says it on standard error.
        let said =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).concat();
        // Some begin with the path they were called by, which is nobody's business.
        let line = said.lines().next()?;
        let version = line.split_once("version").map_or(line, |(_, version)| version);
        Some((name.to_owned(), version.trim_matches([':', ' ']).to_owned()))
    };
    let all = [
        ask("envoy", envoy(), "--version"),
        ask("haproxy", installed("haproxy"), "-v"),
        ask("nginx", installed("nginx"), "-v"),
    ];
    all.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_every_template_is_filled() {
        let (listen, upstream) = (([127, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into());
        for template in PEERS.iter().flat_map(|peer| peer.templates) {
            let text =
                filled(template, listen, upstream, Path::new("/own"), Path::new("/certs"), 3).expect("no place left");
            for shown in ["127.0.0.1", "10.0.0.2"] {
                assert!(text.contains(shown), "{shown} is not in\n{text}");
            }
        }
        assert!(filled("@NO_SUCH@", listen, upstream, Path::new(""), Path::new(""), 3).is_err());
    }
}
