//! What the recording does not show: watches and their ends, patches, ownership, faults, authorization, the counters.

mod access;
#[path = "../calls/mod.rs"]
mod calls;
mod objects;
mod watches;

use std::time::Duration;

use calls::Calls;
use http::Method;
use serde_json::{Value, json};
use weft_apiserver::{Config, Rule};

type Tested = anyhow::Result<()>;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
