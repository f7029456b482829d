//! How long something took that is done again and again: the last time, and percentiles of the last hour under the names
//! that Mesos's tools know.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// What is looked back at.
const WINDOW: Duration = Duration::from_secs(3600);
/// More than that are not kept, the oldest go first.
const MOST: usize = 1000;
const PERCENTILES: [(&str, f64); 6] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p999", 0.999),
    ("p9999", 0.9999),
];

#[derive(Debug, Default)]
pub(crate) struct RunTimes {
    /// When each ended and how many milliseconds it took, the oldest first.
    runs: VecDeque<(Instant, f64)>,
}

impl RunTimes {
    pub(crate) fn add(&mut self, ended: Instant, took: Duration) {
        if self.runs.len() == MOST {
            self.runs.pop_front();
        }
        self.runs.push_back((ended, took.as_secs_f64() * 1e3));
    }

    /// In milliseconds: the last one as `name`, and of the window `name/count`, `/min`, `/max`, `/p50`, ...; nothing before the
    /// first.
    pub(crate) fn figures(&self, name: &str, now: Instant) -> BTreeMap<String, f64> {
        let Some((_, last)) = self.runs.back() else {
            return BTreeMap::new();
        };
        let recent = self
            .runs
            .iter()
            .filter(|(ended, _)| now.duration_since(*ended) <= WINDOW);
        let mut sorted: Vec<f64> = recent.map(|(_, took)| *took).collect();
        sorted.sort_by(f64::total_cmp);
        let mut figures = BTreeMap::from([
            (name.to_owned(), *last),
            (format!("{name}/count"), sorted.len() as f64),
        ]);
        if let (Some(min), Some(max)) = (sorted.first(), sorted.last()) {
            figures.insert(format!("{name}/min"), *min);
            figures.insert(format!("{name}/max"), *max);
            for (suffix, part) in PERCENTILES {
                figures.insert(format!("{name}/{suffix}"), percentile(&sorted, part));
            }
        }
        figures
    }
}

/// Between the two neighbours of the place that the part, from 0 to 1, has in what is sorted and not empty.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_hour_and_lie_between_neighbours() {
        let began = Instant::now();
        let mut times = RunTimes::default();
        assert!(times.figures("x", began).is_empty());
        times.add(began, Duration::from_secs(9));
        let later = began + WINDOW + Duration::from_secs(1);
        for milliseconds in [4, 1, 3, 2] {
            times.add(later, Duration::from_millis(milliseconds));
        }
        let figures = times.figures("x", later);
        let expected = [
            ("x", 2.0),
            ("x/count", 4.0),
            ("x/min", 1.0),
            ("x/max", 4.0),
            ("x/p50", 2.5),
            ("x/p90", 3.7),
        ];
        for (name, value) in expected {
            assert!((figures[name] - value).abs() < 1e-9, "{name}: {figures:?}");
        }
        assert_eq!(figures.len(), 10);
    }

    #[test]
    fn the_oldest_give_way() {
        let now = Instant::now();
        let mut times = RunTimes::default();
        for number in 0..MOST as u64 + 7 {
            times.add(now, Duration::from_millis(number));
        }
        let figures = times.figures("x", now);
        assert_eq!((figures["x/count"], figures["x/min"]), (MOST as f64, 7.0));
    }
}
