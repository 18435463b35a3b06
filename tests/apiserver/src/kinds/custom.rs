//! Custom kinds: what a CustomResourceDefinition makes the server serve.

use std::sync::Arc;

use serde_json::Value;

use super::{Generation, Resource, Shape};
use crate::json::{at, text};

/// One version of a custom kind.
pub(crate) struct Custom {
    /// Its structural schema.
    pub(crate) schema: Value,
    /// `additionalPrinterColumns`, as written.
    pub(crate) columns: Vec<Value>,
    /// Paths without the leading dot that field selectors may name.
    pub(crate) selectable: Vec<String>,
}

/// The resources a definition serves, one for each served version.
pub(crate) fn resources_of(definition: &Value) -> Vec<Resource> {
    let part = |path: &[&str]| text(definition, path).unwrap_or_default().to_owned();
    let strings = |path: &[&str]| -> Vec<String> {
        let list = at(definition, path).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let versions = at(definition, &["spec", "versions"]).and_then(Value::as_array).into_iter().flatten();
    let served = versions.filter(|version| version.get("served") == Some(&Value::Bool(true)));
    served
        .map(|version| {
            let status = at(version, &["subresources", "status"]).is_some();
            let list = |field: &str| version.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
            let fields = list("selectableFields");
            let paths = fields.iter().filter_map(|field| text(field, &["jsonPath"]));
            Resource {
                group: part(&["spec", "group"]),
                version: text(version, &["name"]).unwrap_or_default().to_owned(),
                plural: part(&["spec", "names", "plural"]),
                singular: part(&["spec", "names", "singular"]),
                kind: part(&["spec", "names", "kind"]),
                list_kind: part(&["spec", "names", "listKind"]),
                namespaced: part(&["spec", "scope"]) == "Namespaced",
                status,
                short_names: strings(&["spec", "names", "shortNames"]),
                categories: strings(&["spec", "names", "categories"]),
                generation: Generation::Body,
                shape: Shape::Custom(Arc::new(Custom {
                    schema: at(version, &["schema", "openAPIV3Schema"]).cloned().unwrap_or_default(),
                    columns: list("additionalPrinterColumns"),
                    selectable: paths.map(|path| path.trim_start_matches('.').to_owned()).collect(),
                })),
            }
        })
        .collect()
}
