//! Endpoints that are new: what they get grows with their time, request by request and connection by connection.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Ask, Behaviour, Calls, Http, Requests};
use weft_tests::lab::Endpoint;
use weft_tests::wait;

use crate::fixture::running_agent;
use crate::http::Web;
use crate::http_policy::{policy, service};

/// How long a new endpoint's part grows. In tenths: a step takes as long as many of the rows below.
const WINDOW: Duration = Duration::from_secs(12);
/// Asked in a row. Of two that weigh 100 and one that weighs 10 to 100, the last has 1.4 to 10 of them.
const ROW: u64 = 30;

/// Who answers, how often.
type Names = BTreeMap<String, u64>;

fn listed(web: &Web, count: usize) -> Result<()> {
    web.lab.set_endpoints(&web.web, web.servers.iter().take(count).map(|(pod, ..)| Endpoint::from(pod)).collect())
}

/// Sets a slow start by a policy that is seen to be in force.
fn starts_slowly(web: &Web) -> Result<()> {
    let settings = json!({"slowStart": "12s", "loadBalancer": {"algorithm": "RoundRobin"}});
    web.lab.algorithm(&web.web, "Random")?;
    policy(&web.lab, "a-slow", &service("web"), &settings)?;
    let agent = running_agent(&web.lab, &web.a)?;
    wait::until("the policy", wait::DEADLINE, || {
        let services = agent.ask("/services")?.to_string().to_lowercase();
        ensure!(services.contains("robin"), "{services}");
        Ok(())
    })
}

/// The part that `v3` may have of a row between two moments of its growing, in rounded picks: round robin is less than one off
/// what is due, each time its table is made anew.
fn due(from: Duration, to: Duration) -> (u64, u64) {
    let weight = |at: Duration| (at.as_secs_f64() / WINDOW.as_secs_f64() * 10.0).floor().mul_add(10.0, 10.0).min(100.0);
    let part = |weight: f64| ROW as f64 * weight / (200.0 + weight);
    let anew = (to.saturating_sub(from).as_secs_f64() / (WINDOW.as_secs_f64() / 10.0)).ceil() + 1.0;
    ((part(weight(from)) - anew).max(0.0).floor() as u64, (part(weight(to)) + anew).ceil() as u64)
}

/// Lists a third endpoint, and checks each row against what it is due by then.
fn grows(web: &Web, row: impl Fn() -> Result<Names>) -> Result<()> {
    listed(web, 2)?;
    let two = wait::until("two to be left", wait::DEADLINE, || {
        let names = web.steered(1, &row)?;
        ensure!(names.keys().eq(["v1", "v2"].iter()), "{names:?}");
        Ok(names)
    })?;
    ensure!(
        two.values().all(|count| count.abs_diff(ROW / 2) <= 1),
        "who was there from the beginning is not new: {two:?}"
    );
    starts_slowly(web)?;
    let put = Instant::now();
    listed(web, 3)?;
    let (mut seen, mut rows) = (None, Vec::new());
    while seen.is_none_or(|seen: Instant| seen.elapsed() < WINDOW + Duration::from_secs(1)) {
        ensure!(put.elapsed() < WINDOW * 3, "the new endpoint gets nothing: {rows:?}");
        let begun = Instant::now();
        let names = web.steered(1, &row)?;
        let got = names.get("v3").copied().unwrap_or_default();
        // It joined between having been listed and having been seen; the row it joins in is nothing to go by.
        if let Some(seen) = seen {
            let (least, most) = due(begun.duration_since(seen), put.elapsed());
            ensure!(
                (least..=most).contains(&got),
                "{got} of a row, not {least} to {most}, {:?} on: {rows:?}",
                put.elapsed()
            );
            rows.push(got);
        } else if got > 0 {
            seen = Some(Instant::now());
        }
    }
    // Not only within the bounds: it began with little, and has all of its part in the end.
    let tenth = rows.len().div_ceil(10);
    let sum = |rows: &[u64]| rows.iter().sum::<u64>() as f64 / rows.len() as f64;
    let (first, last) = (sum(&rows[..tenth]), sum(&rows[rows.len() - 1..]));
    ensure!(rows.len() >= 20 && first <= 4.0 && (9.0..=11.0).contains(&last), "{first}, then {last}: {rows:?}");
    Ok(())
}

#[test]
fn new_endpoints_get_few_requests_at_first() -> Result<()> {
    let web = Web::serving("slowstart", 3, "http")?;
    grows(&web, || Ok(web.app.request(Requests::to(web.web.v4(), Http::One, Ask::get("/"), ROW))?.names))?;
    web.lab.finish()
}

#[test]
fn new_endpoints_get_few_connections_at_first() -> Result<()> {
    let web = Web::with("slowstarttcp", 3, &Behaviour::Identify, "example.com/other")?;
    wait::until("the Service to answer", wait::DEADLINE, || web.steered(1, || web.app.call_once(web.web.v4())))?;
    grows(&web, || {
        let summary = web.app.call(Calls::to(web.web.v4()).times(ROW, 1))?;
        ensure!(summary.ok == ROW, "{summary:?}");
        Ok(summary.names)
    })?;
    web.lab.finish()
}
