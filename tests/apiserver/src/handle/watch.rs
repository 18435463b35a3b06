//! Watches: changes from a revision on, bookmarks, initial events, and the end by time, by compaction or by order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Answer, Body, Call, answer, read};
use crate::select::Selection;
use crate::status::ApiError;
use crate::store::{Change, Stored};

/// Without `timeoutSeconds` a watch ends after this, or up to twice this. Kubernetes: half an hour.
const LEAST: Duration = Duration::from_secs(1800);
/// No watch lasts longer, whatever it asks for.
const MOST: Duration = Duration::from_secs(24 * 3600);
/// Changes read from the log at a time.
const BATCH: usize = 256;
/// Batches a client may lag behind the server's writing before the server waits for it.
const QUEUE: usize = 4;

type Chunk = Result<Bytes, std::io::Error>;

/// Begins a watch.
pub(super) async fn watch(mut call: Call) -> Result<Response<Body>, ApiError> {
    if !call.target.name.is_empty() {
        return Err(ApiError::method_not_allowed());
    }
    let selection = read::selection(&call)?;
    check_options(&call)?;
    let asked = call.query.number("resourceVersion")?;
    let initial = initial_events(&call, asked);
    if initial && asked > 0 {
        read::wait_for(&call, asked).await?;
    }
    let begin = begin(&mut call, &selection, asked, initial);
    let (backlog, from) = match begin {
        Ok(begin) => begin,
        Err(gone) if call.shared.faults.gone_as_status() => return Err(gone),
        // One event, and the stream is over.
        Err(gone) => {
            let event = json!({"type": "ERROR", "object": gone.body});
            return Ok(answer(Answer::ok(format!("{event}\n").into_bytes())));
        }
    };
    let (send, receive) = mpsc::channel::<Chunk>(QUEUE);
    let stream = futures_util::stream::unfold(receive, async |mut receive| {
        let chunk = receive.recv().await?;
        Some((chunk.map(Frame::data), receive))
    });
    let stream = StreamBody::new(Box::pin(stream));
    let mut response = answer(Answer::ok(Vec::new()));
    *response.body_mut() = BodyExt::boxed(stream);
    let feed = Feed::new(call, selection, from)?;
    tokio::spawn(feed.run(backlog, send));
    Ok(response)
}

fn check_options(call: &Call) -> Result<(), ApiError> {
    let query = &call.query;
    let refuse = |why: &str| {
        let field = "resourceVersionMatch";
        let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: Forbidden: {why}");
        let cause = json!({"reason": "FieldValueForbidden", "message": format!("Forbidden: {why}"), "field": field});
        let details = json!({"group": "meta.k8s.io", "kind": "ListOptions", "causes": [cause]});
        Err(ApiError::new(422, "Invalid", message, Some(details)))
    };
    match (query.has("sendInitialEvents"), query.text("resourceVersionMatch")) {
        (true, _) if !call.shared.config.streaming_lists => {
            refuse("sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled")
        }
        (true, "NotOlderThan") | (false, "") => Ok(()),
        (true, _) => refuse("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
        (false, _) => refuse("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
    }
}

/// Whether the watch begins with what there is: when asked to, and from no particular revision unless asked not to.
fn initial_events(call: &Call, asked: u64) -> bool {
    if call.query.has("sendInitialEvents") { call.query.flag("sendInitialEvents") } else { asked == 0 }
}

/// The first events, and the revision that changes follow from.
fn begin(call: &mut Call, selection: &Selection, asked: u64, initial: bool) -> Result<(Vec<Bytes>, u64), ApiError> {
    let table = call.resource.table();
    let store = call.shared.store();
    let revision = store.revision();
    if !initial {
        if asked > 0 && asked <= revision && !store.readable(&table, asked) {
            return Err(ApiError::expired(format!("too old resource version: {asked} ({revision})")));
        }
        return Ok((Vec::new(), if asked == 0 { revision } else { asked }));
    }
    let page = store.page(&table, &read::prefix(call), "", 0, revision, |object| selection.matches(object));
    drop(store);
    let mut events: Vec<Bytes> = page.objects.iter().map(|object| event(call, "ADDED", object)).collect();
    if call.query.flag("sendInitialEvents") && call.query.flag("allowWatchBookmarks") {
        events.push(bookmark(call, revision, true));
    }
    Ok((events, revision))
}

fn event(call: &Call, kind: &str, object: &Stored) -> Bytes {
    let mut line = format!("{{\"type\":\"{kind}\",\"object\":").into_bytes();
    line.extend_from_slice(&call.view.stored(&call.resource, object, &call.query));
    line.extend_from_slice(b"}\n");
    line.into()
}

fn bookmark(call: &Call, revision: u64, initial_end: bool) -> Bytes {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if initial_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let mut object = call.resource.empty();
    object["metadata"] = metadata;
    let object = String::from_utf8_lossy(&call.view.one(&call.resource, &object, &call.query)).into_owned();
    format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n").into()
}

/// What keeps one watch going.
struct Feed {
    call: Call,
    selection: Selection,
    /// Changes up to here have been sent.
    at: u64,
    news: watch::Receiver<u64>,
    cuts: watch::Receiver<u64>,
    deadline: Instant,
    id: u64,
}

impl Feed {
    fn new(call: Call, selection: Selection, at: u64) -> Result<Self, ApiError> {
        let seconds = call.query.number("timeoutSeconds")?;
        let spread = u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * LEAST.as_secs() / 255;
        let length =
            if seconds == 0 { LEAST + Duration::from_secs(spread) } else { Duration::from_secs(seconds).min(MOST) };
        let table = call.resource.table();
        let agent = call.headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let id = call.shared.counters.began(&table, agent.unwrap_or_default());
        let news = call.shared.store().news(&table);
        let cuts = call.shared.faults.cuts();
        Ok(Self { call, selection, at, news, cuts, deadline: Instant::now() + length, id })
    }

    async fn run(mut self, backlog: Vec<Bytes>, send: mpsc::Sender<Chunk>) {
        let _ = self.serve(backlog, &send).await;
        self.call.shared.counters.ended(self.id);
    }

    /// `Err` when the client has gone.
    async fn serve(&mut self, backlog: Vec<Bytes>, send: &mpsc::Sender<Chunk>) -> Result<(), ()> {
        for chunk in backlog.chunks(BATCH) {
            self.send(chunk, send).await?;
        }
        let bookmarks = self.call.query.flag("allowWatchBookmarks");
        let mut next_bookmark = Instant::now() + self.call.shared.config.bookmarks;
        loop {
            self.news.borrow_and_update();
            loop {
                let changes = self.call.shared.store().since(&self.call.resource.table(), self.at, BATCH);
                let Some(changes) = changes else { return self.too_slow(send).await };
                let Some(last) = changes.last() else { break };
                self.at = last.revision;
                let events: Vec<Bytes> = changes.iter().filter_map(|change| self.event_of(change)).collect();
                self.send(&events, send).await?;
            }
            tokio::select! {
                biased;
                () = send.closed() => return Err(()),
                _ = self.cuts.changed() => {
                    let broken = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "cut by a test");
                    return send.send(Err(broken)).await.map_err(drop);
                }
                news = self.news.changed() => news.map_err(drop)?,
                () = tokio::time::sleep_until(self.deadline) => return Ok(()),
                () = tokio::time::sleep_until(next_bookmark), if bookmarks => {
                    next_bookmark += self.call.shared.config.bookmarks;
                    self.at = self.caught_up();
                    let bookmark = bookmark(&self.call, self.at, false);
                    self.send(&[bookmark], send).await?;
                }
            }
        }
    }

    async fn send(&self, events: &[Bytes], send: &mpsc::Sender<Chunk>) -> Result<(), ()> {
        if events.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(events.concat());
        self.call.shared.counters.sent(self.id, events.len() as u64, chunk.len() as u64);
        send.send(Ok(chunk)).await.map_err(drop)
    }

    /// The newest revision if everything up to it has been sent, whichever kind it was of.
    fn caught_up(&self) -> u64 {
        let store = self.call.shared.store();
        let quiet = store.since(&self.call.resource.table(), self.at, 1).is_some_and(|changes| changes.is_empty());
        if quiet { store.revision().max(self.at) } else { self.at }
    }

    /// The log has been compacted past what this client has seen.
    async fn too_slow(&self, send: &mpsc::Sender<Chunk>) -> Result<(), ()> {
        let newest = self.call.shared.store().revision();
        let gone = ApiError::expired(format!("too old resource version: {} ({newest})", self.at));
        let event: Value = json!({"type": "ERROR", "object": gone.body});
        self.send(&[format!("{event}\n").into()], send).await
    }

    /// A change as this watch's selection sees it.
    fn event_of(&self, change: &Change) -> Option<Bytes> {
        let inside = self.call.target.namespace.is_empty() || change.after.namespace == self.call.target.namespace;
        if !inside {
            return None;
        }
        let before = change.before.as_ref().is_some_and(|object| self.selection.matches(object));
        let after = !change.deleted && self.selection.matches(&change.after);
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(event(&self.call, "ADDED", &change.after)),
            (true, true) => Some(event(&self.call, "MODIFIED", &change.after)),
            (true, false) => Some(event(&self.call, "DELETED", &self.last_seen(change))),
        }
    }

    /// An object that left the selection is shown as it was in it, with the revision of leaving.
    fn last_seen(&self, change: &Change) -> Arc<Stored> {
        match (&change.before, change.deleted) {
            (Some(before), false) => {
                let fields = self.call.resource.selectable();
                Arc::new(Stored::new(before.value(), change.revision, &fields))
            }
            _ => change.after.clone(),
        }
    }
}
