//! Which roots are trusted, and from when one signs: a pure function of what is in the Secret and what was published.
//!
//! A root that appears is published beside the old ones first. Only when every node has had time to hear of it does it
//! sign, and only when the last leaf of an old one has expired is that one no longer published. Whoever replaces the root
//! therefore has one thing to do: replace it.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

/// A trust anchor, as it is published. Times are seconds since the epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Anchor {
    pub(super) certificate: CertificateDer<'static>,
    /// Since when it is published; 0 if nobody ever had to wait for it.
    pub(super) since: u64,
    /// Since when another signs in its place.
    pub(super) replaced: Option<u64>,
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// From a root's publication to the first signature with it.
    pub(super) settle: Duration,
    /// From the last signature with a root to the end of its publication: what a leaf lives, and more.
    pub(super) keep: Duration,
}

/// What is to be published at `now`, given the anchors of the root in the Secret.
pub(super) fn plan(current: &[CertificateDer<'static>], published: &[Anchor], now: u64, terms: Terms) -> Vec<Anchor> {
    let since = if published.is_empty() { 0 } else { now };
    let of = |certificate: &CertificateDer<'static>| {
        let known = published.iter().find(|anchor| anchor.certificate == *certificate);
        known.map_or(since, |anchor| anchor.since)
    };
    let mut next: Vec<Anchor> = current
        .iter()
        .map(|certificate| Anchor { certificate: certificate.clone(), since: of(certificate), replaced: None })
        .collect();
    let settled = may_sign(current, &next, now, terms);
    for old in published.iter().filter(|old| !current.contains(&old.certificate)) {
        let replaced = if settled { old.replaced.or(Some(now)) } else { None };
        if replaced.is_none_or(|replaced| now < replaced.saturating_add(terms.keep.as_secs())) {
            next.push(Anchor { replaced, ..old.clone() });
        }
    }
    next
}

/// Whether a root with these anchors may sign: all of them have been published for long enough.
pub(super) fn may_sign(anchors: &[CertificateDer<'static>], published: &[Anchor], now: u64, terms: Terms) -> bool {
    let settled = |anchor: &Anchor| anchor.since == 0 || now >= anchor.since.saturating_add(terms.settle.as_secs());
    anchors.iter().all(|wanted| published.iter().any(|anchor| anchor.certificate == *wanted && settled(anchor)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms { settle: Duration::from_secs(300), keep: Duration::from_secs(1000) };

    fn root(number: u8) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from(vec![number])]
    }

    fn names(anchors: &[Anchor]) -> Vec<u8> {
        anchors.iter().map(|anchor| anchor.certificate[0]).collect()
    }

    #[test]
    fn the_first_root_signs_at_once() {
        let published = plan(&root(1), &[], 50, TERMS);
        assert_eq!(names(&published), [1]);
        assert!(may_sign(&root(1), &published, 50, TERMS));
    }

    #[test]
    fn a_new_root_is_known_before_it_signs_and_the_old_one_outlives_its_leaves() {
        let mut published = plan(&root(1), &[], 1000, TERMS);
        published = plan(&root(2), &published, 2000, TERMS);
        assert_eq!(names(&published), [2, 1]);
        assert!(!may_sign(&root(2), &published, 2299, TERMS) && may_sign(&root(1), &published, 2299, TERMS));
        published = plan(&root(2), &published, 2300, TERMS);
        assert!(may_sign(&root(2), &published, 2300, TERMS));
        published = plan(&root(2), &published, 3299, TERMS);
        assert_eq!(names(&published), [2, 1], "leaves of the old root are still about");
        published = plan(&root(2), &published, 3300, TERMS);
        assert_eq!(names(&published), [2]);
    }

    #[test]
    fn a_root_that_comes_back_while_it_is_trusted_needs_no_second_wait() {
        let mut published = plan(&root(1), &[], 1000, TERMS);
        published = plan(&root(2), &published, 2000, TERMS);
        published = plan(&root(1), &published, 2100, TERMS);
        assert_eq!(names(&published), [1, 2]);
        assert!(may_sign(&root(1), &published, 2100, TERMS));
        assert_eq!(published[1].replaced, Some(2100));
    }

    proptest! {
        /// Whatever happens to the Secret and however often it is looked at: what signs has been published for long enough
        /// by then, and what has signed stays published for as long as what it signed lasts.
        #[test]
        fn nothing_is_signed_that_somebody_cannot_verify(steps in proptest::collection::vec((1_u64..400, 1_u8..4), 1..60)) {
            let (mut now, mut published) = (1_000_000_u64, Vec::new());
            let mut first_seen = std::collections::BTreeMap::<u8, u64>::new();
            let mut last_signed = std::collections::BTreeMap::<u8, u64>::new();
            for (pause, number) in steps {
                now += pause;
                published = plan(&root(number), &published, now, TERMS);
                let names = names(&published);
                prop_assert!(names.contains(&number));
                first_seen.retain(|name, _| names.contains(name));
                for name in &names {
                    let alone = first_seen.is_empty();
                    first_seen.entry(*name).or_insert(if alone { 0 } else { now });
                }
                for (name, signed) in &last_signed {
                    prop_assert!(names.contains(name) || now >= signed + TERMS.keep.as_secs(), "{name} went too soon");
                }
                if may_sign(&root(number), &published, now, TERMS) {
                    let seen = first_seen[&number];
                    prop_assert!(seen == 0 || now >= seen + TERMS.settle.as_secs(), "{number} signs too soon");
                    last_signed.insert(number, now);
                }
            }
        }
    }
}
