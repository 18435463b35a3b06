//! Gateway API's text on matches, word by word: conditions written down as plainly as they are read there, and a request held
//! against them without any of the code that does it in earnest.

use std::cmp::Reverse;

/// A condition on a text.
pub(crate) enum Text {
    Exact(String),
    /// By its place among [`EXPRESSIONS`].
    Regex(usize),
}

/// A condition on a path.
pub(crate) enum Path {
    Exact(String),
    /// As written, slashes at its end and all.
    Prefix(String),
    Regex(usize),
    /// A gRPC service and method.
    Call(Option<Text>, Option<Text>),
}

/// One match of a rule.
pub(crate) struct Condition {
    pub(crate) path: Path,
    pub(crate) method: Option<&'static str>,
    pub(crate) headers: Vec<(&'static str, Text)>,
    pub(crate) query: Vec<(&'static str, Text)>,
}

/// A request as it is sent.
pub(crate) struct Asked {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// Expressions, and what they mean, told without an engine for any.
pub(crate) const EXPRESSIONS: [(&str, fn(&str) -> bool); 5] = [
    (".*", |_| true),
    ("/a+", |text| text.len() > 1 && text.starts_with('/') && text[1..].bytes().all(|byte| byte == b'a')),
    ("/[ab]/.*", |text| text.starts_with("/a/") || text.starts_with("/b/")),
    ("(/a|/b)*", |text| text.len() % 2 == 0 && text.as_bytes().chunks(2).all(|two| two == b"/a" || two == b"/b")),
    ("a|b", |text| text == "a" || text == "b"),
];

impl Text {
    fn fits(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => wanted == text,
            Self::Regex(which) => EXPRESSIONS[*which].1(text),
        }
    }

    fn characters(&self) -> usize {
        match self {
            Self::Exact(text) => text.chars().count(),
            Self::Regex(which) => EXPRESSIONS[*which].0.chars().count(),
        }
    }
}

/// "Matching is done on a path element by element basis. A path element refers to the list of labels in the path split by the `/`
/// separator. When specified, a trailing `/` is ignored."
fn is_below(prefix: &str, path: &str) -> bool {
    let wanted = elements(prefix.trim_end_matches('/'));
    let asked = elements(path);
    wanted.len() <= asked.len() && wanted.iter().zip(&asked).all(|(wanted, asked)| wanted == asked)
}

fn elements(path: &str) -> Vec<&str> {
    path.split('/').skip(1).collect()
}

/// A query's parameters, decoded (application/x-www-form-urlencoded).
fn parameters(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decoded(k), decoded(v))).collect()
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        let hex = rest.get(1..3).filter(|hex| first == '%' && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => bytes.push(byte),
            None if first == '+' => bytes.push(b' '),
            None => bytes.extend(first.to_string().bytes()),
        }
        rest = &rest[if hex.is_some() { 3 } else { first.len_utf8() }..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Condition {
    /// Whether a request meets all of it.
    pub(crate) fn fits(&self, asked: &Asked) -> bool {
        let path = match &self.path {
            Path::Exact(path) => *path == asked.path,
            Path::Prefix(prefix) => is_below(prefix, &asked.path),
            Path::Regex(which) => EXPRESSIONS[*which].1(&asked.path),
            Path::Call(service, method) => asked.path[1..].rsplit_once('/').is_some_and(|(of, called)| {
                service.as_ref().is_none_or(|service| service.fits(of))
                    && method.as_ref().is_none_or(|method| method.fits(called))
            }),
        };
        // Several lines of one field are one, joined by commas (RFC 9110, 5.3).
        let field = |name: &str| {
            let lines: Vec<_> = asked.headers.iter().filter(|(of, _)| *of == name).map(|(_, line)| &**line).collect();
            (!lines.is_empty()).then(|| lines.join(","))
        };
        let parameter =
            |name: &str| parameters(&asked.query).into_iter().find(|(of, _)| of == name).map(|(_, value)| value);
        path && self.method.is_none_or(|method| method == asked.method)
            && self.headers.iter().all(|(name, wanted)| field(name).is_some_and(|value| wanted.fits(&value)))
            && self.query.iter().all(|(name, wanted)| parameter(name).is_some_and(|value| wanted.fits(&value)))
    }

    /// Less goes first: an exact path, then, of HTTPRoutes, the longest prefix (where expressions come is left to whoever
    /// implements it: here, before prefixes), a method, the most headers, the most parameters; of GRPCRoutes the longest
    /// service, the longest method, the most headers.
    pub(crate) fn order(&self) -> impl Ord {
        let characters = |text: &Option<Text>| text.as_ref().map_or(0, Text::characters);
        let path = match &self.path {
            Path::Exact(_) => (2, 0, 0),
            Path::Regex(which) => (1, EXPRESSIONS[*which].0.len(), 0),
            Path::Prefix(prefix) => (0, prefix.trim_end_matches('/').chars().count(), 0),
            Path::Call(service, method) => (0, characters(service), characters(method)),
        };
        Reverse((path, self.method.is_some(), self.headers.len(), self.query.len()))
    }
}
