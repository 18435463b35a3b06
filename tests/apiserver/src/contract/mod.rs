//! The contract: exchanges recorded from a real API server, replayed in order against a server, and compared.
//!
//! Compared is everything but what no two servers can share: `managedFields`, generated names and addresses, UIDs,
//! timestamps, tokens, and revisions. These are learned as they appear and take the recorded ones' place in later requests,
//! and an object that was recorded with the same UID or revision twice has to have the same one twice here, too.

mod client;
mod compare;
mod kubeconfig;
mod manifests;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

pub use client::{Reply, Target};
use compare::Learned;
pub use kubeconfig::Kubeconfig;
pub use manifests::{Remark, accepts};

/// The recording.
const RECORDED: &str = include_str!("../../contract/recorded.json");
/// How long a cluster's controllers may take for what they do on their own.
const PATIENCE: Duration = Duration::from_secs(120);
/// What the recording makes that is in no namespace.
const MADE: [&str; 2] =
    ["/api/v1/namespaces/demo", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.dev"];
/// What the recorded distribution mounts into pods beside the cluster's CA, and others do not.
pub const RECORDED_TOKEN_SOURCE: (&str, &str) = ("openshift-service-ca.crt", "service-ca.crt");

#[derive(Deserialize)]
struct Recording {
    exchanges: Vec<Exchange>,
}

#[derive(Deserialize)]
struct Exchange {
    name: String,
    note: String,
    request: Request,
    response: Response,
}

#[derive(Deserialize)]
struct Request {
    method: String,
    path: String,
    content_type: Option<String>,
    accept: Option<String>,
    body: Option<Value>,
}

#[derive(Deserialize)]
struct Response {
    status: u16,
    body: Value,
}

/// How one exchange went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its name in the recording.
    pub name: String,
    /// What differs, path by path; empty if nothing does.
    pub differences: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.differences.is_empty() { "equal " } else { "DIFFER" }, self.name)?;
        self.differences.iter().try_for_each(|difference| write!(f, "\n    {difference}"))
    }
}

/// Replays all exchanges in order.
///
/// # Errors
/// When the target cannot be reached, already has what the recording makes, or does not do in time what the recorded
/// cluster did on its own.
pub async fn replay(target: &Target) -> Result<Vec<Outcome>> {
    let recording: Recording = serde_json::from_str(RECORDED).context("the recording")?;
    for made in MADE {
        if target.send(Method::GET, made, &[], None).await?.status != 404 {
            bail!("{made} is there already: the recording makes it. Is the cluster in use? If not, delete it");
        }
    }
    // In the recording nobody had yet made the namespace's default account when the first pod wanted it.
    target.order("controllers", json!({"paused": true})).await?;
    let mut learned = Learned::new(target.is_double());
    let mut outcomes = Vec::new();
    let mut broken_off = None;
    for exchange in recording.exchanges {
        match replay_one(target, exchange, &mut learned).await {
            Ok(outcome) => outcomes.push(outcome),
            Err(problem) => {
                broken_off = Some(problem);
                break;
            }
        }
    }
    // What broke it off is said first: it may be why not all of it can be removed.
    let removed = remove(target, &MADE).await;
    broken_off.map_or(removed.map(|()| outcomes), Err)
}

/// Deletes what is at these paths, and waits until it is gone.
async fn remove(target: &Target, paths: &[&str]) -> Result<()> {
    for path in paths {
        target.send(Method::DELETE, path, &[], None).await?;
    }
    for path in paths {
        until(target, path, 404).await?;
    }
    Ok(())
}

async fn replay_one(target: &Target, exchange: Exchange, learned: &mut Learned) -> Result<Outcome> {
    prepare(target, &exchange.name).await?;
    let Exchange { name, note, request, response } = exchange;
    let method: Method = request.method.parse()?;
    let path = learned.path(&request.path);
    let body = request.body.map(|body| learned.body(body).to_string());
    let accept = request.accept.unwrap_or_else(|| "*/*".into());
    let mut headers = vec![("accept", accept.as_str()), ("user-agent", "curl/8")];
    headers.extend(request.content_type.as_deref().map(|kind| ("content-type", kind)));
    let reply = target.send(method, &path, &headers, body).await.with_context(|| format!("{name}: {path}"))?;
    let (status, text) = (reply.status, reply.text);
    let mut differences = Vec::new();
    if !target.is_double() && another_answer(&name, status, &text) {
        return Ok(Outcome { name, differences });
    }
    if status != response.status {
        differences.push(format!("status: recorded {}, found {status} ({note}): {text}", response.status));
    } else {
        let found = parse(&response.body, &text);
        learned.compare(&response.body, &found, &mut differences);
    }
    Ok(Outcome { name, differences })
}

/// What the recorded cluster had done by itself before an exchange.
async fn prepare(target: &Target, name: &str) -> Result<()> {
    match name {
        "create_pod_unknown_field_warn" => {
            target.order("controllers", json!({"paused": false})).await?;
            until(target, "/api/v1/namespaces/demo/serviceaccounts/default", 200).await
        }
        "cr_create" => until(target, "/apis/example.dev/v1/namespaces/demo/widgets", 200).await,
        _ => Ok(()),
    }
}

/// Waits until a path is answered with this status.
async fn until(target: &Target, path: &str, status: u16) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let reply = target.send(Method::GET, path, &[], None).await?;
        if reply.status == status {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            bail!("after {} s {path} is answered {}, not {status}: {}", PATIENCE.as_secs(), reply.status, reply.text);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether an answer other than the recorded one is as right: it depends on what the cluster did first, or has forgotten.
fn another_answer(name: &str, status: u16, text: &str) -> bool {
    match name {
        "create_pod_invalid" => status == 422,
        "list_exact_rv_compacted" => status == 410,
        // What a cluster in use remembers of the time before is its own, and more than the recorded one's.
        "watch_too_old" => status == 410 || status == 200 && is_watch(text),
        _ => false,
    }
}

/// An answer in the form of the recorded one: a watch's events as a list, text as a string.
fn parse(recorded: &Value, text: &str) -> Value {
    match recorded {
        Value::Array(_) => {
            let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            // How many bookmarks there are is a matter of time; the one that ends the initial events is not.
            let counts = |event: &Value| {
                event["type"] != "BOOKMARK"
                    || event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"
            };
            events.filter(counts).collect()
        }
        Value::String(_) => text.into(),
        _ => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    }
}

/// Whether every line of an answer is an event of a watch, and an ERROR says that the revision is gone.
fn is_watch(text: &str) -> bool {
    text.lines().all(|line| {
        let Ok(event) = serde_json::from_str::<Value>(line) else { return false };
        match event["type"].as_str() {
            Some("ERROR") => event["object"]["code"] == 410,
            Some("ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK") => event["object"]["metadata"].is_object(),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_are_a_watch() {
        let event = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{}}}\n";
        assert!(is_watch("") && is_watch(event));
        assert!(is_watch("{\"type\":\"ERROR\",\"object\":{\"code\":410}}"));
        assert!(!is_watch("{\"type\":\"ERROR\",\"object\":{\"code\":500}}"));
        assert!(!is_watch(&format!("{event}{{\"kind\":\"PodList\"}}")) && !is_watch("<html>"));
    }
}
