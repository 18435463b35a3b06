//! Whether a role can do its work yet, and what it waits for: an agent, or the controller.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Conditions that must hold before the role is ready. Clones share them.
#[derive(Clone, Debug)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<&'static str, bool>>>,
    remark: Arc<Mutex<Option<String>>>,
    ready: watch::Sender<bool>,
}

impl Readiness {
    /// Starts with none of `conditions` holding.
    #[must_use]
    pub fn new(conditions: &[&'static str]) -> Self {
        let conditions: BTreeMap<_, _> = conditions.iter().map(|name| (*name, false)).collect();
        let ready = watch::Sender::new(conditions.is_empty());
        Self { conditions: Arc::new(Mutex::new(conditions)), remark: Arc::default(), ready }
    }

    /// Says whether a condition holds. A name that was not there becomes a condition.
    pub fn set(&self, condition: &'static str, holds: bool) {
        let mut conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.insert(condition, holds);
        self.ready.send_replace(conditions.values().all(|holds| *holds));
    }

    /// Something worth knowing that makes it no less ready.
    pub fn remark(&self, remark: Option<String>) {
        *self.remark.lock().unwrap_or_else(PoisonError::into_inner) = remark;
    }

    /// What was last remarked.
    #[must_use]
    pub fn remarked(&self) -> Option<String> {
        self.remark.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The conditions that do not hold; empty when ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.iter().filter(|(_, holds)| !**holds).map(|(name, _)| *name).collect()
    }

    /// Whether all conditions hold, and every change of that.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_everything_holds_and_no_longer_than_that() {
        let readiness = Readiness::new(&["manifests", "steering"]);
        let seen = readiness.watch();
        readiness.set("manifests", true);
        assert_eq!((readiness.missing(), *seen.borrow()), (vec!["steering"], false));
        readiness.set("steering", true);
        assert_eq!((readiness.missing(), *seen.borrow()), (vec![], true));
        readiness.set("draining", false);
        assert_eq!((readiness.missing(), *seen.borrow()), (vec!["draining"], false));
    }
}
