//! Orders and questions from root on this node: HTTP and JSON over a Unix socket.
//!
//! The socket is 0600 and the kernel tells who connects; nobody but root is answered, and nothing of this listens where
//! a pod can reach it. The server knows HTTP and who may ask; what to do is in the [`AdminRequest`]s it passes on.

mod answer;
mod client;
mod server;
mod views;

use tokio::sync::oneshot;

pub use answer::Listing;
pub use client::{Client, ClientError};
pub use server::{Server, ServerError, ServerSettings};
pub use views::{
    ConnectionView, EndpointView, KubernetesView, LogLevel, Refusal, ServicePortView, ServiceView, Status, Transition,
    WatchView, WorkloadView,
};

/// Where an answer goes: the answer, or in a sentence why there is none.
pub type Reply<T> = oneshot::Sender<Result<T, String>>;

/// What may be asked of an agent.
#[derive(Debug)]
pub enum AdminRequest {
    /// `GET /status`: how the agent is.
    Status(Reply<Status>),
    /// `GET /workloads`: the pods it knows.
    Workloads(Reply<Listing<WorkloadView>>),
    /// `GET /services`: the services and their endpoints.
    Services(Reply<Listing<ServiceView>>),
    /// `GET /connections`: the connections open now.
    Connections(Reply<Vec<ConnectionView>>),
    /// `GET /dump`: everything, for a bug report.
    Dump(Reply<serde_json::Value>),
    /// `POST /handover`: a successor takes over. Once answered, this agent no longer writes steering state, holds
    /// neither lock nor ports, accepts a moment longer and drains.
    Handover(Reply<Transition>),
    /// `POST /disable`: take every pod of this node out of the mesh, and all traces of the mesh off the node.
    Disable(Reply<Transition>),
    /// `POST /enable`: the reverse.
    Enable(Reply<Transition>),
}
