//! A running source of configuration, whichever it is.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use weft_core::snapshot::Delta;

use super::manifests::Problem;

/// Changes.
#[derive(Debug, Default)]
pub struct Batch {
    /// What has changed.
    pub deltas: Vec<Delta>,
    /// With these everything there is has been told, also if that is nothing. What was told before is a part of it, and
    /// nothing is to follow from that: much of what belongs to it may be missing.
    pub whole: bool,
}

/// A running source. Dropping it ends it.
pub struct Source {
    /// Changes; from the first batch that is whole, all are.
    pub deltas: mpsc::Receiver<Batch>,
    /// All that is wrong at the moment.
    pub problems: watch::Receiver<Arc<Vec<Problem>>>,
    /// Held for its drop, which ends the source.
    pub(super) _stop: Box<dyn Any + Send>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("problems", &self.problems).finish_non_exhaustive()
    }
}
