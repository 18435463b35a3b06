//! Whether a cluster fits the mesh before it is installed, and whether an installation is well: findings, each that is not
//! well with its remedy. It only asks; what a node's kernel lacks beyond its version, `weft check --host` says there.

mod after;
mod agents;
mod before;
pub mod kernel;
mod marks;
mod nodes;
mod said;
mod verdicts;

#[cfg(test)]
mod tests;

use std::fmt;

use kube::Client;
use serde::Serialize;
use serde_json::Value;

use super::InstallError;
use super::api::Api;

/// How something stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Well,
    /// The mesh works, but somebody should know.
    Remark,
    /// The mesh does not work so.
    Wrong,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How it stands.
    pub grade: Grade,
    /// What was seen.
    pub what: String,
    /// What to do about it, unless it is well.
    pub remedy: String,
}

impl Finding {
    /// Something that is as it should be.
    pub fn well(what: impl Into<String>) -> Self {
        Self { grade: Grade::Well, what: what.into(), remedy: String::new() }
    }

    /// Something somebody should know, and what can be done about it.
    pub fn remark(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { grade: Grade::Remark, what: what.into(), remedy: remedy.into() }
    }

    /// Something that does not work so, and what to do about it.
    pub fn wrong(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { grade: Grade::Wrong, what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.grade {
            Grade::Well => "ok    ",
            Grade::Remark => "note  ",
            Grade::Wrong => "FAILED",
        };
        write!(f, "{mark}  {}", self.what)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "\n        {}", self.remedy) }
    }
}

/// Whether the mesh can be installed in a cluster.
///
/// # Errors
/// When the API server does not answer what everybody may ask.
pub async fn before(client: &Client) -> Result<Vec<Finding>, InstallError> {
    before::findings(&Api(client)).await
}

/// Whether the mesh that is installed in this namespace of a cluster is well.
///
/// # Errors
/// When the API server does not answer.
pub async fn after(client: &Client, namespace: &str) -> Result<Vec<Finding>, InstallError> {
    after::findings(&Api(client), namespace).await
}

/// The items of a list.
async fn all(api: &Api<'_>, path: &str) -> Result<Vec<Value>, InstallError> {
    let mut items = Vec::new();
    api.each(path, |item| items.push(item)).await?;
    Ok(items)
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// A few of many names.
pub(crate) fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{} and {more} more", names[..SHOWN].join(", ")),
        _ => names.join(", "),
    }
}
