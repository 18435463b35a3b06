//! Who calls, and what they may do.

mod rbac;
mod tokens;

use http::HeaderMap;
use serde_json::{Value, json};

pub(crate) use rbac::{Ask, allowed};
pub(crate) use tokens::{Claims, ISSUER, Tokens};

use crate::engine::Shared;
use crate::status::ApiError;

/// A caller.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: Value,
}

impl User {
    /// Whoever has no need to say who they are.
    pub(crate) fn admin() -> Self {
        let groups = vec!["system:masters".to_owned(), "system:authenticated".to_owned()];
        Self { name: "system:admin".into(), uid: String::new(), groups, extra: json!({}) }
    }

    fn anonymous() -> Self {
        let groups = vec!["system:unauthenticated".to_owned()];
        Self { name: "system:anonymous".into(), uid: String::new(), groups, extra: json!({}) }
    }
}

/// The caller, from the bearer token. A token that is wrong is refused, none at all is anonymous under RBAC.
pub(crate) fn authenticate(shared: &Shared, headers: &HeaderMap) -> Result<User, ApiError> {
    let bearer = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(token) = bearer.and_then(|value| value.strip_prefix("Bearer ")) else {
        return Ok(if shared.config.rbac { User::anonymous() } else { User::admin() });
    };
    if token == shared.tokens.admin() {
        return Ok(User::admin());
    }
    let claims = shared.tokens.verify(token).map_err(|_| ApiError::unauthorized())?;
    if !claims.audiences.iter().any(|audience| audience == tokens::ISSUER) {
        return Err(ApiError::unauthorized());
    }
    tokens::user_of(shared, &claims).map_err(|_| ApiError::unauthorized())
}

/// What a TokenReview answers about a token.
pub(crate) fn review(shared: &Shared, token: &str, audiences: &[String]) -> Value {
    tokens::review(shared, token, audiences)
}
