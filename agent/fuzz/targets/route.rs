//! Routes and requests made of bytes: the router must take the rule that Gateway API's text says, found here by a model that
//! shares nothing with it (`route/model.rs`) and tries all conditions. Nothing may panic, whatever paths and queries are.
#![no_main]

#[path = "route/model.rs"]
mod model;

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, Method, Request, Uri};
use libfuzzer_sys::fuzz_target;
use model::{Asked, Condition, EXPRESSIONS, Path, Text};
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

    fn expression(&mut self) -> usize {
        usize::from(self.byte()) % EXPRESSIONS.len()
    }

    fn value(&mut self) -> Text {
        if self.byte() % 4 == 0 { Text::Regex(self.expression()) } else { Text::Exact(self.text()) }
    }

    /// A service or a method, or none.
    fn name(&mut self) -> Option<Text> {
        match self.byte() % 4 {
            0 => None,
            1 => Some(Text::Regex(self.expression())),
            _ => Some(Text::Exact(self.text().replace('/', "."))),
        }
    }

    fn condition(&mut self, kind: HttpKind) -> Condition {
        let path = format!("/{}", self.text());
        let (path, method) = match (kind, self.byte() % 4) {
            (HttpKind::Grpc, _) => (Path::Call(self.name(), self.name()), None),
            (_, 0) => (Path::Exact(path), self.of(&METHODS)),
            (_, 1) => (Path::Regex(self.expression()), self.of(&METHODS)),
            _ => (Path::Prefix(path), self.of(&METHODS)),
        };
        let mut some = |names: [&'static str; 2]| -> Vec<_> {
            names.into_iter().filter_map(|name| (self.byte() % 3 == 0).then(|| (name, self.value()))).collect()
        };
        let headers = some(["k", "l"]);
        let query = if kind == HttpKind::Grpc { Vec::new() } else { some(["k", "a"]) };
        Condition { path, method, headers, query }
    }

    fn asked(&mut self) -> Asked {
        let (path, query) = (format!("/{}", self.text()), self.text());
        let method = self.of(&["GET", "PUT", "POST"]);
        let mut headers = Vec::new();
        for name in ["k", "l"] {
            for _ in 0..self.byte() % 3 {
                headers.push((name, self.text()));
            }
        }
        Asked { method, path, query, headers }
    }
}

const METHODS: [Option<&str>; 3] = [None, Some("GET"), Some("PUT")];

fn pattern(which: usize) -> Pattern {
    Pattern::new(EXPRESSIONS[which].0).expect("an expression")
}

fn text(of: &Text) -> TextMatch {
    match of {
        Text::Exact(text) => TextMatch::Exact(text.as_str().into()),
        Text::Regex(which) => TextMatch::Regex(pattern(*which)),
    }
}

/// The same condition as the product has it.
fn built(of: &Condition) -> HttpMatch {
    let path = match &of.path {
        Path::Exact(path) => PathMatch::Exact(path.as_str().into()),
        Path::Regex(which) => PathMatch::Regex(pattern(*which)),
        Path::Prefix(path) => PathMatch::Prefix(path.trim_end_matches('/').into()),
        Path::Call(service, method) => {
            PathMatch::Grpc { service: service.as_ref().map(text), method: method.as_ref().map(text) }
        }
    };
    let headers =
        of.headers.iter().map(|(name, value)| HeaderMatch { name: HeaderName::from_static(name), value: text(value) });
    let query = of.query.iter().map(|(name, value)| QueryMatch { name: (*name).into(), value: text(value) });
    let method = of.method.map(|method| Method::from_bytes(method.as_bytes()).expect("a method"));
    HttpMatch { path, method, headers: headers.collect(), query: query.collect(), unclear: false }
}

/// A route's name, its age and its rules.
type Written = (HttpRouteId, i64, Vec<Vec<Condition>>);

fn written(choices: &mut Choices<'_>, kind: HttpKind, name: &str) -> Written {
    let rules = 1 + choices.byte() % 3;
    let rule = |choices: &mut Choices<'_>| (0..=choices.byte() % 2).map(|_| choices.condition(kind)).collect();
    let rules = (0..rules).map(|_| rule(choices)).collect();
    let id = HttpRouteId { kind, name: ObjectName::new("n", name).expect("a name") };
    (id, i64::from(choices.byte() % 2), rules)
}

fn route((id, created, rules): &Written) -> Arc<HttpRoute> {
    let rule = |conditions: &Vec<Condition>| {
        Arc::new(HttpRule { matches: conditions.iter().map(built).collect(), ..HttpRule::default() })
    };
    let rules = rules.iter().map(rule).collect();
    Arc::new(HttpRoute { id: id.clone(), parents: Vec::new(), rules, created: *created })
}

fn request(asked: &Asked) -> Option<Parts> {
    let uri: Uri = format!("{}?{}", asked.path, asked.query).parse().ok()?;
    // What is not a path is not one that anybody is sent.
    if uri.path() != asked.path || uri.query() != Some(&asked.query) {
        return None;
    }
    let fields = asked.headers.iter();
    let builder =
        fields.fold(Request::builder().method(asked.method).uri(uri), |b, (name, value)| b.header(*name, value));
    Some(builder.body(()).ok()?.into_parts().0)
}

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let kind = choices.of(&[HttpKind::Http, HttpKind::Http, HttpKind::Grpc]);
    let all = ["a", "b"].map(|name| written(&mut choices, kind, name));
    let asked = choices.asked();
    let Some(request) = request(&asked) else { return };
    // Among equals the oldest route goes first, then the smallest name, then the first rule.
    let mut by_age: Vec<_> = all.iter().collect();
    by_age.sort_by_key(|(id, created, _)| (*created, id.clone()));
    let tried = by_age.iter().flat_map(|(id, _, rules)| rules.iter().enumerate().map(move |(at, rule)| (id, at, rule)));
    let fitting = tried.flat_map(|(id, at, rule)| rule.iter().map(move |condition| (id, at, condition)));
    let fitting = fitting.filter(|(.., condition)| condition.fits(&asked));
    // `min_by_key` keeps the first of equals.
    let best = fitting.min_by_key(|(.., condition)| condition.order()).map(|(id, at, _)| (id.clone(), at));
    let routes = all.each_ref().map(route);
    let router = HttpRouter::new(routes.iter(), |_, _| None, |_, _| None, |_| None);
    let found = router.find(&request).map(|chosen| (chosen.routed.id.0.clone(), chosen.routed.id.1));
    assert_eq!(found, best, "{routes:#?} {request:?}");
});
