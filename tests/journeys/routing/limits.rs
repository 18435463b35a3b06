//! How long a request may take by its rule, and which answers have it made again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Ask, Http};
use weft_tests::lab::NAMESPACE;
use weft_tests::wait;

use super::{Routes, to};

#[test]
fn timeout() -> Result<()> {
    let routes = Routes::new("timeout", Some("http"))?;
    let wait = json!([{"path": {"type": "PathPrefix", "value": "/wait"}}]);
    let rules = json!([
        {"matches": wait, "timeouts": {"request": "500ms"}, "backendRefs": to("v1")},
        {"backendRefs": to("v2")},
    ]);
    routes.route("HTTPRoute", NAMESPACE, "web", rules)?;
    routes.in_force()?;
    for http in [Http::One, Http::Two] {
        ensure!(routes.app.fetch(routes.web.v4(), http, Ask::get("/wait/10"))?.status == 200);
        let begun = Instant::now();
        let late = routes.app.fetch(routes.web.v4(), http, Ask::get("/wait/20000"))?;
        ensure!((late.status, late.header("weft-error")) == (504, Some("timeout")), "{late:?}");
        let took = begun.elapsed();
        ensure!((Duration::from_millis(500)..Duration::from_secs(10)).contains(&took), "given up after {took:?}");
    }
    // Who is asked over HTTP/2 is told.
    let (server, listener) = &routes.servers[0];
    wait::until("the endpoint to stop working for nobody", wait::DEADLINE, || {
        ensure!(server.seen(*listener)?.cancelled == 1);
        Ok(())
    })?;
    routes.lab.finish()
}

#[test]
fn chosen_statuses_are_asked_for_again() -> Result<()> {
    let routes = Routes::new("again", Some("http"))?;
    let retry = json!({"attempts": 2, "codes": [503], "backoff": "10ms"});
    routes.route("HTTPRoute", NAMESPACE, "web", json!([{"retry": retry, "backendRefs": to("v1")}]))?;
    routes.in_force()?;
    // The endpoint has it three times; what it says the third time is the client's.
    let (server, listener) = &routes.servers[0];
    for (asked, times) in [("/status/503", 3), ("/status/502", 1), ("/status/204", 1)] {
        let before = server.seen(*listener)?.requests;
        routes.get(&Ask::get(asked))?;
        let made = server.seen(*listener)?.requests - before;
        ensure!(made == times, "{asked} was made {made} times");
    }
    routes.lab.finish()
}
