//! When the timer compares what: plain functions over times.

use std::time::Duration;

use super::Extent;
use crate::config::Reconcile;

/// Looked at again at least this often: a window may open meanwhile, another process may have compared.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// When comparisons last began, in seconds since 1970: a process that starts counts as one, so that restarts
/// do not compare each time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Last {
    pub any: f64,
    pub full: f64,
}

/// What the timer does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Compare(Extent),
    Wait(Duration),
}

pub fn next(config: &Reconcile, last: Last, now: f64) -> Next {
    let left =
        |every: Duration, last: f64| (!every.is_zero()).then(|| (last + every.as_secs_f64() - now).max(0.0));
    let is_open = config.window.is_none_or(|window| window.has(now.max(0.0) as u64));
    let full = left(config.full_every, last.full);
    if full == Some(0.0) && is_open {
        return Next::Compare(Extent::Full);
    }
    // A full comparison is a spot check as well.
    let any = left(config.every, last.any.max(last.full));
    if any == Some(0.0) {
        return Next::Compare(Extent::Sample(config.sample));
    }
    let wait = full.into_iter().chain(any).filter(|left| *left > 0.0).fold(f64::MAX, f64::min);
    Next::Wait(Duration::from_secs_f64(wait.min(LONGEST_WAIT.as_secs_f64())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Window;

    const HOUR: f64 = 3_600.0;
    /// Midnight of some day.
    const MIDNIGHT: f64 = 86_400.0 * 20_000.0;

    fn config(every_hours: u64, full_hours: u64, window: Option<Window>) -> Reconcile {
        Reconcile {
            every: Duration::from_secs(every_hours * 3_600),
            sample: 10,
            full_every: Duration::from_secs(full_hours * 3_600),
            window,
            documents_per_second: None,
            read_preference: None,
            patience: Duration::ZERO,
            retention: Duration::ZERO,
            repairs_per_second: 1,
            assertions: Vec::new(),
        }
    }

    fn hours_ago(any: f64, full: f64, now: f64) -> Last {
        Last { any: now - any * HOUR, full: now - full * HOUR }
    }

    #[test]
    fn a_spot_check_is_due_after_its_time_and_a_full_one_counts_as_one() {
        let config = config(1, 24, None);
        let now = MIDNIGHT;
        assert_eq!(next(&config, hours_ago(1.0, 5.0, now), now), Next::Compare(Extent::Sample(10)));
        let soon = next(&config, hours_ago(2.0, 0.999, now), now);
        assert!(matches!(soon, Next::Wait(wait) if wait < Duration::from_secs(5)), "{soon:?}");
        assert_eq!(next(&config, hours_ago(0.0, 24.0, now), now), Next::Compare(Extent::Full));
        assert_eq!(next(&config, hours_ago(0.5, 0.5, now), now), Next::Wait(LONGEST_WAIT));
    }

    #[test]
    fn a_full_comparison_waits_for_its_window() {
        let config = config(0, 24, Some(Window { from: 60, to: 120 }));
        let early = MIDNIGHT + 0.5 * HOUR;
        assert_eq!(next(&config, hours_ago(9.0, 30.0, early), early), Next::Wait(LONGEST_WAIT));
        let open = MIDNIGHT + 1.5 * HOUR;
        assert_eq!(next(&config, hours_ago(9.0, 30.0, open), open), Next::Compare(Extent::Full));
    }

    #[test]
    fn what_is_off_is_never_due() {
        let config = config(0, 0, None);
        assert_eq!(next(&config, Last { any: 0.0, full: 0.0 }, MIDNIGHT), Next::Wait(LONGEST_WAIT));
    }
}
