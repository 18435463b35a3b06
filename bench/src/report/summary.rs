//! Medians and spread of each metric of each subject, and ratios between subjects.

use std::collections::BTreeMap;

use super::Report;
use crate::measures::{METRICS, Metric};

/// What the rounds of one metric and subject come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figure {
    /// The values, ascending.
    pub values: Vec<f64>,
    /// Samples that found nothing.
    pub lost: usize,
    /// Samples in which some operations failed; they are among the values.
    pub marred: usize,
}

impl Figure {
    /// The middle value; of an even number, the mean of the two.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        let count = self.values.len();
        match (count, count % 2) {
            (0, _) => None,
            (_, 1) => Some(self.values[count / 2]),
            _ => Some(f64::midpoint(self.values[count / 2 - 1], self.values[count / 2])),
        }
    }

    /// The least and the greatest value.
    #[must_use]
    pub fn range(&self) -> Option<(f64, f64)> {
        Some((*self.values.first()?, *self.values.last()?))
    }
}

/// All figures of a report.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    figures: BTreeMap<(&'static str, &'static str), BTreeMap<String, Figure>>,
}

impl Summary {
    /// Sums up.
    #[must_use]
    pub fn of(report: &Report) -> Self {
        let mut summary = Self::default();
        for metric in METRICS {
            let figures = summary.figures.entry((metric.case, metric.name)).or_default();
            for sample in report.samples.iter().filter(|sample| sample.case == metric.case) {
                let value = (metric.of)(&sample.outcome).filter(|value| value.is_finite());
                if value.is_none() && sample.error.is_none() {
                    // The metric does not apply, as the CPU time of proxies where there are none.
                    continue;
                }
                let figure = figures.entry(sample.subject.clone()).or_default();
                figure.lost += usize::from(value.is_none());
                figure.marred += usize::from(sample.outcome.failed() > 0);
                figure.values.extend(value);
            }
            figures.values_mut().for_each(|figure| figure.values.sort_by(f64::total_cmp));
        }
        summary
    }

    /// The figure of a metric and a subject.
    #[must_use]
    pub fn figure(&self, metric: &Metric, subject: &str) -> Option<&Figure> {
        self.figures.get(&(metric.case, metric.name))?.get(subject)
    }

    /// The median of a metric and a subject.
    #[must_use]
    pub fn median(&self, metric: &Metric, subject: &str) -> Option<f64> {
        self.figure(metric, subject)?.median()
    }

    /// The median of one subject divided by that of another.
    #[must_use]
    pub fn ratio(&self, metric: &Metric, subject: &str, to: &str) -> Option<f64> {
        let (over, under) = (self.median(metric, subject)?, self.median(metric, to)?);
        (under != 0.0).then(|| over / under)
    }

    /// The subjects that have a figure of a metric, in no order.
    pub fn subjects(&self, metric: &Metric) -> impl Iterator<Item = &str> {
        self.figures.get(&(metric.case, metric.name)).into_iter().flat_map(|figures| figures.keys().map(String::as_str))
    }
}
