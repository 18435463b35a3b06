//! Requests that are answered and not stored: tokens made and reviewed, access reviewed.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::Answer;
use crate::auth::{Ask, Claims, User, allowed, review};
use crate::engine::{Shared, timestamp};
use crate::json::{at, text};
use crate::kinds::builtin::decode_access_review;
use crate::request::{Query, Target};
use crate::status::ApiError;
use crate::store::key;

/// Groups, plurals and kinds that are answered here.
pub(super) const REVIEWS: &[(&str, &str, &str)] = &[
    ("authentication.k8s.io", "tokenreviews", "TokenReview"),
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
];

/// Whether a target is answered here.
pub(super) fn serves(target: &Target) -> bool {
    let token = target.group.is_empty() && target.plural == "serviceaccounts" && target.subresource == "token";
    let review = REVIEWS.iter().any(|(group, plural, _)| *group == target.group && *plural == target.plural);
    target.version == "v1" && (token || review)
}

pub(super) fn answer_review(
    shared: &Shared,
    user: &User,
    target: &Target,
    query: &Query,
    mut body: Value,
) -> Result<Answer, ApiError> {
    if !body.is_object() {
        return Err(ApiError::bad_request("the object provided is unrecognized: it is no JSON object"));
    }
    if target.subresource == "token" {
        return request_token(shared, target, query, body);
    }
    body["status"] = match target.plural.as_str() {
        "tokenreviews" => {
            let token = text(&body, &["spec", "token"]).unwrap_or_default();
            let audiences = at(&body, &["spec", "audiences"]).and_then(Value::as_array).into_iter().flatten();
            let audiences: Vec<String> = audiences.filter_map(Value::as_str).map(str::to_owned).collect();
            review(shared, token, &audiences)
        }
        "selfsubjectreviews" => {
            let extra = user.extra.clone();
            json!({"userInfo": {"username": user.name, "uid": user.uid, "groups": user.groups, "extra": extra}})
        }
        "selfsubjectaccessreviews" => access(shared, user, &body),
        _ => {
            decode_access_review(&body).map_err(ApiError::bad_request)?;
            let groups = at(&body, &["spec", "groups"]).and_then(Value::as_array).into_iter().flatten();
            let asked = User {
                name: text(&body, &["spec", "user"]).unwrap_or_default().to_owned(),
                groups: groups.filter_map(Value::as_str).map(str::to_owned).collect(),
                ..User::default()
            };
            access(shared, &asked, &body)
        }
    };
    body["metadata"] = json!({});
    Ok(Answer::value(201, &body))
}

fn access(shared: &Shared, user: &User, body: &Value) -> Value {
    let part = |name: &str| text(body, &["spec", "resourceAttributes", name]).unwrap_or_default();
    let sub = part("subresource");
    let resource = if sub.is_empty() { part("resource").to_owned() } else { format!("{}/{sub}", part("resource")) };
    let ask = Ask {
        verb: part("verb"),
        group: part("group"),
        resource: &resource,
        namespace: part("namespace"),
        name: part("name"),
    };
    json!({"allowed": allowed(shared, user, &ask)})
}

/// `POST …/serviceaccounts/NAME/token`.
fn request_token(shared: &Shared, target: &Target, query: &Query, mut body: Value) -> Result<Answer, ApiError> {
    let missing = |plural: &str, name: &str| {
        let details = json!({"name": name, "kind": plural});
        ApiError::new(404, "NotFound", format!("{plural} \"{name}\" not found"), Some(details))
    };
    let seconds = at(&body, &["spec", "expirationSeconds"]).and_then(Value::as_i64).unwrap_or(3600);
    let wrong = match seconds {
        ..600 => Some("may not specify a duration less than 10 minutes"),
        4_294_967_297.. => Some("may not specify a duration larger than 2^32 seconds"),
        _ => None,
    };
    if let Some(wrong) = wrong {
        let why = format!("spec.expirationSeconds: Invalid value: {seconds}: {wrong}");
        let message = format!("TokenRequest.authentication.k8s.io \"\" is invalid: {why}");
        return Err(ApiError::new(422, "Invalid", message, None));
    }
    let store = shared.store();
    let account = store.get("serviceaccounts", &key(&target.namespace, &target.name));
    let account = account.ok_or_else(|| missing("serviceaccounts", &target.name))?.value();
    let uid = |value: &Value| text(value, &["metadata", "uid"]).unwrap_or_default().to_owned();
    let (mut pod, mut node) = (None, None);
    if let Some(bound) = text(&body, &["spec", "boundObjectRef", "name"]) {
        if text(&body, &["spec", "boundObjectRef", "kind"]) != Some("Pod") {
            return Err(ApiError::bad_request("cannot bind token to an object that is no Pod"));
        }
        let found = store.get("pods", &key(&target.namespace, bound)).ok_or_else(|| missing("pods", bound))?.value();
        if text(&found, &["spec", "serviceAccountName"]) != Some(target.name.as_str()) {
            let why = format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                target.name
            );
            return Err(ApiError::bad_request(why));
        }
        if let Some(wanted) = text(&body, &["spec", "boundObjectRef", "uid"]).filter(|wanted| **wanted != uid(&found)) {
            let why = format!("the UID in the bound object reference ({wanted}) does not match the UID in record.");
            return Err(ApiError::new(409, "Conflict", why, None));
        }
        node = text(&found, &["spec", "nodeName"]).filter(|name| !name.is_empty()).map(|name| {
            let uid = store.get("nodes", name).map(|node| uid(&node.value())).unwrap_or_default();
            (name.to_owned(), uid)
        });
        pod = Some((bound.to_owned(), uid(&found)));
    }
    drop(store);
    let audiences = at(&body, &["spec", "audiences"]).and_then(Value::as_array).into_iter().flatten();
    let mut audiences: Vec<String> = audiences.filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(crate::auth::ISSUER.to_owned());
    }
    let now = OffsetDateTime::now_utc();
    let end = now + Duration::seconds(seconds);
    let claims = Claims {
        audiences: audiences.clone(),
        id: uuid::Uuid::new_v4().to_string(),
        namespace: target.namespace.clone(),
        account: (target.name.clone(), uid(&account)),
        pod,
        node,
        expires: end.unix_timestamp(),
    };
    let token = shared.tokens.sign(&claims).ok_or_else(|| ApiError::internal("cannot sign a token"))?;
    if !body["spec"].is_object() {
        body["spec"] = json!({});
    }
    body["spec"]["audiences"] = audiences.into();
    body["spec"]["expirationSeconds"] = seconds.into();
    body["kind"] = "TokenRequest".into();
    body["apiVersion"] = "authentication.k8s.io/v1".into();
    body["metadata"] = json!({
        "name": target.name, "namespace": target.namespace, "uid": uid(&account), "creationTimestamp": timestamp(now),
    });
    let shown = if query.text("dryRun") == "All" { "fake token" } else { &token };
    body["status"] = json!({"token": shown, "expirationTimestamp": timestamp(end)});
    Ok(Answer::value(201, &body))
}
