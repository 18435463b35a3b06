//! The mesh's own pods: whether they are ready and why not, what they say of themselves, and of which version they are.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use serde_json::Value;

use super::super::api::Api;
use super::said::{self, Said};
use super::{Finding, name, some};

/// Agents asked at once.
const AT_ONCE: usize = 16;
/// Pods that are described one by one.
const DESCRIBED: usize = 10;
/// Watches break off and are taken up again all the time: it is said of those that stay so for longer, in seconds.
const STALE: f64 = 30.0;
/// The distance of clocks that agents complain of, in seconds.
const APART: f64 = 60.0;

/// What a pod had to say, or why it could not be asked.
type Answer<'a> = (&'a Value, Result<Said, String>);

pub(super) async fn findings(api: &Api<'_>, namespace: &str, pods: &[Value]) -> Vec<Finding> {
    let ours: Vec<_> = pods.iter().filter(|pod| is_ours(namespace, pod)).collect();
    let mut findings: Vec<_> = again(namespace, &ours).into_iter().collect();
    let (ready, unready): (Vec<_>, Vec<_>) = ours.into_iter().partition(|pod| is_ready(pod));
    findings.extend(unready_ones(api, namespace, &unready).await);
    let answers = ready.iter().map(async |pod| (*pod, said::ask(api, pod).await));
    let answers: Vec<Answer<'_>> = futures_util::stream::iter(answers).buffered(AT_ONCE).collect().await;
    findings.extend(unheard(namespace, &answers));
    findings.extend(stale(namespace, &answers));
    findings.extend(versions(&answers, env!("CARGO_PKG_VERSION")));
    findings.extend(troubles(namespace, &answers));
    findings
}

/// Whether a pod is an agent's or the controller's.
fn is_ours(namespace: &str, pod: &Value) -> bool {
    pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "weft"
        && pod["metadata"]["namespace"] == namespace
        && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Whether a pod is an agent's.
pub(super) fn is_agent(namespace: &str, pod: &Value) -> bool {
    is_ours(namespace, pod) && pod["metadata"]["labels"]["app.kubernetes.io/component"] == "agent"
}

/// Whether kubelet says that a pod is ready.
pub(super) fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
}

/// Where a pod runs.
pub(super) fn node(pod: &Value) -> Option<&str> {
    pod["spec"]["nodeName"].as_str()
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainerStatuses", "containerStatuses"].map(|list| pod["status"][list].as_array());
    lists.into_iter().flatten().flatten()
}

/// A pod and its node, as a person looks for it.
fn whose(pod: &Value) -> String {
    format!("{} (on {})", name(pod), node(pod).unwrap_or("no node"))
}

/// Pods that have started again and again.
fn again(namespace: &str, ours: &[&Value]) -> Option<Finding> {
    const MANY: u64 = 3;
    let restarts =
        |pod: &Value| -> u64 { containers(pod).map(|s| s["restartCount"].as_u64().unwrap_or_default()).sum() };
    let again: Vec<String> = ours.iter().filter(|pod| restarts(pod) > MANY).map(|pod| whose(pod)).collect();
    (!again.is_empty()).then(|| {
        let what = format!("containers have started again more than {MANY} times: {}", some(&again));
        Finding::remark(what, format!("kubectl -n {namespace} logs --previous POD"))
    })
}

/// Each pod that is not ready, with what keeps it: the scheduler, the runtime, or what it waits for by itself.
async fn unready_ones(api: &Api<'_>, namespace: &str, pods: &[&Value]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for pod in pods.iter().take(DESCRIBED) {
        let describe = format!("kubectl -n {namespace} describe pod {}", name(pod));
        let (why, how) = match outwardly(pod) {
            Some((why, true)) => {
                (why, format!("kubectl -n {namespace} logs --previous {} --all-containers", name(pod)))
            }
            Some((why, false)) => (why, describe),
            None => match said::waits_for(api, pod).await {
                Some(why) if is_agent(namespace, pod) => (why, said::how_to_look(namespace, name(pod))),
                Some(why) => (why, format!("kubectl -n {namespace} logs {}", name(pod))),
                None => ("its readiness probe gets no answer".to_owned(), describe),
            },
        };
        findings.push(Finding::wrong(format!("{} is not ready: {why}", whose(pod)), how));
    }
    if pods.len() > DESCRIBED {
        let what = format!("{} more pods of the mesh are not ready", pods.len() - DESCRIBED);
        findings.push(Finding::wrong(what, format!("kubectl -n {namespace} get pods -o wide")));
    }
    findings
}

/// What keeps a pod from running at all, and whether its logs say more.
fn outwardly(pod: &Value) -> Option<(String, bool)> {
    if let Some(scheduled) = condition(pod, "PodScheduled").filter(|condition| condition["status"] == "False") {
        return Some((scheduled["message"].as_str().unwrap_or("it is not scheduled").to_owned(), false));
    }
    let kept = containers(pod).find_map(|status| {
        let waiting = &status["state"]["waiting"];
        let reason = waiting["reason"].as_str()?;
        let message = waiting["message"].as_str().map(|message| format!(": {message}")).unwrap_or_default();
        Some((format!("{reason}{message}"), reason == "CrashLoopBackOff"))
    });
    kept.or_else(|| (pod["status"]["phase"] == "Pending").then(|| ("it is being started".to_owned(), false)))
}

/// Those that could not be asked.
fn unheard(namespace: &str, answers: &[Answer<'_>]) -> Option<Finding> {
    let (silent, causes): (Vec<_>, Vec<_>) =
        answers.iter().filter_map(|(pod, said)| Some((whose(pod), said.as_ref().err()?.clone()))).unzip();
    let cause = causes.first()?;
    let what = format!("these cannot be asked how they are: {} ({cause})", some(&silent));
    let how = format!(
        "it takes get on pods/proxy in {namespace}, and a way from the API server to their metrics port; or look in each: {}",
        said::how_to_look(namespace, "POD")
    );
    Some(Finding::remark(what, how))
}

/// Agents that do not follow the API server.
fn stale(namespace: &str, answers: &[Answer<'_>]) -> Option<Finding> {
    let heard: Vec<_> = agents_of(answers).collect();
    let stale: Vec<String> = heard
        .iter()
        .filter_map(|(pod, said)| {
            let (kind, seconds) = said.stale.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
            (*seconds >= STALE).then(|| format!("{} for {seconds:.0} s ({kind}{})", whose(pod), more(said)))
        })
        .collect();
    if !stale.is_empty() {
        let what = format!("agents do not follow the API server and serve by what they know: {}", some(&stale));
        let how = format!(
            "{} says why: 403 is the ClusterRole weft-agent, 401 the token, else the way from that node to the API server",
            said::how_to_look(namespace, "POD")
        );
        return Some(Finding::wrong(what, how));
    }
    (!heard.is_empty()).then(|| Finding::well(format!("{} agents follow the API server", heard.len())))
}

fn more(said: &Said) -> String {
    match said.stale.iter().filter(|(_, seconds)| *seconds >= STALE).count() {
        0 | 1 => String::new(),
        several => format!(" and {} more kinds", several - 1),
    }
}

/// Agents that had something to say.
fn agents_of<'a>(answers: &'a [Answer<'a>]) -> impl Iterator<Item = (&'a Value, &'a Said)> {
    let agent = |pod: &Value| pod["metadata"]["labels"]["app.kubernetes.io/component"] == "agent";
    answers.iter().filter(move |(pod, _)| agent(pod)).filter_map(|(pod, said)| Some((*pod, said.as_ref().ok()?)))
}

/// Versions other than this program's: what the pods say themselves, else what their labels say.
fn versions(answers: &[Answer<'_>], own: &str) -> Option<Finding> {
    let mut others: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (pod, said) in answers {
        let labelled = pod["metadata"]["labels"]["app.kubernetes.io/version"].as_str();
        let version = said.as_ref().ok().and_then(|said| said.version.as_deref()).or(labelled);
        if let Some(version) = version.filter(|version| *version != own) {
            others.entry(version).or_default().push(whose(pod));
        }
    }
    let each: Vec<String> = others.iter().map(|(version, pods)| format!("{version} in {}", some(pods))).collect();
    (!each.is_empty()).then(|| {
        let what = format!("this program is of version {own}, and there run {}", each.join("; "));
        Finding::remark(what, "weft upgrade (or helm upgrade) brings them to one; or use the program of that release")
    })
}

/// What else agents complain of.
fn troubles(namespace: &str, answers: &[Answer<'_>]) -> Vec<Finding> {
    let of = |count: &dyn Fn(&Said) -> Option<String>| -> Vec<String> {
        agents_of(answers).filter_map(|(pod, said)| Some(format!("{}: {}", whose(pod), count(said)?))).collect()
    };
    let counted = |number: f64| (number > 0.0).then(|| format!("{number:.0}"));
    let mut findings = Vec::new();
    let clocks = of(&|said| (said.clock.abs() >= APART).then(|| format!("{:+.0} s", said.clock)));
    if !clocks.is_empty() {
        let what = format!("nodes whose clock is not the API server's: {}", some(&clocks));
        findings
            .push(Finding::wrong(what, "see that they follow NTP: certificates count as not yet valid, or as expired"));
    }
    let look = said::how_to_look(namespace, "POD");
    let errors = of(&|said| counted(said.errors));
    if !errors.is_empty() {
        let what = format!("objects that agents do not go by: {}", some(&errors));
        findings.push(Finding::wrong(what, format!("{look} names them, if no line here does")));
    }
    let unreachable = of(&|said| counted(said.unreachable));
    if !unreachable.is_empty() {
        let what = format!("pods whose tunnel port others of their node cannot reach: {}", some(&unreachable));
        findings
            .push(Finding::remark(what, "kubectl get events --field-selector reason=Unreachable -A: let TCP 15008 in"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, status: &Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "weft-system", "labels": {
            "app.kubernetes.io/part-of": "weft", "app.kubernetes.io/component": "agent", "app.kubernetes.io/version": "0.0.1"}},
            "spec": {"nodeName": "a"}, "status": status})
    }

    #[test]
    fn what_keeps_a_pod_is_said_by_whoever_keeps_it() {
        let unscheduled = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]});
        assert_eq!(outwardly(&pod("x", &unscheduled)), Some(("0/3 nodes are available".into(), false)));
        let waiting = |reason: &str| {
            json!({"phase": "Running", "initContainerStatuses": [{"state": {"running": {}}}],
            "containerStatuses": [{"state": {"waiting": {"reason": reason, "message": "back-off"}}}]})
        };
        assert_eq!(
            outwardly(&pod("x", &waiting("ImagePullBackOff"))),
            Some(("ImagePullBackOff: back-off".into(), false))
        );
        assert_eq!(
            outwardly(&pod("x", &waiting("CrashLoopBackOff"))),
            Some(("CrashLoopBackOff: back-off".into(), true))
        );
        assert_eq!(outwardly(&pod("x", &json!({"phase": "Running"}))), None, "it has to be asked");
    }

    #[test]
    fn answers_become_findings_and_who_does_not_answer_is_named() {
        let (a, b) = (pod("a", &json!({})), pod("b", &json!({})));
        let well = Said { version: Some("0.1.0".into()), ..Said::default() };
        let bad = Said {
            version: Some("0.0.9".into()),
            stale: vec![("Pod".into(), 3.0), ("Service".into(), 90.0)],
            clock: -3600.0,
            errors: 2.0,
            unreachable: 1.0,
        };
        let fine = [(&a, Ok(well.clone()))];
        assert_eq!(stale("n", &fine).unwrap().grade, super::super::Grade::Well);
        assert!(versions(&fine, "0.1.0").is_none() && troubles("n", &fine).is_empty() && unheard("n", &fine).is_none());
        let answers = [(&a, Ok(bad)), (&b, Err("no way".to_owned()))];
        let found = stale("n", &answers).unwrap();
        assert!(found.what.contains("a (on a) for 90 s (Service)") && !found.remedy.is_empty(), "{found}");
        let found = versions(&answers, "0.1.0").unwrap();
        assert!(found.what.contains("0.0.1 in b (on a)") && found.what.contains("0.0.9 in a (on a)"), "{found}");
        let texts: Vec<_> = troubles("n", &answers).iter().map(ToString::to_string).collect();
        assert!(
            texts[0].contains("-3600 s") && texts[1].contains("a (on a): 2") && texts[2].contains("15008"),
            "{texts:?}"
        );
        assert!(unheard("n", &answers).unwrap().what.contains("b (on a) (no way)"));
    }
}
