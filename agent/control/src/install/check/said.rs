//! What the mesh's pods say of themselves, at the port of their readiness probe, by way of the API server (`pods/proxy`).
//!
//! That port answers GET, says nothing of any one connection and is open to kubelet and Prometheus anyway; agents' own Roles stay as
//! they are. Of the metrics only those few are asked for that are looked at here.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use super::super::InstallError;
use super::super::api::Api;
use super::name;

/// Time for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest cause that is passed on.
const CAUSE_MAX: usize = 160;

const VERSION: &str = "weft_build_info";
const STALE: &str = "weft_kubernetes_stale_seconds";
const CLOCK: &str = "weft_clock_offset_seconds";
const PROBLEMS: &str = "weft_config_problems";
const UNREACHABLE: &str = "weft_unreachable_pods";
/// How an answer of `/readyz` begins that says what is missing.
const WAITING: &str = "waiting for: ";

/// What a pod of the mesh says of itself.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Said {
    pub(super) version: Option<String>,
    /// For how many seconds changes of a kind may have been missed.
    pub(super) stale: Vec<(String, f64)>,
    /// By how many seconds its clock is ahead of the API server's.
    pub(super) clock: f64,
    /// Objects that are wrong.
    pub(super) errors: f64,
    /// Pods whose tunnel port cannot be reached.
    pub(super) unreachable: f64,
}

/// Asks a pod how it is.
pub(super) async fn ask(api: &Api<'_>, pod: &Value) -> Result<Said, String> {
    let names = [VERSION, STALE, CLOCK, PROBLEMS, UNREACHABLE].map(|name| format!("name[]={name}")).join("&");
    let (status, text) = get(api, pod, &format!("metrics?{names}")).await?;
    if status.is_success() { Ok(read(&text)) } else { Err(cause(status, &text)) }
}

/// What a pod that is not ready waits for; `None` if it does not say.
pub(super) async fn waits_for(api: &Api<'_>, pod: &Value) -> Option<String> {
    let (_, text) = get(api, pod, "readyz").await.ok()?;
    text.starts_with(WAITING).then(|| text.lines().collect::<Vec<_>>().join("; "))
}

/// The command that has an agent say how it is.
pub(super) fn how_to_look(namespace: &str, pod: &str) -> String {
    format!("kubectl -n {namespace} exec {pod} -c agent -- weft status")
}

async fn get(api: &Api<'_>, pod: &Value, what: &str) -> Result<(StatusCode, String), String> {
    let port = port(pod).ok_or("it has no readiness probe")?;
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let path = format!("/api/v1/namespaces/{namespace}/pods/{}:{port}/proxy/{what}", name(pod));
    let answer = tokio::time::timeout(ANSWER, api.text(&path)).await;
    answer
        .map_err(|_| format!("no answer within {} s", ANSWER.as_secs()))?
        .map_err(|error: InstallError| error.to_string())
}

/// Where kubelet asks whether a pod is ready, which is where everything else is said.
fn port(pod: &Value) -> Option<u64> {
    let containers = pod["spec"]["containers"].as_array()?;
    containers.iter().find_map(|container| {
        let port = &container["readinessProbe"]["httpGet"]["port"];
        let named =
            |name: &str| container["ports"].as_array()?.iter().find(|p| p["name"] == name)?["containerPort"].as_u64();
        port.as_u64().or_else(|| named(port.as_str()?))
    })
}

/// Why there was another answer than metrics: the API server's word, or the pod's.
fn cause(status: StatusCode, text: &str) -> String {
    let said = serde_json::from_str::<Value>(text).ok().and_then(|said| Some(said["message"].as_str()?.to_owned()));
    let said: String = said.unwrap_or_else(|| text.trim().to_owned()).chars().take(CAUSE_MAX).collect();
    format!("{}: {said}", status.as_u16())
}

fn read(text: &str) -> Said {
    let mut said = Said::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let label = |key: &str| Some(labels.split_once(&format!("{key}=\""))?.1.split('"').next()?.to_owned());
        let Ok(value) = value.parse::<f64>() else { continue };
        match name {
            VERSION => said.version = label("version"),
            STALE if value > 0.0 => said.stale.extend(label("kind").map(|kind| (kind, value))),
            CLOCK => said.clock = value,
            PROBLEMS if label("severity").as_deref() == Some("error") => said.errors += value,
            UNREACHABLE => said.unreachable += value,
            _ => {}
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_exposition_is_read_as_far_as_it_matters() {
        let text = "# TYPE weft_build info\nweft_build_info{version=\"0.1.0\"} 1\n\
            weft_kubernetes_stale_seconds{kind=\"Pod\"} 0.0\nweft_kubernetes_stale_seconds{kind=\"Service\"} 61.5\n\
            weft_clock_offset_seconds -3.5\nweft_config_problems{severity=\"error\"} 2\n\
            weft_config_problems{severity=\"warning\"} 9\nweft_unreachable_pods{connections=\"closed\"} 1\n\
            weft_unreachable_pods{connections=\"plaintext\"} 1\nother 7\n# EOF\n";
        let said = read(text);
        let stale = vec![("Service".to_owned(), 61.5)];
        let wanted = Said { version: Some("0.1.0".into()), stale, clock: -3.5, errors: 2.0, unreachable: 2.0 };
        assert_eq!(said, wanted);
    }

    #[test]
    fn a_pod_is_asked_where_kubelet_asks_it() {
        let pod = |port: Value| {
            json!({"spec": {"containers": [{"name": "other"}, {
            "ports": [{"name": "ca", "containerPort": 1}, {"name": "metrics", "containerPort": 15020}],
            "readinessProbe": {"httpGet": {"port": port}}}]}})
        };
        assert_eq!((port(&pod(json!(9))), port(&pod(json!("metrics")))), (Some(9), Some(15020)));
        assert_eq!(port(&pod(json!("none"))), None);
    }
}
