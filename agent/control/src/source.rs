//! A running source of configuration, whichever it is.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use weft_core::snapshot::Delta;

use super::manifests::Problem;

/// A running source. Dropping it ends it.
pub struct Source {
    /// Changes. The first batch is everything there is, also when that is nothing.
    pub deltas: mpsc::Receiver<Vec<Delta>>,
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
