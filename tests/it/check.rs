//! What `rowstream check` finds in the catalog.

use anyhow::{Context, Result, ensure};
use bson::doc;

use crate::daemon::{Daemon, command};
use crate::stage::Stage;

/// Exit code, and what it says.
fn check(config: &str) -> Result<(i32, String)> {
    let output = command(&["check"], config)?;
    ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code().context("ended by a signal")?, String::from_utf8(output.stdout)?))
}

fn mapping(stage: &Stage, table: &str, columns: &str) -> String {
    format!(
        "  - {{ source: {table}, collection: {}.{table}, table: {table}, id_type: int, columns: {{ {columns} }} }}\n",
        stage.name
    )
}

#[tokio::test]
async fn everything_between_a_mapping_and_its_table_is_told_at_once() -> Result<()> {
    let stage = Stage::new("check_all").await?;
    for collection in ["parents", "children", "partial", "late", "hen", "egg"] {
        stage.collection(collection).insert_one(doc! { "_id": 1, "n": 1 }).await?;
    }
    stage
        .execute(
            "create function nothing() returns trigger language plpgsql as 'begin return new; end';
             create table parents (source text, source_id text, n bigint unique, primary key (source, source_id));
             create table children (source text, source_id text, n bigint references parents (n) on delete cascade,
                 must int not null, made int generated always as (1) stored, primary key (source, source_id));
             create trigger watch before insert on children for each row execute function nothing();
             create table partial (source text, source_id text, n bigint);
             create unique index partial_key on partial (source, source_id) where n > 0;
             create table late (source text, source_id text, n bigint,
                 constraint late_key unique (source, source_id) deferrable initially deferred);
             create table hen (source text, source_id text, n bigint unique, primary key (source, source_id));
             create table egg (source text, source_id text, n bigint unique references hen (n), primary key (source, source_id));
             alter table hen add foreign key (n) references egg (n);
             create table empty (like parents including all)",
        )
        .await
        .context("the tables")?;
    let tables = ["children", "parents", "partial", "late", "hen", "egg", "empty"];
    let mut mappings: String = tables.iter().map(|table| mapping(&stage, table, "n: n")).collect();
    mappings.push_str(
        &mapping(&stage, "children", "made: n, must: n").replace("source: children", "source: made"),
    );
    let (code, text) = check(&stage.config(&mappings))?;
    assert_eq!(code, 1);
    let lines: Vec<&str> =
        text.lines().filter(|line| !line.contains("mongodb:") && !line.contains("postgresql:")).collect();
    insta::assert_snapshot!("check_all", lines.join("\n").replace(&stage.name, "<database>"));
    Ok(())
}

#[tokio::test]
async fn parents_are_copied_before_their_children_wherever_they_stand_in_the_file() -> Result<()> {
    let stage = Stage::new("order").await?;
    for collection in ["lines", "orders", "customers"] {
        stage.collection(collection).insert_many((0..50).map(|id| doc! { "_id": id, "of": id / 2 })).await?;
    }
    let table = |name: &str, more: &str| {
        format!(
            "create table {name} (source text, source_id text unique, parent text {more}, primary key (source, source_id));"
        )
    };
    stage
        .execute(
            &[
                table("customers", ""),
                table("orders", "references customers (source_id)"),
                table("lines", "references orders (source_id)"),
            ]
            .concat(),
        )
        .await?;
    let mappings: String = ["lines", "orders", "customers"]
        .iter()
        .map(|name| mapping(&stage, name, "parent: { from: of, as: text }"))
        .collect();
    let config = format!("{}snapshot: {{ workers: 1 }}\n", stage.config(&mappings));
    let (status, text) = Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await?;
    assert!(status.success(), "{text}");
    let sources: Vec<&str> = text.lines().skip(2).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(sources, ["customers", "orders", "lines"]);
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0, "nobody had to wait");
    Ok(())
}
