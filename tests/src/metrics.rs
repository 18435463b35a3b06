//! Prometheus text, read back: enough to find samples by name and label.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One line of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Metrics {
    /// Reads the exposition format; comments are skipped, and so is any line that is not a sample.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect() }
    }

    /// All samples.
    #[must_use]
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The sum of the samples of this name that carry all these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries =
            |sample: &Sample| labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value));
        self.samples.iter().filter(|sample| sample.name == name && carries(sample)).map(|sample| sample.value).sum()
    }

    /// Whole values of a name, summed by one label.
    #[must_use]
    pub fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| sample.name == name) {
            if let Some(value) = sample.labels.get(label) {
                *sums.entry(value.clone()).or_default() += sample.value as u64;
            }
        }
        sums
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    // Labels here hold names, addresses and identities: none contains a quote.
    let labels = labels
        .split("\",")
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned()))
        .collect();
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

/// One HTTP GET; yields the body of a 200.
///
/// # Errors
/// When nothing answers, or with another status.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    exchange(&mut stream, path)
}

/// The GET itself, on a stream that is already connected.
///
/// # Errors
/// When the answer is not a 200.
pub fn exchange(stream: &mut (impl Read + Write), path: &str) -> Result<String> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("reading {path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{path}: {}: {}", head.lines().next().unwrap_or_default(), body.trim());
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_name_and_label() {
        let text = "# HELP a b\na_total{verdict=\"steered\",family=\"v4\"} 3\na_total{verdict=\"steered\",family=\"v6\"} 4\nb 1.5\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("a_total", &[("verdict", "steered")]), 7.0);
        assert_eq!(metrics.sum("a_total", &[("family", "v6")]), 4.0);
        assert_eq!(metrics.by_label("a_total", "verdict"), BTreeMap::from([("steered".to_owned(), 7)]));
        assert_eq!(metrics.sum("b", &[]), 1.5);
    }
}
