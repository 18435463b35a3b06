//! The real `kubectl` against the double, over TLS and HTTP/2: the one client whose habits everybody has.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use weft_apiserver::{Config, Server};

/// A `kubectl` that believes in one server.
struct Kubectl {
    program: PathBuf,
    home: tempfile::TempDir,
}

impl Kubectl {
    fn of(server: &Server) -> Result<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/kubectl/bin/kubectl");
        if !program.exists() {
            bail!("{} is missing: `cargo xtask setup` installs it", program.display());
        }
        let home = tempfile::tempdir()?;
        std::fs::write(home.path().join("config"), server.kubeconfig())?;
        Ok(Self { program, home })
    }

    /// Runs it with a line of arguments and some input, and returns what it prints.
    async fn run(&self, line: &str, input: &str) -> Result<String> {
        let mut child = Command::new(&self.program)
            .args(line.split_whitespace())
            .env_clear()
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("running {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("kubectl has no input")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            bail!("kubectl {line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: echo, labels: {app: echo}}
spec:
  selector: {app: echo}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec: {containers: [{name: app, image: "app:1"}]}
"#;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.dev}
spec:
  group: example.dev
  names: {kind: Widget, plural: widgets, shortNames: [wd]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer, default: 3}}}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works() -> Result<()> {
    let server = Server::start("127.0.0.1:0".parse()?, Config { tls: true, ..Config::default() }).await?;
    let kubectl = Kubectl::of(&server)?;
    let expect = async |line: &str, input: &str, parts: &[&str]| -> Result<()> {
        let said = kubectl.run(line, input).await?;
        let words: Vec<&str> = said.split_whitespace().collect();
        for part in parts {
            if !said.contains(part) && !words.contains(part) {
                bail!("kubectl {line}: no {part:?} in:\n{said}");
            }
        }
        Ok(())
    };
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    expect("create --validate=false -f -", namespace, &["namespace/shop created"]).await?;
    expect("label namespace shop weft.dev/mesh=enabled", "", &["namespace/shop labeled"]).await?;
    expect("get namespaces -l weft.dev/mesh=enabled", "", &["NAME", "STATUS", "shop", "Active"]).await?;

    // Client-side apply, then the same again changed: a three-way strategic merge.
    let made = ["service/echo created", "deployment.apps/echo created"];
    expect("apply -n shop --validate=false -f -", MANIFESTS, &made).await?;
    let changed = MANIFESTS.replace("port: 80,", "port: 81,");
    expect(
        "apply -n shop --validate=false -f -",
        &changed,
        &["service/echo configured", "deployment.apps/echo unchanged"],
    )
    .await?;
    expect("get service echo -n shop", "", &["ClusterIP", "81/TCP"]).await?;
    let more = changed.replace("targetPort: 8080", "targetPort: 8081");
    expect("apply -n shop --server-side --force-conflicts --validate=false -f -", &more, &["serverside-applied"])
        .await?;
    expect("get service echo -n shop -o jsonpath={.spec.ports[*].targetPort}", "", &["8081"]).await?;
    expect("get service echo -n shop -o yaml --show-managed-fields", "", &["operation: Apply"]).await?;
    expect("annotate service echo -n shop weft.dev/l7=enabled", "", &["annotated"]).await?;
    expect("get deployments -A -o name", "", &["deployment.apps/echo"]).await?;

    expect("create --validate=false -f -", DEFINITION, &["widgets.example.dev created"]).await?;
    expect("wait --for=condition=Established crd/widgets.example.dev --timeout=20s", "", &["condition met"]).await?;
    let widget = "apiVersion: example.dev/v1\nkind: Widget\nmetadata: {name: w}\nspec: {}\n";
    expect("apply -n shop --validate=false -f -", widget, &["widget.example.dev/w created"]).await?;
    expect("get wd -n shop", "", &["SIZE", "w", "3"]).await?;
    expect("api-resources --api-group=example.dev", "", &["widgets", "wd", "Widget"]).await?;

    // Subcommands of their own for these speak Protobuf, which the double does not.
    let review = r#"{"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}}"#;
    expect("create --validate=false -o jsonpath={.status.allowed} -f -", review, &["true"]).await?;
    let request =
        r#"{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["weft"]}}"#;
    let token = "create --raw /api/v1/namespaces/shop/serviceaccounts/default/token -f -";
    expect(token, request, &["expirationTimestamp"]).await?;
    expect("delete namespace shop --timeout=20s", "", &["namespace \"shop\" deleted"]).await?;
    expect("get services -A", "", &[]).await?;
    assert!(server.counts().requests("list", "services") > 0);
    Ok(())
}
