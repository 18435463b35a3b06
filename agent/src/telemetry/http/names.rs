//! `/metrics?name[]=NAME`: only the series of these names, as exporters in Java have it. Whoever asks many agents for three
//! values is not sent ten thousand.

/// The names a query asks for; none: all.
pub(super) fn asked(query: Option<&str>) -> Vec<&str> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let named = pairs.filter(|(key, _)| *key == "name[]" || key.eq_ignore_ascii_case("name%5b%5d"));
    named.map(|(_, name)| name).collect()
}

/// What of an exposition is about these names.
pub(super) fn only(text: &str, names: &[&str]) -> String {
    let wanted = |line: &str| match line.strip_prefix("# ").map(|comment| comment.split(' ').collect::<Vec<_>>()) {
        // A family is called what its series are called, or what they have a suffix to.
        Some(words) if words.len() > 1 => names
            .iter()
            .any(|name| name.strip_prefix(words[1]).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))),
        // `# EOF`.
        Some(_) => true,
        None => names.contains(&line.split(['{', ' ']).next().unwrap_or_default()),
    };
    text.lines().filter(|line| wanted(line)).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_what_it_wants_escaped_or_not() {
        assert_eq!(asked(None), Vec::<&str>::new());
        assert_eq!(asked(Some("name[]=a&x=y&name%5B%5D=b_total&name=c")), ["a", "b_total"]);
    }

    #[test]
    fn only_the_named_series_are_left_with_what_is_said_of_them() {
        let text = "# HELP a_b What.\n# TYPE a_b counter\na_b_total{x=\"1\"} 2\n# TYPE a gauge\na 1\nab 3\n# EOF\n";
        assert_eq!(
            only(text, &["a_b_total"]),
            "# HELP a_b What.\n# TYPE a_b counter\na_b_total{x=\"1\"} 2\n# TYPE a gauge\n# EOF\n"
        );
        assert_eq!(only(text, &["a"]), "# TYPE a gauge\na 1\n# EOF\n");
        assert_eq!(only(text, &["none"]), "# EOF\n");
    }
}
