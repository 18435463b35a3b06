//! Get and list: the newest state, a state not older than, an exact one, and pages of one.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use serde_json::{Value, json};

use super::{Answer, Call};
use crate::select::{Fields, Labels, Selection};
use crate::status::ApiError;
use crate::store::key;

pub(super) fn get(call: &Call) -> Result<Answer, ApiError> {
    let target = &call.target;
    let found = call.shared.store().get(&call.resource.table(), &key(&target.namespace, &target.name));
    let found = found.ok_or_else(|| ApiError::not_found(&call.resource, &target.name))?;
    Ok(Answer::ok(call.view.stored(&call.resource, &found, &call.query)))
}

/// What a list, watch or deletion of many selects.
pub(super) fn selection(call: &Call) -> Result<Selection, ApiError> {
    let labels = Labels::parse(call.query.text("labelSelector")).map_err(ApiError::bad_request)?;
    let fields = Fields::parse(call.query.text("fieldSelector"), &call.resource).map_err(ApiError::bad_request)?;
    Ok(Selection { labels, fields })
}

/// Keys of the collection start with this.
pub(super) fn prefix(call: &Call) -> String {
    if call.target.namespace.is_empty() { String::new() } else { format!("{}/", call.target.namespace) }
}

/// Waits until a revision is there, for as long as the server is configured to.
pub(super) async fn wait_for(call: &Call, revision: u64) -> Result<(), ApiError> {
    let deadline = tokio::time::Instant::now() + call.shared.config.freshness;
    let mut news = call.shared.store().news(&call.resource.table());
    loop {
        let current = call.shared.store().revision();
        if current >= revision {
            return Ok(());
        }
        if tokio::time::timeout_at(deadline, news.changed()).await.is_err() {
            return Err(ApiError::too_large(revision, call.shared.store().revision()));
        }
    }
}

pub(super) async fn list(call: &Call) -> Result<Answer, ApiError> {
    let selection = selection(call)?;
    let limit = usize::try_from(call.query.number("limit")?).unwrap_or(usize::MAX);
    check_options(call)?;
    let (revision, start) = position(call, limit).await?;
    let table = call.resource.table();
    let prefix = prefix(call);
    let store = call.shared.store();
    if revision.is_some_and(|revision| !store.readable(&table, revision)) {
        return Err(expired(call, &start, &prefix));
    }
    let revision = revision.unwrap_or_else(|| store.revision());
    let page = store.page(&table, &prefix, &start, limit, revision, |object| selection.matches(object));
    drop(store);
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if page.next.is_some()
        && let Some(last) = page.objects.last()
    {
        metadata["continue"] =
            token(i64::try_from(revision).unwrap_or(-1), &format!("{}\0", last.key()), &prefix).into();
        if selection.is_everything() {
            metadata["remainingItemCount"] = page.remaining.into();
        }
    }
    Ok(Answer::ok(call.view.list(&call.resource, &page.objects, metadata, &call.query)))
}

fn check_options(call: &Call) -> Result<(), ApiError> {
    let query = &call.query;
    let refuse = |field: &str, why: &str| {
        let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: Forbidden: {why}");
        let cause = json!({"reason": "FieldValueForbidden", "message": format!("Forbidden: {why}"), "field": field});
        let details = json!({"group": "meta.k8s.io", "kind": "ListOptions", "causes": [cause]});
        Err(ApiError::new(422, "Invalid", message, Some(details)))
    };
    let matching = query.text("resourceVersionMatch");
    if query.has("sendInitialEvents") {
        return refuse("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    if matching.is_empty() {
        return Ok(());
    }
    if !query.text("continue").is_empty() {
        return refuse("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
    }
    match (matching, query.text("resourceVersion")) {
        (_, "") => {
            refuse("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided")
        }
        ("Exact", "0") => {
            refuse("resourceVersionMatch", "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"")
        }
        ("Exact" | "NotOlderThan", _) => Ok(()),
        _ => refuse("resourceVersionMatch", "supported values: \"Exact\", \"NotOlderThan\""),
    }
}

/// The revision to read (the newest if none) and the key to start from.
async fn position(call: &Call, limit: usize) -> Result<(Option<u64>, String), ApiError> {
    let query = &call.query;
    let prefix = prefix(call);
    let asked = query.number("resourceVersion")?;
    if !query.text("continue").is_empty() {
        if asked > 0 {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        let (revision, start) = read_token(query.text("continue"), &prefix)?;
        return Ok((u64::try_from(revision).ok(), start));
    }
    if asked == 0 {
        return Ok((None, prefix));
    }
    // With a limit and no word on how to match, a revision has always been meant exactly.
    let exact = match query.text("resourceVersionMatch") {
        "Exact" => true,
        "" => limit > 0,
        _ => false,
    };
    wait_for(call, asked).await?;
    Ok((exact.then_some(asked), prefix))
}

fn token(revision: i64, start: &str, prefix: &str) -> String {
    let start = format!("/{}", start.strip_prefix(prefix).unwrap_or(start));
    // Field order as Go writes it.
    let start = Value::from(start);
    URL_SAFE_NO_PAD.encode(format!("{{\"v\":\"meta.k8s.io/v1\",\"rv\":{revision},\"start\":{start}}}"))
}

/// Go's decoder overlooks bits that are left over, so tokens with them get as far as being no JSON.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn read_token(token: &str, prefix: &str) -> Result<(i64, String), ApiError> {
    let invalid =
        |why: String| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes = LENIENT.decode(token).map_err(|problem| invalid(problem.to_string()))?;
    let parsed: Value = serde_json::from_slice(&bytes).map_err(|problem| match bytes.first() {
        Some(first) if !matches!(first, b'{' | b'[' | b'"') => {
            let shown = if first.is_ascii_graphic() { (*first as char).to_string() } else { format!("\\x{first:02x}") };
            invalid(format!("invalid character '{shown}' looking for beginning of value"))
        }
        _ => invalid(problem.to_string()),
    })?;
    let start = parsed.get("start").and_then(Value::as_str).unwrap_or_default();
    let revision = parsed.get("rv").and_then(Value::as_i64).unwrap_or_default();
    if parsed.get("v").and_then(Value::as_str) != Some("meta.k8s.io/v1") || revision == 0 {
        return Err(invalid("incorrect encoded version or revision".into()));
    }
    let inside = start.strip_prefix('/').ok_or_else(|| invalid("it does not start with a slash".into()))?;
    Ok((revision, format!("{prefix}{inside}")))
}

/// A page that can only go on inconsistently says so and how; any other read of the past says that it is past.
fn expired(call: &Call, start: &str, prefix: &str) -> ApiError {
    if call.query.text("continue").is_empty() {
        return ApiError::expired("The resourceVersion for the provided list is too old.");
    }
    let mut error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
         the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
         Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
         deleted between the time the first chunk was returned and now may show up in the list.",
    );
    error.body["metadata"] = json!({"continue": token(-1, start, prefix)});
    error
}
