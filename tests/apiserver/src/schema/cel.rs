//! `x-kubernetes-validations`: rules in CEL, evaluated by the `cel` crate.
//!
//! What that crate lacks of Kubernetes' libraries (quantities, URLs, addresses, formats) is refused when the definition is
//! written or reported as a failed rule: a rule is never passed because it could not be understood.

use cel::objects::{Key, Map};
use cel::{Context, Env, Program, Value as Cel};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::{below, list, property};
use crate::status::FieldError;

/// Complaints of all rules of a schema about a value, and about what it was before, if it was.
pub(crate) fn rules(schema: &Value, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    descend(schema, value, old, "", &mut errors);
    errors
}

/// Compiles a rule; the complaint is one line.
pub(crate) fn compile(rule: &str) -> Result<Program, String> {
    environment().compile(rule).map_err(|problem| problem.to_string().lines().collect::<Vec<_>>().join(" "))
}

fn environment() -> &'static Arc<Env> {
    static ENVIRONMENT: OnceLock<Arc<Env>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut env = Env::stdlib();
        // They are declared once, so nothing can be declared twice.
        let _ = env.add_extension(cel::extensions::strings);
        let _ = env.add_extension(cel::extensions::lists);
        Arc::new(env)
    })
}

fn descend(schema: &Value, value: &Value, old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    for rule in list(schema, "x-kubernetes-validations") {
        errors.extend(judge(rule, value, old, path));
    }
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                if let Some(schema) = property(schema, name) {
                    let old = old.and_then(|old| old.get(name));
                    descend(schema, inner, old, &below(path, name), errors);
                }
            }
        }
        Value::Array(items) => {
            let Some(inner) = schema.get("items") else { return };
            let keys: Vec<&str> = list(schema, "x-kubernetes-list-map-keys").iter().filter_map(Value::as_str).collect();
            for (index, item) in items.iter().enumerate() {
                // Only items of list maps are the same item as before.
                let same = |other: &&Value| keys.iter().all(|key| other.get(key) == item.get(key));
                let before = old.and_then(Value::as_array).filter(|_| !keys.is_empty());
                let before = before.and_then(|before| before.iter().find(same));
                descend(inner, item, before, &format!("{path}[{index}]"), errors);
            }
        }
        _ => (),
    }
}

fn judge(rule: &Value, value: &Value, old: Option<&Value>, path: &str) -> Option<FieldError> {
    let said = |name: &str| rule.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let text = said("rule")?;
    if old.is_none() && text.contains("oldSelf") {
        return None;
    }
    let field = match said("fieldPath") {
        Some(inner) => format!("{path}{}", if path.is_empty() { inner.trim_start_matches('.') } else { inner }),
        None => path.to_owned(),
    };
    let why = match evaluate(text, value, old) {
        Ok(Cel::Bool(true)) => return None,
        Ok(Cel::Bool(false)) => {
            let computed = said("messageExpression").and_then(|text| match evaluate(text, value, old) {
                Ok(Cel::String(message)) if !message.is_empty() => Some(message.to_string()),
                _ => None,
            });
            let fixed = || said("message").map_or_else(|| format!("failed rule: {text}"), str::to_owned);
            computed.unwrap_or_else(fixed)
        }
        Ok(_) => format!("failed rule: {text}: it is no boolean"),
        Err(problem) => format!("failed rule: {text}: {problem}"),
    };
    let mut error = FieldError::broken_rule(&field, &why);
    match said("reason") {
        Some("FieldValueForbidden") => {
            (error.reason, error.message) = ("FieldValueForbidden", format!("Forbidden: {why}"))
        }
        Some("FieldValueRequired") => error = FieldError::required(&field, &why),
        _ => (),
    }
    Some(error)
}

fn evaluate(text: &str, value: &Value, old: Option<&Value>) -> Result<Cel, String> {
    let program = compile(text)?;
    let mut context = Context::with_env(environment().clone());
    context.add_variable_from_value("self", to_cel(value));
    if let Some(old) = old {
        context.add_variable_from_value("oldSelf", to_cel(old));
    }
    program.execute(&context).map_err(|problem| problem.to_string())
}

/// Whole numbers become `int`, as a schema's integers are; names that are no CEL identifiers are escaped as Kubernetes does.
fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Number(number) => {
            number.as_i64().map(Cel::Int).unwrap_or_else(|| Cel::Float(number.as_f64().unwrap_or_default()))
        }
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(map) => {
            let entries = map.iter().flat_map(|(name, value)| {
                let value = to_cel(value);
                let escaped = escape(name);
                let plain = (Key::String(Arc::new(name.clone())), value.clone());
                let also = (escaped != *name).then(|| (Key::String(Arc::new(escaped)), value));
                std::iter::once(plain).chain(also)
            });
            Cel::Map(Map { map: Arc::new(entries.collect::<HashMap<_, _>>()) })
        }
    }
}

/// `my-field` is `my__dash__field` in rules.
fn escape(name: &str) -> String {
    const KEYWORDS: [&str; 19] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
    ];
    if KEYWORDS.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn complaints(rule: Value, value: Value, old: Option<Value>) -> Vec<String> {
        let schema = json!({"type": "object", "x-kubernetes-validations": [rule]});
        rules(&schema, &value, old.as_ref()).into_iter().map(|error| error.message).collect()
    }

    #[test]
    fn rules_speak_of_self_and_of_what_it_was() {
        let rule = json!({"rule": "self.size < 10 || self.mode == 'manual'", "message": "large needs manual"});
        assert!(complaints(rule.clone(), json!({"size": 2, "mode": "auto"}), None).is_empty());
        let refused = complaints(rule, json!({"size": 20, "mode": "auto"}), None);
        assert_eq!(refused, ["Invalid value: large needs manual"]);
        let rule = json!({"rule": "self.size >= oldSelf.size", "messageExpression": "'was ' + string(oldSelf.size)"});
        assert!(complaints(rule.clone(), json!({"size": 1}), None).is_empty(), "there is no transition on creation");
        assert_eq!(complaints(rule, json!({"size": 1}), Some(json!({"size": 2}))), ["Invalid value: was 2"]);
    }

    #[test]
    fn macros_lists_and_strings_are_there() {
        let value = json!({"names": ["a", "b"], "my-port": 80});
        for rule in [
            "has(self.names) && !has(self.other)",
            "self.names.all(n, n.matches('^[a-z]$'))",
            "self.names.exists_one(n, n == 'a') && size(self.names) == 2",
            "self.my__dash__port == 80",
            "self.names.join('-').startsWith('a-')",
            "'b' in self.names",
        ] {
            assert!(complaints(json!({"rule": rule}), value.clone(), None).is_empty(), "{rule}");
        }
    }

    #[test]
    fn a_rule_that_fails_to_run_refuses() {
        assert!(compile("self.size <").is_err());
        assert_eq!(complaints(json!({"rule": "self.missing > 1"}), json!({}), None).len(), 1);
    }
}
