//! Clients that keep their endpoint by what they show: cookies and headers of `sessionPersistence`, on every node alike.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_tests::app::{App, Ask, Behaviour, Http, Reply};
use weft_tests::lab::{Endpoint, NAMESPACE, Pod};
use weft_tests::wait;

use crate::fixture::anywhere;
use crate::http::Web;
use crate::http_retries::rule;

/// A route to `web` with this `sessionPersistence`.
fn persist(web: &Web, persistence: &Value) -> Result<()> {
    rule(&web.lab, &json!({"sessionPersistence": persistence, "backendRefs": [{"name": "web", "port": 80}]}))
}

/// What a client was given: the whole `set-cookie`, and what of it is to be shown.
fn cookie(reply: &Reply) -> Option<(&str, &str)> {
    let whole = reply.header("set-cookie")?;
    Some((whole, whole.split(';').next().unwrap_or_default()))
}

fn name(reply: &Reply) -> Result<String> {
    Ok(reply.header("x-name").with_context(|| format!("nobody answered: {reply:?}"))?.to_owned())
}

fn get(app: &App, web: &Web, fields: &[(&str, &str)]) -> Result<Reply> {
    let reply = app.fetch(web.web.v4(), Http::One, Ask::get("/").with(fields))?;
    ensure!(reply.status == 200, "{reply:?}");
    Ok(reply)
}

#[test]
fn session_by_cookie() -> Result<()> {
    let web = Web::serving("cookie", 4, "http")?;
    let other = web.lab.pod(&web.b, "other").create()?;
    web.lab.wait_live(&other)?;
    let other = other.app(&web.lab)?;
    persist(&web, &json!({"sessionName": "cart"}))?;
    let first = wait::until("a cookie", wait::DEADLINE, || {
        let reply = web.steered(1, || get(&web.app, &web, &[]))?;
        ensure!(cookie(&reply).is_some(), "{reply:?}");
        Ok(reply)
    })?;
    let (whole, shown) = cookie(&first).context("no cookie")?;
    ensure!(shown.starts_with("cart=") && whole.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{whole}");
    for pod in web.servers.iter().map(|(pod, ..)| pod) {
        ensure!(pod.addresses().iter().all(|ip| !whole.contains(&ip.to_string())), "{whole} says an address");
        ensure!(!whole.contains(pod.uid()), "{whole} says a UID");
    }
    // Who shows it is where it was, among other cookies, on another node too; who does not goes around.
    let home = name(&first)?;
    for app in [&web.app, &other] {
        for _ in 0..20 {
            let reply = get(app, &web, &[("cookie", &format!("a=b; {shown}"))])?;
            ensure!(name(&reply)? == home && cookie(&reply).is_none(), "not {home}: {reply:?}");
        }
        let names = (0..20).map(|_| name(&get(app, &web, &[])?)).collect::<Result<BTreeSet<_>>>()?;
        ensure!(names.len() == 4, "{names:?}");
    }
    // What nobody has given leads nowhere, and is replaced.
    let forged = format!("cart={}", "0".repeat(shown.len() - 5));
    let longer = format!("{}ffffffff{}", &shown[..29], &shown[37..]);
    for wrong in [&forged, &longer, "cart=x"] {
        let reply = get(&web.app, &web, &[("cookie", wrong)])?;
        ensure!(cookie(&reply).is_some_and(|(_, shown)| shown != wrong), "{wrong}: {reply:?}");
    }
    // Its endpoint is no longer ready: another, and its cookie in the place of the old one.
    let endpoint = |pod: &Pod| Endpoint { ready: pod.name() != home, ..pod.into() };
    web.lab.set_endpoints(&web.web, web.servers.iter().map(|(pod, ..)| endpoint(pod)).collect())?;
    let moved = wait::until("another endpoint", wait::DEADLINE, || {
        let reply = get(&web.app, &web, &[("cookie", shown)])?;
        ensure!(name(&reply)? != home && cookie(&reply).is_some_and(|(_, new)| new != shown), "{reply:?}");
        Ok(reply)
    })?;
    let (now, shown) = (name(&moved)?, cookie(&moved).context("no cookie")?.1);
    for _ in 0..20 {
        ensure!(name(&get(&web.app, &web, &[("cookie", shown)])?)? == now);
    }
    web.lab.finish()
}

#[test]
fn session_by_header_ends_in_time() -> Result<()> {
    let web = Web::serving("sessionheader", 4, "http")?;
    let asked = |fields: &[(&str, &str)]| get(&web.app, &web, fields);
    persist(&web, &json!({"type": "Header", "sessionName": "X-Cart", "idleTimeout": "2s"}))?;
    let token = |reply: &Reply| reply.header("x-cart").map(str::to_owned);
    let mut shown = wait::until("a token", wait::DEADLINE, || {
        token(&web.steered(1, || asked(&[]))?).context("no token in the response")
    })?;
    // Used more often than every two seconds it goes on, and is renewed.
    let begun = Instant::now();
    let home = name(&asked(&[("x-cart", &shown)])?)?;
    let mut renewed = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        let reply = asked(&[("x-cart", &shown)])?;
        ensure!(name(&reply)? == home, "not {home} after {:?}: {reply:?}", begun.elapsed());
        if let Some(new) = token(&reply) {
            (shown, renewed) = (new, renewed + 1);
        }
    }
    ensure!((2..=6).contains(&renewed), "renewed {renewed} times");
    // A token that is not renewed ends.
    wait::until("the session to end", wait::DEADLINE, || {
        let fresh = token(&asked(&[("x-cart", &shown)])?).context("it goes on")?;
        ensure!(fresh[16..24] != shown[16..24], "it is the same session");
        Ok(())
    })?;
    // A permanent cookie says how long it is kept.
    persist(
        &web,
        &json!({"sessionName": "cart", "absoluteTimeout": "1h", "cookieConfig": {"lifetimeType": "Permanent"}}),
    )?;
    wait::until("a permanent cookie", wait::DEADLINE, || {
        let reply = asked(&[])?;
        ensure!(cookie(&reply).is_some_and(|(whole, _)| whole.contains("; Max-Age=3600;")), "{reply:?}");
        Ok(())
    })?;
    web.lab.finish()
}

#[test]
fn session_outlives_a_change_of_weights() -> Result<()> {
    let web = Web::serving("sessionsplit", 1, "http")?;
    let pod = web.lab.pod(&web.b, "w1").create()?;
    let next = pod.app(&web.lab)?;
    next.listen(anywhere(8080), "w1", Behaviour::Http)?;
    web.lab.service("next").speaks("http").pods(&[&pod]).create()?;
    web.lab.wait_live(&pod)?;
    let split = |web_weight: u32, next_weight: u32| {
        let to = |name: &str, weight: u32| json!({"name": name, "port": 80, "weight": weight});
        let one = json!({
            "matches": [{"path": {"type": "PathPrefix", "value": "/shop"}}],
            "sessionPersistence": {"sessionName": "cart"},
            "backendRefs": [to("web", web_weight), to("next", next_weight)]
        });
        rule(&web.lab, &one)
    };
    let shop = |fields: &[(&str, &str)]| -> Result<Reply> {
        let reply = web.app.fetch(web.web.v4(), Http::Two, Ask::get("/shop/x").with(fields))?;
        ensure!(reply.status == 200, "{reply:?}");
        Ok(reply)
    };
    split(1, 0)?;
    let given = wait::until("a cookie for the path", wait::DEADLINE, || {
        let reply = web.steered(1, || shop(&[]))?;
        let (whole, shown) = cookie(&reply).with_context(|| format!("{reply:?}"))?;
        ensure!(whole.contains("; Path=/shop;") && name(&reply)? == "v1", "{reply:?}");
        Ok(shown.to_owned())
    })?;
    // All goes elsewhere now, but for who is here already.
    split(0, 1)?;
    wait::until("the weights to change", wait::DEADLINE, || {
        ensure!(name(&shop(&[])?)? == "w1");
        Ok(())
    })?;
    for _ in 0..20 {
        let (old, new) = (name(&shop(&[("cookie", &given)])?)?, name(&shop(&[])?)?);
        ensure!(old == "v1" && new == "w1", "who was here went to {old}, who was not to {new}");
    }
    web.lab.finish()
}

#[test]
fn session_and_client_ip_are_refused_together() -> Result<()> {
    let web = Web::serving("sessionclash", 2, "http")?;
    persist(&web, &json!({"sessionName": "cart"}))?;
    let given = wait::until("a cookie", wait::DEADLINE, || {
        let reply = web.steered(1, || get(&web.app, &web, &[]))?;
        Ok(cookie(&reply).with_context(|| format!("{reply:?}"))?.1.to_owned())
    })?;
    let affinity = |which: &str| {
        let set = |service: &mut Value| service["spec"]["sessionAffinity"] = which.into();
        web.lab.manifests().change("Service", NAMESPACE, web.web.name(), set)
    };
    // Neither the token nor the address decides: nobody is asked, and the answer says why.
    affinity("ClientIP")?;
    let refused = |fields: &[(&str, &str)]| -> Result<()> {
        let reply = web.app.fetch(web.web.v4(), Http::One, Ask::get("/").with(fields))?;
        ensure!((reply.status, reply.header("weft-error")) == (500, Some("rule_unsupported")), "{reply:?}");
        ensure!(reply.text.contains("does not go together with sessionAffinity: ClientIP"), "{reply:?}");
        Ok(())
    };
    wait::until("the rule to refuse", wait::DEADLINE, || refused(&[]))?;
    let served = || web.servers.iter().map(|(_, app, on)| Ok(app.seen(*on)?.requests)).sum::<Result<u64>>();
    let before = served()?;
    for fields in [&[][..], &[("cookie", &*given)]] {
        (0..20).try_for_each(|_| refused(fields))?;
    }
    ensure!(served()? == before, "somebody was asked all the same");
    affinity("None")?;
    wait::until("the session to go on", wait::DEADLINE, || {
        let reply = get(&web.app, &web, &[("cookie", &given)])?;
        ensure!(cookie(&reply).is_none(), "{reply:?}");
        Ok(())
    })?;
    web.lab.finish()
}
