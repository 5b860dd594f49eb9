use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

/// Now, read from both clocks: differences come from the one that never jumps, what people read
/// from the one on the wall. Logic takes it as an argument, so that tests need not sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    instant: Instant,
    wall: SystemTime,
}

impl Moment {
    pub fn now() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }

    /// Zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.instant.saturating_duration_since(earlier.instant)
    }

    pub fn after(self, duration: Duration) -> Self {
        Self { instant: self.instant + duration, wall: self.wall + duration }
    }

    pub fn before(self, duration: Duration) -> Self {
        Self {
            // A clock that began later than that is at its beginning.
            instant: self.instant.checked_sub(duration).unwrap_or(self.instant),
            wall: self.wall.checked_sub(duration).unwrap_or(self.wall),
        }
    }

    pub fn later_of(self, other: Self) -> Self {
        if other.instant > self.instant { other } else { self }
    }

    pub fn unix_seconds(self) -> f64 {
        self.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }
}

/// RFC 3339, UTC, milliseconds: `2025-09-01T10:14:35.123Z`.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elapsed = self.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = elapsed.as_secs();
        let (year, month, day) = civil_date(seconds / 86_400);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            seconds / 3_600 % 24,
            seconds / 60 % 60,
            seconds % 60,
            elapsed.subsec_millis()
        )
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Year, month and day of a day since 1970, after Hinnant's `civil_from_days`: years begin in March,
/// so that the leap day is the last of its year.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> String {
        let wall = UNIX_EPOCH + Duration::from_millis(milliseconds);
        Moment { instant: Instant::now(), wall }.to_string()
    }

    #[test]
    fn a_moment_is_written_as_rfc_3339() {
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_756_721_675_123), "2025-09-01T10:14:35.123Z");
        assert_eq!(at(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn a_difference_is_never_negative() {
        let now = Moment::now();
        let later = now.after(Duration::from_secs(3));
        assert_eq!(later.since(now), Duration::from_secs(3));
        assert_eq!(now.since(later), Duration::ZERO);
        assert_eq!(now.later_of(later), later);
    }
}
