//! What a person sees every second.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::postgres::PgConnection;

use crate::daemon::Daemon;
use crate::expenses::Collection;
use crate::sides::{Counts, Sides};

#[derive(Debug)]
pub(crate) struct Progress<'a> {
    sides: &'a Sides,
    daemon: &'a Daemon,
    postgres: PgConnection,
    began: Instant,
    /// Rows that the first copy has; `None` once it was said.
    to_copy: Option<i64>,
    /// Sum and count of the lags that rowstream had measured at the last look.
    applied: Option<(f64, f64)>,
    /// Lines of the block that is written over each second; `None` where nothing can be written over.
    block: Option<usize>,
}

impl<'a> Progress<'a> {
    pub(crate) async fn new(sides: &'a Sides, daemon: &'a Daemon, documents: usize) -> Result<Self> {
        let postgres = sides.postgres().await?;
        let block = io::stdout().is_terminal().then_some(0);
        Ok(Self {
            sides,
            daemon,
            postgres,
            began: Instant::now(),
            to_copy: Some(documents.try_into()?),
            applied: None,
            block,
        })
    }

    pub(crate) async fn show(&mut self, written: u64) -> Result<()> {
        let documents = self.sides.documents().await?;
        let rows = self.sides.rows(&mut self.postgres).await?;
        let (all_documents, all_rows) = (total(&documents), total(&rows));
        if self.to_copy.is_some_and(|to_copy| all_rows >= to_copy) {
            self.to_copy = None;
            self.say(&format!("the first copy is there after {}", in_seconds(self.began.elapsed())));
        }
        let state = format!(
            "{:>4} s   MongoDB {} → PostgreSQL {}   {} changes written   lag {}   {}",
            self.began.elapsed().as_secs(),
            grouped(all_documents),
            grouped(all_rows),
            grouped(written.try_into()?),
            self.lag().unwrap_or_else(|| "–".into()),
            self.health(),
        );
        match self.block {
            None => println!("{state}"),
            Some(_) => self.draw(&documents, &rows, &state)?,
        }
        Ok(())
    }

    /// A line that stays, above the block.
    fn say(&mut self, line: &str) {
        self.erase();
        println!("{line}");
    }

    fn erase(&mut self) {
        if let Some(lines @ 1..) = self.block {
            print!("\x1b[{lines}A\x1b[J");
            self.block = Some(0);
        }
    }

    fn draw(&mut self, documents: &Counts, rows: &Counts, state: &str) -> Result<()> {
        self.erase();
        println!("  {:<12}{:>12}{:>12}", "", "documents", "rows");
        for collection in Collection::ALL {
            let of = |counts: &Counts| grouped(counts.get(&collection).copied().unwrap_or(0));
            println!("  {:<12}{:>12}{:>12}", collection.source(), of(documents), of(rows));
        }
        println!("{state}");
        io::stdout().flush()?;
        self.block = Some(Collection::ALL.len() + 2);
        Ok(())
    }

    /// rowstream's own word, from its metrics: of what it applied since the last look, on average.
    fn lag(&mut self) -> Option<String> {
        let (_, text) = self.daemon.get("/metrics").ok()?;
        let value = |name: &str| -> Option<f64> {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            lines.next()?.parse().ok()
        };
        let now = (value("rowstream_apply_lag_seconds_sum")?, value("rowstream_apply_lag_seconds_count")?);
        let (sum, count) = self.applied.replace(now).unwrap_or_default();
        let seconds = if now.1 > count {
            (now.0 - sum) / (now.1 - count)
        } else {
            value("rowstream_source_lag_seconds")?
        };
        Some(if seconds < 1.0 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") })
    }

    fn health(&self) -> String {
        match self.daemon.get("/health") {
            Err(_) => "starting".into(),
            Ok((status, body)) => {
                let body: Option<serde_json::Value> = serde_json::from_str(&body).ok();
                let word = body.as_ref().and_then(|body| body.get("status")?.as_str());
                word.map_or_else(|| format!("health {status}"), |word| format!("health {word}"))
            }
        }
    }
}

fn total(counts: &Counts) -> i64 {
    counts.values().sum()
}

fn in_seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
