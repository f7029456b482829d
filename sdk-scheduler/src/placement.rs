//! Where to run a task for the sake of its bytes: which of several offers, and whether to wait for a better one.
//!
//! A framework that names its inputs (`FrameworkInfo.inputs`, or [`Scheduler::request`](crate::Scheduler::request)) is
//! told with each offer how much of them its agent holds. An agent that holds little may be free while the one that
//! holds all is busy for another second: then it pays to wait, but not for long. That is delay scheduling.
//!
//! Nothing here has a clock or makes a call: the caller says what time it is, and does what is chosen.
//!
//! ```
//! use std::time::Duration;
//! use tepui_sdk_scheduler::{Choice, Held, Placement};
//!
//! let mut placement = Placement::new(Duration::from_secs(3));
//! let offered = |gigabytes: u64| [Held { bytes: gigabytes << 30, most_bytes: 10 << 30 }];
//! let at = Duration::from_secs;
//! assert_eq!(placement.choose(at(10), &offered(0)), Choice::Wait(at(3)));
//! assert_eq!(placement.choose(at(11), &offered(1)), Choice::Wait(at(2)));
//! assert_eq!(placement.choose(at(13), &offered(0)), Choice::Take(0));
//! ```

use std::time::Duration;

use tepui_api::ext::Input;
use tepui_api::v1::Offer;

/// An offer is good enough if its agent holds nine tenths of the most that any holds: the last crumb, say a module of
/// some kilobytes beside a data set of gigabytes, is not worth a wait.
const ENOUGH_TENTHS: u128 = 9;

/// Nobody waits longer for bytes than it would take to bring them over a network as slow as this, and compiling
/// modules is about as slow: for a module of some kilobytes a wait of seconds would be absurd.
const SLOW_BYTES_PER_SECOND: f64 = 10e6;

/// How good an offer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// What its agent holds of the inputs.
    pub bytes: u64,
    /// The most that any agent holds of them.
    pub most_bytes: u64,
}

impl Held {
    /// As the master says it, of all that the framework named. Zeros if it says nothing: a Mesos master does not.
    pub fn of_offer(offer: &Offer) -> Self {
        let locality = offer.locality.as_ref();
        Self {
            bytes: locality.map_or(0, |locality| locality.bytes()),
            most_bytes: locality.map_or(0, |locality| locality.most_bytes()),
        }
    }

    /// Of those inputs that one of the framework's tasks works on. How much of them some agent holds the caller has to
    /// know: the offer has that of all inputs together.
    pub fn of_inputs(offer: &Offer, inputs: &[Input], most_bytes: u64) -> Self {
        let held = offer.locality.iter().flat_map(|locality| &locality.held);
        let wanted = held.filter(|holding| {
            let is_it = |name: Option<&str>| name.is_some_and(|name| name == holding.name);
            inputs
                .iter()
                .any(|input| is_it(input.sha256.as_deref()) || is_it(input.dataset.as_deref()))
        });
        let bytes = wanted.fold(0, |sum: u64, one| sum.saturating_add(one.bytes()));
        Self { bytes, most_bytes }
    }

    fn is_enough(self) -> bool {
        u128::from(self.bytes) * 10 >= u128::from(self.most_bytes) * ENOUGH_TENTHS
    }
}

/// What to do with the offers that a task fits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Launch on the one at this place; decline the others.
    Take(usize),
    /// Decline all for so long, and see what comes.
    Wait(Duration),
}

/// The placing of one task.
#[derive(Debug, Clone)]
pub struct Placement {
    wait: Duration,
    /// When the task could have been launched first.
    since: Option<Duration>,
}

impl Placement {
    /// `wait`: for how long, at most, a better offer is waited for after the first that would do. Zero: not at all.
    pub fn new(wait: Duration) -> Self {
        Self { wait, since: None }
    }

    /// Chooses among offers, all of which the task fits on. `now` is the time on any clock that does not go back.
    ///
    /// The offer whose agent holds most is taken if that is enough or the wait is over; of several that hold the same,
    /// the first. The wait begins with the first offer, not with the first call, and is no longer than it would take to
    /// fetch what the best offer lacks, at 10 MB/s.
    pub fn choose(&mut self, now: Duration, offers: &[Held]) -> Choice {
        // The last of equals is what `max_by_key` finds.
        let best = offers.iter().enumerate().rev();
        let Some((at, best)) = best.max_by_key(|(_, held)| held.bytes) else {
            return Choice::Wait(self.left(now, self.wait));
        };
        self.since.get_or_insert(now);
        let missing = best.most_bytes.saturating_sub(best.bytes);
        let worth = Duration::from_secs_f64(missing as f64 / SLOW_BYTES_PER_SECOND);
        let left = self.left(now, self.wait.min(worth));
        if best.is_enough() || left.is_zero() {
            Choice::Take(at)
        } else {
            Choice::Wait(left)
        }
    }

    fn left(&self, now: Duration, wait: Duration) -> Duration {
        let waited = self
            .since
            .map_or(Duration::ZERO, |since| now.saturating_sub(since));
        wait.saturating_sub(waited)
    }
}

#[cfg(test)]
mod tests {
    use tepui_api::ext::{Holding, Locality};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// In GB.
    fn held(amounts: &[u64], most: u64) -> Vec<Held> {
        let held = amounts.iter().map(|amount| Held {
            bytes: amount << 30,
            most_bytes: most << 30,
        });
        held.collect()
    }

    #[test]
    fn the_offer_that_holds_most_is_taken_at_once_if_that_is_enough() {
        let mut placement = Placement::new(SECOND);
        let now = Duration::from_secs(7);
        assert_eq!(
            placement.choose(now, &held(&[1, 95, 95, 3], 100)),
            Choice::Take(1)
        );
        // Where nobody holds anything, any will do.
        assert_eq!(placement.choose(now, &held(&[0, 0], 0)), Choice::Take(0));
        let huge = Held {
            bytes: 0,
            most_bytes: u64::MAX,
        };
        assert_eq!(placement.choose(now, &[huge]), Choice::Wait(SECOND));
    }

    #[test]
    fn a_better_one_is_waited_for_no_longer_than_said() {
        let mut placement = Placement::new(3 * SECOND);
        assert_eq!(placement.choose(50 * SECOND, &[]), Choice::Wait(3 * SECOND));
        let poor = held(&[10, 89], 100);
        assert_eq!(
            placement.choose(100 * SECOND, &poor),
            Choice::Wait(3 * SECOND)
        );
        assert_eq!(placement.choose(102 * SECOND, &poor), Choice::Wait(SECOND));
        assert_eq!(placement.choose(102 * SECOND, &[]), Choice::Wait(SECOND));
        assert_eq!(
            placement.choose(102 * SECOND, &held(&[90], 100)),
            Choice::Take(0)
        );
        assert_eq!(placement.choose(103 * SECOND, &poor), Choice::Take(1));
        let mut hasty = Placement::new(Duration::ZERO);
        assert_eq!(hasty.choose(SECOND, &poor), Choice::Take(1));
    }

    #[test]
    fn little_is_not_waited_for_longer_than_it_takes_to_bring_it() {
        let mut placement = Placement::new(3 * SECOND);
        let offer = |bytes| {
            [Held {
                bytes,
                most_bytes: 5_000_000,
            }]
        };
        let half = SECOND / 2;
        assert_eq!(placement.choose(SECOND, &offer(0)), Choice::Wait(half));
        assert_eq!(
            placement.choose(SECOND + half / 2, &offer(2_500_000)),
            Choice::Take(0)
        );
    }

    #[test]
    fn an_offer_is_read_as_a_whole_or_for_one_task() {
        let holding = |name: &str, bytes| Holding {
            name: name.to_owned(),
            bytes: Some(bytes),
            ..Holding::default()
        };
        let offer = Offer {
            locality: Some(Locality {
                held: vec![holding("a", 5), holding("a", 2), holding("set", 30)],
                bytes: Some(37),
                most_bytes: Some(40),
            }),
            ..Offer::default()
        };
        let whole = Held::of_offer(&offer);
        assert_eq!((whole.bytes, whole.most_bytes), (37, 40));
        let inputs = [Input {
            sha256: Some("a".to_owned()),
            dataset: None,
        }];
        assert_eq!(Held::of_inputs(&offer, &inputs, 9).bytes, 7);
        assert_eq!(Held::of_inputs(&offer, &[], 9).bytes, 0);
        assert_eq!(Held::of_offer(&Offer::default()), Held::default());
    }
}
