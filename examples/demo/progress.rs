//! What a person sees every second.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;
use bson::doc;
use sqlx::postgres::PgConnection;

use crate::daemon::Daemon;
use crate::expenses::Collection;
use crate::sides::{Counts, Sides, table_exists};

#[derive(Debug)]
pub(crate) struct Progress<'a> {
    sides: &'a Sides,
    daemon: &'a Daemon,
    postgres: PgConnection,
    began: Instant,
    /// Rows that the first copy has; `None` once it was said.
    to_copy: Option<i64>,
    /// Counts the writes by which the lag is tried.
    pulse: i32,
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
            pulse: 0,
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
            self.lag().await?,
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

    /// How long after MongoDB's answer a write is seen in PostgreSQL: tried with one document, since the times
    /// in MongoDB's oplog are whole seconds.
    async fn lag(&mut self) -> Result<String> {
        const LIMIT: Duration = Duration::from_millis(900);
        const ID: &str = "event_pulse";
        if !table_exists(&mut self.postgres, Collection::Events).await? {
            return Ok("–".into());
        }
        self.pulse += 1;
        let events = self.sides.mongodb.collection::<bson::Document>(Collection::Events.name());
        let update = doc! { "$set": { "name": "the demo's pulse", "pulse": self.pulse } };
        events.update_one(doc! { "_id": ID }, update).upsert(true).await?;
        let written = Instant::now();
        let sql = "select (document ->> 'pulse')::int from events where source_id = $1";
        while written.elapsed() < LIMIT {
            let seen: Option<i32> =
                sqlx::query_scalar(sql).bind(ID).fetch_optional(&mut self.postgres).await?;
            if seen == Some(self.pulse) {
                return Ok(format!("{} ms", written.elapsed().as_millis()));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(format!("over {} ms", LIMIT.as_millis()))
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
