//! What becomes of a file: lines, broken documents, limits.

use weft_core::model::Scope;

use super::*;

fn problems(text: &str) -> Vec<String> {
    parse(text.as_bytes(), "f.yaml").problems.iter().map(ToString::to_string).collect()
}

fn policy(parsed: &ParsedFile, index: usize) -> &weft_core::model::AuthorizationPolicy {
    match &parsed.objects[index].resource {
        Some(Resource::AuthorizationPolicy(policy)) => policy,
        other => panic!("{other:?}"),
    }
}

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n";

#[test]
fn many_documents_and_a_list() {
    let text = format!(
        "# a comment\n---\n{NAMESPACE}---\n# nothing\n---\napiVersion: apps/v1\nkind: Deployment\nspec: {{}}\n---\n\
         apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ServiceAccount\n  metadata: {{name: a}}\n\
         - apiVersion: v1\n  kind: Namespace\n  metadata: {{name: b, labels: {{weft.dev/mesh: maybe}}}}\n...\n"
    );
    let parsed = parse(text.as_bytes(), "f.yaml");
    let found: Vec<_> = parsed.objects.iter().map(|o| (o.object.to_string(), o.line, o.valid)).collect();
    let expected = [("Namespace shop", 3, true), ("ServiceAccount default/a", 17, true), ("Namespace b", 20, false)];
    assert_eq!(found, expected.map(|(object, line, valid)| (object.to_owned(), line, valid)));
    assert!(parsed.complete);
    assert_eq!(parsed.problems.len(), 1);
    assert_eq!(parsed.problems[0].line, Some(20));
}

#[test]
fn what_kubectl_prints_is_read() {
    let parsed = parse(include_bytes!("tests/printed.yaml"), "f.yaml");
    assert_eq!(parsed.problems, []);
    let found: Vec<_> = parsed.objects.iter().map(|o| o.object.to_string()).collect();
    assert_eq!(found, ["Pod shop/cart-0", "Service shop/cart", "Pod shop/db-0"]);
    let Some(Resource::Workload(pod)) = &parsed.objects[0].resource else { panic!("{parsed:?}") };
    assert_eq!((&*pod.node, &pod.declared_ports[..], &*pod.owner), ("n", &[8080][..], "cart"));
}

#[test]
fn json_too() {
    let text =
        "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Namespace\",\n\t\"metadata\": {\"name\": \"sh\\u006fp\"}\n}\n";
    let parsed = parse(text.as_bytes(), "f.json");
    assert_eq!(parsed.problems, []);
    assert_eq!(parsed.objects[0].object.name, "shop");
}

#[test]
fn a_document_that_is_no_yaml_takes_no_other_with_it() {
    let text = format!(
        "{NAMESPACE}---\napiVersion: v1\nkind: Service\nmetadata: {{name: [\n---\n{}",
        NAMESPACE.replace("shop", "b")
    );
    let parsed = parse(text.as_bytes(), "f.yaml");
    let names: Vec<_> = parsed.objects.iter().map(|o| o.object.name.as_str()).collect();
    assert_eq!(names, ["shop", "b"]);
    assert!(!parsed.complete, "the one between might be anything");
    let line = parsed.problems[0].line.unwrap();
    assert!((6..=9).contains(&line), "{:?}", parsed.problems);
}

#[test]
fn the_line_is_that_of_the_field() {
    let text = format!(
        "{NAMESPACE}---\n\n# a policy\napiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n\
         spec:\n  action: Allow\n  rules:\n  - from:\n    - ipBlocks:\n      - 10.0.0.0/8\n      - 10.0.0.0/99\n"
    );
    let found = problems(&text);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("f.yaml:18: error: AuthorizationPolicy default/p: spec.rules[0].from[0].ipBlocks[1]: "),
        "{found:?}"
    );
}

#[test]
fn types_and_unknown_fields_have_lines_as_well() {
    let text = format!(
        "{NAMESPACE}---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    weft.dev/weight: 90\n---\n\
         apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata:\n  name: p\nspec:\n  mtsl:\n    mode: Strict\n"
    );
    let parsed = parse(text.as_bytes(), "f.yaml");
    let lines: Vec<_> = parsed.problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [Some(11), Some(18)], "{:?}", parsed.problems);
    assert!(parsed.problems[1].reason.contains("mtsl"), "{:?}", parsed.problems);
    assert!(!parsed.problems[0].reason.contains("line"), "the position stands in front: {:?}", parsed.problems);
    assert!(parsed.objects[1..].iter().all(|object| !object.valid && object.resource.is_none()));
    assert!(parsed.complete);
}

#[test]
fn fields_that_would_be_passed_over_are_named() {
    let found = problems("apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  label: {weft.dev/mesh: enabled}\n");
    assert_eq!(found, ["f.yaml:5: warning: Pod default/p: metadata[label]: is no field of metadata"]);
    let head = "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\n";
    let text = format!("{head}metadata:\n  name: p\n  label: {{}}\nspec: {{action: Allow}}\nrules: []\nstatus: {{}}\n");
    let parsed = parse(text.as_bytes(), "f.yaml");
    let found: Vec<_> = parsed.problems.iter().map(|problem| (problem.line, problem.severity)).collect();
    assert_eq!(found, [(Some(5), Severity::Error), (Some(7), Severity::Error)], "{:?}", parsed.problems);
    assert!(!policy(&parsed, 0).valid);
}

#[test]
fn routes_fail_closed_however_they_are_broken() {
    let route = |text: &str| {
        let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\n";
        let parsed = parse(format!("{head}{text}").as_bytes(), "f.yaml");
        let problem = parsed.problems[0].clone();
        let Some(Resource::HttpRoute(route)) = &parsed.objects[0].resource else { panic!("{parsed:?}") };
        let refused = route.rules.iter().map(|rule| rule.unsupported.is_some()).collect::<Vec<_>>();
        (parsed.objects[0].valid, refused, (problem.line.unwrap(), problem.severity))
    };
    let parents = "spec:\n  parentRefs:\n  - {group: '', kind: Service, name: web}\n";
    let rules = "  rules:\n  - matches:\n    - path: {value: /a}\n      header: []\n  - name: well\n";
    assert_eq!(route(&format!("{parents}{rules}")), (true, vec![true, false], (10, Severity::Error)));
    assert_eq!(route(&format!("{parents}  rules: none\n")), (false, vec![true], (7, Severity::Error)));
    let said = route(&format!("{parents}  rules:\n  - name: well\nrule:\n- name: lost\n"));
    assert_eq!(said, (true, vec![false], (9, Severity::Warning)));
}

#[test]
fn numeric_keys_of_ports_need_no_quotes() {
    let text = "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec:\n  portLevelMtls:\n    \
                8080: {mode: Strict}\n";
    assert_eq!(problems(text), [""; 0]);
}

#[test]
fn policies_fail_closed_however_they_are_broken() {
    let head =
        "apiVersion: weft.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: shop\nspec:\n";
    let selector = "  selector:\n    matchLabels: {app: cart}\n";
    // An unknown field: what it selects is still known.
    let parsed = parse(format!("{head}{selector}  action: Allow\n  rule: []\n").as_bytes(), "f.yaml");
    assert!(!policy(&parsed, 0).valid && matches!(policy(&parsed, 0).scope, Scope::Workloads(_)));
    // A selector that cannot be read: all of the namespace.
    let parsed = parse(format!("{head}  selector: cart\n  action: Allow\n").as_bytes(), "f.yaml");
    assert!(!policy(&parsed, 0).valid && policy(&parsed, 0).scope == Scope::Namespace);
    // No YAML at all.
    let parsed = parse(format!("{head}  rules: [\n").as_bytes(), "f.yaml");
    assert_eq!(policy(&parsed, 0).name.to_string(), "shop/p");
    assert!(!policy(&parsed, 0).valid && policy(&parsed, 0).scope == Scope::Namespace);
    assert!(!parsed.complete && parsed.problems.len() == 1);
}

#[test]
fn what_is_no_object_says_so() {
    for (text, part) in [
        ("just text\n", ""),
        ("a: b\n", "no apiVersion and kind"),
        ("apiVersion: v1\nkind: Pod\n", "without a valid metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: Cart}\n", "without a valid metadata.name"),
        (
            "apiVersion: weft.dev/v1alpha1\nkind: AuthorisationPolicy\nmetadata: {name: a}\n",
            "it has AuthorizationPolicy",
        ),
        ("apiVersion: weft.dev/v1\nkind: TrafficPolicy\nmetadata: {name: a}\n", "use v1alpha1"),
        ("apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: a}\n", "use v1alpha2"),
    ] {
        let parsed = parse(text.as_bytes(), "f.yaml");
        assert_eq!(parsed.problems.len(), 1, "{text}");
        assert!(parsed.problems[0].reason.contains(part), "{text}: {:?}", parsed.problems);
        assert!(!parsed.complete, "{text}");
    }
    assert_eq!(
        problems("apiVersion: example.com/v1\nkind: Pod\nmetadata: {name: a}\n"),
        [""; 0],
        "somebody else's Pod"
    );
    assert_eq!(parse(b"", "f.yaml"), ParsedFile { complete: true, ..ParsedFile::default() });
}

#[test]
fn a_missing_name_is_reported_where_it_is_missing() {
    let found = problems("apiVersion: v1\nkind: Namespace\nmetadata:\n  nome: demo\n");
    assert!(found[0].starts_with("f.yaml:4: error: is a Namespace without a valid metadata.name"), "{found:?}");
    for text in ["\0\0\0", "kind: Service\nmetadata: {name: 7}\n", "\t- a: b\n"] {
        let parsed = parse(text.as_bytes(), "f.yaml");
        assert!(parsed.problems.len() == 1 && !parsed.complete, "{text:?}: {parsed:?}");
    }
}

#[test]
fn bombs_and_binaries_are_refused() {
    let mut bomb =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\nx0: &x0 [a, a, a, a, a, a, a, a, a, a]\n".to_owned();
    for i in 1..9 {
        let aliases = vec![format!("*x{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("x{i}: &x{i} [{aliases}]\n"));
    }
    let started = std::time::Instant::now();
    let parsed = parse(bomb.as_bytes(), "f.yaml");
    assert!(parsed.objects.is_empty() && !parsed.complete, "{parsed:?}");
    assert!(started.elapsed() < std::time::Duration::from_secs(5));

    let deep = format!("apiVersion: v1\nkind: Namespace\nx: {}", "[".repeat(10_000));
    assert!(!parse(deep.as_bytes(), "f.yaml").complete);
    assert_eq!(parse(b"a: b\n\xff\xfe", "f.yaml").problems[0].line, Some(2));
    let large = vec![b' '; usize::try_from(MAX_FILE_BYTES).unwrap() + 1];
    assert!(parse(&large, "f.yaml").problems[0].reason.contains("larger than"));
    let many = "---\na\n".repeat(MAX_DOCUMENTS + 5);
    let parsed = parse(many.as_bytes(), "f.yaml");
    assert_eq!(parsed.problems.len(), MAX_DOCUMENTS + 1, "one each, and one for the rest");
    assert!(parsed.problems.last().unwrap().reason.contains("more than"));
}

#[test]
fn documents_are_cut_at_their_markers_only() {
    let cut = |text: &'static str| -> Vec<(&str, usize)> {
        document::split(text, 100).into_iter().map(|d| (d.text, d.first_line)).collect()
    };
    assert_eq!(cut("a\n---\nb\n"), [("a\n", 1), ("---\nb\n", 2)]);
    assert_eq!(cut("---\n---\n# c\n"), []);
    assert_eq!(cut("--- {a: b}\n"), [("--- {a: b}\n", 1)]);
    assert_eq!(cut("a: |\n  ---\n  b\n----\n"), [("a: |\n  ---\n  b\n----\n", 1)]);
    assert_eq!(
        cut("%YAML 1.2\n---\na\n...\n# c\n---\nb\r\n---\r\nc"),
        [("%YAML 1.2\n---\na\n...\n", 1), ("# c\n---\nb\r\n", 5), ("---\r\nc", 8)]
    );
}

mod damaged {
    //! Files as they look after an accident: whatever is left of them is read without a panic, and problems lie in them.

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const WHOLE: [&str; 3] =
        [include_str!("tests/printed.yaml"), include_str!("../tests/fits.yaml"), include_str!("../tests/misfits.yaml")];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn files_are_read_as_far_as_they_go(
            which in 0..WHOLE.len(),
            cut in any::<prop::sample::Index>(),
            edits in vec((any::<prop::sample::Index>(), prop::sample::select(b"\0\t\n :-[]{}&*!|>'\"%#0aZ\xff".to_vec())), 0..6),
        ) {
            let mut bytes = WHOLE[which].as_bytes().to_vec();
            for (at, byte) in &edits {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes.truncate(bytes.len() / 2 + cut.index(bytes.len() / 2) + 1);
            let parsed = parse(&bytes, "f.yaml");
            let lines = bytes.split(|byte| *byte == b'\n').count();
            for problem in &parsed.problems {
                prop_assert!(problem.line.is_some_and(|line| (1..=lines).contains(&line)), "{problem} of {lines}");
            }
            for object in &parsed.objects {
                prop_assert!((1..=lines).contains(&object.line), "{object:?} of {lines}");
                match &object.resource {
                    Some(Resource::AuthorizationPolicy(policy)) => prop_assert_eq!(policy.valid, object.valid),
                    resource => prop_assert!(object.valid || resource.is_none(), "{:?}", object),
                }
            }
            if edits.is_empty() {
                // A file that is only cut short still gives every object that is whole, but for the last.
                let whole = parse(WHOLE[which].as_bytes(), "f.yaml");
                let kept = parsed.objects.len().saturating_sub(1);
                prop_assert_eq!(&parsed.objects[..kept], &whole.objects[..kept]);
            }
        }
    }
}
