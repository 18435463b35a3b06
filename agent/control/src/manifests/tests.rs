//! The source on real files: what it sends first, what it sends when files change or break, and what `check` says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use weft_core::model::TrustDomain;
use weft_core::snapshot::{Delta, Key};

use super::*;
use crate::Source;

/// Longer than anything here takes, shorter than a person's patience.
const DEADLINE: Duration = Duration::from_secs(20);

fn namespace(name: &str, mesh: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{weft.dev/mesh: {mesh}}}\n")
}

struct Fixture {
    dir: TempDir,
    source: Source,
}

impl Fixture {
    /// `poll` is far away unless a test is about it: what is seen was reported by the kernel.
    fn start(files: &[(&str, &str)], poll: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let settings = SourceSettings { poll, ..SourceSettings::new(vec![dir.path().to_owned()]) };
        Self { source: follow(settings).unwrap(), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes aside and renames into place, as editors and `kubectl` do.
    fn put(&self, name: &str, text: &str) {
        let beside = self.path(".writing");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path(name)).unwrap();
    }

    async fn batch(&mut self) -> Vec<String> {
        let batch =
            tokio::time::timeout(DEADLINE, self.source.deltas.recv()).await.expect("no batch in time").unwrap().deltas;
        let mut lines: Vec<_> = batch.iter().map(summary).collect();
        lines.sort();
        lines
    }

    async fn problems(&mut self, until: impl Fn(&[Problem]) -> bool) -> Vec<String> {
        let wait = self.source.problems.wait_for(|problems| until(problems));
        let problems = tokio::time::timeout(DEADLINE, wait).await.expect("no problem in time").unwrap();
        problems.iter().map(ToString::to_string).collect()
    }
}

fn summary(delta: &Delta) -> String {
    use weft_core::snapshot::Resource;
    match delta {
        Delta::Put(Resource::Namespace(n)) => format!("+{}={:?}", n.name, n.mesh.unwrap()),
        Delta::Put(Resource::AuthorizationPolicy(p)) => format!("+{} valid={}", p.name, p.valid),
        Delta::Put(other) => format!("+{:?}", other.key()),
        Delta::Remove(Key::Namespace(name)) => format!("-{name}"),
        Delta::Remove(key) => format!("-{key:?}"),
    }
}

const FAR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_whole_first_and_then_what_changes() {
    let mut f = Fixture::start(&[("a.yaml", &namespace("a", "enabled")), ("b.yml", &namespace("b", "enabled"))], FAR);
    assert_eq!(f.batch().await, ["+a=Enabled", "+b=Enabled"]);
    f.put("a.yaml", &namespace("a", "disabled"));
    assert_eq!(f.batch().await, ["+a=Disabled"]);
    f.put("c.json", r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c", "labels": {"weft.dev/mesh": "enabled"}}}"#);
    assert_eq!(f.batch().await, ["+c=Enabled"]);
    fs::remove_file(f.path("b.yml")).unwrap();
    assert_eq!(f.batch().await, ["-b"]);
    // Written in place, without a rename.
    fs::write(f.path("a.yaml"), namespace("a", "enabled")).unwrap();
    assert_eq!(f.batch().await, ["+a=Enabled"]);
    fs::create_dir(f.path("sub")).unwrap();
    fs::write(f.path("sub/d.yaml"), namespace("d", "enabled")).unwrap();
    assert_eq!(f.batch().await, ["+d=Enabled"]);
    fs::write(f.path("sub/d.yaml"), namespace("d", "disabled")).unwrap();
    assert_eq!(f.batch().await, ["+d=Disabled"]);
}

#[tokio::test]
async fn an_empty_directory_sends_an_empty_first_batch() {
    let mut f = Fixture::start(&[], FAR);
    assert_eq!(f.batch().await, [""; 0]);
}

#[tokio::test]
async fn a_file_that_breaks_keeps_its_objects() {
    let two = format!("{}---\n{}", namespace("a", "enabled"), namespace("b", "enabled"));
    let mut f = Fixture::start(&[("a.yaml", &two)], FAR);
    f.batch().await;
    // b's document is unreadable, a's changed and c is new: the valid parts apply, b stays.
    let broken =
        format!("{}---\nkind: Namespace\nmetadata: {{\n---\n{}", namespace("a", "disabled"), namespace("c", "enabled"));
    f.put("a.yaml", &broken);
    assert_eq!(f.batch().await, ["+a=Disabled", "+c=Enabled"]);
    f.problems(|problems| problems.len() == 1).await;
    // Without a broken document in the way, what is gone is gone.
    f.put("a.yaml", &namespace("a", "disabled"));
    assert_eq!(f.batch().await, ["-b", "-c"]);
    f.problems(<[Problem]>::is_empty).await;
}

#[tokio::test]
async fn an_invalid_object_keeps_its_last_good_version_wherever_it_was() {
    let mut f = Fixture::start(&[("a.yaml", &namespace("a", "enabled")), ("z.yaml", &namespace("z", "enabled"))], FAR);
    f.batch().await;
    f.put("a.yaml", &namespace("a", "perhaps"));
    let problems = f.problems(|problems| problems.len() == 1).await;
    assert!(problems[0].contains("a.yaml:5: error: Namespace a: metadata.labels[weft.dev/mesh]"), "{problems:?}");
    assert!(problems[0].ends_with("the last good version stays in force"), "{problems:?}");
    // It moves to another file and is still wrong. Not the other way round: the watcher may look between the two.
    let both = format!("{}---\n{}", namespace("a", "perhaps"), namespace("z", "disabled"));
    fs::write(f.path(".both"), both).unwrap();
    fs::rename(f.path(".both"), f.path("z.yaml")).unwrap();
    fs::remove_file(f.path("a.yaml")).unwrap();
    assert_eq!(f.batch().await, ["+z=Disabled"]);
    f.put("z.yaml", &format!("{}---\n{}", namespace("a", "disabled"), namespace("z", "disabled")));
    assert_eq!(f.batch().await, ["+a=Disabled"]);
}

#[tokio::test]
async fn an_empty_unreadable_or_binary_file_keeps_its_objects() {
    let mut f = Fixture::start(&[("a.yaml", &namespace("a", "enabled"))], FAR);
    f.batch().await;
    for contents in [&b""[..], b"\xff\xff\xff", b"a: [b\n"] {
        fs::write(f.path("a.yaml"), contents).unwrap();
        f.problems(|problems| problems.len() == 1).await;
        // Had anything been dropped, it would come before this.
        f.put("m.yaml", &namespace("m", "enabled"));
        assert_eq!(f.batch().await, ["+m=Enabled"], "{contents:?}");
        f.put("m.yaml", "# nothing\n");
        assert_eq!(f.batch().await, ["-m"], "{contents:?}");
    }
    fs::remove_file(f.path("a.yaml")).unwrap();
    symlink("missing", f.path("a.yaml")).unwrap();
    f.problems(|problems| problems.iter().any(|p| p.reason.contains("cannot be read"))).await;
    fs::remove_file(f.path("a.yaml")).unwrap();
    assert_eq!(f.batch().await, ["-a"]);
}

#[tokio::test]
async fn a_policy_fails_closed_only_where_it_never_was_good() {
    let policy = |name: &str, action: &str| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {{action: {action}}}\n"
        )
    };
    let mut f = Fixture::start(&[("p.yaml", &policy("p", "Permit")), ("q.yaml", &policy("q", "Allow"))], FAR);
    assert_eq!(f.batch().await, ["+default/p valid=false", "+default/q valid=true"]);
    f.put("q.yaml", &policy("q", "Permit"));
    let problems = f.problems(|problems| problems.len() == 2).await;
    assert!(problems[0].contains("refuses every connection"), "{problems:?}");
    assert!(problems[1].contains("last good version"), "{problems:?}");
    f.put("p.yaml", &policy("p", "Deny"));
    assert_eq!(f.batch().await, ["+default/p valid=true"]);
}

#[tokio::test]
async fn of_duplicates_the_first_is_in_force() {
    let mut f = Fixture::start(&[("a.yaml", &namespace("x", "enabled")), ("b.yaml", &namespace("x", "disabled"))], FAR);
    assert_eq!(f.batch().await, ["+x=Enabled"]);
    let problems = f.problems(|problems| problems.len() == 1).await;
    assert!(problems[0].contains("b.yaml:1: error: Namespace x: is already defined at"), "{problems:?}");
    fs::remove_file(f.path("a.yaml")).unwrap();
    assert_eq!(f.batch().await, ["+x=Disabled"]);
}

#[tokio::test]
async fn a_configmap_that_is_swapped_by_its_link_is_one_change() {
    let mut f = Fixture::start(&[], FAR);
    f.batch().await;
    let generation = |name: &str, mesh: &str| {
        fs::create_dir(f.path(name)).unwrap();
        fs::write(f.path(name).join("a.yaml"), namespace("a", mesh)).unwrap();
        fs::write(f.path(name).join("b.yaml"), namespace("b", mesh)).unwrap();
        symlink(name, f.path("..tmp")).unwrap();
        fs::rename(f.path("..tmp"), f.path("..data")).unwrap();
    };
    symlink("..data/a.yaml", f.path("a.yaml")).unwrap();
    symlink("..data/b.yaml", f.path("b.yaml")).unwrap();
    generation("..1", "enabled");
    assert_eq!(f.batch().await, ["+a=Enabled", "+b=Enabled"]);
    let generation = |name: &str, mesh: &str| {
        fs::create_dir(f.path(name)).unwrap();
        fs::write(f.path(name).join("a.yaml"), namespace("a", mesh)).unwrap();
        fs::write(f.path(name).join("b.yaml"), namespace("b", mesh)).unwrap();
        symlink(name, f.path("..tmp")).unwrap();
        fs::rename(f.path("..tmp"), f.path("..data")).unwrap();
    };
    generation("..2", "disabled");
    fs::remove_dir_all(f.path("..1")).unwrap();
    assert_eq!(f.batch().await, ["+a=Disabled", "+b=Disabled"]);
}

#[tokio::test]
async fn a_directory_that_is_gone_keeps_everything_and_one_in_its_place_is_read() {
    let root = tempfile::tempdir().unwrap();
    let (dir, aside) = (root.path().join("m"), root.path().join("aside"));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.yaml"), namespace("a", "enabled")).unwrap();
    let settings = SourceSettings { poll: Duration::from_millis(50), ..SourceSettings::new(vec![dir.clone()]) };
    let mut f = Fixture { source: follow(settings).unwrap(), dir: root };
    f.batch().await;
    fs::rename(&dir, &aside).unwrap();
    f.problems(|problems| problems.len() == 1).await;
    fs::create_dir(f.path("new")).unwrap();
    fs::write(f.path("new/a.yaml"), namespace("a", "disabled")).unwrap();
    fs::rename(f.path("new"), &dir).unwrap();
    assert_eq!(f.batch().await, ["+a=Disabled"]);
    f.problems(<[Problem]>::is_empty).await;
}

#[tokio::test]
async fn the_status_of_other_nodes_comes_from_a_second_directory() {
    let status = tempfile::tempdir().unwrap();
    let manifests = tempfile::tempdir().unwrap();
    let directories = vec![manifests.path().to_owned(), status.path().to_owned()];
    let settings = SourceSettings { poll: FAR, ..SourceSettings::new(directories) };
    let mut f = Fixture { source: follow(settings).unwrap(), dir: manifests };
    f.batch().await;
    let live: BTreeSet<std::sync::Arc<str>> = ["u1".into()].into();
    crate::publish::publish(status.path(), "n1", &live).unwrap();
    assert_eq!(f.batch().await, ["+Liveness(\"n1\")"]);
    fs::remove_file(status.path().join("n1.yaml")).unwrap();
    assert_eq!(f.batch().await, ["-Liveness(\"n1\")"]);
}

#[test]
fn a_missing_directory_is_an_error_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let error = follow(SourceSettings::new(vec![missing.clone()])).unwrap_err().to_string();
    assert!(error.contains(missing.to_str().unwrap()) && error.contains("--manifests"), "{error}");
}

fn trust_domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

fn checked(text: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f.yaml"), text).unwrap();
    let prefix = format!("{}/", dir.path().display());
    check(dir.path(), &trust_domain()).iter().map(|problem| problem.to_string().replace(&prefix, "")).collect()
}

#[test]
fn check_finds_what_does_not_fit_together() {
    let text = include_str!("tests/misfits.yaml");
    let expected: Vec<String> = text
        .lines()
        .enumerate()
        .filter_map(|(i, line)| Some((i + 1, line.split_once("# expect: ")?.1)))
        .map(|(line, words)| format!("f.yaml:{line}: warning: {words}"))
        .collect();
    let found = checked(text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(&expected) {
        assert!(found.starts_with(expected), "\n{found}\nis not\n{expected}");
    }
}

#[test]
fn check_has_nothing_to_say_about_what_fits() {
    assert_eq!(checked(include_str!("tests/fits.yaml")), [""; 0]);
    let dir = tempfile::tempdir().unwrap();
    let missing = check(&dir.path().join("missing"), &trust_domain());
    assert!(missing[0].to_string().contains("cannot be read"));
}
