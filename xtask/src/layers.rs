//! Dependency direction, read from the sources: which room of the agent may name which, and which crates are kept to one.
//!
//! A table of what is allowed is the architecture; a line that breaks it is a decision somebody should take on purpose.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::root;

/// Rooms of `agent/src`, each with those it may name. `app`, `main` and `cli` wire everything and may name all.
const ROOMS: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("drain", &[]),
    // It runs connections among the drain's tasks, on threads whose namespace `sys` knows.
    ("workers", &["sys", "drain"]),
    ("sandbox", &["sys"]),
    ("telemetry", &[]),
    ("identity", &["telemetry"]),
    ("hold", &["sys"]),
    ("steer", &["sys", "hold"]),
    ("tunnel", &["sys", "drain", "telemetry", "identity", "workers"]),
    // It pumps between sockets and the streams of tunnels, and reads their reset codes.
    ("relay", &["sys", "drain", "telemetry", "tunnel"]),
    // It holds what a pod's tunnels may cost.
    ("pod", &["sys", "tunnel"]),
    ("direct", &["telemetry", "pod"]),
    ("accept", &["sys"]),
    ("observe", &["telemetry", "tunnel", "relay"]),
    // It tells connections of the tunnel's port from plaintext ones.
    ("live", &["sys", "drain", "telemetry", "relay", "tunnel", "observe", "pod"]),
    (
        "inbound",
        &["sys", "drain", "telemetry", "identity", "relay", "live", "tunnel", "observe", "pod", "accept", "workers"],
    ),
    // One endpoint, for a connection or for a request.
    ("dial", &["sys", "relay", "tunnel", "observe", "pod"]),
    // Endpoints are asked how they are the same way as requests and connections reach them.
    ("health", &["drain", "telemetry", "relay", "pod", "dial"]),
    ("http", &["sys", "drain", "telemetry", "relay", "tunnel", "observe", "pod", "dial", "health", "workers"]),
    (
        "outbound",
        &[
            "sys",
            "drain",
            "telemetry",
            "identity",
            "relay",
            "live",
            "tunnel",
            "observe",
            "pod",
            "accept",
            "workers",
            "dial",
            "health",
            "http",
        ],
    ),
    ("admin", &["telemetry"]),
    ("config", &["telemetry", "admin", "steer", "identity"]),
];

/// Crates that only the named rooms may use: past steering nobody knows eBPF, and nobody on a connection's path where its
/// configuration came from. That nobody but `weft-control` knows Kubernetes is the agent's list of dependencies to see to.
const CRATES: &[(&str, &[&str])] = &[
    ("weft_control", &["telemetry", "config"]),
    // Keeping its loader takes a line of unsafe, which lives in `sys`.
    ("aya", &["steer", "sys"]),
    ("aya_log", &["steer"]),
    // Requests reset each other's streams with its codes.
    ("h2", &["tunnel", "relay", "http"]),
    ("prometheus_client", &["telemetry"]),
    ("tonic", &["identity"]),
    ("weft_ca", &["identity"]),
    // A role of its own: only the command line knows both.
    ("weft_controller", &[]),
];

/// Parts of the controller (rooms of `agent/controller/src`), each with those it may name. `parts` begins them all; that
/// they know nothing of the agent is their crate's list of dependencies to see to.
const PARTS: &[(&str, &[&str])] = &[
    ("telemetry", &[]),
    ("settings", &[]),
    ("issuer", &["settings", "telemetry"]),
    ("lease", &[]),
    ("slices", &["lease"]),
    ("status", &["lease"]),
];

/// What the pure crate must not touch: clocks, randomness, files, sockets, and every crate that brings them.
const FORBIDDEN_IN_CORE: &[&str] = &[
    "tokio",
    "kube::",
    "aya",
    "rustls",
    "rand::",
    "std::fs",
    "std::net::Tcp",
    "std::env",
    "Instant::now",
    "SystemTime",
    "std::thread",
];

/// Reports every line that breaks a rule.
pub(crate) fn check() -> Result<()> {
    let root = root();
    let mut broken = Vec::new();
    for (directory, judge) in [("agent/src", judge as fn(&str, &str) -> _), ("agent/controller/src", judge_part)] {
        for file in sources(&root.join(directory))? {
            let room = room_of(&root.join(directory), &file);
            let text = fs::read_to_string(&file)?;
            for (number, line) in code_lines(&text).filter(|_| !is_test(&file)) {
                broken.extend(judge(&room, line).map(|why| format!("{}:{number}: {why}", shown(&root, &file))));
            }
        }
    }
    for file in sources(&root.join("agent/core/src"))? {
        let text = fs::read_to_string(&file)?;
        for (number, line) in code_lines(&text).filter(|_| !is_test(&file)) {
            let word = FORBIDDEN_IN_CORE.iter().find(|word| mentions(line, word));
            broken.extend(word.map(|word| format!("{}:{number}: core is pure, but names {word}", shown(&root, &file))));
        }
    }
    if broken.is_empty() { Ok(()) } else { bail!("\n{}", broken.join("\n")) }
}

/// Tests may put together what they like, and draw and clock what they like.
fn is_test(file: &Path) -> bool {
    file.file_stem().is_some_and(|stem| stem == "tests") || file.iter().any(|part| part == "tests")
}

/// What is wrong with a line in a room, if anything.
fn judge(room: &str, line: &str) -> Option<String> {
    if matches!(room, "app" | "main" | "cli" | "lib") {
        return None;
    }
    if let Some(why) = judge_room(ROOMS, "app", room, line) {
        return Some(why);
    }
    let stray = CRATES.iter().find(|(name, rooms)| mentions(line, &format!("{name}::")) && !rooms.contains(&room));
    stray.map(|(name, rooms)| format!("{name} belongs to {}, not {room}", rooms.join(", ")))
}

/// What is wrong with a line in a part of the controller, if anything.
fn judge_part(room: &str, line: &str) -> Option<String> {
    if matches!(room, "parts" | "lib") { None } else { judge_room(PARTS, "none", room, line) }
}

/// What is wrong with the rooms a line names; `top` is the one that knows all others.
fn judge_room(rooms: &[(&str, &[&str])], top: &str, room: &str, line: &str) -> Option<String> {
    let Some((_, allowed)) = rooms.iter().find(|(name, _)| *name == room) else {
        return Some(format!("room {room} is not in xtask/src/layers.rs"));
    };
    for name in rooms.iter().map(|(name, _)| *name).chain([top]) {
        let named = mentions(line, &format!("crate::{name}::")) || mentions(line, &format!("crate::{name};"));
        if name != room && named && !allowed.contains(&name) {
            return Some(format!("{room} may not name {name}"));
        }
    }
    None
}

/// Whether a word occurs on its own, not as the tail of a longer path or name.
fn mentions(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':')
    })
}

/// Numbered lines that are neither comments nor below `#[cfg(test)]`.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.take_while(|(_, line)| line.trim() != "#[cfg(test)]").filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn room_of(root: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(root).unwrap_or(file);
    let first = inside.iter().next().unwrap_or_default().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn shown(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).display().to_string()
}

fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_obeys() {
        if let Err(broken) = check() {
            panic!("{broken:#}");
        }
    }

    #[test]
    fn a_room_may_name_those_below_it_only() {
        assert!(judge("outbound", "use crate::tunnel::Pool;").is_none());
        assert!(judge("tunnel", "use crate::outbound::Dial;").is_some());
        assert!(judge("relay", "    weft_control::manifests::load()").is_some());
        assert!(judge("app", "use weft_control::Source;").is_none());
        assert!(judge("telemetry", "use weft_control::manifests::Problem;").is_none());
        assert!(judge("outbound", "use h2::Reason;").is_some());
        assert!(judge("tunnel", "use h2::Reason;").is_none());
        assert!(judge("relay", "use weft_core::snapshot::Snapshot;").is_none());
        assert!(judge("cellar", "fn f() {}").is_some());
        assert!(judge_part("issuer", "use crate::slices::Slices;").is_some());
        assert!(judge_part("status", "use crate::lease::Lease;").is_none());
    }
}
