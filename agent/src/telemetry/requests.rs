//! The access log of requests: one structured line for each, when the last byte of its response has come.
//!
//! A request's line stands beside those of connections, and has the same target, `weft::access`. Query strings are not in
//! it: they hold what nobody wants in a log.

use std::net::SocketAddr;
use std::time::Duration;

use weft_core::model::ObjectName;

use super::access::Path;

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
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                target: "weft::access",
                $level,
                direction = "outbound",
                path = record.path.as_str(),
                protocol = record.protocol,
                method = record.method,
                authority = record.authority,
                target_path = record.target,
                status = record.end.status,
                grpc_status = record.end.grpc_status,
                src_addr = tracing::field::display(record.source),
                src_workload = tracing::field::display(record.source_workload),
                dst_addr = record.endpoint.map(tracing::field::display),
                dst_workload = record.workload.map(tracing::field::display),
                original_dst = tracing::field::display(record.original_destination),
                service = tracing::field::display(record.service),
                bytes_sent = record.end.sent,
                bytes_received = record.end.received,
                duration_us = u64::try_from(record.end.duration.as_micros()).unwrap_or(u64::MAX),
                attempts = record.attempts,
                end = record.end.error,
                error = record.error,
                "request"
            )
        };
    }
    if record.error.is_some() { line!(tracing::Level::WARN) } else { line!(tracing::Level::INFO) }
}
