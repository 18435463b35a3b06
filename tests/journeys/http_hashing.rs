//! Requests that go to the same endpoint because of what they have in common: a cookie, a parameter of the query, or where they
//! come from.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{App, Ask, Http, Requests};
use weft_tests::lab::Endpoint;
use weft_tests::wait;

use crate::http::Web;
use crate::http_policy::{policy, service};

/// In a row.
const ROW: u64 = 50;

/// The algorithms, and how many in a hundred of the keys of others an endpoint that goes may move.
const ALGORITHMS: [(&str, usize); 2] = [("RingHash", 0), ("Maglev", 10)];

fn balance(web: &Web, algorithm: &str, hash_on: Option<&Value>) -> Result<()> {
    let mut balancer = json!({"algorithm": algorithm});
    if let Some(hash_on) = hash_on {
        balancer["hashOn"] = hash_on.clone();
    }
    policy(&web.lab, "web", &service("web"), &json!({"loadBalancer": balancer}))
}

/// Who answers all of so many of these requests.
fn place(web: &Web, app: &App, http: Http, ask: &Ask, count: u64) -> Result<String> {
    let answers = web.steered(1, || app.request(Requests::to(web.web.v4(), http, ask.clone(), count)))?;
    ensure!(answers.with(200) == count && answers.names.len() == 1, "{ask:?} goes to several: {answers:?}");
    answers.names.into_keys().next().context("nobody")
}

/// Who answers each of these, waiting until they go where they go for good, and to all four endpoints among them.
fn settled<K: Ord + Clone>(keys: &[K], place: impl Fn(&K, Http) -> Result<String>) -> Result<BTreeMap<K, String>> {
    let all = |http| keys.iter().map(|key| Ok((key.clone(), place(key, http)?))).collect::<Result<BTreeMap<_, _>>>();
    wait::until("the same to go to the same endpoints", wait::DEADLINE, || {
        let (first, second) = (all(Http::One)?, all(Http::Two)?);
        let places: BTreeSet<_> = first.values().collect();
        ensure!(
            places.len() == 4 && first == second,
            "over HTTP/1 {:?}, over HTTP/2 {:?}",
            first.values(),
            second.values()
        );
        Ok(first)
    })
}

/// Takes an endpoint away and yields whose of the others' keys move; brings it back.
fn one_goes<K: Ord + Clone>(
    web: &Web,
    before: &BTreeMap<K, String>,
    place: impl Fn(&K) -> Result<String>,
) -> Result<(usize, usize)> {
    web.lab.set_endpoints(&web.web, web.servers.iter().skip(1).map(|(pod, ..)| Endpoint::from(pod)).collect())?;
    let after = wait::until("the endpoint to be gone", wait::DEADLINE, || {
        let after = before.keys().map(|key| Ok((key.clone(), place(key)?))).collect::<Result<BTreeMap<_, _>>>()?;
        ensure!(after.values().all(|name| name != "v1"), "it still gets some");
        Ok(after)
    })?;
    web.lab.set_endpoints(&web.web, web.servers.iter().map(|(pod, ..)| Endpoint::from(pod)).collect())?;
    let own = before.values().filter(|name| *name == "v1").count();
    let moved = before.iter().filter(|(key, name)| *name != "v1" && after[*key] != **name).count();
    Ok((own, moved))
}

#[test]
fn requests_are_hashed_by_cookie_and_query() -> Result<()> {
    let web = Web::serving("hashreq", 4, "http")?;
    let by_cookie = |key: &str| Ask::get("/").with(&[("cookie", &format!("theme=dark; cart={key}; last=1"))]);
    let by_query = |key: &str| Ask::get(&format!("/list?page=2&cart={key}"));
    let keys: Vec<String> = (0..40).map(|n| format!("customer-{n}")).collect();
    for (algorithm, most) in ALGORITHMS {
        for (hash_on, ask) in
            [(json!({"cookie": "cart"}), &by_cookie as &dyn Fn(&str) -> Ask), (json!({"query": "cart"}), &by_query)]
        {
            balance(&web, algorithm, Some(&hash_on))?;
            let where_now = |key: &String, http, count| place(&web, &web.app, http, &ask(key), count);
            let before = settled(&keys, |key, http| where_now(key, http, 3))?;
            // Over and over, whatever else of the request differs.
            for key in keys.iter().take(8) {
                let other = ask(key).with(&[("x-other", "1"), ("cookie", "unrelated=7")]);
                ensure!(where_now(key, Http::One, ROW)? == before[key], "{algorithm} by {hash_on}: {key} has moved");
                let found = place(&web, &web.app, Http::Two, &other, 5)?;
                ensure!(found == before[key], "{algorithm} by {hash_on}: {key} goes to {found} by something else");
            }
            let (own, moved) = one_goes(&web, &before, |key| where_now(key, Http::One, 1))?;
            ensure!((2..=20).contains(&own), "{algorithm} by {hash_on}: {own} of 40 were its own");
            ensure!(moved * 100 <= most * (40 - own), "{algorithm} by {hash_on}: {moved} moved beside its own {own}");
        }
    }
    // Who lacks what is hashed is its client's address: one endpoint, too.
    let without = Ask::get("/list?page=2");
    let found = place(&web, &web.app, Http::One, &without, ROW)?;
    ensure!(place(&web, &web.app, Http::Two, &without, ROW)? == found);
    web.lab.finish()
}

#[test]
fn requests_are_hashed_by_source_address() -> Result<()> {
    let web = Web::serving("hashsource", 4, "http")?;
    let clients = (0..16)
        .map(|n| {
            let pod = web.lab.pod(&web.a, &format!("c{n}")).create()?;
            let app = pod.app(&web.lab)?;
            web.lab.wait_live(&pod)?;
            Ok(app)
        })
        .collect::<Result<Vec<_>>>()?;
    let keys: Vec<usize> = (0..clients.len()).collect();
    for (algorithm, most) in ALGORITHMS {
        balance(&web, algorithm, None)?;
        // Nothing a request says changes it.
        let where_now = |client: &usize, http, count| {
            let ask = Ask::get(&format!("/{client}?cart={count}"))
                .with(&[("cookie", "cart=1"), ("x-forwarded-for", "10.9.9.9")]);
            place(&web, &clients[*client], http, &ask, count)
        };
        let before = settled(&keys, |client, http| where_now(client, http, 3))?;
        for client in &keys {
            ensure!(where_now(client, Http::One, ROW)? == before[client], "{algorithm}: client {client} has moved");
        }
        let (own, moved) = one_goes(&web, &before, |client| where_now(client, Http::Two, 1))?;
        ensure!((1..=10).contains(&own), "{algorithm}: {own} of 16 were its own");
        ensure!(moved * 100 <= most * (16 - own), "{algorithm}: {moved} moved beside its own {own}");
        settled(&keys, |client, http| where_now(client, http, 1)).and_then(|after| {
            ensure!(after == before, "not as it was: {after:?}");
            Ok(())
        })?;
    }
    web.lab.finish()
}
