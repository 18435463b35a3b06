//! The objects all agents of a lab read: ordinary Kubernetes objects, one a file, written whole or not at all; or in the
//! lab's API server.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use serde_json::Value;

use super::ApiServer;

/// The manifests directory and what the lab put into it.
#[derive(Debug)]
pub struct Manifests {
    directory: PathBuf,
    staging: PathBuf,
    objects: Mutex<BTreeMap<String, Value>>,
    server: Option<ApiServer>,
}

impl Manifests {
    pub(super) fn new(run: &Path, server: Option<ApiServer>) -> Self {
        Self { directory: run.join("manifests"), staging: run.join("staging"), objects: Mutex::default(), server }
    }

    /// The API server they are in, if it is not the directory.
    pub(super) fn server(&self) -> Option<&ApiServer> {
        self.server.as_ref()
    }

    /// The directory agents are pointed at.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Creates or replaces an object.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&self, object: Value) -> Result<()> {
        let file = file_of(&object);
        match &self.server {
            Some(server) => server.put(&object)?,
            None => self.write(&file, &serde_saphyr::to_string(&object).context("writing YAML")?)?,
        }
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).insert(file, object);
        Ok(())
    }

    /// Removes an object; harmless when there is none.
    pub fn remove(&self, kind: &str, namespace: &str, name: &str) {
        let file = file_name(kind, namespace, name);
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).remove(&file);
        match &self.server {
            Some(server) => {
                if let Err(problem) = server.remove(kind, namespace, name) {
                    eprintln!("{problem:#}");
                }
            }
            None => _ = fs::remove_file(self.directory.join(file)),
        }
    }

    /// Changes an object in place; harmless when there is none.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn change(&self, kind: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        let object =
            self.objects.lock().unwrap_or_else(PoisonError::into_inner).get(&file_name(kind, namespace, name)).cloned();
        let Some(mut object) = object else { return Ok(()) };
        change(&mut object);
        self.put(object)
    }

    /// Writes a file as it is, for manifests that no serialiser would produce.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::create_dir_all(&self.staging)?;
        let staged = self.staging.join(file);
        fs::write(&staged, text).with_context(|| format!("writing {}", staged.display()))?;
        fs::rename(&staged, self.directory.join(file)).with_context(|| format!("moving {file} into the manifests"))
    }

    /// Removes a file written by [`Manifests::write`].
    pub fn erase(&self, file: &str) {
        let _ = fs::remove_file(self.directory.join(file));
    }

    /// Takes the mesh label off every object that has one: the way out of the mesh for all.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn unlabel_all(&self) -> Result<()> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for mut object in objects.into_values() {
            let Some(labels) = object.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) else { continue };
            if labels.remove(MESH).is_some() {
                self.put(object)?;
            }
        }
        Ok(())
    }
}

/// The label that asks for the mesh.
pub const MESH: &str = "weft.dev/mesh";

fn file_of(object: &Value) -> String {
    let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    file_name(word("/kind"), word("/metadata/namespace"), word("/metadata/name"))
}

fn file_name(kind: &str, namespace: &str, name: &str) -> String {
    format!("{}-{namespace}-{name}.yaml", kind.to_lowercase())
}
