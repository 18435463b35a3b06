//! Requests balanced by what is under way: that is a request until the last byte of its response, not until the first.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use weft_tests::app::{Ask, Http, Options, Requests, Until};
use weft_tests::lab::Endpoint;
use weft_tests::wait;

use crate::fixture::running_agent;
use crate::http::Web;

/// Has `web` balanced so.
fn balance(web: &Web, algorithm: &str) -> Result<()> {
    web.lab.algorithm(&web.web, algorithm)?;
    let agent = running_agent(&web.lab, &web.a)?;
    wait::until(&format!("to be balanced by {algorithm}"), wait::DEADLINE, || {
        let services = agent.ask("/services")?;
        let mine = services.as_array().into_iter().flatten().find(|known| known["name"] == "web");
        let said = mine.and_then(|known| known["ports"][0]["algorithm"].as_str()).context("it is unknown")?;
        let plain = |text: &str| text.replace(['_', '-', ' '], "").to_lowercase();
        ensure!(plain(said) == plain(algorithm), "it is balanced by {said:?}");
        Ok(())
    })
}

/// Who answers so many requests, made one after another.
fn spread(web: &Web, count: u64) -> Result<BTreeMap<String, u64>> {
    let requests = Requests::to(web.web.v4(), Http::One, Ask::get("/"), count);
    let answers = web.steered(1, || web.app.request(requests))?;
    ensure!(answers.with(200) == count, "{answers:?}");
    Ok(answers.names)
}

#[test]
fn responses_count_until_their_last_byte() -> Result<()> {
    let web = Web::serving("httpbusy", 2, "http")?;
    let (busy, idle) = (&web.servers[0].0, &web.servers[1].0);
    for algorithm in ["LeastRequest", "PeakEwma"] {
        balance(&web, algorithm)?;
        web.lab.set_endpoints(&web.web, vec![Endpoint::from(busy)])?;
        wait::until("one endpoint to be alone", wait::DEADLINE, || {
            let names = spread(&web, 10)?;
            ensure!(names.keys().eq(["v1"]), "{names:?}");
            Ok(())
        })?;
        // Heads have come, bodies have not: over both versions, more than windows and buffers hold.
        let much = Requests::to(web.web.v4(), Http::Two, Ask::get("/bytes/3000000"), 0).over(6, 1);
        let unread = web.app.leave_unread(much)?;
        let slow = Options { receive_buffer: Some(4096), ..Options::default() };
        let stalled = (0..4).map(|_| {
            let conn = web.app.open_with(web.web.v4(), slow.clone())?.conn;
            web.app.say(conn, "GET /bytes/50000000 HTTP/1.1\r\nHost: a\r\n\r\n")?;
            let head = web.app.receive(conn, Until::Head)?.text;
            ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
            Ok(conn)
        });
        let stalled = web.steered(4, || stalled.collect::<Result<Vec<_>>>())?;
        web.lab.set_endpoints(&web.web, vec![Endpoint::from(busy), Endpoint::from(idle)])?;
        wait::until("the other to be there", wait::DEADLINE, || {
            let names = spread(&web, 10)?;
            ensure!(names.contains_key("v2"), "{names:?}");
            Ok(())
        })?;
        let names = spread(&web, 300)?;
        let got = names.get("v1").copied().unwrap_or_default();
        ensure!(got <= 30, "{algorithm}: the busy endpoint got {got} of 300");
        // The last bytes come, or nobody waits for them any more: it is as good as the other.
        ensure!(web.app.read_unread(unread)? == 6 * 3_000_000, "what waited is not lost");
        for conn in stalled {
            web.app.close(conn)?;
        }
        wait::until(&format!("{algorithm} to give it its share again"), wait::DEADLINE, || {
            let names = spread(&web, 100)?;
            ensure!(names.get("v1").is_some_and(|count| *count >= 25), "{names:?}");
            Ok(())
        })?;
    }
    web.lab.finish()
}
