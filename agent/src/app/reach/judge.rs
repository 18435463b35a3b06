//! What dials of a pod's tunnel port from other pods of its node tell, and what becomes of the pod by that. Pure.
//!
//! That 15008 does not answer proves nothing: the pod may let nobody in whom we can ask. Only a dial that meets something
//! else at another port of the same pod shows that it is the tunnel port that is left out.

use weft_core::model::ObjectName;

/// What a dial met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Met {
    /// Somebody accepted.
    Accepted,
    /// An answer that says no: of the pod's kernel, or of something on the way.
    Refused,
    /// No answer.
    Silence,
}

/// What one witness met at the tunnel port and, if it did not get in there, at another port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) witness: ObjectName,
    pub(super) tunnel: Met,
    /// The port that told most, and what it told.
    pub(super) other: Option<(u16, Met)>,
}

/// What all witnesses together tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::app) enum Finding {
    /// The tunnel port can be reached.
    Reached,
    /// It cannot, while something else of the pod can; in words.
    Blocked(String),
    /// Nobody could tell.
    Unknown,
}

/// Whether what was met at another port shows that packets pass there which do not pass to the tunnel port. A refusal
/// shows it only beside silence: where the network itself refuses, it refuses alike.
pub(super) fn tells(tunnel: Met, other: Met) -> bool {
    matches!((tunnel, other), (Met::Silence, Met::Accepted | Met::Refused) | (Met::Refused, Met::Accepted))
}

/// One who gets in outweighs all who do not.
pub(super) fn judge(seen: &[Seen]) -> Finding {
    if seen.iter().any(|seen| seen.tunnel == Met::Accepted) {
        return Finding::Reached;
    }
    let told = seen.iter().find_map(|seen| {
        let (port, met) = seen.other?;
        tells(seen.tunnel, met).then(|| {
            let how = if seen.tunnel == Met::Silence { "gets no answer" } else { "is refused" };
            format!(
                "port 15008, by which peers reach the pod, cannot be reached: {} {how} there, and an answer at port {port}; \
                 does a NetworkPolicy leave 15008 out?",
                seen.witness
            )
        })
    });
    told.map_or(Finding::Unknown, Finding::Blocked)
}

/// How the tunnel port of an enrolled pod stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::app) enum Reach {
    /// It is being looked at for the first time: peers are not sent there yet.
    Asked,
    /// Nobody has said anything against it, nobody has been there.
    Assumed,
    /// Somebody has got in since the pod was enrolled.
    Proven,
    /// Nobody gets in; peers are told that the pod is not in the mesh.
    Pending(String),
    /// Nobody gets in any more, or the pod takes no plaintext: peers go on trying, and fail.
    Closed(String),
}

impl Reach {
    /// What a finding makes of it. Only a pod that nobody has ever got in to is reached in plaintext instead: otherwise
    /// whoever can drop packets could have what is encrypted sent in the clear.
    pub(super) fn after(self, finding: Finding, takes_plaintext: bool) -> Self {
        match (finding, self) {
            (Finding::Reached, _) => Self::Proven,
            (Finding::Unknown, Self::Asked) => Self::Assumed,
            (Finding::Unknown, before) => before,
            // The first words stay, or each look would be an Event of its own.
            (Finding::Blocked(_), Self::Pending(reason)) if takes_plaintext => Self::Pending(reason),
            (Finding::Blocked(_), Self::Pending(reason) | Self::Closed(reason)) => Self::Closed(reason),
            (Finding::Blocked(reason), Self::Asked | Self::Assumed) if takes_plaintext => Self::Pending(reason),
            (Finding::Blocked(reason), _) => Self::Closed(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(tunnel: Met, other: Option<(u16, Met)>) -> Seen {
        Seen { witness: ObjectName::new("demo", "second").unwrap(), tunnel, other }
    }

    #[test]
    fn only_a_difference_between_ports_tells_that_one_is_left_out() {
        use Met::{Accepted, Refused, Silence};
        for (tunnel, other, expected) in [
            (Silence, Some(Accepted), true),
            (Silence, Some(Refused), true),
            (Refused, Some(Accepted), true),
            (Refused, Some(Refused), false),
            (Refused, Some(Silence), false),
            (Silence, Some(Silence), false),
            (Silence, None, false),
        ] {
            let finding = judge(&[seen(tunnel, other.map(|met| (8080, met)))]);
            assert_eq!(matches!(finding, Finding::Blocked(_)), expected, "{tunnel:?} {other:?}: {finding:?}");
        }
        let Finding::Blocked(words) = judge(&[seen(Silence, Some((8080, Accepted)))]) else { panic!() };
        assert!(words.contains("15008") && words.contains("demo/second") && words.contains("8080"), "{words}");
    }

    #[test]
    fn one_who_gets_in_outweighs_all_others() {
        let shut_out = seen(Met::Silence, Some((8080, Met::Accepted)));
        assert_eq!(judge(&[shut_out.clone(), shut_out, seen(Met::Accepted, None)]), Finding::Reached);
        assert_eq!(judge(&[]), Finding::Unknown);
    }

    #[test]
    fn no_pod_that_was_ever_reached_falls_back_to_plaintext() {
        let blocked = || Finding::Blocked("why".into());
        let pending = Reach::Pending("why".into());
        for reach in [Reach::Asked, Reach::Assumed] {
            assert_eq!(reach.clone().after(blocked(), true), pending);
            assert_eq!(reach.after(blocked(), false), Reach::Closed("why".into()));
        }
        for takes_plaintext in [true, false] {
            assert_eq!(Reach::Proven.after(blocked(), takes_plaintext), Reach::Closed("why".into()));
            assert_eq!(Reach::Closed("why".into()).after(blocked(), takes_plaintext), Reach::Closed("why".into()));
        }
        assert_eq!(pending.clone().after(blocked(), true), pending);
        assert_eq!(pending.clone().after(blocked(), false), Reach::Closed("why".into()), "it is strict by now");
        assert_eq!(pending.clone().after(Finding::Unknown, true), pending);
        assert_eq!(pending.after(Finding::Reached, true), Reach::Proven);
        assert_eq!(Reach::Asked.after(Finding::Unknown, true), Reach::Assumed);
    }
}
