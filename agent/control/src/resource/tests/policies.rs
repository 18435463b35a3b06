//! AuthorizationPolicies and PeerAuthentications.

use super::*;

fn policy(spec: &str) -> String {
    format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, spec: {{{spec}}}}}"
    )
}

#[test]
fn authorization_policies() {
    let found = good(
        &policy(
            "selector: {matchLabels: {app: cart}}, action: Deny, audit: true, rules: [{from: [{principals: \
             ['spiffe://cluster.local/ns/a/sa/b'], notNamespaces: [c], serviceAccounts: [d, e/f], ipBlocks: [10.0.0.0/8, \
             'fd00::1']}], to: [{ports: [80], notPorts: [81]}]}]",
        ),
        authorization_policy::convert,
    );
    assert_eq!((found.action, found.audit, found.valid), (Action::Deny, true, true));
    assert!(matches!(&found.scope, Scope::Workloads(selector) if selector.0.len() == 1));
    let from = &found.rules[0].from[0];
    assert_eq!(from.principals.any[0].to_string(), "spiffe://cluster.local/ns/a/sa/b");
    assert_eq!(from.namespaces.none[0].as_str(), "c");
    let accounts: Vec<_> = from.service_accounts.any.iter().map(ToString::to_string).collect();
    assert_eq!(accounts, ["shop/d", "e/f"]);
    let blocks: Vec<_> = from.ip_blocks.any.iter().map(ToString::to_string).collect();
    assert_eq!(blocks, ["10.0.0.0/8", "fd00::1/128"]);
    assert_eq!((&found.rules[0].to[0].ports.any, &found.rules[0].to[0].ports.none), (&vec![80], &vec![81]));

    let nobody = good(&policy("action: Allow"), authorization_policy::convert);
    assert_eq!((nobody.scope, nobody.rules.len()), (Scope::Namespace, 0));
}

#[test]
fn a_wrong_authorization_policy_refuses_what_it_selects() {
    let from =
        |clause: &str| policy(&format!("selector: {{matchLabels: {{app: a}}}}, action: Allow, rules: [{{{clause}}}]"));
    for (clause, path) in [
        ("from: []", "spec.rules[0].from"),
        ("from: [{}]", "spec.rules[0].from[0]"),
        ("from: [{principals: []}]", "spec.rules[0].from[0].principals"),
        ("from: [{principals: [cluster.local/ns/a/sa/b]}]", "spec.rules[0].from[0].principals[0]"),
        ("from: [{namespaces: ['*']}]", "spec.rules[0].from[0].namespaces[0]"),
        ("from: [{serviceAccounts: [a/b/c]}]", "spec.rules[0].from[0].serviceAccounts[0]"),
        ("from: [{ipBlocks: [10.0.0.0/33]}]", "spec.rules[0].from[0].ipBlocks[0]"),
        ("from: [{notIpBlocks: [10.0.0.1/8]}]", "spec.rules[0].from[0].notIpBlocks[0]"),
        ("to: [{}]", "spec.rules[0].to[0]"),
        ("to: [{ports: [80, 0]}]", "spec.rules[0].to[0].ports[1]"),
    ] {
        let (found, errors, _) = convert(&from(clause), authorization_policy::convert);
        assert_eq!(errors, [path], "{clause}");
        let found = found.unwrap();
        assert!(!found.valid && matches!(found.scope, Scope::Workloads(_)), "{clause}");
    }
}

#[test]
fn peer_authentications() {
    let peer = |spec: &str| {
        format!("{{apiVersion: weft.dev/v1alpha1, kind: PeerAuthentication, metadata: {{name: p}}, spec: {{{spec}}}}}")
    };
    let found =
        good(&peer("mtls: {mode: Strict}, portLevelMtls: {'8080': {mode: Permissive}}"), peer_authentication::convert);
    assert_eq!((found.mode, found.ports[&8080]), (Some(MtlsMode::Strict), MtlsMode::Permissive));
    let (_, errors, _) =
        convert(&peer("portLevelMtls: {http: {mode: Strict}, '0': {mode: Strict}}"), peer_authentication::convert);
    assert_eq!(errors, ["spec.portLevelMtls[0]", "spec.portLevelMtls[http]"]);
    let (_, _, warnings) = convert(&peer(""), peer_authentication::convert);
    assert_eq!(warnings, ["spec"]);
}
