//! What an operator sees of the controller: metrics of each part, and whether it is ready.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use weft_control::Readiness;

/// Holds once the parts have said what they wait for: a port that answers before that must not call the controller ready.
pub(crate) const PARTS: &str = "parts";

/// Metrics and readiness. Clones share them.
#[derive(Clone, Debug)]
pub struct Telemetry {
    registry: Arc<Mutex<Registry>>,
    /// What must hold before the controller counts as ready; each part adds its own conditions.
    pub readiness: Readiness,
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register(
            "weft_build",
            "The version that runs",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self { registry: Arc::new(Mutex::new(registry)), readiness: Readiness::new(&[PARTS]) }
    }
}

impl Telemetry {
    /// Registers metrics. Their names begin with `weft_controller_`, or with what they share with the agent's.
    pub fn register(&self, metrics: impl FnOnce(&mut Registry)) {
        metrics(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Everything as OpenMetrics text.
    ///
    /// # Errors
    /// Only if a metric cannot be written as text, which would be a fault of this crate.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}
