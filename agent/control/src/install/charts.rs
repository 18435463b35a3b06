//! The chart with other values than its own: every branch of its templates is taken and left out by some of them, and all that
//! comes of it is what the API knows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use super::strict;
use super::tests::{Rig, Tested};

const CHART: &str = "deploy/chart/weft";

/// Values that are set, by a name for each set of them.
const SETS: [(&str, &str); 6] = [
    ("default", ""),
    ("plain", "plain: true"),
    ("istiod", ISTIOD),
    ("embedded authority", "controller: {issuer: false}"),
    ("everything", EVERYTHING),
    ("sparse", SPARSE),
];

const ISTIOD: &str = "
controller: {issuer: false}
certificateAuthority:
  address: istiod.istio-system.svc:15012
  rootConfigMap: istio-ca-root-cert
  rootKey: root-cert.pem
  audience: istio-ca
";

const EVERYTHING: &str = "
image:
  repository: registry.example/weft
  digest: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  pullPolicy: Always
imagePullSecrets: [{name: registry}]
trustDomain: example.org
agent:
  logFormat: text
  logLevel: info,weft::outbound=debug
  unclassified: closed
  fastPath: \"off\"
  drainSeconds: 5
  unenrolGraceSeconds: 1
  workers: 2
  metricsPort: 15021
  extraEnv: [{name: WEFT_REACH_EVERY, value: 30s}]
  resources: {requests: {cpu: 1}, limits: {memory: 1Gi}}
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchExpressions: [{key: example.org/meshed, operator: Exists}]}]
  seLinuxOptions: {type: spc_t}
  podAnnotations: {example.org/note: agents}
  podLabels: {example.org/team: network}
certificateAuthority: {name: weft-controller.weft-system.svc}
controller:
  replicas: 3
  rootSecret: mesh-root
  rootGiven: true
  extraEnv: [{name: WEFT_ROOT_SETTLE, value: 10m}]
  tolerations: [{key: example.org/control, operator: Exists, effect: NoSchedule}]
serviceMonitor: {enabled: true, labels: {release: prometheus}, interval: 15s}
prometheusRule: {enabled: true, labels: {release: prometheus}}
";

const SPARSE: &str = "
agent: {nodeSelector: {kubernetes.io/os: null}, tolerations: []}
controller: {replicas: 1, nodeSelector: {kubernetes.io/os: null}, networkPolicy: {enabled: false}}
serviceMonitor: {enabled: true}
prometheusRule: {enabled: true}
";

/// What is taken whatever the values: a look at the documents of a file of the chart, and at values that are never empty.
const ALWAYS: [&str; 5] = ["splitList", "$object", "$.annotations", "with .Values.image -", "with .Values.agent }"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Has Helm render the chart in a directory.
fn helm(chart: &Path, values: &str) -> Output {
    let program = root().join("target/tools/helm/bin/helm");
    assert!(program.exists(), "{} is missing: `cargo xtask setup` installs it", program.display());
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("values.yaml");
    fs::write(&file, values).unwrap();
    let mut command = Command::new(program);
    command.args(["template", "weft", "--namespace", "elsewhere", "--values"]).arg(&file).arg(chart);
    command.env("HELM_CACHE_HOME", home.path()).env("HELM_CONFIG_HOME", home.path()).output().unwrap()
}

/// What comes of the values.
fn rendered(values: &str) -> Vec<Value> {
    let output = helm(&root().join(CHART), values);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let objects: Vec<Value> = serde_saphyr::from_multiple(&String::from_utf8(output.stdout).unwrap()).unwrap();
    objects.into_iter().filter(|object| !object.is_null()).collect()
}

/// A copy of the chart, its links followed.
fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copied(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// Where a template goes one way or the other: behind each `if`, `with`, `range` and `else`.
fn branches(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices("{{") {
        let action = text[start + 2..].trim_start_matches('-').trim_start();
        let opens = ["if ", "with ", "range ", "else"].iter().any(|word| action.starts_with(word));
        if let (true, Some(length)) = (opens, text[start..].find("}}")) {
            found.push(start + length + 2);
        }
    }
    found
}

#[test]
fn whatever_the_chart_renders_is_what_the_api_knows_wholly() {
    for (name, values) in SETS {
        let objects = rendered(values);
        assert!(objects.len() > 15, "{name}: {} objects", objects.len());
        for object in &objects {
            let which = format!("{name}: {} {}", object["kind"], object["metadata"]["name"]);
            assert_eq!(strict::problems(object), Vec::<String>::new(), "{which}");
            let namespace = object["metadata"]["namespace"].as_str();
            assert!(namespace.is_none_or(|namespace| namespace == "elsewhere"), "{which} is in {namespace:?}");
        }
    }
}

/// What types do not say (names, selectors that do not fit their template, probes of ports that are not there) a server does.
#[tokio::test]
async fn whatever_the_chart_renders_is_taken_by_the_api_server() -> Tested {
    for (name, values) in SETS {
        let rig = Rig::start().await?;
        let space = serde_json::json!({"metadata": {"name": "elsewhere"}});
        rig.send("POST", "/api/v1/namespaces", space).await?;
        for object in rendered(values) {
            // Kinds of the Prometheus operator, which the double does not have.
            let Ok(known) = super::Object::new(object.clone()) else {
                assert_eq!(object["apiVersion"], "monitoring.coreos.com/v1", "{name}: {object}");
                continue;
            };
            let path = format!("{}?fieldManager=helm&fieldValidation=Strict", known.path());
            let (status, said) = rig.send("PATCH", &path, object).await?;
            assert!(status < 300, "{name}: {known}: {status} {said}");
        }
    }
    Ok(())
}

#[test]
fn every_branch_of_the_chart_is_taken_and_left_out() {
    let place = tempfile::tempdir().unwrap();
    copied(&root().join(CHART), place.path());
    let templates = fs::read_dir(place.path().join("templates")).unwrap();
    for file in templates.map(|entry| entry.unwrap().path()).filter(|file| !file.ends_with("NOTES.txt")) {
        let text = fs::read_to_string(&file).unwrap();
        for at in branches(&text) {
            let (before, after) = text.split_at(at);
            fs::write(&file, format!("{before}{{{{ fail \"taken\" }}}}{after}")).unwrap();
            let is_taken = |(_, values): &(&str, &str)| !helm(place.path(), values).status.success();
            let line = format!("{}:{}", file.display(), before.lines().count());
            assert!(SETS.iter().any(is_taken), "no values lead to what stands behind {line}");
            let always = ALWAYS.iter().any(|part| before.lines().last().is_some_and(|line| line.contains(part)));
            assert!(always || SETS.iter().any(|set| !is_taken(set)), "all values lead to what stands behind {line}");
        }
        fs::write(&file, text).unwrap();
    }
}
