//! What becomes of a policy of Gateway API, in the words of GEP-713, for each Service it targets.
//!
//! | what the snapshot says | condition |
//! |---|---|
//! | it is in force | `Accepted` |
//! | no such Service | not accepted, `TargetNotFound` |
//! | an older one is in force there, or one of smaller name | not accepted, `Conflicted` |
//! | it asks for sessions where the Service keeps clients by their address | not accepted, `IncompatibleSessionAffinity` (ours) |
//! | it cannot be understood | not accepted, `Invalid` |

use weft_core::model::TrafficPolicy;
use weft_core::snapshot::{PolicyAttachment, Snapshot};

use super::judge::{INCOMPATIBLE, Judged, Seen, Verdict, misunderstood};

/// What each target of a policy makes of it.
pub(super) fn judge(snapshot: &Snapshot, policy: &TrafficPolicy) -> Vec<Judged> {
    snapshot.policy_attachments(policy).iter().map(|of| vec![("Accepted", accepted(of))]).collect()
}

/// What each of `targets` makes of a policy that cannot be understood.
pub(super) fn none(seen: &Seen, targets: usize) -> Vec<Judged> {
    vec![vec![("Accepted", misunderstood(seen, "Invalid", ""))]; targets]
}

fn accepted(attachment: &PolicyAttachment) -> Verdict {
    match attachment {
        PolicyAttachment::Accepted => (true, "Accepted", "the policy is in force for the Service".into()),
        PolicyAttachment::NoService => (false, "TargetNotFound", "the Service does not exist".into()),
        PolicyAttachment::Conflicted(other) => {
            (false, "Conflicted", format!("{other} is in force: it is older, or of smaller name"))
        }
        PolicyAttachment::Clash(clash) => (false, INCOMPATIBLE, format!("{clash}; nothing of the policy is in force")),
    }
}
