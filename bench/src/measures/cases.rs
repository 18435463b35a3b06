//! The table of cases and metrics.
//!
//! Rates of the open loop are below what the slowest subject carries on two cores, so that latency is a path's and not a
//! queue's: 1,000 requests a second on one connection, 4,000 over thirty-two; those of HTTP requests, half of what Envoy carries.

use super::Better::{Higher, Lower};
use super::{Among, Case, Metric, Work};
use crate::load::Outcome;
use crate::subjects::Layer;

/// Everything that is run, in this order.
pub const CASES: &[Case] = &[
    case("memory", "memory", "memory of both proxies together", Work::Memory(&[], 1), true),
    case("rtt", "rtt", "round trip of 64 B on one connection, one after the other", Work::Window(&["rtt"]), true),
    case(
        "latency-64-1",
        "latency",
        "latency of 64 B at 1,000/s on 1 connection, open loop",
        Work::Window(&["echo", "--size", "64", "--connections", "1", "--rate", "1000"]),
        true,
    ),
    case(
        "latency-1k-1",
        "latency",
        "latency of 1 KiB at 1,000/s on 1 connection, open loop",
        Work::Window(&["echo", "--size", "1024", "--connections", "1", "--rate", "1000"]),
        false,
    ),
    case(
        "latency-64-32",
        "latency",
        "latency of 64 B at 4,000/s on 32 connections, open loop",
        Work::Window(&["echo", "--size", "64", "--connections", "32", "--rate", "4000"]),
        true,
    ),
    case(
        "latency-1k-32",
        "latency",
        "latency of 1 KiB at 4,000/s on 32 connections, open loop",
        Work::Window(&["echo", "--size", "1024", "--connections", "32", "--rate", "4000"]),
        false,
    ),
    case(
        "operations",
        "operations",
        "echoes of 64 B on 32 connections, as fast as answers come",
        Work::Window(&["echo", "--size", "64", "--connections", "32"]),
        true,
    ),
    case(
        "connect-1",
        "connect",
        "new connections, one after the other",
        Work::Window(&["connect", "--concurrency", "1"]),
        true,
    ),
    case(
        "connect-16",
        "connect",
        "new connections, 16 at once",
        Work::Window(&["connect", "--concurrency", "16"]),
        true,
    ),
    case("throughput-1", "throughput", "throughput of 1 flow", Work::Window(&["bulk", "--flows", "1"]), true),
    case("throughput-4", "throughput", "throughput of 4 flows", Work::Window(&["bulk", "--flows", "4"]), true),
    case("throughput-16", "throughput", "throughput of 16 flows", Work::Window(&["bulk", "--flows", "16"]), false),
    case(
        "mixed",
        "mixed",
        "latency of 64 B at 200/s beside 4 bulk flows, open loop",
        Work::Window(&["mixed", "--flows", "4", "--rate", "200"]),
        true,
    ),
    case("fairness-pods", "fairness", "two pods of one node, one flow beside four", Work::Shares(Among::Pods), false),
    case("fairness-tunnels", "fairness", "two tunnels of one pod, two flows each", Work::Shares(Among::Tunnels), false),
    requests(
        "http-memory",
        "http",
        "memory of both proxies together, connections of HTTP/1",
        Work::Memory(&["--speaks", "http1"], 2),
        false,
    ),
    requests(
        "http2-memory",
        "http2",
        "memory of both proxies together, connections of HTTP/2",
        Work::Memory(&["--speaks", "http2"], 8),
        false,
    ),
    requests(
        "grpc-memory",
        "grpc",
        "memory of both proxies together, connections of gRPC",
        Work::Memory(&["--speaks", "grpc"], 8),
        false,
    ),
    requests(
        "http1-rate",
        "http1",
        "HTTP/1.1: requests on 32 connections, as fast as answers come",
        Work::Window(&["http", "--speaks", "http1", "--connections", "32"]),
        true,
    ),
    requests(
        "http1-latency",
        "http1",
        "HTTP/1.1: latency at half of what Envoy carries, on 32 connections, open loop",
        Work::HalfOf("http1-rate", &["http", "--speaks", "http1", "--connections", "32"]),
        false,
    ),
    requests(
        "http2-rate",
        "http2",
        "HTTP/2: requests on 4 connections of 16 streams, as fast as answers come",
        Work::Window(&["http", "--speaks", "http2", "--connections", "4", "--streams", "16"]),
        true,
    ),
    requests(
        "http2-latency",
        "http2",
        "HTTP/2: latency at half of what Envoy carries, on 4 connections of 16 streams, open loop",
        Work::HalfOf("http2-rate", &["http", "--speaks", "http2", "--connections", "4", "--streams", "16"]),
        false,
    ),
    requests(
        "grpc-rate",
        "grpc",
        "gRPC: unary calls on 4 connections of 16 streams, as fast as answers come",
        Work::Window(&["http", "--speaks", "grpc", "--connections", "4", "--streams", "16"]),
        true,
    ),
    requests(
        "grpc-latency",
        "grpc",
        "gRPC: latency at half of what Envoy carries, on 4 connections of 16 streams, open loop",
        Work::HalfOf("grpc-rate", &["http", "--speaks", "grpc", "--connections", "4", "--streams", "16"]),
        false,
    ),
    case("hook", "hook", "connect() outside the mesh", Work::ConnectCost, true),
];

const fn case(name: &'static str, measure: &'static str, title: &'static str, work: Work, quick: bool) -> Case {
    Case { name, measure, title, layer: Layer::Connections, work, quick }
}

const fn requests(name: &'static str, measure: &'static str, title: &'static str, work: Work, quick: bool) -> Case {
    Case { layer: Layer::Requests, ..case(name, measure, title, work, quick) }
}

/// Everything that is read off, in the order of the tables' columns.
pub const METRICS: &[Metric] = &[
    Metric { case: "memory", name: "rest", unit: "MB", better: Lower, of: |o| value(o, "rest_mb") },
    Metric {
        case: "memory",
        name: "rest of one",
        unit: "MB, the larger",
        better: Lower,
        of: |o| value(o, "rest_largest_mb"),
    },
    held("memory"),
    p50("rtt"),
    p50("latency-64-1"),
    p99("latency-64-1"),
    p999("latency-64-1"),
    p50("latency-1k-1"),
    p99("latency-1k-1"),
    p999("latency-1k-1"),
    p50("latency-64-32"),
    p99("latency-64-32"),
    p999("latency-64-32"),
    p50("latency-1k-32"),
    p99("latency-1k-32"),
    p999("latency-1k-32"),
    Metric { case: "operations", name: "rate", unit: "1/s", better: Higher, of: |o| value(o, "per_second") },
    Metric { case: "operations", name: "cpu", unit: "us/op", better: Lower, of: |o| per(o, "operations", 1.0) },
    Metric {
        case: "operations",
        name: "all",
        unit: "us/op, with both ends",
        better: Lower,
        of: |o| all_per(o, "operations", 1.0),
    },
    rate("connect-1"),
    Metric { case: "connect-1", name: "p50", unit: "us", better: Lower, of: |o| value(o, "p50_us") },
    rate("connect-16"),
    Metric { case: "connect-16", name: "p99", unit: "us", better: Lower, of: |o| value(o, "p99_us") },
    Metric { case: "connect-16", name: "cpu", unit: "us/connection", better: Lower, of: |o| per(o, "operations", 1.0) },
    Metric {
        case: "connect-16",
        name: "all",
        unit: "us/connection, with both ends",
        better: Lower,
        of: |o| all_per(o, "operations", 1.0),
    },
    speed("throughput-1"),
    cost("throughput-1"),
    whole("throughput-1"),
    speed("throughput-4"),
    cost("throughput-4"),
    whole("throughput-4"),
    fairness("throughput-4"),
    speed("throughput-16"),
    cost("throughput-16"),
    whole("throughput-16"),
    fairness("throughput-16"),
    p50("mixed"),
    p99("mixed"),
    speed("mixed"),
    speed("fairness-pods"),
    share("fairness-pods", "pod of one flow / pod of four"),
    speed("fairness-tunnels"),
    share("fairness-tunnels", "one tunnel / the other"),
    held("http-memory"),
    held("http2-memory"),
    held("grpc-memory"),
    rate("http1-rate"),
    each("http1-rate"),
    all("http1-rate"),
    asked("http1-latency"),
    p50("http1-latency"),
    p99("http1-latency"),
    p999("http1-latency"),
    rate("http2-rate"),
    each("http2-rate"),
    all("http2-rate"),
    asked("http2-latency"),
    p50("http2-latency"),
    p99("http2-latency"),
    p999("http2-latency"),
    rate("grpc-rate"),
    each("grpc-rate"),
    all("grpc-rate"),
    asked("grpc-latency"),
    p50("grpc-latency"),
    p99("grpc-latency"),
    p999("grpc-latency"),
    Metric { case: "hook", name: "added", unit: "ns", better: Lower, of: |o| value(o, "hook_ns") },
    Metric { case: "hook", name: "without", unit: "ns", better: Lower, of: |o| value(o, "connect_without_ns") },
];

const fn asked(case: &'static str) -> Metric {
    Metric { case, name: "asked", unit: "1/s", better: Higher, of: |o| value(o, "asked_per_second") }
}

const fn p50(case: &'static str) -> Metric {
    Metric { case, name: "p50", unit: "us", better: Lower, of: |o| value(o, "p50_us") }
}

const fn p99(case: &'static str) -> Metric {
    Metric { case, name: "p99", unit: "us", better: Lower, of: |o| value(o, "p99_us") }
}

const fn p999(case: &'static str) -> Metric {
    Metric { case, name: "p99.9", unit: "us", better: Lower, of: |o| value(o, "p999_us") }
}

const fn held(case: &'static str) -> Metric {
    Metric { case, name: "idle", unit: "kB/connection", better: Lower, of: |o| value(o, "idle_kb") }
}

const fn rate(case: &'static str) -> Metric {
    Metric { case, name: "rate", unit: "1/s", better: Higher, of: |o| value(o, "per_second") }
}

const fn each(case: &'static str) -> Metric {
    Metric { case, name: "cpu", unit: "us/request", better: Lower, of: |o| per(o, "operations", 1.0) }
}

const fn all(case: &'static str) -> Metric {
    Metric {
        case,
        name: "all",
        unit: "us/request, with both ends",
        better: Lower,
        of: |o| all_per(o, "operations", 1.0),
    }
}

const fn speed(case: &'static str) -> Metric {
    Metric { case, name: "rate", unit: "Gbit/s", better: Higher, of: |o| value(o, "gbit_s") }
}

const fn cost(case: &'static str) -> Metric {
    Metric { case, name: "cpu", unit: "CPU-s/GB", better: Lower, of: |o| per(o, "bytes", 1e9 / 1e6) }
}

const fn whole(case: &'static str) -> Metric {
    Metric {
        case,
        name: "all",
        unit: "CPU-s/GB, with both ends",
        better: Lower,
        of: |o| all_per(o, "bytes", 1e9 / 1e6),
    }
}

const fn fairness(case: &'static str) -> Metric {
    Metric { case, name: "fairness", unit: "slowest flow / fastest", better: Higher, of: |o| value(o, "fairness") }
}

const fn share(case: &'static str, unit: &'static str) -> Metric {
    Metric { case, name: "share", unit, better: Higher, of: |o| value(o, "share") }
}

fn value(outcome: &Outcome, name: &str) -> Option<f64> {
    outcome.values.get(name).copied()
}

/// Microseconds of the proxies' CPU per unit of `of`, times `scale`.
fn per(outcome: &Outcome, of: &str, scale: f64) -> Option<f64> {
    let units = value(outcome, of).filter(|units| *units > 0.0)?;
    Some(value(outcome, "cpu.proxies_us")? / units * scale)
}

/// The same for everything that ran: proxies, client, server and what the kernel deferred to `ksoftirqd`.
fn all_per(outcome: &Outcome, of: &str, scale: f64) -> Option<f64> {
    let units = value(outcome, of).filter(|units| *units > 0.0)?;
    let used = ["proxies", "ends", "ksoftirqd"].iter().filter_map(|who| value(outcome, &format!("cpu.{who}_us")));
    Some(used.sum::<f64>() / units * scale)
}
