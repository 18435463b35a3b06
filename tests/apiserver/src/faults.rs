//! Faults to order: what a client has to live with, when a test says so.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;

/// No delay is longer.
const LONGEST: Duration = Duration::from_secs(3600);

/// A fault that answers some requests in the server's place, or makes them wait.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Rule {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; every verb if absent.
    pub verb: Option<String>,
    /// `pods`, `leases.coordination.k8s.io`; every resource if absent.
    pub resource: Option<String>,
    /// How many requests it hits before it is over; all if absent.
    pub times: Option<u32>,
    /// Milliseconds that a request waits first.
    pub delay_ms: u64,
    /// The HTTP status to answer with: 429, 500, 503 or 504. Without it the request goes on after its wait.
    pub status: Option<u16>,
}

/// The faults in force. All can be ordered at any time from any thread.
pub struct Faults {
    rules: Mutex<Vec<Rule>>,
    /// Whether nobody listens.
    away: watch::Sender<bool>,
    /// Whether connections are closed as soon as they are accepted.
    refusing: watch::Sender<bool>,
    /// Counts orders to end all watches.
    cuts: watch::Sender<u64>,
    /// Counts orders to close all connections.
    closings: watch::Sender<u64>,
    /// Whether the controllers that Kubernetes would run stand still.
    controllers_paused: watch::Sender<bool>,
    gone_as_status: watch::Sender<bool>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            rules: Mutex::default(),
            away: watch::Sender::new(false),
            refusing: watch::Sender::new(false),
            cuts: watch::Sender::new(0),
            closings: watch::Sender::new(0),
            controllers_paused: watch::Sender::new(false),
            gone_as_status: watch::Sender::new(false),
        }
    }
}

impl Faults {
    /// Adds a rule behind those in force; of several that fit a request the first is taken.
    pub fn add(&self, rule: Rule) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
    }

    /// Ends all rules.
    pub fn clear(&self) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Stops listening and closes every connection, or comes back at the same address. State is kept.
    pub fn go_away(&self, away: bool) {
        self.away.send_replace(away);
        if away {
            self.close_connections();
        }
    }

    /// Closes connections as they come in. Those that are open stay.
    pub fn refuse_connections(&self, refusing: bool) {
        self.refusing.send_replace(refusing);
    }

    /// Closes every open connection.
    pub fn close_connections(&self) {
        self.closings.send_modify(|count| *count += 1);
    }

    /// Breaks off every open watch in the middle of its stream.
    pub fn cut_watches(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Stops or resumes what controllers would do: default service accounts, the end of namespaces, conditions of CRDs.
    pub fn pause_controllers(&self, paused: bool) {
        self.controllers_paused.send_replace(paused);
    }

    /// Answers a watch from a compacted revision with HTTP 410, and not with an `ERROR` event in a stream. Both occur.
    pub fn answer_gone_as_status(&self, as_status: bool) {
        self.gone_as_status.send_replace(as_status);
    }

    /// What to do to a request, counted against the rule that says so.
    pub(crate) fn strike(&self, verb: &str, resource: &str) -> Option<(Duration, Option<u16>)> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |rule: &Rule| {
            let same = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
            same(&rule.verb, verb) && same(&rule.resource, resource) && rule.times != Some(0)
        };
        let rule = rules.iter_mut().find(|rule| fits(rule))?;
        if let Some(times) = &mut rule.times {
            *times -= 1;
        }
        Some((Duration::from_millis(rule.delay_ms).min(LONGEST), rule.status))
    }

    pub(crate) fn away(&self) -> watch::Receiver<bool> {
        self.away.subscribe()
    }

    pub(crate) fn is_refusing(&self) -> bool {
        *self.refusing.borrow()
    }

    pub(crate) fn cuts(&self) -> watch::Receiver<u64> {
        self.cuts.subscribe()
    }

    pub(crate) fn closings(&self) -> watch::Receiver<u64> {
        self.closings.subscribe()
    }

    pub(crate) fn controllers(&self) -> watch::Receiver<bool> {
        self.controllers_paused.subscribe()
    }

    pub(crate) fn gone_as_status(&self) -> bool {
        *self.gone_as_status.borrow()
    }
}
