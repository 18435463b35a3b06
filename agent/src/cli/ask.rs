//! The verbs that ask the running agent, over its admin socket.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;
use weft::admin::{
    Client, ConnectionView, KubernetesView, LogLevel, ServicePortView, ServiceView, Status, Transition, WorkloadView,
};

use super::table::{age, bytes, table};
use super::{Ask, Output};

#[derive(Debug, clap::Args)]
pub(super) struct LogLevelArgs {
    #[command(flatten)]
    ask: Ask,
    /// The filter to put in force: a level, or target=level pairs such as info,weft::tunnel=debug
    filter: Option<String>,
}

fn block_on<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

fn get<T: DeserializeOwned>(ask: &Ask, path: &str) -> anyhow::Result<T> {
    Ok(block_on(Client::new(&ask.admin_socket).get(path))??)
}

/// JSON if asked for, else what `show` makes of it.
fn present<T: Serialize>(ask: &Ask, value: &T, show: impl FnOnce(&T) -> String) -> anyhow::Result<Output> {
    Ok(if ask.json { format!("{}\n", serde_json::to_string_pretty(value)?) } else { show(value) }.into())
}

pub(super) fn status(ask: &Ask) -> anyhow::Result<Output> {
    let status: Status = get(ask, "/status")?;
    let mut output = present(ask, &status, show_status)?;
    if !status.waiting_for.is_empty() {
        output.code = ExitCode::FAILURE;
    }
    Ok(output)
}

fn show_status(status: &Status) -> String {
    let ready = match &status.waiting_for[..] {
        [] => "yes".to_owned(),
        missing => format!("no, waiting for {}", missing.join(", ")),
    };
    let state = match (status.disabled, status.draining) {
        (_, true) => "stopping: lets connections end".to_owned(),
        (true, _) => format!("disabled {}", status.disabled_because.as_deref().unwrap_or("on this node: weft enable")),
        _ => "running".to_owned(),
    };
    let mut lines = vec![
        ("agent", format!("weft {} (pid {}), up {}", status.version, status.pid, age(status.uptime_seconds))),
        ("node", format!("{}, instance {}, trust domain {}", status.node, status.instance, status.trust_domain)),
        ("state", state),
        ("ready", ready),
        ("pods", format!("{} enrolled, {} pending", status.enrolled, status.pending)),
        ("fast path", status.fast_path.clone()),
        ("traffic", format!("{} connections, {} tunnels", status.connections, status.tunnels)),
        ("config", format!("generation {}, {} problems", status.generation, status.problems.len())),
    ];
    if let Some(kubernetes) = &status.kubernetes {
        lines.push(("cluster", show_kubernetes(kubernetes)));
        let stale = kubernetes.watches.iter().filter(|watch| watch.state == "stale");
        lines.extend(stale.map(|w| ("", format!("{}: {}", w.kind, w.reason.as_deref().unwrap_or("not followed")))));
    }
    lines.extend(status.problems.iter().map(|problem| ("", problem.clone())));
    lines.into_iter().map(|(name, value)| format!("{name:8} {value}\n")).collect()
}

fn show_kubernetes(kubernetes: &KubernetesView) -> String {
    let starting = kubernetes.watches.iter().filter(|watch| watch.state == "starting").count();
    match kubernetes.stale_seconds {
        Some(seconds) => format!("STALE: changes of the last {} may be missing; what is known is served", age(seconds)),
        None if starting > 0 => format!("being read: {starting} of {} kinds to come", kubernetes.watches.len()),
        None => "followed".to_owned(),
    }
}

pub(super) fn workloads(ask: &Ask) -> anyhow::Result<Output> {
    let workloads: Vec<WorkloadView> = get(ask, "/workloads")?;
    present(ask, &workloads, |workloads| show_workloads(workloads, SystemTime::now()))
}

fn show_workloads(workloads: &[WorkloadView], now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    let rows: Vec<_> = workloads
        .iter()
        .map(|w| {
            let mesh = match &w.reason {
                Some(reason) => format!("{}: {reason}", w.mesh),
                None => w.mesh.clone(),
            };
            let certificate = w.certificate_expiry.map_or_else(
                || "-".to_owned(),
                |expiry| {
                    if expiry <= now { "expired".to_owned() } else { age(expiry - now) }
                },
            );
            [
                w.namespace.clone(),
                w.name.clone(),
                w.node.clone(),
                w.addresses.join(","),
                w.identity.clone(),
                certificate,
                mesh,
            ]
        })
        .collect();
    table(["NAMESPACE", "POD", "NODE", "ADDRESSES", "IDENTITY", "CERTIFICATE", "MESH"], &rows)
}

pub(super) fn services(ask: &Ask) -> anyhow::Result<Output> {
    let services: Vec<ServiceView> = get(ask, "/services")?;
    present(ask, &services, |services| show_services(services))
}

fn show_services(services: &[ServiceView]) -> String {
    let mut rows = Vec::new();
    for service in services {
        for port in &service.ports {
            let name = format!("{}/{}:{}", service.namespace, service.name, port.port);
            let route = port.route.clone().unwrap_or_else(|| "-".to_owned());
            let how = show_balancing(port);
            if port.endpoints.is_empty() {
                rows.push([name.clone(), service.addresses.join(","), how.clone(), route.clone(), "none".to_owned()]);
            }
            for (i, endpoint) in port.endpoints.iter().enumerate() {
                let workload = endpoint.workload.as_deref().unwrap_or("no pod");
                let ready = if endpoint.ready { "" } else { ", not ready" };
                let near = endpoint.near.as_ref().map(|near| format!(", same {near}")).unwrap_or_default();
                let wire = if endpoint.mtls { "mtls" } else { "plaintext" };
                let text =
                    format!("{} ({workload}, weight {}, {wire}{near}{ready})", endpoint.address, endpoint.weight);
                let first = |cell: &str| if i == 0 { cell.to_owned() } else { String::new() };
                rows.push([first(&name), first(&service.addresses.join(",")), first(&how), first(&route), text]);
            }
        }
    }
    table(["SERVICE", "ADDRESSES", "BALANCING", "ROUTE", "ENDPOINTS"], &rows)
}

fn show_balancing(port: &ServicePortView) -> String {
    // What is carried byte by byte needs no reason.
    let because = if port.protocol == "http" { format!(" ({})", port.protocol_because) } else { String::new() };
    let mut how = format!("{}{because} {}", port.protocol, port.algorithm);
    if let Some(seconds) = port.affinity_seconds {
        how = format!("{}{because} by client, kept {}", port.protocol, age(seconds));
    }
    match &port.proxy_only {
        Some(why) => format!("{how}; not on the fast path: {why}"),
        None => how,
    }
}

pub(super) fn connections(ask: &Ask) -> anyhow::Result<Output> {
    let connections: Vec<ConnectionView> = get(ask, "/connections")?;
    present(ask, &connections, |connections| show_connections(connections))
}

fn show_connections(connections: &[ConnectionView]) -> String {
    let end = |address: &str, workload: &Option<String>| match workload {
        Some(workload) => format!("{address} ({workload})"),
        None => address.to_owned(),
    };
    let rows: Vec<_> = connections
        .iter()
        .map(|c| {
            [
                c.direction.clone(),
                c.path.clone(),
                end(&c.source, &c.source_workload),
                end(&c.destination, &c.destination_workload),
                c.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
                c.peer_identity.clone().unwrap_or_else(|| "-".to_owned()),
                bytes(c.sent),
                bytes(c.received),
                age(c.age_ms / 1000),
            ]
        })
        .collect();
    let heading = ["DIRECTION", "PATH", "SOURCE", "DESTINATION", "ENDPOINT", "PEER", "SENT", "RECEIVED", "AGE"];
    table(heading, &rows)
}

pub(super) fn dump(ask: &Ask) -> anyhow::Result<Output> {
    let dump: serde_json::Value = get(ask, "/dump")?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&dump)?).into())
}

pub(super) fn order(ask: &Ask, path: &str) -> anyhow::Result<Output> {
    let done: Transition = block_on(Client::new(&ask.admin_socket).post(path))??;
    present(ask, &done, |done| format!("{}\n", done.done))
}

pub(super) fn log_level(args: &LogLevelArgs) -> anyhow::Result<Output> {
    let client = Client::new(&args.ask.admin_socket);
    let level: LogLevel = match &args.filter {
        Some(filter) => block_on(client.put("/log-level", &LogLevel { filter: filter.clone() }))??,
        None => block_on(client.get("/log-level"))??,
    };
    present(&args.ask, &level, |level| format!("{}\n", level.filter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use weft::admin::EndpointView;

    #[test]
    fn status_says_what_it_waits_for_and_what_is_wrong() {
        let text = show_status(&Status {
            waiting_for: vec!["manifests".into(), "steering".into()],
            problems: vec!["a.yaml:3: error: x".into()],
            uptime_seconds: 130,
            ..Status::default()
        });
        assert!(text.contains("ready    no, waiting for manifests, steering\n"), "{text}");
        assert!(text.contains("up 2m10s\n") && text.contains("\n         a.yaml:3: error: x\n"), "{text}");
    }

    #[test]
    fn tables_hold_what_a_person_looks_for() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let pod = WorkloadView {
            namespace: "shop".into(),
            name: "cart-0".into(),
            mesh: "pending".into(),
            reason: Some("no netns".into()),
            certificate_expiry: Some(4600),
            ..WorkloadView::default()
        };
        let text = show_workloads(&[pod], now);
        assert!(text.lines().nth(1).unwrap().ends_with("1h           pending: no netns"), "{text}");

        let endpoint =
            |address: &str| EndpointView { address: address.into(), weight: 9, mtls: true, ..EndpointView::default() };
        let port = ServicePortView {
            port: 80,
            endpoints: vec![endpoint("10.0.0.1:8080"), endpoint("10.0.0.2:8080")],
            ..ServicePortView::default()
        };
        let service =
            ServiceView { namespace: "shop".into(), name: "echo".into(), ports: vec![port], ..ServiceView::default() };
        let text = show_services(&[service]);
        assert_eq!(text.matches("shop/echo:80").count(), 1, "{text}");
        assert!(text.contains("10.0.0.2:8080 (no pod, weight 9, mtls, not ready)"), "{text}");

        let connection = ConnectionView {
            sent: 2048,
            age_ms: 61_000,
            source: "10.0.0.1:5".into(),
            source_workload: Some("shop/a".into()),
            ..ConnectionView::default()
        };
        let text = show_connections(&[connection]);
        assert!(text.contains("10.0.0.1:5 (shop/a)") && text.contains("2.0 KiB") && text.contains("1m1s"), "{text}");
    }
}
