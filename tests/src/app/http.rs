//! The words for HTTP between a journey and `lab-app`: requests to make, and what an endpoint saw of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::payload::{Payload, Sum};

/// Which version a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Http {
    /// HTTP/1.1.
    One,
    /// HTTP/2, with prior knowledge.
    Two,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Its method.
    pub method: String,
    /// Path and query, or an absolute URI.
    pub target: String,
    /// Beside `host`, which is always sent; it is the address dialled, unless it stands here.
    pub headers: Vec<(String, String)>,
    /// Sent with a Content-Length.
    pub body: Option<Payload>,
    /// Sent after a body of unknown length.
    pub trailers: Vec<(String, String)>,
}

impl Ask {
    /// GET.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self { method: "GET".into(), target: target.into(), headers: Vec::new(), body: None, trailers: Vec::new() }
    }

    /// POST, with a body.
    #[must_use]
    pub fn post(target: &str, body: Payload) -> Self {
        Self { method: "POST".into(), body: Some(body), ..Self::get(target) }
    }

    /// A unary gRPC call of `lab.Echo/Say`.
    #[must_use]
    pub fn grpc(text: &str) -> Self {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut message = String::from('\0');
        message.extend(length.map(char::from));
        message.push_str(text);
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        Self::post("/lab.Echo/Say", Payload::Text(message)).with(&headers)
    }

    /// With another method.
    #[must_use]
    pub fn method(self, method: &str) -> Self {
        Self { method: method.into(), ..self }
    }

    /// With these fields as well.
    #[must_use]
    pub fn with(mut self, headers: &[(&str, &str)]) -> Self {
        self.headers.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    /// With these trailers after the body.
    #[must_use]
    pub fn trailers(mut self, trailers: &[(&str, &str)]) -> Self {
        self.trailers.extend(trailers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }
}

/// Many requests, over connections that are kept open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Whom to connect to.
    pub to: SocketAddr,
    /// What to speak.
    pub http: Http,
    /// What to ask.
    pub ask: Ask,
    /// How often in all; 0 is until told to stop.
    pub count: u64,
    /// In how many connections.
    pub connections: usize,
    /// How many at once in each; HTTP/1 does one after another.
    pub streams: usize,
    /// Milliseconds between two of one stream.
    pub pause_ms: u64,
    /// Time one may take.
    pub deadline_ms: u64,
}

impl Requests {
    /// `count` of them, one after another in one connection.
    #[must_use]
    pub fn to(to: SocketAddr, http: Http, ask: Ask, count: u64) -> Self {
        Self { to, http, ask, count, connections: 1, streams: 1, pause_ms: 0, deadline_ms: 10_000 }
    }

    /// In so many connections, with so many at once in each.
    #[must_use]
    pub fn over(self, connections: usize, streams: usize) -> Self {
        Self { connections, streams, ..self }
    }

    /// With this long between two of one stream.
    #[must_use]
    pub fn pause_ms(self, pause_ms: u64) -> Self {
        Self { pause_ms, ..self }
    }
}

/// What came of many requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// Responses, by status.
    pub statuses: BTreeMap<u16, u64>,
    /// gRPC calls, by `grpc-status`.
    pub grpc: BTreeMap<String, u64>,
    /// Responses, by the name of the endpoint that gave them.
    pub names: BTreeMap<String, u64>,
    /// Requests without a response, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Connections opened: one that was closed in order between two requests is replaced.
    pub connections: u64,
    /// Milliseconds of the median response.
    pub median_ms: f64,
}

impl Answers {
    /// Responses with this status.
    #[must_use]
    pub fn with(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or_default()
    }

    /// Requests that had no response, or one of a server's failure.
    #[must_use]
    pub fn failed(&self) -> u64 {
        let failures = self.statuses.iter().filter(|(status, _)| **status >= 500).map(|(_, count)| count);
        self.errors.values().chain(failures).sum()
    }
}

/// One response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// `HTTP/1.1` and so on.
    pub version: String,
    /// Its fields.
    pub headers: Vec<(String, String)>,
    /// The first 64 KiB of its body.
    pub text: String,
    /// All of its body.
    pub sum: Sum,
    /// What came after it.
    pub trailers: Vec<(String, String)>,
}

impl Reply {
    /// A field's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// A trailer's value.
    #[must_use]
    pub fn trailer(&self, name: &str) -> Option<&str> {
        find(&self.trailers, name)
    }

    /// What the endpoint says that it saw: in the body, or, of a gRPC call, in a field.
    ///
    /// # Errors
    /// When it says something else.
    pub fn saw(&self) -> anyhow::Result<Saw> {
        serde_json::from_str(self.header("x-saw").unwrap_or(&self.text))
            .map_err(|_| anyhow::anyhow!("not what an endpoint saw: {self:?}"))
    }
}

/// What an `Http` listener answers with: the request as it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saw {
    /// The listener's name.
    pub name: String,
    /// Which of its connections.
    pub connection: u64,
    /// Who is at the other end of that.
    pub peer: SocketAddr,
    /// `HTTP/1.1` and so on.
    pub version: String,
    /// The method.
    pub method: String,
    /// The target as it came.
    pub target: String,
    /// The fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Sum,
    /// What came after it.
    pub trailers: Vec<(String, String)>,
}

impl Saw {
    /// A field's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }
}

fn find<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}
