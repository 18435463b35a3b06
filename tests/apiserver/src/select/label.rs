//! Label selectors: `app=echo,tier in (a, b),!canary,rank>3`.

use std::collections::BTreeMap;

/// Requirements that must all hold.
#[derive(Clone, Default)]
pub(crate) struct Labels {
    requirements: Vec<Requirement>,
}

#[derive(Clone)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    /// Also true where the label is missing.
    NotIn(Vec<String>),
    More(i64),
    Less(i64),
}

#[derive(Clone, PartialEq, Debug)]
enum Token {
    Word(String),
    Sign(&'static str),
    End,
}

impl Token {
    fn shown(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Sign(sign) => sign,
            Self::End => "",
        }
    }
}

impl Labels {
    /// Parses a selector. Complaints are those of Kubernetes' parser.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { tokens: tokens(text), at: 0 };
        let mut requirements = Vec::new();
        if parser.peek() == &Token::End {
            return Ok(Self::default());
        }
        loop {
            let requirement = parser.requirement();
            requirements.push(requirement.map_err(|problem| format!("unable to parse requirement: {problem}"))?);
            match parser.next() {
                Token::End => return Ok(Self { requirements }),
                Token::Sign(",") => (),
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.shown())),
            }
        }
    }

    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|requirement| {
            let found = labels.get(&requirement.key);
            let number = || found.and_then(|value| value.parse::<i64>().ok());
            match &requirement.test {
                Test::Exists => found.is_some(),
                Test::Absent => found.is_none(),
                Test::In(values) => found.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => found.is_none_or(|value| !values.contains(value)),
                Test::More(bound) => number().is_some_and(|number| number > *bound),
                Test::Less(bound) => number().is_some_and(|number| number < *bound),
            }
        })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
}

fn tokens(text: &str) -> Vec<Token> {
    const SIGNS: [&str; 10] = ["==", "!=", "=", "!", ",", "(", ")", ">", "<", ""];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign)).copied().unwrap_or_default();
        let length = if sign.is_empty() {
            let ends = |c: char| c.is_whitespace() || "=!,()<>".contains(c);
            let length = rest.find(ends).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..length].to_owned()));
            length
        } else {
            tokens.push(Token::Sign(sign));
            sign.len()
        };
        rest = rest[length..].trim_start();
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek() == &Token::Sign("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(format!("found '{}', expected: identifier", other.shown())),
        };
        if absent {
            return Ok(Requirement { key, test: Test::Absent });
        }
        if matches!(self.peek(), Token::End | Token::Sign(",")) {
            return Ok(Requirement { key, test: Test::Exists });
        }
        let test = match self.next() {
            Token::Sign("=" | "==") => Test::In(vec![self.value()?]),
            Token::Sign("!=") => Test::NotIn(vec![self.value()?]),
            Token::Sign(">") => Test::More(self.number()?),
            Token::Sign("<") => Test::Less(self.number()?),
            Token::Word(word) if word == "in" => Test::In(self.set()?),
            Token::Word(word) if word == "notin" => Test::NotIn(self.set()?),
            other => {
                let operators = "in, notin, =, ==, !=, gt, lt";
                return Err(format!("found '{}', expected: {operators}", other.shown()));
            }
        };
        Ok(Requirement { key, test })
    }

    fn value(&mut self) -> Result<String, String> {
        match self.peek().clone() {
            Token::Word(word) => {
                self.next();
                Ok(word)
            }
            Token::End | Token::Sign(",") => Ok(String::new()),
            other => Err(format!("found '{}', expected: identifier", other.shown())),
        }
    }

    fn number(&mut self) -> Result<i64, String> {
        let value = self.value()?;
        value.parse().map_err(|_| format!("for 'Gt', 'Lt' operators, the value must be an integer: {value:?}"))
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        let open = self.next();
        if open != Token::Sign("(") {
            return Err(format!("found '{}' expected: '('", open.shown()));
        }
        let mut values = Vec::new();
        loop {
            match self.next() {
                Token::Word(word) => values.push(word),
                Token::Sign(",") => (),
                Token::Sign(")") => return Ok(values),
                other => return Err(format!("found '{}', expected: ',', ')' or identifier", other.shown())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Labels::parse(selector).is_ok_and(|parsed| parsed.matches(&labels))
    }

    #[test]
    fn every_operator_selects() {
        let labels = [("app", "echo"), ("rank", "4"), ("empty", "")];
        for selector in
            ["", "app", "app=echo", "app==echo,rank>3", "app in (a, echo)", "app notin (a,b)", "!gone", "empty="]
        {
            assert!(selects(selector, &labels), "{selector}");
        }
        for selector in ["app!=echo", "!app", "gone", "gone=x", "rank<4", "app in (a)", "app notin (echo)"] {
            assert!(!selects(selector, &labels), "{selector}");
        }
        assert!(selects("gone!=x", &labels), "what is missing differs from any value");
    }

    #[test]
    fn complaints_are_the_parser_s_own() {
        let problem = Labels::parse("a===b").err();
        assert_eq!(problem.as_deref(), Some("unable to parse requirement: found '=', expected: identifier"));
        assert!(Labels::parse("a in b").is_err());
        assert!(Labels::parse("a b").is_err());
    }
}
