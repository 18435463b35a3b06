//! `baggage`: what a peer says about its workload (W3C Baggage with the keys Istio's ambient mesh uses).
//!
//! Decoration for logs and metrics of peers this mesh does not know better. Nothing here may reach a decision.

use std::fmt::Write as _;

/// The longest header read and the most members in it (W3C Baggage, section 3.3.2 asks for these at least).
pub const BAGGAGE_MAX: usize = 8192;
const MEMBERS_MAX: usize = 64;
/// The longest value kept: Kubernetes names have at most 253 characters.
const VALUE_MAX: usize = 253;

/// What a peer claims about its workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// `k8s.cluster.name`
    pub cluster: Option<String>,
    /// `k8s.namespace.name`
    pub namespace: Option<String>,
    /// `deployment` and its name, from `k8s.deployment.name`; or `pod`, `statefulset`, ...
    pub workload: Option<(String, String)>,
    /// `service.name`
    pub service: Option<String>,
    /// `service.version`
    pub version: Option<String>,
    /// `cloud.region`
    pub region: Option<String>,
    /// `cloud.availability_zone`
    pub zone: Option<String>,
}

/// Why a `baggage` header was ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BaggageError {
    /// It is longer than [`BAGGAGE_MAX`] bytes.
    #[error("the baggage is longer than {BAGGAGE_MAX} bytes")]
    TooLong,
    /// It has more than 64 members.
    #[error("the baggage has more than {MEMBERS_MAX} members")]
    TooMany,
    /// A member is not `key=value`.
    #[error("the baggage is not a list of key=value")]
    Syntax,
    /// A percent escape or what it stands for is not valid UTF-8.
    #[error("the baggage holds a wrong percent escape, a control character or no UTF-8")]
    Encoding,
    /// A known key comes twice: which one would be true?
    #[error("the baggage repeats a key")]
    Repeated,
    /// A known key's value is longer than a Kubernetes name.
    #[error("a baggage value is longer than {VALUE_MAX} bytes")]
    Value,
}

/// Reads the known members; unknown keys and all properties are skipped, empty values are absent.
///
/// # Errors
/// [`BaggageError`]; the caller drops the whole header then.
pub fn parse_baggage(text: &str) -> Result<Claims, BaggageError> {
    if text.len() > BAGGAGE_MAX {
        return Err(BaggageError::TooLong);
    }
    let mut claims = Claims::default();
    if text.trim().is_empty() {
        return Ok(claims);
    }
    for (index, member) in text.split(',').enumerate() {
        if index >= MEMBERS_MAX {
            return Err(BaggageError::TooMany);
        }
        let member = member.split_once(';').map_or(member, |(head, _properties)| head);
        let (key, value) = member.split_once('=').ok_or(BaggageError::Syntax)?;
        claims.set(key.trim(), value.trim())?;
    }
    Ok(claims)
}

/// Writes what [`parse_baggage`] reads.
#[must_use]
pub fn format_baggage(claims: &Claims) -> String {
    let mut text = String::new();
    let workload_key = claims.workload.as_ref().map(|(kind, _)| format!("k8s.{kind}.name"));
    let workload = workload_key.as_deref().zip(claims.workload.as_ref().map(|(_, name)| name));
    let members = [
        ("k8s.cluster.name", claims.cluster.as_ref()),
        ("k8s.namespace.name", claims.namespace.as_ref()),
        (workload.map_or("", |(key, _)| key), workload.map(|(_, name)| name)),
        ("service.name", claims.service.as_ref()),
        ("service.version", claims.version.as_ref()),
        ("cloud.region", claims.region.as_ref()),
        ("cloud.availability_zone", claims.zone.as_ref()),
    ];
    for (key, value) in members.iter().filter_map(|(key, value)| value.map(|value| (key, value))) {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{key}=");
        escape(value, &mut text);
    }
    text
}

impl Claims {
    fn set(&mut self, key: &str, value: &str) -> Result<(), BaggageError> {
        if key.is_empty() || !key.bytes().all(is_token) {
            return Err(BaggageError::Syntax);
        }
        if key == "k8s.cluster.name" || key == "k8s.namespace.name" || !key.starts_with("k8s.") {
            let slot = match key {
                "k8s.cluster.name" => &mut self.cluster,
                "k8s.namespace.name" => &mut self.namespace,
                "service.name" => &mut self.service,
                "service.version" => &mut self.version,
                "cloud.region" => &mut self.region,
                "cloud.availability_zone" => &mut self.zone,
                _ => return Ok(()),
            };
            return fill(slot, decoded(value)?);
        }
        let kind = key.strip_prefix("k8s.").and_then(|rest| rest.strip_suffix(".name"));
        match kind.filter(|kind| !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_lowercase())) {
            Some(kind) => fill(&mut self.workload, decoded(value)?.map(|name| (kind.to_owned(), name))),
            None => Ok(()),
        }
    }
}

fn fill<T>(slot: &mut Option<T>, value: Option<T>) -> Result<(), BaggageError> {
    match (slot.is_some(), value) {
        (_, None) => Ok(()),
        (true, Some(_)) => Err(BaggageError::Repeated),
        (false, some) => {
            *slot = some;
            Ok(())
        }
    }
}

fn decoded(value: &str) -> Result<Option<String>, BaggageError> {
    let mut bytes = Vec::with_capacity(value.len().min(VALUE_MAX));
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' {
            let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or(BaggageError::Encoding);
            u8::try_from(digit()? * 16 + digit()?).map_err(|_| BaggageError::Encoding)?
        } else {
            byte
        };
        if bytes.len() == VALUE_MAX {
            return Err(BaggageError::Value);
        }
        bytes.push(byte);
    }
    let text = String::from_utf8(bytes).map_err(|_| BaggageError::Encoding)?;
    if text.chars().any(char::is_control) {
        return Err(BaggageError::Encoding);
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn escape(value: &str, into: &mut String) {
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\' | b'%' | b'=') {
            into.push(char::from(byte));
        } else {
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
