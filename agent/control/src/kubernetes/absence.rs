//! Kinds the cluster does not have: when a watch may ask for one again.
//!
//! All of an agent's are looked for together, by the API server's discovery: one request for each group, and only where the
//! group is there one for each of its versions. To ask for a kind itself is a request for each of its versions, for every
//! kind and agent. A watch of CustomResourceDefinitions would tell at once, but every agent would be sent all there are, each
//! with up to 256 kB that `kubectl apply` writes on it, for something that happens once in a cluster's life.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIResourceList};
use kube::Client;
use kube::client::Body;
use rand::Rng;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::lines::collect;
use crate::resource::Kind;

/// First pause between two looks; doubles up to [`MOST`]. Each is drawn from its second half.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause between two looks: a kind that is installed later is watched after this at most.
const MOST: Duration = Duration::from_secs(60);
/// Time for an answer to begin, and for it to come.
const ANSWER: Duration = Duration::from_secs(30);

/// A watch that waits for its kind.
type Waiting = (Kind, oneshot::Sender<()>);

/// Where watches wait for their kinds. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Absence(mpsc::UnboundedSender<Waiting>);

/// What looks for the kinds, for as long as there is a watch.
pub(super) struct Search {
    client: Client,
    asked: mpsc::UnboundedReceiver<Waiting>,
    waiting: Vec<Waiting>,
    pause: Duration,
}

/// What discovery says.
enum Told<T> {
    /// This.
    Found(T),
    /// There is no such group, or version of it.
    Nothing,
    /// It does not tell this caller: whether a kind is there, a request for it must show.
    Hidden,
    /// There was no answer that can be used.
    Unknown,
}

impl Absence {
    /// Where watches of `client` can wait, and what has to run for them.
    pub(super) fn of(client: &Client) -> (Self, Search) {
        let (send, asked) = mpsc::unbounded_channel();
        (Self(send), Search { client: client.clone(), asked, waiting: Vec::new(), pause: FIRST })
    }

    /// Waits until the cluster seems to have a kind that it did not have.
    pub(super) async fn end(&self, kind: Kind) {
        let (send, found) = oneshot::channel();
        // Without a search all watches are being ended.
        if self.0.send((kind, send)).is_err() || found.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Search {
    /// Looks, for as long as somebody may wait.
    pub(super) async fn run(mut self) {
        let mut missed = BTreeSet::new();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                asked = self.asked.recv() => {
                    let Some((kind, found)) = asked else { return };
                    // One that comes and goes does not make looks more frequent.
                    if missed.insert(kind) {
                        self.pause = FIRST;
                        next = Instant::now() + self.pause();
                    }
                    self.waiting.push((kind, found));
                }
                () = tokio::time::sleep_until(next), if !self.waiting.is_empty() => {
                    self.look().await;
                    next = Instant::now() + self.pause();
                }
            }
        }
    }

    /// The next pause: agents whose kind is missing are not to come together.
    fn pause(&mut self) -> Duration {
        let pause = self.pause.mul_f64(rand::rng().random_range(0.5..1.0));
        self.pause = (self.pause * 2).min(MOST);
        pause
    }

    async fn look(&mut self) {
        let groups: BTreeSet<_> = self.waiting.iter().map(|(kind, _)| kind.group().0).collect();
        let mut found = BTreeSet::new();
        for group in groups {
            let kinds = self.waiting.iter().map(|(kind, _)| *kind).filter(|kind| kind.group().0 == group);
            let kinds: BTreeSet<_> = kinds.collect();
            found.extend(self.served(group, kinds).await);
        }
        for (_, watch) in self.waiting.extract_if(.., |(kind, _)| found.contains(kind)) {
            let _ = watch.send(());
        }
    }

    /// Those of a group's kinds that are there, or may be.
    async fn served(&self, group: &str, kinds: BTreeSet<Kind>) -> BTreeSet<Kind> {
        let versions = match self.ask::<APIGroup>(format!("/apis/{group}")).await {
            Told::Found(told) => told.versions,
            Told::Hidden => return kinds,
            Told::Nothing | Told::Unknown => return BTreeSet::new(),
        };
        let mut served = BTreeSet::new();
        for version in versions.iter().map(|version| version.version.as_str()) {
            let read = |kind: &Kind| kind.group().1.contains(&version);
            if !kinds.iter().any(read) {
                continue;
            }
            let resources = match self.ask::<APIResourceList>(format!("/apis/{group}/{version}")).await {
                Told::Found(told) => told.resources,
                Told::Hidden => return kinds,
                Told::Nothing | Told::Unknown => continue,
            };
            let listed = |kind: &Kind| resources.iter().any(|resource| resource.name == kind.plural());
            served.extend(kinds.iter().filter(|kind| read(kind) && listed(kind)));
        }
        served
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, path: String) -> Told<T> {
        let Ok(request) = http::Request::get(path).header(http::header::ACCEPT, "application/json").body(Body::empty())
        else {
            return Told::Unknown;
        };
        match tokio::time::timeout(ANSWER, self.fetch(request)).await {
            Ok(Some((StatusCode::NOT_FOUND, _))) => Told::Nothing,
            Ok(Some((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _))) => Told::Hidden,
            Ok(Some((StatusCode::OK, text))) => serde_json::from_slice(&text).map_or(Told::Unknown, Told::Found),
            _ => Told::Unknown,
        }
    }

    async fn fetch(&self, request: http::Request<Body>) -> Option<(StatusCode, Bytes)> {
        let response = self.client.send(request).await.ok()?;
        Some((response.status(), collect(response.into_body()).await.ok()?.into()))
    }
}

#[cfg(test)]
mod tests;
