//! What became of the machine's time, by the kernel.

use std::fmt;
use std::fs;

use anyhow::{Context, Result};

/// Ticks of all cores since the machine was started; or shares of a span of time, as it is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shares {
    all: u64,
    idle: u64,
    /// Wanted, and given to another machine of the same host.
    stolen: u64,
}

impl Shares {
    pub(crate) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let line = stat.lines().next().context("/proc/stat is empty")?;
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; guest time is in user already.
        let [_, _, _, idle, waiting, _, _, stolen, ..] = ticks[..] else {
            anyhow::bail!("/proc/stat has other columns: {line}")
        };
        Ok(Self { all: ticks.iter().take(8).sum(), idle: idle + waiting, stolen })
    }

    /// Other machines of the host took at most a hundredth: an absolute time is worth little where it is more.
    pub(crate) fn is_quiet(self) -> bool {
        self.stolen * 100 <= self.all
    }

    pub(crate) fn until_now(self) -> Result<Self> {
        let now = Self::now()?;
        Ok(Self { all: now.all - self.all, idle: now.idle - self.idle, stolen: now.stolen - self.stolen })
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |ticks: u64| ticks * 100 / self.all.max(1);
        write!(f, "{} % idle {} % stolen", percent(self.idle), percent(self.stolen))
    }
}
