//! The `metadata` of objects as they are read from the API server: what is used of it, and nothing else copied. Labels and
//! annotations are most of what many objects say.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::read::INITIAL_EVENTS_END;
use crate::resource::endpoint_slice::SERVICE_LABEL;

/// The part of `metadata` that is used.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) labels: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "used")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<Owner>>,
}

/// Whether an annotation is one the mesh reads. Others can be most of an object: what was applied last, whole.
fn is_used(key: &str) -> bool {
    ["weft.dev/", "service.kubernetes.io/topology-"].iter().any(|prefix| key.starts_with(prefix))
        || key == INITIAL_EVENTS_END
}

fn used<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    deserializer.deserialize_any(Chosen(is_used))
}

/// Labels of objects that nothing selects: of an EndpointSlice, whose are most of what a big cluster tells, only the one
/// that names its Service.
fn of_service<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    deserializer.deserialize_any(Chosen(|key| key == SERVICE_LABEL))
}

/// Those of a map's strings whose keys are chosen; the others are never copied.
struct Chosen(fn(&str) -> bool);

impl<'de> Visitor<'de> for Chosen {
    type Value = Option<BTreeMap<String, String>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of strings")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut chosen = BTreeMap::new();
        while let Some(key) = map.next_key_seed(ChosenKey(self.0))? {
            match key {
                Some(key) => _ = chosen.insert(key, map.next_value()?),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Some(chosen))
    }
}

/// A key, if it is chosen.
struct ChosenKey(fn(&str) -> bool);

impl<'de> DeserializeSeed<'de> for ChosenKey {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for ChosenKey {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok((self.0)(key).then(|| key.to_owned()))
    }
}

/// Reads a [`Meta`] of an object that nothing selects.
pub(super) fn unselected<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Meta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Unselected {
        name: String,
        namespace: String,
        resource_version: String,
        #[serde(deserialize_with = "of_service")]
        labels: Option<BTreeMap<String, String>>,
        #[serde(deserialize_with = "used")]
        annotations: Option<BTreeMap<String, String>>,
    }
    let Unselected { name, namespace, resource_version, labels, annotations } = Unselected::deserialize(deserializer)?;
    Ok(Meta { name, namespace, resource_version, labels, annotations, ..Meta::default() })
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Owner {
    kind: String,
    name: String,
    controller: Option<bool>,
}

impl Meta {
    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    pub(super) fn whole(self) -> ObjectMeta {
        let owner = |owner: Owner| OwnerReference {
            kind: owner.kind,
            name: owner.name,
            controller: owner.controller,
            ..OwnerReference::default()
        };
        ObjectMeta {
            name: Some(self.name),
            namespace: Some(self.namespace),
            uid: Some(self.uid),
            labels: self.labels,
            annotations: self.annotations,
            owner_references: self.owner_references.map(|owners| owners.into_iter().map(owner).collect()),
            ..ObjectMeta::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_nothing_selects_the_service_s_label_is_read_and_the_mesh_s_annotations() {
        let text = r#"{"name": "e", "namespace": "demo", "resourceVersion": "7",
            "labels": {"app": "echo", "kubernetes.io/service-name": "echo", "a\"b": "c"},
            "annotations": {"weft.dev/fast-path": "disabled", "applied": "{}"}, "managedFields": [{"manager": "m"}]}"#;
        let meta = unselected(&mut serde_json::Deserializer::from_str(text)).unwrap();
        let labels = meta.labels.iter().flatten().map(|(key, value)| (&**key, &**value)).collect::<Vec<_>>();
        assert_eq!(labels, [(SERVICE_LABEL, "echo")]);
        let annotations = meta.annotations.iter().flatten().map(|(key, _)| &**key).collect::<Vec<_>>();
        assert_eq!((&*meta.resource_version, &annotations[..]), ("7", &["weft.dev/fast-path"][..]));
        let bare = unselected(&mut serde_json::Deserializer::from_str(r#"{"labels": null}"#)).unwrap();
        assert_eq!(bare.labels, None);
    }
}
