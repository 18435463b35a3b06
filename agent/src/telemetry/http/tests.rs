//! The metrics port from outside, and how it treats clients that do not play along.

use std::io;
use std::net::Ipv6Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::telemetry::{Metrics, PodCounts};

async fn start() -> (MetricsServer, Metrics, Readiness) {
    let (metrics, readiness) = (Metrics::new(), Readiness::new(&["steering"]));
    let address = (Ipv6Addr::LOCALHOST, 0).into();
    (MetricsServer::start(address, metrics.exposition(), readiness.clone()).await.unwrap(), metrics, readiness)
}

async fn ask(server: &MetricsServer, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(server.address()).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn get(server: &MetricsServer, path: &str) -> String {
    ask(server, &format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await.unwrap()
}

#[tokio::test]
async fn serves_metrics_and_probes() {
    let (server, metrics, readiness) = start().await;
    metrics.pods(&PodCounts { enrolled: 5, ..PodCounts::default() });
    let answer = get(&server, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(OPEN_METRICS) && answer.contains("\nweft_enrolled_pods 5\n"), "{answer}");
    let one = get(&server, "/metrics?name[]=weft_enrolled_pods").await;
    assert!(one.contains("\nweft_enrolled_pods 5\n") && !one.contains("weft_pending_pods"), "{one}");
    assert!(get(&server, "/healthz").await.starts_with("HTTP/1.1 200"));
    let waiting = get(&server, "/readyz").await;
    assert!(waiting.starts_with("HTTP/1.1 503") && waiting.contains("waiting for: steering"), "{waiting}");
    readiness.set("steering", true);
    assert!(get(&server, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&server, "/dump").await.starts_with("HTTP/1.1 404"));
    let post =
        ask(&server, "POST /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    assert!(post.unwrap().starts_with("HTTP/1.1 405"));
}

#[tokio::test]
async fn nonsense_and_large_heads_end_the_connection() {
    let (server, _, _) = start().await;
    let answer = ask(&server, "\x16\x03\x01 not http\r\n\r\n").await.unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(100_000));
    // The server may answer, or reset while the rest is still being written.
    if let Ok(answer) = ask(&server, &large).await {
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    assert!(get(&server, "/healthz").await.starts_with("HTTP/1.1 200"));
}

/// Time is paused, so a deadline passes as soon as nothing else can happen.
#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_is_let_go() {
    let (server, _, _) = start().await;
    let began = tokio::time::Instant::now();
    let mut silent = TcpStream::connect(server.address()).await.unwrap();
    silent.write_all(b"GET /metrics HTT").await.unwrap();
    let mut rest = Vec::new();
    // Closed or reset: either way it is over.
    let _ = silent.read_to_end(&mut rest).await;
    let took = began.elapsed();
    assert!(took <= CONNECTION_TIMEOUT, "{took:?}");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_and_are_served() {
    let (server, _, _) = start().await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        idle.push(TcpStream::connect(server.address()).await.unwrap());
    }
    let waiting = get(&server, "/healthz");
    tokio::pin!(waiting);
    let short = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(short.is_err(), "it is served although all slots are taken");
    idle.pop();
    assert!(waiting.await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_port_in_use_is_explained_and_freed_on_drop() {
    let (server, metrics, readiness) = start().await;
    let address = server.address();
    let error = MetricsServer::start(address, metrics.exposition(), readiness.clone()).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("--metrics-address"), "{error}");
    // A successor that starts while its predecessor lets go.
    drop(server);
    let successor = MetricsServer::start(address, metrics.exposition(), readiness).await.unwrap();
    assert!(get(&successor, "/healthz").await.starts_with("HTTP/1.1 200"));
}
