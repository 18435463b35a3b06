//! Weighted backends of a rule, and what becomes of the share of one that takes nothing.

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Ask, Http, Requests};
use weft_tests::lab::NAMESPACE;
use weft_tests::wait;

use super::Routes;

#[test]
fn split() -> Result<()> {
    let routes = Routes::new("shares", Some("http"))?;
    routes.route(
        "HTTPRoute",
        NAMESPACE,
        "web",
        json!([{"backendRefs": [
            {"name": "v1", "port": 80, "weight": 70}, {"name": "v2", "port": 80, "weight": 30},
            {"name": "nowhere", "port": 80, "weight": 0},
        ]}]),
    )?;
    routes.in_force()?;
    let asked = Requests::to(routes.web.v4(), Http::One, Ask::get("/"), 500).over(2, 1);
    let answers = routes.app.request(asked.clone())?;
    ensure!(answers.with(200) == 500, "{answers:?}");
    let share = *answers.names.get("v1").unwrap_or(&0) as f64 / 500.0;
    // Four standard deviations would be 8 points; the balance is asked for within 5, so each try is a fair one.
    ensure!((share - 0.7).abs() < 0.082, "{answers:?}");
    // A backend that is missing keeps its share, in refusals.
    routes.route(
        "HTTPRoute",
        NAMESPACE,
        "web",
        json!([{"backendRefs": [{"name": "v1", "port": 80, "weight": 1}, {"name": "nowhere", "port": 80, "weight": 1}]}]),
    )?;
    wait::until("the missing backend's share", wait::DEADLINE, || {
        let answers = routes.app.request(asked.clone())?;
        ensure!(answers.with(200) + answers.with(500) == 500, "{answers:?}");
        ensure!((200..=300).contains(&answers.with(500)) && !answers.names.contains_key("v2"), "{answers:?}");
        Ok(())
    })?;
    // So does one of a kind nothing can be sent to.
    let bucket = json!({"group": "storage.example", "kind": "Bucket", "name": "b", "weight": 1});
    let backends = json!([{"name": "v2", "port": 80, "weight": 1}, bucket]);
    routes.route("HTTPRoute", NAMESPACE, "web", json!([{"backendRefs": backends}]))?;
    wait::until("the share of a backend that is no Service", wait::DEADLINE, || {
        let answers = routes.app.request(asked.clone())?;
        ensure!(answers.with(200) + answers.with(500) == 500, "{answers:?}");
        ensure!((200..=300).contains(&answers.with(500)) && !answers.names.contains_key("v1"), "{answers:?}");
        Ok(())
    })?;
    routes.lab.finish()
}
