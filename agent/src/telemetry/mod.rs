//! What an operator sees: logs, the access log, metrics, readiness.
//!
//! Nothing here decides anything, and nothing of it waits: the data path adds to counters and moves on.

pub mod access;
mod http;
mod line;
pub mod logging;
mod metrics;
mod process;
pub mod requests;

pub use http::{Exposition, MetricsServer, MetricsServerError};
pub use metrics::{
    ConnectionLabels, ConnectionSeries, Metrics, Party, PodCounts, PortSource, Reporter, RequestSeries, SERIES_MAX,
    Security, TunnelDirection, VerdictSource,
};
pub use process::Process;
pub use weft_control::Readiness;
