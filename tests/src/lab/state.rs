//! What a pod's network namespace looks like from outside: rules, routes, addresses, links and sysctls. Two looks are
//! compared to prove that the mesh put everything back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use super::NetNs;
use crate::wait;

/// One look at a namespace: a line for each thing there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetState {
    lines: BTreeMap<String, String>,
}

/// Settings that move by themselves.
const RESTLESS: [&str; 3] = ["nf_conntrack_count", "nf_conntrack_buckets", "stable_secret"];

impl NetState {
    /// Looks at a namespace.
    ///
    /// # Errors
    /// When it cannot be entered or `ip` is missing.
    pub fn of(netns: &NetNs) -> Result<Self> {
        netns.run(|| {
            let mut lines = BTreeMap::new();
            for (what, command) in [
                ("rule", "ip -4 rule show"),
                ("rule6", "ip -6 rule show"),
                ("route", "ip -4 route show table all"),
                ("route6", "ip -6 route show table all"),
                ("address", "ip -o addr show"),
                ("link", "ip -o link show"),
            ] {
                let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
                for line in super::run_command(&command, "")?.lines() {
                    lines.insert(format!("{what}: {}", line.trim()), String::new());
                }
            }
            sysctls(Path::new("/proc/sys/net"), &mut lines);
            Ok(Self { lines })
        })
    }

    /// Looks until two looks agree: addresses and routes of a new link take a moment.
    ///
    /// # Errors
    /// When it keeps changing.
    pub(super) fn settled(netns: &NetNs) -> Result<Self> {
        let mut last = Self::of(netns)?;
        wait::until("a new pod's network to settle", Duration::from_secs(10), || {
            let look = Self::of(netns)?;
            if look == last && look.addresses_are_in_use() {
                return Ok(look);
            }
            let difference = last.difference(&look);
            last = look;
            bail!("{difference:?}")
        })
    }

    /// Whether every IPv6 address has left its tentative state and has its route.
    fn addresses_are_in_use(&self) -> bool {
        let addresses = self.lines.keys().filter(|line| line.starts_with("address:") && line.contains(" inet6 "));
        let mut ips = addresses.map(|line| {
            let ip = line.split(" inet6 ").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
            (ip, line.contains(" tentative"))
        });
        ips.all(|(ip, tentative)| {
            !tentative && self.lines.keys().any(|line| line.starts_with(&format!("route6: local {ip} ")))
        })
    }

    /// What differs in `after`: `+` for what appeared, `-` for what went, `~` for what changed its value.
    #[must_use]
    pub fn difference(&self, after: &Self) -> Vec<String> {
        let gone = self.lines.keys().filter(|line| !after.lines.contains_key(*line)).map(|line| format!("- {line}"));
        let other = after.lines.iter().filter_map(|(line, value)| match self.lines.get(line) {
            None => Some(format!("+ {line} {value}")),
            Some(before) if before != value => Some(format!("~ {line}: {before} -> {value}")),
            Some(_) => None,
        });
        gone.chain(other).collect()
    }
}

/// Listening TCP sockets of a namespace, as `/proc/net/tcp` writes their addresses.
///
/// # Errors
/// When it cannot be entered.
pub(super) fn listeners(netns: &NetNs) -> Result<Vec<String>> {
    netns.run(|| {
        let mut found = Vec::new();
        for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            let text = fs::read_to_string(file)?;
            let listening = text.lines().skip(1).filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                (words.get(3) == Some(&"0A")).then(|| words.get(1).map(ToString::to_string)).flatten()
            });
            found.extend(listening);
        }
        Ok(found)
    })
}

/// Their ports.
pub(super) fn listening_ports(netns: &NetNs) -> Result<Vec<u16>> {
    let port = |text: &String| text.rsplit(':').next().and_then(|hex| u16::from_str_radix(hex, 16).ok());
    Ok(listeners(netns)?.iter().filter_map(port).collect())
}

fn sysctls(directory: &Path, into: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sysctls(&path, into);
        } else if let Ok(value) = fs::read_to_string(&path)
            && !RESTLESS.iter().any(|name| path.ends_with(name))
        {
            into.insert(format!("sysctl: {}", path.display()), value.trim().to_owned());
        }
    }
}
