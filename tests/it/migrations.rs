//! The user's own migrations while the pipeline runs.

use anyhow::{Context, Result};
use bson::{Bson, doc};

use crate::daemon::{Daemon, PATIENCE};
use crate::stage::Stage;
use crate::support::until;

/// A daemon that follows `things` into `mine`, with a few rows there.
struct Following {
    stage: Stage,
    daemon: Daemon,
}

const ROWS: &str = "select string_agg(concat_ws(' ', source_id, n, mood), ', ' order by source_id) from mine";
const OPEN: &str = "select count(*) from rowstream.held where state <> 'resolved'";

impl Following {
    async fn start(name: &str) -> Result<Self> {
        let stage = Stage::new(name).await?;
        stage
            .execute(
                "create type mood as enum ('fine', 'sad');
                 create table mine (source text, source_id text, n numeric(12, 4), mood mood, primary key (source, source_id))",
            )
            .await?;
        stage
            .collection("things")
            .insert_many((1..3).map(|id| doc! { "_id": id, "n": id, "mood": "fine" }))
            .await?;
        let mapping = format!(
            "  - {{ source: things, collection: {}.things, table: mine, id_type: int, columns: {{ n: n, mood: mood }} }}\n",
            stage.name
        );
        let daemon = Daemon::start(&stage.config(&mapping))?;
        let following = Self { stage, daemon };
        following.becomes(ROWS, "1 1.0000 fine, 2 2.0000 fine").await?;
        Ok(following)
    }

    async fn becomes(&self, sql: &str, expected: &str) -> Result<()> {
        let mut last = None;
        let becomes = until("the rows", PATIENCE, async || {
            last = self.stage.text(sql).await.ok().flatten();
            Ok((last.as_deref() == Some(expected)).then_some(()))
        });
        becomes.await.with_context(|| format!("there is {last:?}\n{}", self.daemon.last_words()))
    }

    async fn insert(&self, id: i32, n: impl Into<Bson>, mood: &str) -> Result<()> {
        self.stage.collection("things").insert_one(doc! { "_id": id, "n": n.into(), "mood": mood }).await?;
        Ok(())
    }

    fn never_halted(&self) {
        assert!(
            self.daemon.log().iter().all(|line| !line.contains("halted")),
            "{}",
            self.daemon.last_words()
        );
    }

    /// Breaks the table, writes, and mends it; nothing is held, for it is nobody's document.
    async fn halts(&self, breaking: &str, told: &[&str], mending: &str) -> Result<()> {
        self.stage.execute(breaking).await?;
        self.insert(3, 3, "sad").await?;
        let line = self.daemon.logged("halted").await?;
        for words in told {
            assert!(line.contains(words), "{words:?} is not in {line}");
        }
        self.stage.execute(mending).await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_column_that_is_added_and_takes_null_or_has_a_default_disturbs_nobody() -> Result<()> {
    let following = Following::start("added_column").await?;
    following
        .stage
        .execute(
            "alter table mine add column note text; alter table mine add column made int not null default 7",
        )
        .await?;
    following.insert(3, 3, "sad").await?;
    following.becomes(ROWS, "1 1.0000 fine, 2 2.0000 fine, 3 3.0000 sad").await?;
    following.becomes("select string_agg(made::text, ' ') from mine", "7 7 7").await?;
    following.never_halted();
    Ok(())
}

#[tokio::test]
async fn a_column_that_nobody_fills_halts_until_it_has_a_default() -> Result<()> {
    let following = Following::start("unfilled_column").await?;
    let breaking = "alter table mine add column must int; update mine set must = 1; alter table mine alter must set not null";
    let told = [
        "table public.mine, column must: is not null and has no default, but is not mapped",
        "give the column a default",
    ];
    following.halts(breaking, &told, "alter table mine alter must set default 5").await?;
    following.becomes("select must from mine where source_id = '3'", "5").await?;
    following.becomes(OPEN, "0").await
}

#[tokio::test]
async fn a_mapped_column_that_is_dropped_halts_until_it_is_back() -> Result<()> {
    let following = Following::start("dropped_column").await?;
    let told = ["table public.mine, column mood: does not exist"];
    following.halts("alter table mine drop mood", &told, "alter table mine add mood text").await?;
    following.becomes("select mood from mine where source_id = '3'", "sad").await?;
    following.becomes(OPEN, "0").await
}

#[tokio::test]
async fn a_mapped_column_that_is_renamed_halts_and_names_it() -> Result<()> {
    let following = Following::start("renamed_column_of_mine").await?;
    let told = ["column mood: does not exist", "moods"];
    following
        .halts("alter table mine rename mood to moods", &told, "alter table mine rename moods to mood")
        .await?;
    following.becomes(ROWS, "1 1.0000 fine, 2 2.0000 fine, 3 3.0000 sad").await
}

#[tokio::test]
async fn a_type_that_is_widened_is_used_at_once() -> Result<()> {
    let following = Following::start("widened").await?;
    following.stage.execute("alter table mine alter n type numeric, alter mood type text").await?;
    following.insert(3, 1.123_456, "angry").await?;
    following.becomes(ROWS, "1 1.0000 fine, 2 2.0000 fine, 3 1.123456 angry").await?;
    following.becomes("select count(*) from rowstream.held", "0").await?;
    following.never_halted();
    Ok(())
}

#[tokio::test]
async fn a_type_that_is_narrowed_rounds_nothing() -> Result<()> {
    let following = Following::start("narrowed").await?;
    following.stage.execute("alter table mine alter n type numeric(12, 2)").await?;
    following.insert(3, 1.125, "sad").await?;
    following.insert(4, 1.25, "sad").await?;
    following
        .becomes("select string_agg(reason || ' ' || column_name, ', ') from rowstream.held", "not_exact n")
        .await?;
    following.becomes(ROWS, "1 1.00 fine, 2 2.00 fine, 4 1.25 sad").await?;
    // Widened again, what was held comes by itself.
    following.stage.execute("alter table mine alter n type numeric(12, 3)").await?;
    following.becomes(ROWS, "1 1.000 fine, 2 2.000 fine, 3 1.125 sad, 4 1.250 sad").await?;
    following.becomes(OPEN, "0").await?;
    following.never_halted();
    Ok(())
}

/// No lock keeps the name of a schema: behind what was compared a statement may find another table.
#[tokio::test]
async fn a_schema_that_takes_the_name_of_another_in_mid_transaction_rounds_nothing() -> Result<()> {
    let stage = Stage::new("blue_green").await?;
    let table = |schema: &str, scale: u8| {
        format!(
            "create schema {schema};
             create table {schema}.mine (source text, source_id text, n numeric(12, {scale}), primary key (source, source_id));"
        )
    };
    stage.execute(&(table("live", 2) + &table("next", 0))).await?;
    stage.collection("things").insert_many([doc! { "_id": 1, "n": 1.5 }, doc! { "_id": 2, "n": 2 }]).await?;
    let mapping = format!(
        "  - {{ source: things, collection: {}.things, table: live.mine, id_type: int, columns: {{ n: n }} }}\n",
        stage.name
    );
    // Its tables are compared and locked, nothing is written yet.
    let daemon = Daemon::start_in(&stage.config(&mapping), &[], &[("FAILPOINTS", "copy=1*return(4000)")])?;
    daemon.logged("fail point reached").await?;
    stage.execute("alter schema live rename to former; alter schema next rename to live").await?;
    let following = Following { stage, daemon };
    let held =
        "select string_agg(source_id || ' ' || reason || ' ' || column_name, ', ') from rowstream.held";
    following.becomes(held, "1 not_exact n").await?;
    following.becomes("select string_agg(concat_ws(' ', source_id, n), ', ') from live.mine", "2 2").await?;
    following.never_halted();
    Ok(())
}

#[tokio::test]
async fn a_type_that_cannot_be_written_halts_until_it_can() -> Result<()> {
    let following = Following::start("no_such_type").await?;
    let told = ["column mood: has the type point, which rowstream cannot write"];
    let breaking = "alter table mine alter mood type point using null";
    following.halts(breaking, &told, "alter table mine alter mood type text using null").await?;
    following.becomes("select mood from mine where source_id = '3'", "sad").await
}

#[tokio::test]
async fn a_label_that_is_added_releases_what_was_held_for_it() -> Result<()> {
    let following = Following::start("label").await?;
    following.insert(3, 3, "angry").await?;
    following
        .becomes("select reason || ' ' || column_name from rowstream.held", "unknown_enum_label mood")
        .await?;
    following.stage.execute("alter type mood add value 'angry'").await?;
    following.becomes(ROWS, "1 1.0000 fine, 2 2.0000 fine, 3 3.0000 angry").await?;
    following.becomes(OPEN, "0").await?;
    // One that is renamed is unknown from then on, and its rows go on under the new name.
    following.stage.execute("alter type mood rename value 'sad' to 'glum'").await?;
    following.insert(4, 4, "sad").await?;
    following.becomes(OPEN, "1").await?;
    following.insert(5, 5, "glum").await?;
    following.becomes("select mood from mine where source_id = '5'", "glum").await?;
    following.never_halted();
    Ok(())
}

#[tokio::test]
async fn a_constraint_that_new_rows_violate_holds_them_alone_until_it_is_gone() -> Result<()> {
    let following = Following::start("new_constraint").await?;
    following.stage.execute("alter table mine add constraint small check (n < 10) not valid; create unique index one_n on mine (n)").await?;
    for (id, n) in [(3, 30), (4, 4), (5, 4)] {
        following.insert(id, n, "sad").await?;
    }
    let held = "select string_agg(reason, ' ' order by reason) from rowstream.held where state <> 'resolved'";
    following.becomes(held, "constraint unique_violation").await?;
    following.becomes(ROWS, "1 1.0000 fine, 2 2.0000 fine, 4 4.0000 sad").await?;
    following.stage.execute("alter table mine drop constraint small; drop index one_n").await?;
    following
        .becomes(ROWS, "1 1.0000 fine, 2 2.0000 fine, 3 30.0000 sad, 4 4.0000 sad, 5 4.0000 sad")
        .await?;
    following.becomes(OPEN, "0").await?;
    following.never_halted();
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_made_anew_is_filled_again() -> Result<()> {
    let following = Following::start("made_anew").await?;
    following
        .stage
        .execute(
            "begin; alter table mine rename to former;
             create table mine (source text, source_id text, n bigint, mood text, primary key (source, source_id)); commit",
        )
        .await?;
    following.insert(3, 3, "sad").await?;
    following.becomes(ROWS, "1 1 fine, 2 2 fine, 3 3 sad").await?;
    following.becomes("select count(*) from former", "2").await?;
    following.never_halted();
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_renamed_away_halts_and_goes_on_with_its_rows_when_it_is_back() -> Result<()> {
    let following = Following::start("renamed_away").await?;
    let told = ["table public.mine: the table does not exist"];
    following.halts("alter table mine rename to aside", &told, "alter table aside rename to mine").await?;
    following.becomes(ROWS, "1 1.0000 fine, 2 2.0000 fine, 3 3.0000 sad").await?;
    let again = following.daemon.log().iter().filter(|line| line.contains("copying")).count();
    assert_eq!(again, 0, "it is the same table: nothing is copied again");
    Ok(())
}

#[tokio::test]
async fn a_table_that_rowstream_makes_is_made_and_filled_again_when_it_is_dropped() -> Result<()> {
    let stage = Stage::new("made_again").await?;
    stage.collection("notes").insert_many((0..5).map(|id| doc! { "_id": id })).await?;
    let daemon = Daemon::start(&stage.config(&stage.whole("notes")))?;
    let count = "select count(*) from notes";
    let becomes = async |rows: i64| {
        until("the rows", PATIENCE, async || Ok((stage.number(count).await.ok() == Some(rows)).then_some(())))
            .await
            .with_context(|| daemon.last_words())
    };
    becomes(5).await?;
    stage.execute("drop table notes").await?;
    stage.collection("notes").insert_one(doc! { "_id": 9 }).await?;
    becomes(6).await
}
