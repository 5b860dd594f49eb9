//! Unique values that another row has: whoever is held for one gets it as soon as it is free, however far away the
//! next attempt is.

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};

use crate::daemon::{Daemon, command};
use crate::stage::{Stage, becomes, says};

/// Who has which e-mail address.
const ROWS: &str =
    "select string_agg(mongo_id || ' ' || email, ', ' order by mongo_id collate \"C\") from people";
const HELD: &str = "select coalesce(string_agg(source_id, ' ' order by source_id collate \"C\"), '')
    from rowstream.held where state <> 'resolved'";
const TOLD: &str = "select message from rowstream.held where state <> 'resolved' and source_id = 'p2'";

fn far_away(config: &str) -> String {
    let far = config.replace("retry_initial: 500ms, retry_max: 2s", "retry_initial: 6h, retry_max: 6h");
    assert_ne!(far, config, "with short retries nothing here could fail");
    far
}

fn mapping(stage: &Stage, source: &str, key: &str) -> String {
    format!(
        "  - source: {source}
    collection: {}.{source}
    table: people
    id_type: string
    allow_empty: true
    key: {key}
    columns: {{ email: email, code: {{ from: code, required: true }}, mongo_id: $id }}\n",
        stage.name
    )
}

/// The people `p1` to `p4` with the addresses `a1` to `a4`.
async fn people(name: &str, key: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage
        .execute(
            "create table people (id serial primary key, mongo_id text unique, code integer unique, email text unique)",
        )
        .await?;
    let person = |n: i32| doc! { "_id": format!("p{n}"), "email": format!("a{n}"), "code": n };
    stage.collection("people").insert_many((1..=4).map(person)).await?;
    let columns = match key {
        "[code]" => mapping(&stage, "people", key),
        _ => mapping(&stage, "people", key).replace(", mongo_id: $id", ""),
    };
    let config = far_away(&stage.config(&columns));
    Ok((stage, config))
}

const BY_ID: &str = "{ source: null, source_id: mongo_id }";

async fn wants(stage: &Stage, person: &str, email: &str) -> Result<()> {
    let set: Document = doc! { "$set": { "email": email } };
    stage.collection("people").update_one(doc! { "_id": person }, set).await?;
    Ok(())
}

async fn leaves(stage: &Stage, person: &str) -> Result<()> {
    stage.collection("people").delete_one(doc! { "_id": person }).await?;
    Ok(())
}

#[tokio::test]
async fn a_value_goes_to_who_waits_for_it_when_its_row_leaves_or_changes() -> Result<()> {
    for (name, key) in [("occupants_id", BY_ID), ("occupants_key", "[code]")] {
        let (stage, config) = people(name, key).await?;
        let daemon = Daemon::start(&config)?;
        says(&stage, &daemon, ROWS, "p1 a1, p2 a2, p3 a3, p4 a4").await.context(key)?;
        wants(&stage, "p2", "a1").await?;
        says(&stage, &daemon, HELD, "p2").await.context(key)?;
        let told = stage.text(TOLD).await?.unwrap_or_default();
        ensure!(told.ends_with(", which the row of p1 has"), "{told}");
        // What else the row says is nothing to those who wait.
        let moved = doc! { "$set": { "code": 11 } };
        stage.collection("people").update_one(doc! { "_id": "p1" }, moved).await?;
        becomes(&stage, &daemon, "select code from people where mongo_id = 'p1'", 11).await.context(key)?;
        let undisturbed = "select next_attempt_at > now() + interval '1 hour' from rowstream.held";
        ensure!(
            stage.text(&format!("select ({undisturbed})::text")).await?.as_deref() == Some("true"),
            "{key}"
        );
        wants(&stage, "p1", "b1").await?;
        says(&stage, &daemon, ROWS, "p1 b1, p2 a1, p3 a3, p4 a4").await.context(key)?;
        says(&stage, &daemon, HELD, "").await.context(key)?;
        wants(&stage, "p4", "a1").await?;
        says(&stage, &daemon, HELD, "p4").await.context(key)?;
        leaves(&stage, "p2").await?;
        says(&stage, &daemon, ROWS, "p1 b1, p3 a3, p4 a1").await.context(key)?;
        says(&stage, &daemon, HELD, "").await.context(key)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_document_in_whose_way_two_rows_are_comes_when_both_have_given_way_in_any_order() -> Result<()> {
    let (stage, config) = people("occupants_two", BY_ID).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ROWS, "p1 a1, p2 a2, p3 a3, p4 a4").await?;
    let people = stage.collection("people");
    for (first, second, email) in [("p1", "p2", "a1"), ("p4", "p3", "a3")] {
        // The address of the one, and the code of the other.
        let code = if first == "p1" { 2 } else { 4 };
        people.insert_one(doc! { "_id": format!("of {email}"), "email": email, "code": code }).await?;
        says(&stage, &daemon, HELD, &format!("of {email}")).await?;
        leaves(&stage, first).await?;
        becomes(&stage, &daemon, &format!("select count(*) from people where mongo_id = '{first}'"), 0)
            .await?;
        says(&stage, &daemon, HELD, &format!("of {email}")).await?;
        leaves(&stage, second).await?;
        becomes(&stage, &daemon, &format!("select count(*) from people where mongo_id = 'of {email}'"), 1)
            .await?;
        says(&stage, &daemon, HELD, "").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_row_that_moves_to_another_key_gives_its_values_up_like_any_other() -> Result<()> {
    let (stage, config) = people("occupants_moves", "[code]").await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ROWS, "p1 a1, p2 a2, p3 a3, p4 a4").await?;
    wants(&stage, "p2", "a1").await?;
    says(&stage, &daemon, HELD, "p2").await?;
    let moved = doc! { "$set": { "email": "b1", "code": 11 } };
    stage.collection("people").update_one(doc! { "_id": "p1" }, moved).await?;
    says(&stage, &daemon, ROWS, "p1 b1, p2 a1, p3 a3, p4 a4").await?;
    says(&stage, &daemon, HELD, "").await
}

#[tokio::test]
async fn whoever_waits_for_a_value_that_passes_to_another_row_waits_for_that_one() -> Result<()> {
    let (stage, config) = people("occupants_passed", BY_ID).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ROWS, "p1 a1, p2 a2, p3 a3, p4 a4").await?;
    wants(&stage, "p4", "a1").await?;
    says(&stage, &daemon, HELD, "p4").await?;
    let mut session = stage.client.start_session().await?;
    session.start_transaction().await?;
    for (person, email) in [("p1", "b1"), ("p2", "a1")] {
        let set = doc! { "$set": { "email": email } };
        let people = stage.collection("people");
        people.update_one(doc! { "_id": person }, set).session(&mut session).await?;
    }
    session.commit_transaction().await?;
    says(&stage, &daemon, ROWS, "p1 b1, p2 a1, p3 a3, p4 a4").await?;
    leaves(&stage, "p2").await?;
    says(&stage, &daemon, ROWS, "p1 b1, p3 a3, p4 a1").await?;
    says(&stage, &daemon, HELD, "").await
}

#[tokio::test]
async fn those_who_wait_for_one_value_get_it_one_after_the_other_across_a_restart_and_a_kill() -> Result<()> {
    let (stage, config) = people("occupants_queue", BY_ID).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ROWS, "p1 a1, p2 a2, p3 a3, p4 a4").await?;
    for person in ["p2", "p3", "p4"] {
        wants(&stage, person, "a1").await?;
    }
    says(&stage, &daemon, HELD, "p2 p3 p4").await?;
    leaves(&stage, "p1").await?;
    says(&stage, &daemon, ROWS, "p2 a1, p3 a3, p4 a4").await?;
    says(&stage, &daemon, HELD, "p3 p4").await?;
    // It is remembered who waits, and for whom.
    daemon.kill9()?;
    let daemon = Daemon::start(&config)?;
    leaves(&stage, "p2").await?;
    says(&stage, &daemon, ROWS, "p3 a1, p4 a4").await?;
    says(&stage, &daemon, HELD, "p4").await?;
    ensure!(daemon.stop().await?.success());
    leaves(&stage, "p3").await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ROWS, "p4 a1").await?;
    says(&stage, &daemon, HELD, "").await
}

#[tokio::test]
async fn rows_that_come_to_wait_for_each_other_swap_although_both_were_held_before() -> Result<()> {
    let (stage, config) = people("occupants_both", BY_ID).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ROWS, "p1 a1, p2 a2, p3 a3, p4 a4").await?;
    wants(&stage, "p3", "a1").await?;
    wants(&stage, "p4", "a2").await?;
    says(&stage, &daemon, HELD, "p3 p4").await?;
    const TRIED: &str = "select string_agg(attempts::text, ' ' order by source_id) from rowstream.held";
    wants(&stage, "p3", "a4").await?;
    says(&stage, &daemon, TRIED, "2 1").await?;
    wants(&stage, "p4", "a3").await?;
    says(&stage, &daemon, ROWS, "p1 a1, p2 a2, p3 a4, p4 a3").await?;
    says(&stage, &daemon, HELD, "").await
}

#[tokio::test]
async fn a_value_that_leaves_with_the_same_transaction_or_a_dropped_collection_is_free_at_once() -> Result<()>
{
    let stage = Stage::new("occupants_sources").await?;
    stage
        .execute("create table people (source text, mongo_id text, code integer, email text unique, primary key (source, mongo_id))")
        .await?;
    let of = |source| mapping(&stage, source, "{ source: source, source_id: mongo_id }");
    let config = far_away(&stage.config(&(of("people") + &of("others")).replace(", mongo_id: $id", "")));
    let person = |id: &str, email: &str| doc! { "_id": id, "email": email, "code": 1 };
    stage.collection("people").insert_many([person("p1", "a1"), person("p2", "a2")]).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ROWS, "p1 a1, p2 a2").await?;
    // Rows come before rows go: the new one is refused first.
    let mut session = stage.client.start_session().await?;
    session.start_transaction().await?;
    let people = stage.collection("people");
    people.insert_one(person("p3", "a1")).session(&mut session).await?;
    people.delete_one(doc! { "_id": "p1" }).session(&mut session).await?;
    session.commit_transaction().await?;
    says(&stage, &daemon, ROWS, "p2 a2, p3 a1").await?;
    // Of two mappings, one id each.
    stage.collection("others").insert_one(person("p2", "a2")).await?;
    says(&stage, &daemon, HELD, "p2").await?;
    let told = stage.text(TOLD).await?.unwrap_or_default();
    ensure!(told.ends_with(", which the row of p2 of mapping people has"), "{told}");
    stage.collection("people").drop().await?;
    says(
        &stage,
        &daemon,
        "select string_agg(concat_ws(' ', source, mongo_id, email), ', ') from people",
        "others p2 a2",
    )
    .await?;
    says(&stage, &daemon, HELD, "").await
}

#[tokio::test]
async fn where_documents_are_not_kept_no_value_is_kept_either_and_the_next_attempt_brings_the_row()
-> Result<()> {
    let (stage, config) = people("occupants_unkept", BY_ID).await?;
    let often = "retry_initial: 500ms, retry_max: 2s, keep_document: false";
    let daemon = Daemon::start(&config.replace("retry_initial: 6h, retry_max: 6h", often))?;
    says(&stage, &daemon, ROWS, "p1 a1, p2 a2, p3 a3, p4 a4").await?;
    wants(&stage, "p2", "a1").await?;
    says(&stage, &daemon, HELD, "p2").await?;
    let told = stage.text(TOLD).await?.unwrap_or_default();
    ensure!(told.ends_with(", which the row of p1 has"), "{told}");
    const KEPT: &str = "select num_nonnulls(document, occupied_value, occupant) from rowstream.held";
    ensure!(stage.number(&format!("select ({KEPT})::bigint")).await? == 0);
    leaves(&stage, "p1").await?;
    says(&stage, &daemon, ROWS, "p2 a1, p3 a3, p4 a4").await
}

/// 200 people that have rows, and no state, so that they are copied again, two chunks at a time. Meanwhile `p000` has
/// taken the address of `p150`, which has another one. `stops` says where the copy of the two waits for the test.
async fn copied_again(name: &str, stops: &str) -> Result<(Stage, String)> {
    let (stage, config) = people(name, BY_ID).await?;
    let config = config + "snapshot: { chunk_documents: 100, workers: 2 }\n";
    leaves_all(&stage).await?;
    let address = |n: i32| match n {
        0 => "a150".to_owned(),
        150 => "free".to_owned(),
        n => format!("a{n}"),
    };
    let person = |n: i32| doc! { "_id": format!("p{n:03}"), "email": address(n), "code": n };
    stage.collection("people").insert_many((0..200).map(person)).await?;
    stage
        .execute(
            "insert into people (mongo_id, email, code)
                 select 'p' || lpad(n::text, 3, '0'), 'a' || n, n from generate_series(0, 199) as n;
             create function stop_here() returns trigger language plpgsql as $$ begin
                 perform pg_advisory_xact_lock_shared(tg_argv[0]::bigint);
                 return new;
             end $$;
             create trigger giver before update on people for each row when (new.mongo_id = 'p150')
                 execute function stop_here(4721)",
        )
        .await?;
    let migrated = command(&["migrate"], &config)?;
    ensure!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    stage.execute(stops).await?;
    Ok((stage, config))
}

async fn leaves_all(stage: &Stage) -> Result<()> {
    stage.collection("people").delete_many(doc! {}).await?;
    Ok(())
}

/// How many wait at this place.
fn waiting(at: i32) -> String {
    format!(
        "select count(*) from pg_locks where locktype = 'advisory' and objid = {at} and not granted
         and database = (select oid from pg_database where datname = current_database())"
    )
}

const GAVE: &str = "select email from people where mongo_id = 'p150'";
const GOT: &str = "select email from people where mongo_id = 'p000'";

#[tokio::test]
async fn a_chunk_that_gives_a_value_up_finds_who_was_committed_beside_it_and_waits() -> Result<()> {
    let (stage, config) = copied_again(
        "occupants_giver",
        "create trigger taker before update on people for each row when (new.mongo_id = 'p000')
             execute function stop_here(4722)",
    )
    .await?;
    let mut gate = stage.postgres().await?;
    sqlx::query("select pg_advisory_lock(4721), pg_advisory_lock(4722)").execute(&mut gate).await?;
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, &waiting(4721), 1).await?;
    becomes(&stage, &daemon, &waiting(4722), 1).await?;
    // Nobody waited when the one chunk began to write; the other one is over before it has done so.
    sqlx::query("select pg_advisory_unlock(4722)").execute(&mut gate).await?;
    says(&stage, &daemon, HELD, "p000").await?;
    becomes(&stage, &daemon, "select count(*) from rowstream.chunk where finished_at is not null", 1).await?;
    sqlx::query("select pg_advisory_unlock(4721)").execute(&mut gate).await?;
    says(&stage, &daemon, GOT, "a150").await?;
    says(&stage, &daemon, HELD, "").await
}

#[tokio::test]
async fn a_chunk_that_has_to_wait_finds_the_value_that_was_given_up_beside_it() -> Result<()> {
    let (stage, config) = copied_again(
        "occupants_taker",
        "create trigger taker after insert on rowstream.held for each row execute function stop_here(4722)",
    )
    .await?;
    let mut gate = stage.postgres().await?;
    sqlx::query("select pg_advisory_lock(4721), pg_advisory_lock(4722)").execute(&mut gate).await?;
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, &waiting(4722), 1).await?;
    sqlx::query("select pg_advisory_unlock(4721)").execute(&mut gate).await?;
    says(&stage, &daemon, GAVE, "free").await?;
    sqlx::query("select pg_advisory_unlock(4722)").execute(&mut gate).await?;
    says(&stage, &daemon, GOT, "a150").await?;
    says(&stage, &daemon, HELD, "").await
}
