//! Why a watch or a list ended: what decides how it goes on.

/// Why a watch or list ended.
#[derive(Debug)]
pub(super) enum End {
    /// Its time was over.
    Over,
    /// The revision is no longer known to the server.
    Gone,
    /// The kind is not served.
    Absent,
    /// The server has no streaming lists.
    NoStreaming,
    /// The server refuses, with this status.
    Refused(u16, String),
    /// Something went wrong.
    Failed(String),
    /// Nobody listens any more.
    Deaf,
}

impl From<kube::Error> for End {
    fn from(error: kube::Error) -> Self {
        Self::Failed(causes(&error))
    }
}

/// An error with all its causes: the outermost message is of no use to anybody ("client error (Connect)").
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut causes = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    causes.dedup();
    causes.join(": ")
}

/// What the server sent makes no sense.
pub(super) fn unreadable(error: &serde_json::Error) -> End {
    End::Failed(format!("what the API server sent cannot be read: {error}"))
}
