//! Routes and requests made of bytes: the router must take the rule that Gateway API's text says, found here by trying all
//! conditions and comparing them one criterion after the other. Nothing may panic, whatever paths and queries are.
#![no_main]

use std::cmp::Ordering;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, Method, Request, Uri};
use libfuzzer_sys::fuzz_target;
use weft_core::http::{
    HeaderMatch, HttpKind, HttpMatch, HttpRoute, HttpRouteId, HttpRouter, HttpRule, PathMatch, Pattern, QueryMatch,
    TextMatch,
};
use weft_core::model::ObjectName;

/// Bytes as choices; zeros when they run out.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    /// A text of a few bytes that may stand in a URI.
    fn text(&mut self) -> String {
        let length = usize::from(self.byte() % 6);
        (0..length).map(|_| char::from(self.of(b"/abA%2.+=&-~"))).collect()
    }
}

const EXPRESSIONS: [&str; 5] = [".*", "/a+", "/[ab]/.*", "(/a|/b)*", "a|b"];

fn condition(choices: &mut Choices<'_>) -> HttpMatch {
    let pattern = |choices: &mut Choices<'_>| Pattern::new(choices.of(&EXPRESSIONS)).expect("an expression");
    let path = format!("/{}", choices.text());
    let path = match choices.byte() % 4 {
        0 => PathMatch::Exact(path.into()),
        1 => PathMatch::Regex(pattern(choices)),
        _ => PathMatch::Prefix(path.trim_end_matches('/').into()),
    };
    let value = |choices: &mut Choices<'_>| match choices.byte() % 4 {
        0 => TextMatch::Regex(pattern(choices)),
        _ => TextMatch::Exact(choices.text().into()),
    };
    let method = choices.of(&[None, Some(Method::GET), Some(Method::PUT)].each_ref()).clone();
    let mut headers = Vec::new();
    for name in ["k", "l"] {
        if choices.byte() % 3 == 0 {
            headers.push(HeaderMatch { name: HeaderName::from_static(name), value: value(choices) });
        }
    }
    let mut query = Vec::new();
    for name in ["k", "a"] {
        if choices.byte() % 3 == 0 {
            query.push(QueryMatch { name: name.into(), value: value(choices) });
        }
    }
    HttpMatch { path, method, headers, query, unclear: false }
}

fn route(choices: &mut Choices<'_>, name: &str) -> HttpRoute {
    let rules = 1 + choices.byte() % 3;
    let rule = |choices: &mut Choices<'_>| {
        let matches = 1 + choices.byte() % 2;
        Arc::new(HttpRule { matches: (0..matches).map(|_| condition(choices)).collect(), ..HttpRule::default() })
    };
    let id = HttpRouteId { kind: HttpKind::Http, name: ObjectName::new("n", name).expect("a name") };
    let created = i64::from(choices.byte() % 2);
    HttpRoute { id, parents: Vec::new(), rules: (0..rules).map(|_| rule(choices)).collect(), created }
}

fn request(choices: &mut Choices<'_>) -> Option<Parts> {
    let uri: Uri = format!("/{}?{}", choices.text(), choices.text()).parse().ok()?;
    let mut builder = Request::builder().method(choices.of(&["GET", "PUT", "POST"])).uri(uri);
    for name in ["k", "l"] {
        for _ in 0..choices.byte() % 3 {
            builder = builder.header(name, choices.text());
        }
    }
    Some(builder.body(()).ok()?.into_parts().0)
}

/// Which of two conditions is the more specific: less is asked first.
fn precedence(a: &HttpMatch, b: &HttpMatch) -> Ordering {
    let class = |m: &HttpMatch| match &m.path {
        PathMatch::Exact(path) => (2, path.len()),
        PathMatch::Regex(pattern) => (1, pattern.text().len()),
        PathMatch::Prefix(prefix) => (0, prefix.len()),
        PathMatch::Grpc { .. } => (0, 0),
    };
    class(b)
        .cmp(&class(a))
        .then(b.method.is_some().cmp(&a.method.is_some()))
        .then(b.headers.len().cmp(&a.headers.len()))
        .then(b.query.len().cmp(&a.query.len()))
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let names = ["a", "b"];
    let routes: Vec<_> = names.iter().map(|name| Arc::new(route(&mut choices, name))).collect();
    let Some(request) = request(&mut choices) else { return };
    let mut best: Option<(&HttpRoute, usize, &HttpMatch)> = None;
    // In the order of the last criteria: whoever comes first stays, among equals.
    let mut by_age: Vec<_> = routes.iter().collect();
    by_age.sort_by_key(|route| (route.created, route.id.clone()));
    for route in by_age {
        for (index, rule) in route.rules.iter().enumerate() {
            for condition in rule.matches.iter().filter(|condition| condition.fits(&request)) {
                if best.is_none_or(|(.., held)| precedence(condition, held) == Ordering::Less) {
                    best = Some((route, index, condition));
                }
            }
        }
    }
    let router = HttpRouter::new(routes.iter(), |_, _| None, |_, _| None, |_| None);
    let found = router.find(&request).map(|chosen| (chosen.routed.id.0.clone(), chosen.routed.id.1));
    assert_eq!(found, best.map(|(route, index, _)| (route.id.clone(), index)), "{routes:#?} {request:?}");
});
