//! Hours of waiting in virtual time, against an API server that is a function.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use serde_json::json;

use super::*;
use crate::kubernetes::{News, Observed, observe};

const HOUR: Duration = Duration::from_secs(3600);
const GATEWAY: [Kind; 4] = [Kind::TcpRoute, Kind::HttpRoute, Kind::GrpcRoute, Kind::ReferenceGrant];
/// One more, of another group.
const MISSING: [Kind; 5] =
    [Kind::TcpRoute, Kind::HttpRoute, Kind::GrpcRoute, Kind::ReferenceGrant, Kind::BackendTrafficPolicy];

/// What the API server has, and what it was asked: requests by path.
#[derive(Clone, Debug, Default)]
struct Api {
    /// Resources by group and version.
    served: Arc<Mutex<BTreeMap<&'static str, Vec<&'static str>>>>,
    /// Discovery is not for everybody.
    hidden: bool,
    /// All it has to say, and after how long.
    refusal: Option<(StatusCode, Duration)>,
    asked: Arc<Mutex<BTreeMap<String, u32>>>,
}

type Reply = http::Response<UnsyncBoxBody<Bytes, Infallible>>;

fn reply(status: StatusCode, text: String) -> Reply {
    let once = stream::once(async move { Ok(hyper::body::Frame::data(Bytes::from(text))) });
    http::Response::builder().status(status).body(BodyExt::boxed_unsync(StreamBody::new(once))).unwrap()
}

impl Api {
    fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request.uri()).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, uri: &http::Uri) -> Reply {
        *self.asked.lock().unwrap().entry(uri.path().to_owned()).or_default() += 1;
        if let Some((status, after)) = self.refusal {
            tokio::time::sleep(after).await;
            return reply(status, "{}".into());
        }
        let path = uri.path().strip_prefix("/apis/").unwrap();
        let served = self.served.lock().unwrap().clone();
        let resources = |version: &str| served.get(version).cloned().unwrap_or_default();
        let missing = || reply(StatusCode::NOT_FOUND, "404 page not found".into());
        match path.split('/').collect::<Vec<_>>()[..] {
            [_] | [_, _] if self.hidden => reply(StatusCode::FORBIDDEN, "{}".into()),
            [group] => {
                let versions = served.keys().filter_map(|served| served.strip_prefix(group)?.strip_prefix('/'));
                let versions: Vec<_> = versions
                    .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
                    .collect();
                let text = json!({"name": group, "versions": versions}).to_string();
                if versions.is_empty() { missing() } else { reply(StatusCode::OK, text) }
            }
            [_, _] => {
                let resource = |name: &&str| json!({"name": name, "singularName": "", "namespaced": true, "kind": "X", "verbs": ["list"]});
                let resources: Vec<_> = resources(path).iter().map(resource).collect();
                reply(StatusCode::OK, json!({"groupVersion": path, "resources": resources}).to_string())
            }
            [group, version, plural] if resources(&format!("{group}/{version}")).contains(&plural) => {
                // A list without an object, and a watch that stands from then on.
                let end = json!({"type": "BOOKMARK", "object": {"kind": "X", "apiVersion": "v1",
                    "metadata": {"resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"}}}});
                let once = stream::once(async move { Ok(hyper::body::Frame::data(Bytes::from(format!("{end}\n")))) });
                http::Response::new(BodyExt::boxed_unsync(StreamBody::new(once.chain(stream::pending()))))
            }
            _ => missing(),
        }
    }

    fn serve(&self, version: &'static str, plural: &'static str) {
        self.served.lock().unwrap().entry(version).or_default().push(plural);
    }

    /// Requests since the last time, those for kinds themselves as one.
    fn asked(&self) -> (BTreeMap<String, u32>, u32) {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        let (kinds, discovery): (BTreeMap<_, _>, BTreeMap<_, _>) =
            asked.into_iter().partition(|(path, _)| path.split('/').count() > 4);
        (discovery, kinds.values().sum())
    }
}

/// Lets `time` pass, whatever the watches tell.
async fn pass(observed: &mut Observed, time: Duration) {
    let end = Instant::now() + time;
    while tokio::time::timeout_at(end, observed.news.recv()).await.is_ok() {}
}

#[tokio::test(start_paused = true)]
async fn kinds_that_are_missing_are_looked_for_together_and_ever_more_seldom() {
    let api = Api::default();
    let mut observed = observe(&api.client(), MISSING.map(Into::into));
    pass(&mut observed, Duration::from_secs(60)).await;
    let (discovery, kinds) = api.asked();
    assert_eq!(kinds, 8, "each version of each, once");
    assert!(discovery.values().all(|looks| (4..=7).contains(looks)), "{discovery:?}");
    pass(&mut observed, HOUR).await;
    let (discovery, kinds) = api.asked();
    assert_eq!(kinds, 0);
    assert_eq!(discovery.len(), 2, "a request for each group: {discovery:?}");
    assert!(discovery.values().all(|looks| (60..=120).contains(looks)), "{discovery:?}");
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_installed_is_watched_within_a_minute_and_its_group_does_not_suffice() {
    let api = Api::default();
    let mut observed = observe(&api.client(), MISSING.map(Into::into));
    // The standard channel, with which there is no TCPRoute.
    api.serve("gateway.networking.k8s.io/v1", "httproutes");
    api.serve("gateway.networking.k8s.io/v1", "grpcroutes");
    api.serve("gateway.networking.k8s.io/v1beta1", "referencegrants");
    pass(&mut observed, HOUR).await;
    let (_, kinds) = api.asked();
    assert!(kinds <= 8 + 4 + 3 * 15, "each once, those found once more, and their watches' turns: {kinds}");
    api.serve("gateway.networking.k8s.io/v1alpha2", "tcproutes");
    let installed = Instant::now();
    loop {
        match observed.news.recv().await {
            Some((Kind::TcpRoute, News::Listed(none))) => break assert!(none.is_empty()),
            Some(_) => {}
            None => panic!("the watches ended"),
        }
    }
    assert!(installed.elapsed() <= MOST, "{:?}", installed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn where_discovery_is_hidden_the_kinds_themselves_are_asked_for_and_no_more_often() {
    let api = Api { hidden: true, ..Api::default() };
    let mut observed = observe(&api.client(), GATEWAY.map(Into::into));
    pass(&mut observed, HOUR).await;
    api.asked();
    pass(&mut observed, HOUR).await;
    let (discovery, kinds) = api.asked();
    // Seven versions of four kinds.
    assert!((60 * 7..=120 * 7).contains(&kinds), "{kinds}");
    assert!(discovery.values().all(|looks| (60..=120).contains(looks)), "{discovery:?}");
    let api = Api { hidden: true, ..Api::default() };
    let mut observed = observe(&api.client(), [Kind::TcpRoute.into()]);
    pass(&mut observed, HOUR).await;
    api.serve("gateway.networking.k8s.io/v1alpha2", "tcproutes");
    let listed = async { while !matches!(observed.news.recv().await, Some((_, News::Listed(_)))) {} };
    tokio::time::timeout(MOST, listed).await.expect("it is watched within a minute");
}

/// A thousand agents must not keep a server down by asking a server that is slow to refuse at the rate it refuses.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_slow_to_refuse_is_asked_no_more_often_than_a_fast_one() {
    for after in [Duration::ZERO, Duration::from_secs(2)] {
        let api = Api { refusal: Some((StatusCode::SERVICE_UNAVAILABLE, after)), ..Api::default() };
        let mut observed = observe(&api.client(), [Kind::TcpRoute.into()]);
        pass(&mut observed, HOUR).await;
        let (_, kinds) = api.asked();
        // Pauses of 2.5 to 5 s, but for the first few.
        assert!((500..=1460).contains(&kinds), "{kinds} requests, each answered after {after:?}");
    }
}
