//! Watches and lists: what they tell, how they end, and which past they show.

use super::*;

#[tokio::test]
async fn a_watch_sees_objects_come_into_its_selection_and_leave_it() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let made = api.create(MAPS, json!({"metadata": {"name": "a", "labels": {"x": "1"}}})).await?;
    let from = made["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    api.merge(&format!("{MAPS}/a"), json!({"data": {"k": "v"}})).await?;
    api.merge(&format!("{MAPS}/a"), json!({"metadata": {"labels": {"x": "2"}}})).await?;
    api.merge(&format!("{MAPS}/a"), json!({"metadata": {"labels": {"x": "1"}}})).await?;
    api.delete(&format!("{MAPS}/a"), Value::Null).await?;
    let watch = format!("{MAPS}?watch=1&labelSelector=x%3D1&timeoutSeconds=1&resourceVersion={from}");
    let events = api.get(&watch).await?.events();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds, ["MODIFIED", "DELETED", "ADDED", "DELETED"]);
    assert_eq!(events[1]["object"]["metadata"]["labels"]["x"], "1", "shown as it was in the selection");
    let versions: Vec<u64> = events
        .iter()
        .filter_map(|event| event["object"]["metadata"]["resourceVersion"].as_str()?.parse().ok())
        .collect();
    assert!(versions.len() == 4 && versions.is_sorted(), "{versions:?}");
    Ok(())
}

#[tokio::test]
async fn bookmarks_move_on_with_other_kinds() -> Tested {
    let config = Config { bookmarks: Duration::from_millis(100), ..Config::default() };
    let api = Calls::start(config).await?;
    let from = api.get(PODS).await?.json()["metadata"]["resourceVersion"].clone();
    let made = api.create(MAPS, json!({"metadata": {"name": "a"}})).await?;
    let from = from.as_str().unwrap_or_default();
    let watch = format!("{PODS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={from}");
    let events = api.get(&watch).await?.events();
    let last = events.last().cloned().unwrap_or_default();
    assert_eq!(last["type"], "BOOKMARK");
    assert_eq!(last["object"]["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    Ok(())
}

#[tokio::test]
async fn compaction_ends_the_past_in_both_ways() -> Tested {
    let api = Calls::start(Config::default()).await?;
    for name in ["a", "b", "c"] {
        api.create(MAPS, json!({"metadata": {"name": name}})).await?;
    }
    let page = api.get(&format!("{MAPS}?limit=1")).await?.json();
    let token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    assert_eq!(page["metadata"]["remainingItemCount"], 2);
    api.create(MAPS, json!({"metadata": {"name": "d"}})).await?;
    api.server.compact();
    let expired = api.get(&format!("{MAPS}?limit=1&continue={token}")).await?;
    assert_eq!((expired.status, expired.json()["reason"].as_str()), (410, Some("Expired")));
    let rest = expired.json()["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    let rest = api.get(&format!("{MAPS}?continue={rest}")).await?.json();
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(3), "goes on with what there is now");
    assert_eq!(api.get(&format!("{MAPS}?resourceVersion=2&resourceVersionMatch=Exact")).await?.status, 410);
    let watch = format!("{MAPS}?watch=1&resourceVersion=2&timeoutSeconds=1");
    let events = api.get(&watch).await?.events();
    assert_eq!((events[0]["type"].as_str(), &events[0]["object"]["code"]), (Some("ERROR"), &json!(410)));
    api.server.faults().answer_gone_as_status(true);
    assert_eq!(api.get(&watch).await?.status, 410);
    Ok(())
}

#[tokio::test]
async fn compaction_leaves_a_watch_that_missed_nothing() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let secrets = "/api/v1/namespaces/default/secrets";
    let watch = format!("{secrets}?watch=1&timeoutSeconds=2");
    let (watched, made) = tokio::join!(api.get(&watch), async {
        api.until_watched(1).await?;
        api.create(MAPS, json!({"metadata": {"name": "a"}})).await?;
        api.server.compact();
        api.create(secrets, json!({"metadata": {"name": "s"}})).await
    });
    made?;
    let events = watched?.events();
    assert_eq!(events.iter().map(|event| event["type"].clone()).collect::<Vec<_>>(), ["ADDED"]);
    Ok(())
}

#[tokio::test]
async fn lists_at_a_revision_show_that_revision() -> Tested {
    let api = Calls::start(Config { freshness: Duration::from_millis(50), ..Config::default() }).await?;
    let first = api.create(MAPS, json!({"metadata": {"name": "a"}})).await?;
    api.create(MAPS, json!({"metadata": {"name": "b"}})).await?;
    let at = first["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let count = async |options: &str| -> anyhow::Result<Option<usize>> {
        Ok(api.get(&format!("{MAPS}?{options}")).await?.json()["items"].as_array().map(Vec::len))
    };
    assert_eq!(count(&format!("resourceVersion={at}&resourceVersionMatch=Exact")).await?, Some(1));
    assert_eq!(count(&format!("resourceVersion={at}&resourceVersionMatch=NotOlderThan")).await?, Some(2));
    assert_eq!(count(&format!("resourceVersion={at}")).await?, Some(2));
    assert_eq!(
        count(&format!("resourceVersion={at}&limit=5")).await?,
        Some(1),
        "with a limit it has always been exact"
    );
    assert_eq!(api.get(&format!("{MAPS}?resourceVersion=9999")).await?.status, 504);
    assert_eq!(api.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await?.status, 422);
    assert_eq!(api.get(&format!("{MAPS}?fieldSelector=data.k%3D1")).await?.status, 400);
    Ok(())
}

#[tokio::test]
async fn watches_are_cut_and_counted() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let watch = format!("{MAPS}?watch=1&timeoutSeconds=30");
    let (cut, began) = tokio::join!(api.get(&watch), async {
        let began = api.until_watched(1).await;
        api.server.faults().cut_watches();
        began
    });
    began?;
    assert!(cut.is_err(), "the stream breaks off: {cut:?}");
    api.create(MAPS, json!({"metadata": {"name": "a"}})).await?;
    let events = api.get(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await?;
    let counts = api.server.counts();
    assert_eq!(counts.requests("watch", "configmaps"), 2);
    assert_eq!(counts.requests("create", "configmaps"), 1);
    let last = counts.watches.values().last().cloned().unwrap_or_default();
    assert_eq!((last.events, last.bytes as usize, last.open), (1, events.text.len(), false));
    Ok(())
}
