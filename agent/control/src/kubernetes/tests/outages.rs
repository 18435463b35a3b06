//! What breaks off, is forgotten or comes in another form: nothing that is in force goes for it.

use super::*;

#[tokio::test]
async fn a_forgotten_past_is_read_anew_and_takes_nothing_away() -> Tested {
    for as_status in [false, true] {
        let mut rig = Rig::populated(Config::default()).await?;
        rig.server.faults().answer_gone_as_status(as_status);
        let lists = rig.lists();
        rig.batches.clear();
        // While it cannot watch, one pod goes and another comes, and the server forgets how.
        let refuse =
            weft_apiserver::Rule { verb: Some("watch".into()), status: Some(503), ..weft_apiserver::Rule::default() };
        rig.server.faults().add(refuse);
        rig.server.faults().close_connections();
        // Each watch: one that still stood would be told how, and have nothing to read anew.
        let broken = |watch: &WatchHealth| matches!(watch.state, WatchState::Stale(_) | WatchState::Absent);
        rig.holds("staleness", async |rig| Ok(rig.cluster.health.watches().values().all(broken))).await?;
        rig.delete("/api/v1/namespaces/demo/pods/there").await?;
        rig.pod("new", "n2").await?;
        rig.server.compact();
        rig.server.faults().clear();
        rig.until(|s| s.workloads().any(|w| w.name.name.as_str() == "new")).await?;
        rig.until(|s| s.workloads().all(|w| w.name.name.as_str() != "there")).await?;
        // A watch stands as soon as it is answered; that the past is forgotten may be said in it only then.
        rig.holds("Pods to be read anew", async |rig| Ok(rig.lists() > lists)).await?;
        rig.holds("all watches to stand", async |rig| Ok(rig.cluster.health.stale(Instant::now()).is_none())).await?;
        assert!(nothing_removed(&rig.batches), "what went was in a slice that is there still: {:?}", rig.batches);
        let slices = rig.batches.iter().flatten().filter_map(|delta| match delta {
            Delta::Put(Resource::Peers(slice)) => Some(slice.pods().count()),
            _ => None,
        });
        assert!(slices.into_iter().all(|pods| pods > 0), "only what went: {:?}", rig.batches);
    }
    Ok(())
}

#[tokio::test]
async fn broken_watches_go_on_where_they_were() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    let lists = rig.lists();
    rig.batches.clear();
    for _ in 0..3 {
        rig.server.faults().cut_watches();
        rig.pod(&format!("p{}", rig.snapshot.workloads().count()), "n2").await?;
        let count = rig.snapshot.workloads().count();
        rig.until(|s| s.workloads().count() > count).await?;
    }
    assert!(nothing_removed(&rig.batches), "{:?}", rig.batches);
    assert_eq!(rig.lists(), lists, "nothing had to be read anew");
    Ok(())
}

#[tokio::test]
async fn a_list_that_breaks_off_is_not_taken_for_whole() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    rig.batches.clear();
    // Every watch has to begin anew, and cannot: what was known stays.
    rig.server.compact();
    for verb in ["watch", "list"] {
        let rule =
            weft_apiserver::Rule { verb: Some(verb.into()), status: Some(503), ..weft_apiserver::Rule::default() };
        rig.server.faults().add(rule);
    }
    rig.server.faults().close_connections();
    rig.holds("staleness", async |rig| Ok(rig.cluster.health.stale(Instant::now()).is_some())).await?;
    assert!(nothing_removed(&rig.batches) && rig.snapshot.workloads().count() == 2);
    rig.server.faults().clear();
    rig.holds("all watches to stand", async |rig| Ok(rig.cluster.health.stale(Instant::now()).is_none())).await?;
    assert!(nothing_removed(&rig.batches) && rig.snapshot.workloads().count() == 2);
    Ok(())
}

#[tokio::test]
async fn servers_without_streaming_lists_are_read_in_pages() -> Tested {
    let config = Config { streaming_lists: false, ..Config::default() };
    let mut rig = Rig::populated(config).await?;
    assert!(rig.server.counts().requests("list", "pods") >= 1);
    rig.pod("more", "n2").await?;
    rig.until(|s| s.workloads().count() == 3).await
}

#[tokio::test]
async fn what_a_slice_said_stays_when_it_is_deleted_with_pods_in_it() -> Tested {
    let mut rig = Rig::populated(Config::default()).await?;
    rig.batches.clear();
    let slices = "/apis/weft.dev/v1alpha1/namespaces/weft-system/workloadslices/pods-0";
    rig.send(Method::DELETE, slices, "application/json", json!({})).await?;
    rig.create("/api/v1/namespaces", json!({"metadata": {"name": "later"}})).await?;
    rig.until(|s| s.namespaces().any(|n| n.name.as_str() == "later")).await?;
    assert!(nothing_removed(&rig.batches) && rig.snapshot.workloads().count() == 2);
    rig.delete("/api/v1/namespaces/demo/pods/there").await?;
    rig.until(|s| s.workloads().count() == 1).await
}
