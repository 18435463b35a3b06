//! What a pod's requests may hold of an agent's memory: what is beyond it is refused and counted, or not kept.

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Ask, Http, Payload, Requests};
use weft_tests::wait;

use crate::http::Web;
use crate::http_policy::{policy, service};

/// Bodies that a pod's budget has room for: 32 MiB of 64 KiB each.
const ROOM: u64 = 512;

#[test]
fn responses_over_budget_are_counted_as_such() -> Result<()> {
    let web = Web::serving("overbudget", 1, "http")?;
    let over = || web.counted(&[("error", "over_budget")]);
    let asked = Requests::to(web.web.v4(), Http::Two, Ask::get("/bytes/50000000"), 0).over(3, 200);
    web.steered(3, || web.app.leave_unread(asked))?;
    wait::until("what is over to be refused", wait::DEADLINE, || {
        let (over, given_up) = (over()?, web.counted(&[("error", "cancelled")])?);
        ensure!(given_up == 0, "{given_up} are said to be given up by an app that waits for all of them");
        ensure!((600 - ROOM..600).contains(&over), "{over} of 600");
        Ok(())
    })?;
    let answered = web.counted(&[("error", "over_budget"), ("response_code", "503")])?;
    ensure!(answered > 0, "none of them was answered");
    // Another pod's, or another kind's, is not charged for it.
    let reply = web.app.fetch(web.web.v4(), Http::One, Ask::get("/"))?;
    ensure!(reply.status == 200, "{reply:?}");
    web.lab.finish()
}

#[test]
fn bodies_kept_for_retries_are_charged_to_their_pod() -> Result<()> {
    let web = Web::serving("keptbodies", 1, "http")?;
    let settings = json!({
        "retry": {"attempts": 1, "codes": [500], "backoff": "10ms"},
        "retryBudget": {"percent": 100, "minPerSecond": 1_000_000}
    });
    policy(&web.lab, "a-retry", &service("web"), &settings)?;
    let (_, server, listener) = &web.servers[0];
    // More than half of what is kept at the most: room is made for all of that.
    let body = Payload::Noise { seed: 3, length: 33_000 };
    let failing = |path: &str| Ask::post(path, body.clone()).with(&[("x-bad", "v1")]);
    let twice = || {
        wait::until("a request with a body to be sent twice", wait::DEADLINE, || {
            let before = server.seen(*listener)?.requests;
            web.app.fetch(web.web.v4(), Http::One, failing("/"))?;
            let made = server.seen(*listener)?.requests - before;
            ensure!(made == 2, "made {made} times");
            Ok(())
        })
    };
    twice()?;
    // Each has its body at the server before the first is answered.
    let before = server.seen(*listener)?.requests;
    let requests = Requests::to(web.web.v4(), Http::One, failing("/wait/8000"), 600).over(600, 1);
    let answers = web.steered(600, || web.app.request(Requests { deadline_ms: 60_000, ..requests }))?;
    ensure!(answers.with(500) == 600, "{answers:?}");
    let again = server.seen(*listener)?.requests - before - 600;
    ensure!((ROOM / 2..=ROOM).contains(&again), "{again} of 600 were sent again");
    // What is over makes room.
    twice()?;
    web.lab.finish()
}
