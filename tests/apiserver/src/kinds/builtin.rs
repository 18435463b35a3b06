//! The built-in kinds: their types, and what their registries do that types do not say.
//!
//! Kinds are served whether or not a controller would act on them: nothing here makes ReplicaSets of Deployments.

use k8s_openapi::api::{apps, authorization, batch, coordination, core, discovery, events, networking, policy, rbac};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::{ListableResource, Resource as Typed};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Generation, Resource, Shape, defaults, pod, validate};
use crate::status::FieldError;

/// One kind of the Kubernetes API.
pub(crate) struct Builtin {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    list_kind: &'static str,
    namespaced: bool,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    status: bool,
    generation: Generation,
    /// Whether a created object keeps the status it came with.
    pub(crate) keeps_status: bool,
    /// Whether a deletion answers with the object, not with a `Status`.
    pub(crate) returns_deleted: bool,
    /// Field selectors beside name and namespace.
    pub(crate) fields: &'static [&'static str],
    /// The body as its type knows it: unknown fields are gone, required ones are there.
    pub(crate) decode: fn(&Value) -> Result<Value, String>,
    /// Fills in what was left out.
    pub(crate) default: fn(&mut Value),
    /// Fills in the status of a new object.
    pub(crate) first_status: fn(&Value) -> Option<Value>,
    /// What is wrong with the object.
    pub(crate) validate: fn(&Value) -> Vec<FieldError>,
    /// A value of the type with nothing set.
    pub(crate) empty: fn() -> Value,
}

impl Builtin {
    const fn of<T: Typed + ListableResource + Serialize + DeserializeOwned>(namespaced: bool) -> Self {
        Self {
            group: T::GROUP,
            version: T::VERSION,
            plural: T::URL_PATH_SEGMENT,
            singular: "",
            kind: T::KIND,
            list_kind: T::LIST_KIND,
            namespaced,
            short: &[],
            categories: &[],
            status: false,
            generation: Generation::Never,
            keeps_status: false,
            returns_deleted: false,
            fields: &[],
            decode: decode::<T>,
            default: |_| (),
            first_status: |_| None,
            validate: |_| Vec::new(),
            empty: || json!({}),
        }
    }

    /// With spec, status and a generation that counts changes of the spec.
    const fn workload<T: Typed + ListableResource + Serialize + DeserializeOwned>(namespaced: bool) -> Self {
        Self {
            status: true,
            generation: Generation::Spec,
            first_status: |_| Some(json!({})),
            empty: || json!({"spec": {}, "status": {}}),
            ..Self::of::<T>(namespaced)
        }
    }

    pub(crate) fn resource(&'static self) -> Resource {
        let singular = if self.singular.is_empty() { self.kind.to_lowercase() } else { self.singular.to_owned() };
        let owned = |list: &[&str]| list.iter().map(|&item| item.to_owned()).collect();
        Resource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            plural: self.plural.to_owned(),
            singular,
            kind: self.kind.to_owned(),
            list_kind: self.list_kind.to_owned(),
            namespaced: self.namespaced,
            status: self.status,
            short_names: owned(self.short),
            categories: owned(self.categories),
            generation: self.generation,
            shape: Shape::Builtin(self),
        }
    }
}

fn decode<T: Serialize + DeserializeOwned>(body: &Value) -> Result<Value, String> {
    let typed: T = T::deserialize(body).map_err(|problem| problem.to_string())?;
    let mut value = serde_json::to_value(&typed).map_err(|problem| problem.to_string())?;
    whole_numbers(&mut value);
    Ok(value)
}

/// Go writes a float that is whole without a fraction.
fn whole_numbers(value: &mut Value) {
    /// Beyond it not every whole number is a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => {
            let float = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() < EXACT);
            if let Some(float) = float {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => (),
    }
}

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];

/// Every built-in kind that is served.
pub(crate) static ALL: &[Builtin] = &[
    Builtin {
        short: &["po"],
        categories: &["all"],
        fields: POD_FIELDS,
        returns_deleted: true,
        default: pod::default,
        first_status: |pod| Some(pod::first_status(pod)),
        validate: validate::pod,
        empty: || json!({"spec": {"containers": null}, "status": {}}),
        ..Builtin::workload::<core::v1::Pod>(true)
    },
    Builtin {
        short: &["svc"],
        categories: &["all"],
        fields: &["spec.clusterIP", "spec.type"],
        generation: Generation::Never,
        returns_deleted: true,
        default: defaults::service,
        first_status: |_| Some(json!({"loadBalancer": {}})),
        validate: validate::service,
        empty: || json!({"spec": {}, "status": {"loadBalancer": {}}}),
        ..Builtin::workload::<core::v1::Service>(true)
    },
    Builtin {
        short: &["ns"],
        fields: &["status.phase"],
        generation: Generation::Never,
        returns_deleted: true,
        default: defaults::namespace,
        first_status: |_| Some(json!({"phase": "Active"})),
        ..Builtin::workload::<core::v1::Namespace>(false)
    },
    Builtin {
        short: &["no"],
        fields: &["spec.unschedulable"],
        generation: Generation::Never,
        keeps_status: true,
        ..Builtin::workload::<core::v1::Node>(false)
    },
    Builtin { short: &["sa"], returns_deleted: true, ..Builtin::of::<core::v1::ServiceAccount>(true) },
    Builtin { short: &["cm"], ..Builtin::of::<core::v1::ConfigMap>(true) },
    Builtin { fields: &["type"], default: defaults::secret, ..Builtin::of::<core::v1::Secret>(true) },
    Builtin { short: &["ep"], singular: "endpoints", ..Builtin::of::<core::v1::Endpoints>(true) },
    Builtin {
        short: &["ev"],
        fields: EVENT_FIELDS,
        empty: || json!({"involvedObject": {}, "source": {}}),
        ..Builtin::of::<core::v1::Event>(true)
    },
    // Stored in the core group's form, whose fields selectors name.
    Builtin { short: &["ev"], fields: EVENT_FIELDS, ..Builtin::of::<events::v1::Event>(true) },
    Builtin { empty: || json!({"spec": {}}), ..Builtin::of::<coordination::v1::Lease>(true) },
    Builtin {
        generation: Generation::Body,
        default: defaults::endpoint_slice,
        validate: validate::endpoint_slice,
        empty: || json!({"addressType": "", "endpoints": null, "ports": null}),
        ..Builtin::of::<discovery::v1::EndpointSlice>(true)
    },
    Builtin {
        short: &["crd", "crds"],
        categories: &["api-extensions"],
        default: defaults::definition,
        first_status: |_| Some(defaults::definition_status()),
        validate: validate::definition,
        ..Builtin::workload::<CustomResourceDefinition>(false)
    },
    Builtin {
        short: &["deploy"],
        categories: &["all"],
        default: defaults::deployment,
        ..Builtin::workload::<apps::v1::Deployment>(true)
    },
    Builtin {
        short: &["ds"],
        categories: &["all"],
        default: defaults::daemon_set,
        ..Builtin::workload::<apps::v1::DaemonSet>(true)
    },
    Builtin {
        short: &["rs"],
        categories: &["all"],
        default: defaults::replicated,
        ..Builtin::workload::<apps::v1::ReplicaSet>(true)
    },
    Builtin {
        short: &["sts"],
        categories: &["all"],
        default: defaults::replicated,
        ..Builtin::workload::<apps::v1::StatefulSet>(true)
    },
    Builtin { categories: &["all"], default: defaults::template, ..Builtin::workload::<batch::v1::Job>(true) },
    Builtin { short: &["pdb"], ..Builtin::workload::<policy::v1::PodDisruptionBudget>(true) },
    Builtin {
        short: &["netpol"],
        generation: Generation::Spec,
        default: defaults::network_policy,
        ..Builtin::of::<networking::v1::NetworkPolicy>(true)
    },
    Builtin { ..Builtin::of::<rbac::v1::Role>(true) },
    Builtin { default: defaults::binding, ..Builtin::of::<rbac::v1::RoleBinding>(true) },
    Builtin { ..Builtin::of::<rbac::v1::ClusterRole>(false) },
    Builtin { default: defaults::binding, ..Builtin::of::<rbac::v1::ClusterRoleBinding>(false) },
];

/// Checks the body of a review, which is answered and never stored.
pub(crate) fn decode_access_review(body: &Value) -> Result<Value, String> {
    decode::<authorization::v1::SubjectAccessReview>(body)
}
