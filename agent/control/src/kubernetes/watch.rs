//! One kind's watch: everything there is, then every change, for as long as the agent runs.
//!
//! Objects are told as they are read, so that a list is never in memory as a whole. What is sent as [`News::Listed`] is
//! always complete; whoever receives it may take what it lacks for gone. A watch that breaks off goes on where it was; one
//! that the server cannot go on with (410) begins anew, and until the new list is complete nothing is said to be gone.
//! kube-runtime's watcher is not used: it goes on with a revision the server has refused, takes up a broken-off initial
//! stream as if it were whole, and never falls back from a streaming list.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use kube::client::Body;
use kube::core::params::{ListParams, WatchParams};
use kube::core::{Request, Status};
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::absence::Absence;
use super::end::{End, unreadable};
use super::health::Health;
use super::lines::{Lines, collect};
use super::names::Names;
use super::news::{Interest, News};
use super::read::{Line, Page, Reader, is_whole};
use crate::resource::Kind;

/// Seconds after which the server is asked to end a watch, drawn between the two so that agents do not come back
/// together. kube refuses 295 and more.
const TURN: (u32, u32) = (240, 290);
/// How much longer than that nothing may be heard before the connection is given up.
const SILENCE: Duration = Duration::from_secs(10);
/// Time for an answer to begin, or for a page to come.
const ANSWER: Duration = Duration::from_secs(30);
/// Objects of a page, where lists are read in pages.
const PAGE: u32 = 500;
/// First pause after a failure; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause after a failure: when an API server is back, every agent has noticed after this.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A watch that stood for less than this counts as failed: the pauses must grow.
const SHORT: Duration = Duration::from_secs(1);

/// A watch to be run.
pub(super) struct Watch {
    client: Client,
    kind: Kind,
    namespace: Option<Arc<str>>,
    fields: Option<String>,
    health: Health,
    news: mpsc::Sender<(Kind, News)>,
    absence: Absence,
    /// Which of the kind's versions is tried.
    version: usize,
    /// Lists are read in pages: the server has no streaming ones.
    pages: bool,
    /// Since when changes are told as they come, if they are.
    stands: Option<Instant>,
}

impl Watch {
    pub(super) fn new(
        client: Client,
        interest: Interest,
        health: Health,
        news: mpsc::Sender<(Kind, News)>,
        absence: Absence,
    ) -> Self {
        let Interest { kind, namespace, fields } = interest;
        Self { client, kind, namespace, fields, health, news, absence, version: 0, pages: false, stands: None }
    }

    /// Runs until nobody listens.
    pub(super) async fn run(mut self) {
        let mut position = None;
        let mut failures = 0;
        loop {
            self.stands = None;
            let end = match (&position, self.pages) {
                (None, true) => self.list(&mut position).await,
                _ => self.follow(&mut position).await,
            };
            // How long an answer took says nothing: a server with too much to do takes its time for refusals too. A list in
            // pages ends well and soon, and a kind that is not there is waited for elsewhere.
            let stood = self.stands.is_some_and(|since| since.elapsed() >= SHORT);
            let well = stood || self.pages && matches!(end, End::Over) || matches!(end, End::Absent);
            failures = if well { 0 } else { failures + 1 };
            let Some(most) = self.after(end, &mut position).await else { return };
            let grown = (PAUSE_MIN / 2).saturating_mul(2_u32.pow(failures.min(12))).min(most);
            let least = if failures > 2 { PAUSE_MIN } else { Duration::ZERO };
            let jitter = rand::rng().random_range(0.5..1.0);
            tokio::time::sleep(grown.max(least).mul_f64(jitter)).await;
        }
    }

    /// Where to go on after an end, and the longest pause before that; `None` if nobody listens.
    async fn after(&mut self, end: End, position: &mut Option<String>) -> Option<Duration> {
        let kind = self.kind.as_str();
        match end {
            End::Deaf => return None,
            End::Over => {}
            End::Gone => {
                tracing::info!(kind, "the API server has forgotten where the watch was: reading all anew");
                *position = None;
            }
            End::NoStreaming => self.pages = true,
            End::Absent => {
                *position = None;
                self.version += 1;
                if self.version < self.kind.group().1.len() {
                    return Some(Duration::ZERO);
                }
                self.version = 0;
                self.health.absent(self.kind);
                self.news.send((self.kind, News::Absent)).await.ok()?;
                self.absence.end(self.kind).await;
            }
            End::Refused(code, reason) => {
                self.health.failed(self.kind, format!("the API server answers {code}: {reason}"));
                return Some(PAUSE_MAX);
            }
            End::Failed(reason) => {
                self.health.failed(self.kind, reason);
                return Some(PAUSE_MAX);
            }
        }
        Some(Duration::ZERO)
    }

    /// Where the kind is served.
    fn path(&self) -> String {
        let (group, versions) = self.kind.group();
        let version = versions[self.version];
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match &self.namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.kind.plural()),
            None => format!("{root}/{}", self.kind.plural()),
        }
    }

    /// Sends a request; what comes back has begun well.
    async fn send(&self, request: http::Request<Vec<u8>>) -> Result<Body, End> {
        let (mut parts, body) = request.into_parts();
        parts.headers.insert(http::header::ACCEPT, http::HeaderValue::from_static("application/json"));
        let asked = SystemTime::now();
        let sent = self.client.send(http::Request::from_parts(parts, body.into()));
        let response = tokio::time::timeout(ANSWER, sent).await.map_err(|_| late())??;
        self.health.clock.note(response.headers(), asked, SystemTime::now());
        let (status, body) = (response.status(), response.into_body());
        if status.is_success() {
            return Ok(body);
        }
        let text = tokio::time::timeout(ANSWER, collect(body)).await.map_err(|_| late())??;
        let told: Option<Box<Status>> = serde_json::from_slice(&text).ok();
        Err(self.refusal(status.as_u16(), told))
    }

    /// What a refusal means for the watch.
    fn refusal(&self, code: u16, status: Option<Box<Status>>) -> End {
        let message = status.map(|status| status.message).unwrap_or_default();
        match code {
            404 => End::Absent,
            410 => End::Gone,
            401 => {
                End::Refused(401, format!("it does not know who asks: is the token or certificate valid? {message}"))
            }
            403 => {
                let plural = self.kind.plural();
                End::Refused(403, format!("watching {plural} is not allowed: does the role allow it? {message}"))
            }
            code => End::Refused(code, message),
        }
    }

    /// Reads everything in pages.
    async fn list(&self, position: &mut Option<String>) -> End {
        let mut found = Names::default();
        let mut params = ListParams { field_selector: self.fields.clone(), ..ListParams::default().limit(PAGE) };
        loop {
            let page = match self.page(&params).await {
                Ok(page) => page,
                // Gone: the pages went stale under us, and it begins with the first once more.
                Err(end) => return end,
            };
            for item in page.items {
                found.add(&item.object);
                if self.news.send((self.kind, News::Found(Box::new(item)))).await.is_err() {
                    return End::Deaf;
                }
            }
            if page.next.is_empty() {
                *position = Some(page.revision);
                return self.tell_list(found).await;
            }
            params.continue_token = Some(page.next);
        }
    }

    async fn page(&self, params: &ListParams) -> Result<Page, End> {
        let request = Request::new(self.path()).list(params).map_err(|error| End::Failed(error.to_string()))?;
        let body = self.send(request).await?;
        let bytes = tokio::time::timeout(ANSWER, collect(body)).await.map_err(|_| late())??;
        (Reader::of(self.kind).page)(self.kind, &bytes).map_err(|error| unreadable(&error))
    }

    async fn tell_list(&self, found: Names) -> End {
        self.health.listed(self.kind);
        self.health.current(self.kind);
        match self.news.send((self.kind, News::Listed(found))).await {
            Ok(()) => End::Over,
            Err(_) => End::Deaf,
        }
    }

    /// Begins to watch from `position`, or from everything there is where there is none.
    async fn open(&self, position: Option<&str>, seconds: u32) -> Result<Body, End> {
        let params = WatchParams::default().timeout(seconds);
        let params = if position.is_none() { params.initial_events() } else { params };
        let params = WatchParams { field_selector: self.fields.clone(), ..params };
        let request = Request::new(self.path()).watch(&params, position.unwrap_or_default());
        match self.send(request.map_err(|error| End::Failed(error.to_string()))?).await {
            // The server does not know sendInitialEvents, or has it switched off.
            Err(End::Refused(400 | 422, _)) if position.is_none() => Err(End::NoStreaming),
            opened => opened,
        }
    }

    /// Watches, and keeps `position` up.
    async fn follow(&mut self, position: &mut Option<String>) -> End {
        let seconds = rand::rng().random_range(TURN.0..=TURN.1);
        let body = match self.open(position.as_deref(), seconds).await {
            Ok(body) => body,
            Err(end) => return end,
        };
        if position.is_some() {
            self.health.current(self.kind);
            self.stands = Some(Instant::now());
        }
        let silence = Duration::from_secs(seconds.into()) + SILENCE;
        let mut lines = Lines::new(body);
        let mut initial = position.is_none().then(Names::default);
        loop {
            let line = match tokio::time::timeout(silence, lines.next()).await {
                Err(_) => return End::Failed("nothing was heard for too long".into()),
                Ok(Err(end)) => return end,
                Ok(Ok(None)) if initial.is_some() => return End::Failed("the list broke off".into()),
                Ok(Ok(None)) => return End::Over,
                Ok(Ok(Some(line))) => line,
            };
            self.health.heard(self.kind);
            let line = match (Reader::of(self.kind).line)(self.kind, &line) {
                Ok(line) => line,
                // Cut short by the end of the connection.
                Err(_) if !is_whole(&line) => return End::Failed("the connection broke off".into()),
                // One that cannot be read would be missed if the watch went on.
                Err(error) => {
                    *position = None;
                    return unreadable(&error);
                }
            };
            if let Err(end) = self.take(line, &mut initial, position).await {
                return end;
            }
        }
    }

    async fn take(
        &mut self,
        line: Line,
        initial: &mut Option<Names>,
        position: &mut Option<String>,
    ) -> Result<(), End> {
        let news = match line {
            Line::Error(status) if status.code == 410 => return Err(End::Gone),
            Line::Error(status) => return Err(self.refusal(status.code, Some(status))),
            Line::Bookmark(revision, end) => {
                let Some(found) = initial.take_if(|_| end) else {
                    if initial.is_none() {
                        *position = Some(revision);
                    }
                    return Ok(());
                };
                *position = Some(revision);
                self.stands = Some(Instant::now());
                return match self.tell_list(found).await {
                    End::Over => Ok(()),
                    end => Err(end),
                };
            }
            Line::Put(item, revision) => match initial {
                Some(found) => {
                    found.add(&item.object);
                    News::Found(item)
                }
                None => {
                    *position = Some(revision);
                    News::Put(item)
                }
            },
            Line::Deleted(object, revision) => match initial {
                Some(found) => {
                    found.remove(&object);
                    News::Deleted(object)
                }
                None => {
                    *position = Some(revision);
                    News::Deleted(object)
                }
            },
        };
        self.news.send((self.kind, news)).await.map_err(|_| End::Deaf)
    }
}

fn late() -> End {
    End::Failed(format!("the API server did not answer within {} s", ANSWER.as_secs()))
}
