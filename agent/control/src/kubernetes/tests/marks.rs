//! What the agent writes on its pods, and who believes it.

use super::*;

#[tokio::test]
async fn pods_are_marked_as_the_agent_says_and_peers_believe_the_mark() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    let uid = rig.uid("here");
    rig.say(Standings::from([(uid.clone(), Standing::Enrolled)]));
    rig.holds("the mark", async |rig| Ok(rig.annotation("here").await? == "enrolled")).await?;
    // The agent knows its own without the API server.
    rig.until(|s| s.liveness().any(|node| *node.node == *"n1" && node.live == BTreeSet::from([uid.clone()]))).await?;
    // What another node's agent writes makes its pod live here.
    let there = rig.uid("there");
    rig.merge(
        "/api/v1/namespaces/demo/pods/there",
        json!({"metadata": {"annotations": {"weft.dev/status": "enrolled"}}}),
    )
    .await?;
    rig.publish().await?;
    rig.until(|s| s.workloads().any(|w| w.uid == there && s.is_live(&w))).await?;
    // Withdrawn: the mark goes, and so does the liveness.
    rig.say(Standings::new());
    rig.holds("no mark", async |rig| Ok(rig.annotation("here").await?.is_null())).await?;
    rig.until(|s| s.liveness().all(|node| *node.node != *"n1" || node.live.is_empty())).await
}

#[tokio::test]
async fn a_pod_is_withdrawn_only_when_no_slice_calls_it_live() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    let uid = rig.uid("here");
    rig.say(Standings::from([(uid.clone(), Standing::Enrolled)]));
    rig.holds("the mark", async |rig| Ok(rig.annotation("here").await? == "enrolled")).await?;
    rig.publish().await?;
    let Publisher::Cluster { marks, .. } = &rig.cluster.publisher else { panic!() };
    let marks = marks.clone();
    marks.0.clone().wait_for(|here| here[&uid].published).await?;
    rig.say(Standings::new());
    rig.holds("no mark", async |rig| Ok(rig.annotation("here").await?.is_null())).await?;
    marks.0.clone().wait_for(|here| here[&uid].status.is_none()).await?;
    let gone = tokio::spawn(async move { marks.gone(&uid).await });
    // Several times what it takes to be told: the controller has not taken its word back.
    assert!(
        tokio::time::timeout(Duration::from_millis(300), async {
            while !gone.is_finished() {
                tokio::task::yield_now().await
            }
        })
        .await
        .is_err()
    );
    rig.publish().await?;
    tokio::time::timeout(PATIENCE, gone).await??;
    Ok(())
}

#[tokio::test]
async fn a_pod_that_cannot_be_enrolled_says_why_and_an_event_does() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    let uid = rig.uid("here");
    let since = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
    rig.say(Standings::from([(uid, Standing::Pending { reason: "no sandbox".into(), since })]));
    rig.holds("the mark", async |rig| Ok(rig.annotation("here").await? == "pending: no sandbox")).await?;
    let events = async |rig: &Rig| -> anyhow::Result<Vec<Value>> {
        let reply = rig.target.send(Method::GET, "/api/v1/namespaces/demo/events", &[], None).await?;
        Ok(reply.json()["items"].as_array().cloned().unwrap_or_default())
    };
    rig.holds("the event", async |rig| Ok(!events(rig).await?.is_empty())).await?;
    let event = &events(&rig).await?[0];
    assert_eq!((&event["involvedObject"]["name"], &event["message"]), (&json!("here"), &json!("pending: no sandbox")));
    assert_eq!(event["type"], "Warning");
    Ok(())
}

#[tokio::test]
async fn marks_are_written_when_the_api_server_is_back() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    rig.server.faults().go_away(true);
    rig.say(Standings::from([(rig.uid("here"), Standing::Enrolled)]));
    rig.holds("staleness", async |rig| Ok(rig.cluster.health.stale(Instant::now()).is_some())).await?;
    rig.server.faults().go_away(false);
    let marked = async |rig: &Rig| Ok(rig.annotation("here").await.is_ok_and(|mark| mark == "enrolled"));
    rig.holds("the mark", marked).await
}
