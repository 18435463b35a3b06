//! Versions of Linux: what the mesh needs at least, and what it does more on.

use super::Finding;

/// What the programs are tested with.
pub(super) const LEAST: (u64, u64) = (6, 1);
/// From here on connections between pods of one node can go past the proxy.
pub(super) const FAST_PATH: (u64, u64) = (6, 6);

/// The first two numbers of a version.
pub(super) fn two(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// How a machine with this release of Linux is placed.
#[must_use]
pub fn findings(release: &str) -> Vec<Finding> {
    let Some(known) = two(release) else {
        return vec![Finding::remark(format!("Linux {release:?} is of no known form"), "what is tried below counts")];
    };
    if known < LEAST {
        let what = format!("Linux {release} is older than {}.{}", LEAST.0, LEAST.1);
        return vec![Finding::wrong(what, "upgrade it, or keep agents off this machine: agent.nodeSelector")];
    }
    let slow = (known < FAST_PATH).then(|| {
        let what = format!("Linux {release}: connections between pods of this node go through the proxy");
        Finding::remark(what, format!("Linux {}.{} lets them go directly", FAST_PATH.0, FAST_PATH.1))
    });
    vec![slow.unwrap_or_else(|| Finding::well(format!("Linux {release} will do")))]
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn releases_are_judged_by_their_first_two_numbers() {
        for (release, grade) in [
            ("5.15.0-91-generic", Grade::Wrong),
            ("6.1.0", Grade::Remark),
            ("6.6.87.2-microsoft-standard-WSL2", Grade::Well),
            ("6.12+", Grade::Well),
            ("7.0", Grade::Well),
            ("odd", Grade::Remark),
        ] {
            let found = findings(release);
            assert_eq!(
                (found.len(), found[0].grade, found[0].remedy.is_empty()),
                (1, grade, grade == Grade::Well),
                "{release}"
            );
        }
    }
}
