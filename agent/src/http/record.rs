//! A request as it is counted and logged, from its head to the last byte of its response.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, Request, StatusCode, Uri, Version};
use hyper::body::Frame;
use weft_core::model::Workload;
use weft_core::route::{Target, Transport};

use super::answer::Fault;
use super::exchange::Session;
use crate::telemetry::access::Path;
use crate::telemetry::requests::{RequestEnd, RequestRecord, log};
use crate::telemetry::{ConnectionLabels, Party, Reporter, RequestSeries, Security};

/// An endpoint's series, and which pod it was found for.
pub(super) struct Known {
    workload: Option<Arc<Workload>>,
    tunnel: bool,
    series: RequestSeries,
}

/// A request that is being carried. Dropped before it has ended, the app has given it up.
pub(super) struct Seen {
    session: Arc<Session>,
    /// It is counted once.
    open: bool,
    begun: Instant,
    method: Method,
    uri: Uri,
    version: Version,
    grpc: bool,
    target: Option<Target>,
    /// Endpoints connections to which were asked for.
    pub(super) attempts: u32,
    /// Of the response; 0 while there is none.
    status: u16,
    grpc_status: Option<u8>,
    /// Bytes of bodies.
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Seen {
    pub(super) fn new<B>(session: &Arc<Session>, request: &Request<B>, grpc: bool) -> Self {
        Self {
            session: Arc::clone(session),
            open: true,
            begun: Instant::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            grpc,
            target: None,
            attempts: 0,
            status: 0,
            grpc_status: None,
            sent: 0,
            received: 0,
        }
    }

    /// A request that is neither counted nor logged.
    pub(super) fn uncounted<B>(session: &Arc<Session>, request: &Request<B>) -> Self {
        let mut seen = Self::new(session, request, false);
        seen.open = false;
        seen
    }

    /// Where it goes.
    pub(super) fn picked(&mut self, target: &Target) {
        self.target = Some(target.clone());
    }

    /// All of it; what stays behind is counted no more.
    pub(super) fn take(&mut self) -> Self {
        let open = std::mem::replace(&mut self.open, false);
        Self {
            session: Arc::clone(&self.session),
            open,
            method: std::mem::take(&mut self.method),
            uri: std::mem::take(&mut self.uri),
            target: self.target.take(),
            ..*self
        }
    }

    /// A part of the response has come.
    pub(super) fn received(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.received += data.len() as u64;
        } else if let Some(trailers) = frame.trailers_ref().filter(|_| self.grpc) {
            self.told(trailers);
        }
    }

    /// The response's head has come.
    pub(super) fn answered(&mut self, status: StatusCode, fields: &HeaderMap) {
        self.status = status.as_u16();
        if self.grpc {
            self.told(fields);
        }
    }

    /// What fields say of how a call went.
    fn told(&mut self, fields: &HeaderMap) {
        let status = fields.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
        self.grpc_status = status.or(self.grpc_status);
    }

    /// The response is complete.
    pub(super) fn done(mut self) {
        self.end("", None);
    }

    /// The response broke off; `label` says why in one word.
    pub(super) fn broke(mut self, label: &'static str, error: String) {
        self.end(label, Some(error));
    }

    /// The mesh has answered itself.
    pub(super) fn failed(mut self, fault: &Fault) {
        self.status = fault.status().as_u16();
        self.end(fault.label(), Some(fault.to_string()));
    }

    /// Counts and logs it, once.
    pub(super) fn end(&mut self, label: &'static str, error: Option<String>) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        let end = RequestEnd {
            status: self.status,
            grpc_status: self.grpc_status,
            error: label,
            duration: self.begun.elapsed(),
            sent: self.sent,
            received: self.received,
        };
        self.series().ended(&end);
        self.log(&end, error);
    }

    fn protocol(&self) -> &'static str {
        match self.version {
            _ if self.grpc => "grpc",
            Version::HTTP_2 => "http2",
            _ => "http1",
        }
    }

    fn path(&self) -> Path {
        match self.target.as_ref().map(|target| &target.transport) {
            Some(Transport::Hbone { .. }) => Path::Tunnel,
            _ => Path::Plaintext,
        }
    }

    /// Found once for each endpoint of a connection.
    fn series(&self) -> RequestSeries {
        let Some(target) = &self.target else { return self.find() };
        let tunnel = matches!(target.transport, Transport::Hbone { .. });
        let mut known = self.session.known();
        if let Some(known) = known.get(&target.address)
            && known.tunnel == tunnel
            && known.workload.as_ref().map(Arc::as_ptr) == target.workload.as_ref().map(Arc::as_ptr)
        {
            return known.series.clone();
        }
        let series = self.find();
        known.insert(target.address, Known { workload: target.workload.clone(), tunnel, series: series.clone() });
        series
    }

    fn find(&self) -> RequestSeries {
        let session = &self.session;
        let (client, snapshot) = (&session.client, (session.http.snapshots)());
        let source =
            client.pod.workload(&snapshot).map_or_else(Party::unknown, |w| Party::of(w, Some(&client.pod.identity)));
        let target = self.target.as_ref();
        let proved = target.and_then(|target| match &target.transport {
            Transport::Hbone { server } => Some(server),
            Transport::Plaintext => None,
        });
        let workload = target.and_then(|target| target.workload.as_ref());
        let labels = ConnectionLabels {
            reporter: Reporter::Source,
            source,
            destination: workload.map_or_else(Party::unknown, |workload| Party::of(workload, proved)),
            service: Some(client.service.service.clone()),
            security: if proved.is_some() { Security::MutualTls } else { Security::None },
            path: self.path(),
        };
        session.http.metrics.request(&labels, self.protocol())
    }

    fn log(&self, end: &RequestEnd, error: Option<String>) {
        let client = &self.session.client;
        log(&RequestRecord {
            protocol: self.protocol(),
            path: self.path(),
            method: self.method.as_str(),
            authority: self.uri.authority().map(http::uri::Authority::as_str),
            target: self.uri.path(),
            source: client.address,
            source_workload: &client.pod.name,
            service: &client.service.service,
            original_destination: client.destination,
            endpoint: self.target.as_ref().map(|target| target.address),
            workload: self.target.as_ref().and_then(|target| Some(&target.workload.as_ref()?.name)),
            attempts: self.attempts,
            end,
            error: error.as_deref(),
        });
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.end("cancelled", None);
    }
}
