//! The state in PostgreSQL: of a newer version, with large ids in it, and on a server that lets nobody in.

use anyhow::{Context, Result, ensure};
use bson::{Bson, doc};
use sqlx::{Connection, PgConnection};

use crate::daemon::{Daemon, PATIENCE, command};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::servers::Postgres;
use crate::support::until;

#[tokio::test]
async fn a_state_that_a_newer_version_wrote_is_refused_and_left_as_it_is() -> Result<()> {
    const TOLD: &str = "written by a newer version";
    let stage = Stage::new("newer_state").await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 20)).await?;
    let config = stage.config(&stage.whole("things"));
    let (status, summary) = Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await?;
    ensure!(status.success(), "{summary}");
    stage
        .execute(
            "insert into rowstream._sqlx_migrations (version, description, success, checksum, execution_time)
             values (99990101000000, 'of times to come', true, '\\x00', 0)",
        )
        .await?;
    things.insert_one(doc! { "_id": 20_i64 }).await?;
    let state = "select concat_ws(' ', (select row(c) from rowstream.checkpoint as c), (select row(m) from rowstream.mapping as m),
        (select epoch from rowstream.lease), (select count(*) from rowstream._sqlx_migrations), (select count(*) from things))";
    let before = stage.text(state).await?;

    let output = command(&["check"], &config)?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(1) && text.contains(TOLD), "{text}");
    let (status, _) = Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await?;
    ensure!(!status.success(), "it ran");
    let output = command(&["migrate"], &config)?;
    ensure!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let daemon = Daemon::start(&config)?;
    let line = daemon.logged("halted").await?;
    ensure!(line.contains(TOLD) && line.contains("run that version or a later one"), "{line}");
    assert_eq!(daemon.get("/readyz").await?.0, 503);
    assert_eq!(stage.text(state).await?, before);

    // The newer one is gone: this one goes on by itself, where it was.
    stage.execute("delete from rowstream._sqlx_migrations where version = 99990101000000").await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    ensure!(!daemon.log().iter().any(|line| line.contains("snapshot started")), "it began anew");
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// In chunks of one, every such id is the boundary of a chunk.
#[tokio::test]
async fn ids_of_any_length_are_kept_in_the_state() -> Result<()> {
    let stage = Stage::new("large_ids").await?;
    let things = stage.collection("things");
    let ids = || {
        let texts = [3_000, 9_000, 100_000, 1_000_000].map(|length| Bson::String("i".repeat(length)));
        let bytes = bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![7; 500_000] };
        let document = doc! { "a": "d".repeat(200_000), "b": [1, { "c": "e".repeat(50_000) }] };
        texts.into_iter().chain([Bson::Binary(bytes), Bson::Document(document)])
    };
    let all = ids().count() as i64;
    things.insert_many(ids().map(|id| doc! { "_id": id, "text": "NUL \0" })).await?;
    let mapping = stage.whole("things").replace("allow_empty", "id_type: string, allow_empty");
    let daemon = Daemon::start(&format!("{}snapshot: {{ chunk_documents: 1 }}\n", stage.config(&mapping)))?;
    let becomes = async |sql: &str, expected: i64| {
        let there =
            until(sql, PATIENCE, async || Ok((stage.number(sql).await.ok() == Some(expected)).then_some(())));
        there.await.with_context(|| daemon.last_words())
    };
    let open = "select count(*) from rowstream.held where state <> 'resolved'";
    becomes("select count(*) from rowstream.chunk where finished_at is not null", all).await?;
    becomes(open, all).await?;
    // Each is found again by what is kept of it, and once it is mended it has its row.
    becomes("select count(*) from rowstream.held where attempts > 1", all).await?;
    things.update_many(doc! {}, doc! { "$set": { "text": "mended" } }).await?;
    becomes(open, 0).await?;
    becomes("select count(*) from things where document->>'text' = 'mended'", all).await?;
    for id in ids() {
        things.delete_one(doc! { "_id": id }).await?;
    }
    becomes("select count(*) from things", 0).await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_postgresql_without_a_free_connection_is_waited_for() -> Result<()> {
    let postgres = Postgres::start_with(&["max_connections=8", "superuser_reserved_connections=0"]).await?;
    postgres.create_database("app").await?;
    let mut stage = Stage::new("no_connection").await?;
    stage.postgres_url = postgres.url_of("app");
    stage.collection("things").insert_many(numbered(0, 20)).await?;
    let mut taken: Vec<PgConnection> = Vec::new();
    while let Ok(connection) = postgres.connect("app").await {
        taken.push(connection);
    }
    ensure!(taken.len() > 2, "{} connections were free", taken.len());
    let mut daemon = Daemon::start(&stage.config(&stage.whole("things")))?;
    daemon.check_becomes("postgresql", &["degraded", "failing"]).await?;
    let line = daemon.logged("will try again").await?;
    ensure!(line.contains("too many clients"), "{line}");
    assert_eq!(daemon.get("/livez").await?.0, 200);
    for connection in taken {
        connection.close().await?;
    }
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    daemon.check_becomes("postgresql", &["ok"]).await?;
    assert!(daemon.is_running());
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// Another program's migration, or somebody by hand: nothing of the user's tables is to blame.
#[tokio::test]
async fn a_state_whose_schema_somebody_altered_is_told_by_name_and_gone_on_with_once_it_is_put_back()
-> Result<()> {
    let stage = Stage::new("altered_state").await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 20)).await?;
    let mapping = stage.whole("things").replace("allow_empty", "id_type: int, allow_empty");
    let mut daemon = Daemon::start(&stage.config(&mapping))?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    stage.execute("alter table rowstream.checkpoint rename column token to other_name").await?;
    things.insert_one(doc! { "_id": 20_i64 }).await?;
    let line = daemon.logged("\"event\":\"halted\"").await?;
    for told in ["read or write the state", "token", "rowstream migrate"] {
        ensure!(line.contains(told), "{told} is not in {line}");
    }
    assert!(daemon.is_running());
    stage.execute("alter table rowstream.checkpoint rename column other_name to token").await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    daemon.check_becomes("leader", &["ok"]).await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}
