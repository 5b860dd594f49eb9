//! Before a row goes, the documents whose rows refer to it are settled, and those that refer to them: along
//! chains, around circles, within one table, whatever PostgreSQL's foreign keys would have done by themselves.

use anyhow::{Context, Result};
use bson::doc;

use crate::daemon::{Daemon, PATIENCE};
use crate::stage::Stage;
use crate::support::until;

const HELD: &str = "select count(*) from rowstream.held where state <> 'resolved'";
const WAITS: &str = "select count(*) from rowstream.wait";

async fn is(stage: &Stage, daemon: &Daemon, sql: &str, wanted: &str) -> Result<()> {
    let mut last = None;
    let reached = until(sql, PATIENCE, async || {
        last = stage.text(sql).await.ok().flatten();
        Ok((last.as_deref() == Some(wanted)).then_some(()))
    });
    reached.await.with_context(|| format!("wanted {wanted}, found {last:?}; {}", daemon.last_words()))
}

/// One mapping of `columns` to the table of its name.
fn mapping(stage: &Stage, table: &str, columns: &str) -> String {
    format!(
        "  - {{ source: {table}, collection: {0}.{table}, table: {table}, id_type: string, allow_empty: true,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ {columns} }} }}\n",
        stage.name
    )
}

#[tokio::test]
async fn along_a_chain_under_cascade_everything_is_held_and_comes_back() -> Result<()> {
    let stage = Stage::new("referrers_chain").await?;
    stage
        .execute(
            "create table grand (id serial primary key, mongo_id text not null unique, title text);
             create table middle (id serial primary key, mongo_id text not null unique,
                 up integer not null references grand on delete cascade);
             create table leaf (id serial primary key, mongo_id text not null unique, title text,
                 up integer not null references middle on delete cascade)",
        )
        .await?;
    let up = |to: &str| format!("up: {{ ref: {{ to: {to}, from: up }} }}");
    let config = stage.config(&format!(
        "{}{}{}",
        mapping(&stage, "grand", "title: title"),
        mapping(&stage, "middle", &up("grand")),
        mapping(&stage, "leaf", &format!("title: title, {}", up("middle"))),
    ));
    stage.collection("grand").insert_many([doc! { "_id": "g1" }, doc! { "_id": "g2" }]).await?;
    let middle = [("m1", "g1"), ("m2", "g1"), ("m3", "g2")].map(|(id, up)| doc! { "_id": id, "up": up });
    stage.collection("middle").insert_many(middle).await?;
    let leaf = [("l1", "m1"), ("l2", "m1"), ("l3", "m2"), ("l4", "m3")];
    let leaf = leaf.map(|(id, up)| doc! { "_id": id, "up": up, "title": "t" });
    stage.collection("leaf").insert_many(leaf).await?;
    let daemon = Daemon::start(&config)?;
    let leaves = "select string_agg(mongo_id, ' ' order by mongo_id) from leaf";
    is(&stage, &daemon, leaves, "l1 l2 l3 l4").await?;

    stage.collection("grand").delete_one(doc! { "_id": "g1" }).await?;
    is(&stage, &daemon, leaves, "l4").await?;
    is(&stage, &daemon, "select count(*) from grand", "1").await?;
    let held = "select string_agg(source_id || ' ' || reason, ', ' order by source_id) from rowstream.held
                where state <> 'resolved'";
    let waiting = ["l1", "l2", "l3", "m1", "m2"].map(|id| format!("{id} unresolved_reference"));
    is(&stage, &daemon, held, &waiting.join(", ")).await?;

    let change = doc! { "$set": { "title": "meanwhile" } };
    stage.collection("leaf").update_one(doc! { "_id": "l2" }, change).await?;
    stage.collection("grand").insert_one(doc! { "_id": "g1" }).await?;
    is(&stage, &daemon, leaves, "l1 l2 l3 l4").await?;
    is(&stage, &daemon, "select mongo_id from leaf where title = 'meanwhile'", "l2").await?;
    is(&stage, &daemon, HELD, "0").await?;
    is(&stage, &daemon, WAITS, "0").await?;
    Ok(())
}

/// Tables of `left` and `right` that refer to each other.
async fn circle(name: &str, on_delete: &str) -> Result<(Stage, Daemon)> {
    let stage = Stage::new(name).await?;
    stage
        .execute(&format!(
            "create table lefts (id serial primary key, mongo_id text not null unique, other integer);
             create table rights (id serial primary key, mongo_id text not null unique,
                 other integer references lefts on delete {on_delete});
             alter table lefts add foreign key (other) references rights on delete {on_delete}"
        ))
        .await?;
    let other = |to: &str| format!("other: {{ ref: {{ to: {to}, from: other }}, missing: null }}");
    let config = stage.config(&format!(
        "{}{}",
        mapping(&stage, "lefts", &other("rights")),
        mapping(&stage, "rights", &other("lefts")),
    ));
    stage
        .collection("lefts")
        .insert_many((1..=3).map(|n| doc! { "_id": format!("l{n}"), "other": format!("r{n}") }))
        .await?;
    stage
        .collection("rights")
        .insert_many((1..=3).map(|n| doc! { "_id": format!("r{n}"), "other": format!("l{n}") }))
        .await?;
    let daemon = Daemon::start(&config)?;
    is(&stage, &daemon, CIRCLE, "l1 r1, l2 r2, l3 r3, r1 l1, r2 l2, r3 l3").await?;
    Ok((stage, daemon))
}

const CIRCLE: &str = "select string_agg(pair, ', ' order by pair) from (
    select l.mongo_id || ' ' || coalesce(r.mongo_id, '-') as pair from lefts l left join rights r on r.id = l.other
    union all
    select r.mongo_id || ' ' || coalesce(l.mongo_id, '-') from rights r left join lefts l on l.id = r.other) as pairs";

#[tokio::test]
async fn tables_that_refer_to_each_other_settle_and_nobody_goes_with_another() -> Result<()> {
    for on_delete in ["cascade", "set null", "restrict"] {
        let name = format!("referrers_circle_{}", on_delete.replace(' ', "_"));
        let (stage, daemon) = circle(&name, on_delete).await?;
        stage.collection("lefts").delete_one(doc! { "_id": "l1" }).await?;
        is(&stage, &daemon, CIRCLE, "l2 r2, l3 r3, r1 -, r2 l2, r3 l3").await.context(on_delete)?;
        stage.collection("lefts").insert_one(doc! { "_id": "l1", "other": "r1" }).await?;
        is(&stage, &daemon, CIRCLE, "l1 r1, l2 r2, l3 r3, r1 l1, r2 l2, r3 l3").await.context(on_delete)?;
        // Both ends in one transaction of MongoDB.
        let mut session = stage.client.start_session().await?;
        session.start_transaction().await?;
        for (collection, id) in [("rights", "r2"), ("lefts", "l2")] {
            stage.collection(collection).delete_one(doc! { "_id": id }).session(&mut session).await?;
        }
        session.commit_transaction().await?;
        is(&stage, &daemon, CIRCLE, "l1 r1, l3 r3, r1 l1, r3 l3").await.context(on_delete)?;
        is(&stage, &daemon, HELD, "0").await.context(on_delete)?;
        is(&stage, &daemon, WAITS, "0").await.context(on_delete)?;
    }
    Ok(())
}

/// People and who they answer to, each with the other's name.
async fn people(name: &str, on_delete: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage
        .execute(&format!(
            "create table people (id serial primary key, mongo_id text not null unique,
                 boss integer references people on delete {on_delete})"
        ))
        .await?;
    let columns = "boss: { ref: { to: people, from: boss }, missing: null }";
    let config = stage.config(&mapping(&stage, "people", columns));
    Ok((stage, config))
}

const PEOPLE: &str =
    "select string_agg(p.mongo_id || ' ' || coalesce(b.mongo_id, '-'), ', ' order by p.mongo_id)
    from people p left join people b on b.id = p.boss";

#[tokio::test]
async fn rows_that_refer_to_rows_of_their_own_table_settle() -> Result<()> {
    for on_delete in ["cascade", "set null", "restrict"] {
        let name = format!("referrers_self_{}", on_delete.replace(' ', "_"));
        let (stage, config) = people(&name, on_delete).await?;
        let answers = [("a", "b"), ("b", "c"), ("c", "a"), ("d", "d"), ("e", "b")];
        let answers = answers.map(|(id, boss)| doc! { "_id": id, "boss": boss });
        stage.collection("people").insert_many(answers).await?;
        let daemon = Daemon::start(&config)?;
        is(&stage, &daemon, PEOPLE, "a b, b c, c a, d d, e b").await.context(on_delete)?;
        stage.collection("people").delete_one(doc! { "_id": "b" }).await?;
        is(&stage, &daemon, PEOPLE, "a -, c a, d d, e -").await.context(on_delete)?;
        stage.collection("people").insert_one(doc! { "_id": "b", "boss": "e" }).await?;
        is(&stage, &daemon, PEOPLE, "a b, b e, c a, d d, e b").await.context(on_delete)?;
        // One that answers to itself goes, and all of a circle at once.
        stage.collection("people").delete_one(doc! { "_id": "d" }).await?;
        stage.collection("people").delete_many(doc! { "_id": { "$in": ["b", "e"] } }).await?;
        is(&stage, &daemon, PEOPLE, "a -, c a").await.context(on_delete)?;
        is(&stage, &daemon, HELD, "0").await.context(on_delete)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_row_that_commits_beside_the_chunk_that_waits_for_it_is_found_after_the_commit() -> Result<()> {
    let (stage, config) = people("referrers_beside", "restrict").await?;
    let config = config + "snapshot: { chunk_documents: 100, workers: 2 }\n";
    // The first chunk looks for its bosses, who are all in the second, and is kept from writing until that has
    // committed: the second could not see who waits, the first could not see who came.
    stage
        .execute(
            "create function stop_here() returns trigger language plpgsql as
                 $$ begin perform pg_advisory_xact_lock_shared(4711); return new; end $$;
             create trigger stop_here before insert on people for each row
                 when (new.mongo_id = 'p000') execute function stop_here()",
        )
        .await?;
    let mut gate = stage.postgres().await?;
    sqlx::query("select pg_advisory_lock(4711)").execute(&mut gate).await?;
    let person = |n: i32| match n {
        0..100 => doc! { "_id": format!("p{n:03}"), "boss": format!("p{:03}", n + 100) },
        _ => doc! { "_id": format!("p{n:03}") },
    };
    stage.collection("people").insert_many((0..200).map(person)).await?;
    let daemon = Daemon::start(&config)?;
    is(&stage, &daemon, "select count(*) from people", "100").await?;
    sqlx::query("select pg_advisory_unlock(4711)").execute(&mut gate).await?;
    is(&stage, &daemon, "select count(*) from people", "200").await?;
    is(&stage, &daemon, "select count(*) from people where boss is not null", "100").await?;
    is(&stage, &daemon, WAITS, "0").await?;
    Ok(())
}

#[tokio::test]
async fn two_chunks_that_wait_for_each_others_rows_find_them_whichever_commits_last() -> Result<()> {
    let (stage, config) = people("referrers_both", "restrict").await?;
    let config = config + "snapshot: { chunk_documents: 100, workers: 2 }\n";
    // The chunk of p000 has written rows and waits, and looks who waits for those with what it sees by then,
    // when the other one, which sees as little of it, commits.
    stage
        .execute(
            "create function stop_here() returns trigger language plpgsql as $$ begin
                 if exists (select from rowstream.wait where source_id = 'p000') then
                     perform pg_advisory_xact_lock_shared(4712);
                 end if;
                 return new;
             end $$;",
        )
        .await?;
    let mut gate = stage.postgres().await?;
    sqlx::query("select pg_advisory_lock(4712)").execute(&mut gate).await?;
    let person = |n: i32| doc! { "_id": format!("p{n:03}"), "boss": format!("p{:03}", (n + 100) % 200) };
    stage.collection("people").insert_many((0..200).map(person)).await?;
    let migrated = crate::daemon::command(&["migrate"], &config)?;
    anyhow::ensure!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    stage
        .execute(
            "create trigger stop_here before update on rowstream.wait for each statement
                 execute function stop_here()",
        )
        .await?;
    let daemon = Daemon::start(&config)?;
    is(&stage, &daemon, "select count(*) from people", "100").await?;
    const WAITING: &str =
        "select count(*) from pg_locks where locktype = 'advisory' and objid = 4712 and not granted
        and database = (select oid from pg_database where datname = current_database())";
    is(&stage, &daemon, WAITING, "1").await?;
    is(&stage, &daemon, WAITS, "100").await?;
    sqlx::query("select pg_advisory_unlock(4712)").execute(&mut gate).await?;
    is(&stage, &daemon, "select count(*) from people where boss is not null", "200").await?;
    is(&stage, &daemon, WAITS, "0").await?;
    Ok(())
}

#[tokio::test]
async fn rows_whose_ids_are_only_known_by_their_hashes_are_settled_like_any_other() -> Result<()> {
    let long = |letter: &str| letter.repeat(600);
    for (name, column, left, held) in [
        ("null", "integer references parents on delete set null", "c -, d -", 0),
        ("cascade", "integer not null references parents on delete cascade", "", 2),
    ] {
        let stage = Stage::new(&format!("referrers_hashed_{name}")).await?;
        stage
            .execute(&format!(
                "create table parents (id serial primary key, mongo_id text not null unique, title text);
                 create table children (id serial primary key, mongo_id text not null unique, title text, parent {column})"
            ))
            .await?;
        let missing = if held == 0 { ", missing: null" } else { "" };
        let config = stage.config(&format!(
            "{}{}",
            mapping(&stage, "parents", "title: title"),
            mapping(
                &stage,
                "children",
                &format!("title: title, parent: {{ ref: {{ to: parents, from: parent }}{missing} }}")
            ),
        ));
        let parents = [doc! { "_id": long("p") }, doc! { "_id": "p" }];
        stage.collection("parents").insert_many(&parents).await?;
        let child =
            |title: &str, parent: String| doc! { "_id": long(title), "title": title, "parent": parent };
        let children = [child("c", long("p")), child("d", "p".to_owned())];
        stage.collection("children").insert_many(children).await?;
        let daemon = Daemon::start(&config)?;
        const ROWS: &str = "select coalesce(string_agg(c.title || ' ' || coalesce(left(p.mongo_id, 2), '-'), ', ' order by c.title), '')
            from children c left join parents p on p.id = c.parent";
        is(&stage, &daemon, ROWS, "c $s, d p").await.context(name)?;
        stage.collection("parents").delete_many(doc! {}).await?;
        is(&stage, &daemon, ROWS, left).await.context(name)?;
        is(&stage, &daemon, HELD, &held.to_string()).await.context(name)?;
        stage.collection("parents").insert_many(&parents).await?;
        is(&stage, &daemon, ROWS, "c $s, d p").await.context(name)?;
        is(&stage, &daemon, HELD, "0").await.context(name)?;
        // As a whole, too.
        stage.collection("parents").drop().await?;
        is(&stage, &daemon, ROWS, left).await.context(name)?;
        stage.collection("parents").insert_many(&parents).await?;
        is(&stage, &daemon, ROWS, "c $s, d p").await.context(name)?;
        // Whoever has gone is remembered no longer.
        stage.collection("children").delete_many(doc! {}).await?;
        is(&stage, &daemon, "select count(*) from children", "0").await.context(name)?;
        is(&stage, &daemon, WAITS, "0").await.context(name)?;
    }
    Ok(())
}
