//! The access log of requests: one structured line for each, when the last byte of its response has come.
//!
//! A request's line stands beside those of connections, and has the same target, `weft::access`. Query strings are not in
//! it: they hold what nobody wants in a log.

use std::net::SocketAddr;
use std::time::Duration;

use weft_core::model::ObjectName;

use super::access::Path;
use super::line::Line;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequestEnd {
    /// The response's status; 0 if none came.
    pub status: u16,
    /// What a gRPC call came to, where it said so.
    pub grpc_status: Option<u8>,
    /// What went wrong with carrying it, in one word; empty if nothing did.
    pub error: &'static str,
    /// From its head to the last byte of its response.
    pub duration: Duration,
    /// Bytes of its body.
    pub sent: u64,
    /// Bytes of its response's body.
    pub received: u64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecord<'a> {
    /// `http1`, `http2` or `grpc`.
    pub protocol: &'static str,
    /// How it travelled.
    pub path: Path,
    /// Its method.
    pub method: &'a str,
    /// Its authority, where its target has one.
    pub authority: Option<&'a str>,
    /// Its path.
    pub target: &'a str,
    /// The app's end of the connection it came by.
    pub source: SocketAddr,
    /// The pod that is.
    pub source_workload: &'a ObjectName,
    /// The service it was sent to.
    pub service: &'a ObjectName,
    /// The address the app dialled.
    pub original_destination: SocketAddr,
    /// The endpoint that got it.
    pub endpoint: Option<SocketAddr>,
    /// The pod that is.
    pub workload: Option<&'a ObjectName>,
    /// How many endpoints were tried.
    pub attempts: u32,
    /// How it ended.
    pub end: &'a RequestEnd,
    /// What went wrong, in a sentence, if something did.
    pub error: Option<&'a str>,
}

/// Writes the line: at `info`, or at `warn` if something went wrong.
pub fn log(record: &RequestRecord<'_>) {
    if let Some(mut line) = Line::begin("request", record.error.is_some()) {
        record.compose(&mut line);
        line.end();
    }
}

impl RequestRecord<'_> {
    fn compose(&self, line: &mut Line) {
        line.text("direction", "outbound");
        line.text("path", self.path.as_str());
        line.text("protocol", self.protocol);
        line.text("method", self.method);
        if let Some(authority) = self.authority {
            line.text("authority", authority);
        }
        line.text("target_path", self.target);
        line.number("status", self.end.status.into());
        if let Some(status) = self.end.grpc_status {
            line.number("grpc_status", status.into());
        }
        line.shown("src_addr", &self.source);
        line.shown("src_workload", self.source_workload);
        if let Some(endpoint) = &self.endpoint {
            line.shown("dst_addr", endpoint);
        }
        if let Some(workload) = self.workload {
            line.shown("dst_workload", workload);
        }
        line.shown("original_dst", &self.original_destination);
        line.shown("service", self.service);
        line.number("bytes_sent", self.end.sent);
        line.number("bytes_received", self.end.received);
        line.number("duration_us", u64::try_from(self.end.duration.as_micros()).unwrap_or(u64::MAX));
        line.number("attempts", self.attempts.into());
        line.text("end", self.end.error);
        if let Some(error) = self.error {
            line.text("error", error);
        }
    }
}
