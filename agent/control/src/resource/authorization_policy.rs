//! `weft.dev AuthorizationPolicy`: the one kind that becomes something even when it is wrong.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use weft_core::model::{
    Action, AuthorizationPolicy, AuthorizationRule, Identity, Match, Name, ObjectName, PeerMatch, PortMatch, Scope,
    Selector,
};

use super::Findings;
use crate::crd;

/// Converts an AuthorizationPolicy. With findings that are errors the result refuses everything it selects.
pub fn convert(object: &crd::AuthorizationPolicy, findings: &mut Findings) -> Option<AuthorizationPolicy> {
    let name = super::object_name(&object.metadata, findings)?;
    let spec = &object.spec;
    let mut rules = Vec::new();
    for (i, rule) in spec.rules.iter().enumerate() {
        rules.push(self::rule(&format!("spec.rules[{i}]"), rule, &name.namespace, findings));
    }
    let selector = super::selector(spec.selector.as_ref());
    if findings.invalid() {
        return Some(refusing(name, selector));
    }
    let action = match spec.action {
        crd::PolicyAction::Allow => Action::Allow,
        crd::PolicyAction::Deny => Action::Deny,
    };
    if action == Action::Deny && rules.is_empty() {
        findings.warning("spec.rules", "is empty: the policy denies nothing");
    }
    Some(AuthorizationPolicy { name, scope: scope(selector), action, audit: spec.audit, rules, valid: true })
}

/// The policy that stands in for one that could not be understood: it refuses every connection to what it selects,
/// all of its namespace if even that is unknown.
#[must_use]
pub fn refusing(name: ObjectName, selector: Selector) -> AuthorizationPolicy {
    let scope = scope(selector);
    AuthorizationPolicy { name, scope, action: Action::Deny, audit: false, rules: Vec::new(), valid: false }
}

fn scope(selector: Selector) -> Scope {
    if selector.is_empty() { Scope::Namespace } else { Scope::Workloads(selector) }
}

fn rule(path: &str, rule: &crd::PolicyRule, namespace: &Name, findings: &mut Findings) -> AuthorizationRule {
    let mut from = Vec::new();
    for (i, clause) in present(&format!("{path}.from"), rule.from.as_deref(), findings).iter().enumerate() {
        from.push(peer(&format!("{path}.from[{i}]"), clause, namespace, findings));
    }
    let mut to = Vec::new();
    for (i, clause) in present(&format!("{path}.to"), rule.to.as_deref(), findings).iter().enumerate() {
        let path = format!("{path}.to[{i}]");
        if *clause == crd::PolicyPorts::default() {
            findings.error(&path, "is empty and would match every port: leave `to` out to say so");
        }
        let any = numbers(&format!("{path}.ports"), clause.ports.as_deref(), findings);
        let none = numbers(&format!("{path}.notPorts"), clause.not_ports.as_deref(), findings);
        to.push(PortMatch { ports: Match { any, none } });
    }
    AuthorizationRule { from, to }
}

fn peer(path: &str, clause: &crd::PolicyPeer, namespace: &Name, findings: &mut Findings) -> PeerMatch {
    if *clause == crd::PolicyPeer::default() {
        findings.error(path, "is empty and would match every peer: leave `from` out to say so");
    }
    let mut values = Values { path, findings };
    PeerMatch {
        principals: Match {
            any: values.read("principals", clause.principals.as_deref(), Identity::from_str),
            none: values.read("notPrincipals", clause.not_principals.as_deref(), Identity::from_str),
        },
        namespaces: Match {
            any: values.read("namespaces", clause.namespaces.as_deref(), Name::new),
            none: values.read("notNamespaces", clause.not_namespaces.as_deref(), Name::new),
        },
        service_accounts: Match {
            any: values.read("serviceAccounts", clause.service_accounts.as_deref(), |text| account(text, namespace)),
            none: values
                .read("notServiceAccounts", clause.not_service_accounts.as_deref(), |text| account(text, namespace)),
        },
        ip_blocks: Match {
            any: values.read("ipBlocks", clause.ip_blocks.as_deref(), block),
            none: values.read("notIpBlocks", clause.not_ip_blocks.as_deref(), block),
        },
    }
}

/// Reads the lists of one clause.
struct Values<'a> {
    path: &'a str,
    findings: &'a mut Findings,
}

impl Values<'_> {
    fn read<T, E: Display>(
        &mut self,
        field: &str,
        given: Option<&[String]>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let path = format!("{}.{field}", self.path);
        let values = present(&path, given, self.findings).iter().enumerate();
        values.filter_map(|(i, text)| self.findings.keep(format!("{path}[{i}]"), parse(text))).collect()
    }
}

/// A list that is there but empty constrains nothing: what a template leaves behind when its values are missing. It
/// would open the rule to everyone, so it has to be written as what it means.
fn present<'a, T>(path: &str, given: Option<&'a [T]>, findings: &mut Findings) -> &'a [T] {
    if given.is_some_and(<[T]>::is_empty) {
        findings.error(path, "is an empty list and would match anything: leave it out to say so");
    }
    given.unwrap_or_default()
}

fn numbers(path: &str, given: Option<&[u16]>, findings: &mut Findings) -> Vec<u16> {
    let ports = present(path, given, findings);
    for (i, _) in ports.iter().enumerate().filter(|(_, port)| **port == 0) {
        findings.error(format!("{path}[{i}]"), "0 is not a port: use 1 to 65535");
    }
    ports.to_vec()
}

fn account(text: &str, namespace: &Name) -> Result<ObjectName, weft_core::model::NameError> {
    match text.split_once('/') {
        Some((namespace, name)) => ObjectName::new(namespace, name),
        None => Ok(ObjectName { namespace: namespace.clone(), name: Name::new(text)? }),
    }
}

/// An address block; one with bits behind its prefix is a typing error more often than not, so it is one here.
fn block(text: &str) -> Result<IpNet, String> {
    let wrong = || format!("{text:?} is not an address block, such as 10.0.0.0/8, fd00::/8 or 192.0.2.7");
    let block = match text.parse::<IpNet>() {
        Ok(block) => block,
        Err(_) => IpNet::from(text.parse::<IpAddr>().map_err(|_| wrong())?),
    };
    if block != block.trunc() {
        return Err(format!("{text:?} has bits set behind its prefix: did you mean {}?", block.trunc()));
    }
    Ok(block)
}
