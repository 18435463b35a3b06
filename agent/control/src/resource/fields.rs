//! Objects of Gateway API read field by field: what cannot be read costs itself and not what stands beside it, and a field
//! that nobody here knows is said.
//!
//! The generated types would refuse a whole route for one value of an enumeration that is newer than they are, and pass
//! over a field they do not have: a condition that is passed over makes its rule one for more requests than were meant.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::Findings;

/// The fields of `raw`, at `path`, that can be read; of lists their elements. The rest are findings. All fields of `T` have to
/// be optional.
pub(super) fn read<T: DeserializeOwned + Serialize + Default>(path: &str, raw: &Value, findings: &mut Findings) -> T {
    let Some(fields) = raw.as_object() else {
        findings.error(path, "is not an object with fields");
        return T::default();
    };
    let mut kept = Map::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let path = format!("{path}.{name}");
        match alone::<T>(name, value) {
            Ok(()) => _ = kept.insert(name.clone(), value.clone()),
            Err(wrong) => match value.as_array() {
                Some(list) => {
                    let elements = elements::<T>(&path, name, list, findings);
                    kept.insert(name.clone(), elements.into());
                }
                None => findings.error(path, wrong),
            },
        }
    }
    let kept = Value::Object(kept);
    let Some(read) = findings.keep(path, T::deserialize(&kept)) else { return T::default() };
    unknown(path, &kept, &read, findings);
    read
}

/// The same for an object that is of use only whole; `None` if anything of it cannot be read.
pub(super) fn whole<T: DeserializeOwned + Serialize>(path: &str, raw: &Value, findings: &mut Findings) -> Option<T> {
    let mut own = Findings::default();
    let read = own.keep(path, T::deserialize(raw));
    read.iter().for_each(|read| unknown(path, raw, read, &mut own));
    let good = !own.invalid();
    findings.append(own);
    read.filter(|_| good)
}

/// Whether a field can be read.
fn alone<T: DeserializeOwned>(name: &str, value: &Value) -> Result<(), serde_json::Error> {
    T::deserialize(&json!({name: value})).map(drop)
}

/// The elements of a list that can be read.
fn elements<T: DeserializeOwned>(path: &str, name: &str, list: &[Value], findings: &mut Findings) -> Vec<Value> {
    let readable = |(index, element): (usize, &Value)| {
        let read = alone::<T>(name, &json!([element]));
        findings.keep(format!("{path}[{index}]"), read).map(|()| element.clone())
    };
    list.iter().enumerate().filter_map(readable).collect()
}

/// Finds fields of `raw` that did not find their way into what was read of it.
pub(super) fn unknown<T: Serialize>(path: &str, raw: &Value, read: &T, findings: &mut Findings) {
    if let Some(known) = findings.keep(path, serde_json::to_value(read)) {
        compare(path, raw, &known, findings);
    }
}

fn compare(path: &str, raw: &Value, known: &Value, findings: &mut Findings) {
    match (raw, known) {
        (Value::Object(raw), Value::Object(known)) => {
            for (name, value) in raw.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match known.get(name) {
                    Some(known) => compare(&path, value, known, findings),
                    None => findings.error(path, "is no field that is known here: is it misspelt, or newer than Weft?"),
                }
            }
        }
        (Value::Array(raw), Value::Array(known)) => {
            for (index, (raw, known)) in raw.iter().zip(known).enumerate() {
                compare(&format!("{path}[{index}]"), raw, known, findings);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_api::apis::experimental::httproutes::{HttpRouteRules, HttpRouteRulesMatches};

    fn read<T: DeserializeOwned + Serialize + Default>(raw: &Value) -> (T, Vec<String>) {
        let mut findings = Findings::default();
        let read = super::read("x", raw, &mut findings);
        (read, findings.into_vec().into_iter().map(|finding| finding.path).collect())
    }

    #[test]
    fn what_cannot_be_read_costs_itself_only() {
        let raw = json!({"path": {"type": "Glob", "value": "/a"}, "method": "GET", "queryParams": null,
            "headers": [{"name": "a", "value": "b"}, {"name": "c", "type": "Semver", "value": "1"}]});
        let (read, wrong) = read::<HttpRouteRulesMatches>(&raw);
        assert_eq!(wrong, ["x.headers[1]", "x.path"]);
        assert!(read.path.is_none() && read.method.is_some());
        assert_eq!(read.headers.unwrap()[0].name, "a");
    }

    #[test]
    fn fields_that_nobody_knows_are_found_at_any_depth() {
        let raw = json!({"timeout": "1s", "backendRefs": [{"name": "a", "port": 1}, {"name": "b", "heft": 2, "port": null}],
            "retry": {"codes": [500], "code": null}});
        let (read, wrong) = read::<HttpRouteRules>(&raw);
        assert_eq!(wrong, ["x.backendRefs[1].heft", "x.timeout"]);
        assert_eq!((read.backend_refs.unwrap().len(), read.retry.unwrap().codes.unwrap().len()), (2, 1));
        assert_eq!(self::read::<HttpRouteRules>(&json!(7)).1, ["x"]);
    }
}
