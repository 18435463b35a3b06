//! The text a scrape gets, and that it stays bounded.

use std::time::Duration;

use weft_core::model::{Name, ObjectName, TrustDomain, Weight, Workload};
use weft_core::snapshot::{Delta, Key, Resource};

use super::*;

fn workload(name: &str) -> Workload {
    Workload {
        name: ObjectName::new("shop", &format!("{name}-0")).unwrap(),
        uid: name.into(),
        addresses: vec![],
        service_account: Name::new(name).unwrap(),
        node: "n".into(),
        owner: name.into(),
        labels: Default::default(),
        weight: Weight(1),
        mesh: None,
        netns: None,
        host_network: false,
        declared_ports: vec![],
        probe_ports: vec![],
    }
}

fn labels(source: &str, destination: &str) -> ConnectionLabels {
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{source}").parse().unwrap();
    ConnectionLabels {
        reporter: Reporter::Source,
        source: Party::of(&workload(source), Some(&identity)),
        destination: Party::of(&workload(destination), None),
        service: Some(ObjectName::new("shop", "echo").unwrap()),
        security: Security::MutualTls,
        path: crate::telemetry::access::Path::Tunnel,
    }
}

/// The value of the one line that begins with `name` and holds all of `parts`.
fn value(text: &str, name: &str, parts: &[&str]) -> Option<u64> {
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let mut lines = text.lines().filter(of_name).filter(|line| parts.iter().all(|part| line.contains(part)));
    let value = lines.next()?.rsplit(' ').next()?.parse().unwrap();
    assert_eq!(lines.next(), None, "more than one {name} with {parts:?}");
    Some(value)
}

#[test]
fn connections_under_the_usual_labels() {
    let metrics = Metrics::new();
    let series = metrics.connection(&labels("cart", "echo"));
    series.opened();
    series.sent(10);
    series.received(20);
    series.closed("fin");
    series.closed("fin");
    series.failed("refused");
    metrics.connection(&labels("cart", "echo")).sent(5);
    let text = metrics.text().unwrap();
    let parts = [
        r#"reporter="source""#,
        r#"source_workload="cart",source_workload_namespace="shop""#,
        r#"source_principal="spiffe://cluster.local/ns/shop/sa/cart""#,
        r#"destination_workload="echo",destination_workload_namespace="shop",destination_principal="unknown""#,
        r#"destination_service_name="echo",destination_service_namespace="shop""#,
        r#"connection_security_policy="mutual_tls""#,
    ];
    assert_eq!(value(&text, "weft_tcp_connections_opened_total", &parts), Some(1));
    assert_eq!(value(&text, "weft_tcp_sent_bytes_total", &parts), Some(15));
    assert_eq!(value(&text, "weft_tcp_received_bytes_total", &parts), Some(20));
    let with = |reason: &'static str| [&parts[..], &[reason]].concat();
    assert_eq!(value(&text, "weft_tcp_connections_closed_total", &with(r#"reason="fin""#)), Some(2));
    assert_eq!(value(&text, "weft_tcp_connections_failed_total", &with(r#"reason="refused""#)), Some(1));
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn everything_else() {
    let metrics = Metrics::new();
    let identity: Identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    metrics.tunnel_opened(TunnelDirection::Outbound, "weft/1");
    metrics.tunnel_opened(TunnelDirection::Outbound, "weft/1");
    metrics.tunnel_closed(TunnelDirection::Outbound, "weft/1", "idle");
    metrics.handshake_failed(TunnelDirection::Inbound, "expired");
    metrics.inbound_rejected("not_connect");
    metrics.certificate(&identity, UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    metrics.certificate_failed("unreachable");
    metrics.policy_denied("no_allow_rule", &Party::of(&workload("echo"), None));
    metrics.pods(&PodCounts { enrolled: 3, pending: 2, unreachable_plaintext: 1, unreachable_closed: 4 });
    metrics.enrolment_failed("netns");
    metrics.config_problems(&[Problem {
        file: "f".into(),
        line: None,
        severity: Severity::Error,
        object: None,
        reason: String::new(),
    }]);
    metrics.snapshot_generation(7);
    metrics.verdicts(Box::new(|| vec![("steered", 41), ("passed", 1)]));
    metrics.log(LevelHandle::detached("info"));
    let text = metrics.text().unwrap();
    for (name, parts, expected) in [
        ("weft_tunnels_opened_total", &[r#"direction="outbound",tunnel_protocol="weft/1""#][..], 2),
        ("weft_tunnels_closed_total", &[r#"reason="idle""#], 1),
        ("weft_tunnels_open", &[r#"direction="outbound""#], 1),
        ("weft_handshake_failures_total", &[r#"direction="inbound",reason="expired""#], 1),
        ("weft_inbound_rejections_total", &[r#"reason="not_connect""#], 1),
        (
            "weft_certificate_expiry_timestamp_seconds",
            &[r#"identity="spiffe://cluster.local/ns/shop/sa/cart""#],
            1_800_000_000,
        ),
        ("weft_certificate_failures_total", &[r#"reason="unreachable""#], 1),
        ("weft_policy_denials_total", &[r#"reason="no_allow_rule",destination_workload="echo""#], 1),
        ("weft_enrolled_pods", &[], 3),
        ("weft_unreachable_pods", &["connections=\"plaintext\""], 1),
        ("weft_unreachable_pods", &["connections=\"closed\""], 4),
        ("weft_pending_pods", &[], 2),
        ("weft_enrolment_failures_total", &[r#"reason="netns""#], 1),
        ("weft_config_problems", &[r#"severity="error""#], 1),
        ("weft_config_problems", &[r#"severity="warning""#], 0),
        ("weft_snapshot_generation", &[], 7),
        ("weft_steering_verdicts_total", &[r#"verdict="steered""#], 41),
        ("weft_log_lines_dropped_total", &[], 0),
        ("weft_build_info", &[env!("CARGO_PKG_VERSION")], 1),
    ] {
        assert_eq!(value(&text, name, parts), Some(expected), "{name} {parts:?} in\n{text}");
    }
    assert!(value(&text, "process_open_fds", &[]).unwrap() > 2);
    assert!(value(&text, "process_resident_memory_bytes", &[]).unwrap() > 1 << 20);
    metrics.certificate_forgotten(&identity);
    assert!(!metrics.text().unwrap().contains("sa/cart"));
}

#[test]
fn labels_are_escaped() {
    let metrics = Metrics::new();
    let mut odd = labels("cart", "echo");
    odd.source.workload = "a\"b\\c\nd".into();
    metrics.connection(&odd).opened();
    assert!(metrics.text().unwrap().contains(r#"source_workload="a\"b\\c\nd""#));
}

#[test]
fn series_are_bounded() {
    let metrics = Metrics::new();
    for i in 0..SERIES_MAX + 500 {
        metrics.connection(&labels(&format!("w{i}"), "echo")).opened();
    }
    let text = metrics.text().unwrap();
    let lines = text.lines().filter(|line| line.starts_with("weft_tcp_connections_opened_total{")).count();
    assert_eq!(lines, SERIES_MAX + 1);
    let parts = [r#"source_workload="other""#];
    assert_eq!(value(&text, "weft_tcp_connections_opened_total", &parts), Some(500));
    // The ones that were there go on.
    metrics.connection(&labels("w0", "echo")).opened();
    let parts = [r#"source_workload="w0""#];
    assert_eq!(value(&metrics.text().unwrap(), "weft_tcp_connections_opened_total", &parts), Some(2));
}

#[test]
fn series_of_a_workload_that_is_gone_go_after_a_while() {
    let empty = Snapshot::new(TrustDomain::new("cluster.local").unwrap());
    let put = |name: &str| Delta::Put(Resource::Workload(workload(name)));
    let all = empty.apply([put("cart"), put("echo"), put("db")]);
    let metrics = Metrics::new();
    metrics.connection(&labels("cart", "echo")).opened();
    metrics.connection(&labels("db", "echo")).opened();
    metrics.connection(&ConnectionLabels { source: Party::unknown(), ..labels("db", "echo") }).opened();
    metrics.policy_denied("denied", &Party::of(&workload("cart"), None));
    let without = all.apply([Delta::Remove(Key::Workload(workload("cart").name))]);
    let start = Instant::now();
    let has = |name: &str| metrics.text().unwrap().contains(&format!("workload=\"{name}\""));
    metrics.sweep(&without, start);
    assert!(has("cart"), "its last numbers are still to be scraped");
    // It comes back, and the clock starts anew.
    metrics.sweep(&all, start + Duration::from_secs(200));
    metrics.sweep(&without, start + Duration::from_secs(400));
    metrics.sweep(&without, start + Duration::from_secs(600));
    assert!(has("cart"));
    metrics.sweep(&without, start + Duration::from_secs(700));
    assert!(!has("cart") && has("db") && has("unknown"));
}
