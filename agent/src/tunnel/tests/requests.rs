//! Requests that are answered instead of carried, and claims that are not believed.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};

use super::apps::{echo_app, ping_pong};
use super::hostile::tls;
use super::rig::{Rig, identity, until, within};
use crate::tunnel::{Pool, PoolSettings, RESERVED_PORTS, ServerSettings};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// One request on a fresh tunnel of an honest client; answers its status.
async fn ask(rig: &Rig, request: Request<()>) -> Result<u16, h2::Error> {
    let config = rig.credentials("client").client_config(&identity("server")).unwrap();
    let tls = tls(rig, config).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tls).await?;
    tokio::spawn(connection);
    let (response, _send) = sender.send_request(request, false)?;
    Ok(within("an answer", response).await?.status().as_u16())
}

fn connect(authority: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap()
}

#[tokio::test]
async fn requests_for_anything_else_are_answered_and_counted() {
    let rig = Rig::new().await;
    let echo = echo_app(V4).await;
    let get = Request::builder().uri("https://127.0.0.1/").body(()).unwrap();
    let large = |bytes: usize| {
        let mut request = connect(&echo.to_string());
        for index in 0..bytes / 1000 {
            let name = http::HeaderName::from_bytes(format!("x-{index}").as_bytes()).unwrap();
            request.headers_mut().insert(name, "y".repeat(1000).parse().unwrap());
        }
        request
    };
    let mut cases = vec![
        (get, 400, "not_connect"),
        (connect("echo.shop:80"), 400, "bad_authority"),
        (connect("127.0.0.1:0"), 400, "bad_authority"),
        (connect("10.9.9.9:80"), 400, "not_this_pod"),
        (connect("[fd00::1]:80"), 400, "not_this_pod"),
        (large(70_000), 431, "headers_too_large"),
        (large(90_000), 431, "headers_too_large"),
    ];
    for port in RESERVED_PORTS {
        cases.push((connect(&format!("127.0.0.1:{port}")), 503, "reserved_port"));
    }
    for (request, status, reason) in cases {
        let before = rig.server_seen.rejections().len();
        assert_eq!(ask(&rig, request).await.unwrap(), status, "{reason}");
        assert_eq!(rig.server_seen.rejections()[before..], [reason]);
    }
    assert!(ask(&rig, large(10_000)).await.unwrap() == 200, "64 KiB of headers are allowed");
    assert!(ask(&rig, large(500_000)).await.is_err(), "far beyond that the peer is cut off");
    until("its count", || rig.server_seen.rejections().last() == Some(&"protocol_error")).await;
}

#[tokio::test]
async fn baggage_and_forwarded_are_claims_only() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let rig = Rig::new().await;
    let listener = tokio::net::TcpListener::bind((V4, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let context = crate::tunnel::ServerContext {
        credentials: rig.credentials("server"),
        addresses: Arc::from([V4]),
        baggage: None,
        settings: ServerSettings::default(),
        handshakes: Arc::new(tokio::sync::Semaphore::new(1)),
        budget: Arc::default(),
        events: Arc::new(()),
        drain: tokio_util::sync::CancellationToken::new(),
    };
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        crate::tunnel::serve(tcp, context, move |incoming| {
            tell.send((incoming.peer.identity.clone(), incoming.source, incoming.claims.clone())).unwrap();
            async move { incoming.refuse(crate::tunnel::Refusal::Denied) }
        })
        .await;
    });
    let settings = PoolSettings { port, budget: Duration::from_secs(10), ..PoolSettings::default() };
    let pool = Pool::new(Arc::clone(&rig.store), settings, Arc::new(()));
    let mut request = rig.request((V4, 80).into());
    request.baggage = Some("k8s.namespace.name=kube-system,service.name=admin".into());
    request.client = "8.8.8.8:53".parse().unwrap();
    let error = pool.connect(&request).await.unwrap_err();
    assert_eq!(error.reason(), "refused_by_policy");
    let (peer, source, claims) = told.recv().await.unwrap();
    assert_eq!(peer, identity("client"));
    assert_eq!(source.ip(), V4, "an address that is not the tunnel's own is not believed");
    assert_eq!(claims.unwrap().namespace.as_deref(), Some("kube-system"));
}

#[tokio::test]
async fn servers_that_are_somebody_else_get_nothing() {
    let rig = Rig::new().await;
    let mut request = rig.request((V4, 80).into());
    request.server = identity("vault");
    let error = rig.pool.connect(&request).await.unwrap_err();
    assert_eq!(error.reason(), "wrong_identity", "{error}");
    assert!(error.to_string().contains("sa/server") && error.to_string().contains("sa/vault"), "{error}");
    assert_eq!(rig.client_seen.rejections(), ["wrong_identity"]);
    until("the server's rejection", || rig.server_seen.rejections().len() == 1).await;
    assert_eq!(rig.server_seen.rejections(), ["rejected_by_peer"]);
    ping_pong(&mut rig.connect(echo_app(V4).await).await, 1).await;
}
