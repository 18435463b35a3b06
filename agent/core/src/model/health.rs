//! Active health checks: endpoints asked how they are, whether or not anybody sends them anything.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

/// What is asked, how often, and what the answers mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: HealthProbe,
    /// From one check of an endpoint to the next, give or take a tenth.
    pub interval: Duration,
    /// How long an answer may take, the connection included.
    pub timeout: Duration,
    /// So many good checks in a row make an endpoint healthy that was not.
    pub healthy: u32,
    /// So many bad ones in a row make it unhealthy.
    pub unhealthy: u32,
}

/// What an endpoint is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HealthProbe {
    /// To accept a connection.
    Tcp,
    /// To answer a GET.
    Http {
        /// The path, and a query if need be.
        path: Arc<str>,
        /// The host; the endpoint's address where absent.
        host: Option<Arc<str>>,
        /// Which statuses are good; those from 200 to 399 where there are none.
        statuses: Vec<StatusCode>,
    },
    /// `grpc.health.v1.Health/Check`, of this service; of the server as a whole where it is empty.
    Grpc {
        /// The service.
        service: Arc<str>,
    },
}

impl HealthProbe {
    /// Whether an answer with this status is a good one.
    #[must_use]
    pub fn expects(&self, status: StatusCode) -> bool {
        match self {
            Self::Http { statuses, .. } if !statuses.is_empty() => statuses.contains(&status),
            Self::Http { .. } => (200..400).contains(&status.as_u16()),
            Self::Tcp | Self::Grpc { .. } => status == StatusCode::OK,
        }
    }
}
