//! Junctions that two collections keep: a pair exists while any side lists it and both documents have their rows.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use bson::{Bson, Document, doc};

use crate::comparison::{found, verify};
use crate::daemon::{Daemon, command};
use crate::stage::{Stage, says};

const TABLES: &str = "
    create table files (id serial primary key, mongo_id text not null unique, name text check (name <> 'forbidden'));
    create table bills (id serial primary key, mongo_id text not null unique, name text);
    create table pairs (
        file_id integer not null references files on delete cascade,
        bill_id integer not null references bills on delete cascade, primary key (file_id, bill_id));
    create index on pairs (bill_id);
    select setval('files_id_seq', 1000);
    select setval('bills_id_seq', 5000);";

const PAIRS: &str = "{ table: pairs, each: bills, also_from: { source: bills, each: files },
    columns: { file_id: $parent, bill_id: { ref: { to: bills, from: $element } } } }";

/// `file-bill`.
const ALL: &str = "select string_agg(f.mongo_id || '-' || b.mongo_id, ' ' order by f.mongo_id, b.mongo_id)
    from pairs p join files f on f.id = p.file_id join bills b on b.id = p.bill_id";
const HELD: &str = "select string_agg(source_id || ' ' || reason, ', ' order by source_id)
    from rowstream.held where state <> 'resolved'";
const FILES: bool = true;
const BILLS: bool = false;

async fn stage(name: &str, junction: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage.execute(TABLES).await?;
    let mapping = |source: &str, children: &str| {
        format!(
            "  - {{ source: {source}, collection: {}.{source}, table: {source}, id_type: string, allow_empty: true,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ name: name }}, children: [ {children} ] }}\n",
            stage.name
        )
    };
    let config = stage.config(&format!("{}{}", mapping("files", junction), mapping("bills", "")));
    Ok((stage, config))
}

fn ids(ids: &[&str]) -> Vec<Bson> {
    ids.iter().map(|id| Bson::from(*id)).collect()
}

fn file(id: &str, bills: &[&str]) -> Document {
    doc! { "_id": id, "bills": ids(bills) }
}

fn bill(id: &str, files: &[&str]) -> Document {
    doc! { "_id": id, "files": ids(files) }
}

fn side(of_files: bool) -> (&'static str, &'static str) {
    if of_files { ("files", "bills") } else { ("bills", "files") }
}

/// The document lists these from now on; returns when its row has been written since.
async fn lists(stage: &Stage, daemon: &Daemon, of_files: bool, id: &str, others: &[&str]) -> Result<()> {
    let (collection, array) = side(of_files);
    let name = format!("written {}", bson::oid::ObjectId::new());
    let update = doc! { "$set": { "name": &name, array: ids(others) } };
    let updated = stage.collection(collection).update_one(doc! { "_id": id }, update).await?;
    ensure!(updated.matched_count == 1, "no {id} in {collection}");
    says(stage, daemon, &format!("select name from {collection} where mongo_id = '{id}'"), &name).await
}

async fn pairs(stage: &Stage) -> Result<String> {
    Ok(stage.text(ALL).await?.unwrap_or_default())
}

async fn delete(stage: &Stage, daemon: &Daemon, of_files: bool, id: &str) -> Result<()> {
    let (collection, _) = side(of_files);
    stage.collection(collection).delete_one(doc! { "_id": id }).await?;
    says(stage, daemon, &format!("select count(*) from {collection} where mongo_id = '{id}'"), "0").await
}

#[tokio::test]
async fn a_pair_is_there_while_either_side_lists_it_whichever_lets_go_first() -> Result<()> {
    let (stage, config) = stage("pair_sides", PAIRS).await?;
    stage.collection("files").insert_many([file("f", &["left", "both"]), file("g", &[])]).await?;
    stage
        .collection("bills")
        .insert_many([bill("left", &[]), bill("both", &["f"]), bill("right", &["f", "g"])])
        .await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ALL, "f-both f-left f-right g-right").await?;
    for first in [FILES, BILLS] {
        for last in [FILES, BILLS] {
            let one = |of_files: bool| if of_files { ("g", "left") } else { ("left", "g") };
            let (own, other) = one(first);
            lists(&stage, &daemon, first, own, &[other]).await?;
            assert_eq!(pairs(&stage).await?, "f-both f-left f-right g-left g-right");
            let (own, other) = one(!first);
            lists(&stage, &daemon, !first, own, &[other]).await?;
            assert_eq!(pairs(&stage).await?, "f-both f-left f-right g-left g-right");
            lists(&stage, &daemon, last, one(last).0, &[]).await?;
            assert_eq!(
                pairs(&stage).await?,
                "f-both f-left f-right g-left g-right",
                "one side lists it still"
            );
            lists(&stage, &daemon, !last, one(!last).0, &[]).await?;
            assert_eq!(pairs(&stage).await?, "f-both f-left f-right g-right");
        }
    }
    says(&stage, &daemon, HELD, "").await?;
    Ok(())
}

#[tokio::test]
async fn a_document_that_comes_back_has_its_pairs_again() -> Result<()> {
    for restrict in [false, true] {
        let (stage, config) = stage(&format!("pair_back_{restrict}"), PAIRS).await?;
        if restrict {
            stage
                .execute(
                    "alter table pairs drop constraint pairs_file_id_fkey, drop constraint pairs_bill_id_fkey,
                         add foreign key (file_id) references files, add foreign key (bill_id) references bills",
                )
                .await?;
        }
        stage.collection("files").insert_many([file("f", &["b"]), file("g", &["b", "c"])]).await?;
        stage.collection("bills").insert_many([bill("b", &["f"]), bill("c", &["f"])]).await?;
        let daemon = Daemon::start(&config)?;
        says(&stage, &daemon, ALL, "f-b f-c g-b g-c").await?;

        delete(&stage, &daemon, FILES, "f").await?;
        assert_eq!(pairs(&stage).await?, "g-b g-c");
        // It lists nothing any more: the others do.
        stage.collection("files").insert_one(file("f", &[])).await?;
        says(&stage, &daemon, ALL, "f-b f-c g-b g-c").await?;

        delete(&stage, &daemon, BILLS, "b").await?;
        assert_eq!(pairs(&stage).await?, "f-c g-c");
        stage.collection("bills").insert_one(bill("b", &[])).await?;
        says(&stage, &daemon, ALL, "f-c g-b g-c").await?;

        // What a document listed goes with it, also while the other one is away.
        delete(&stage, &daemon, FILES, "g").await?;
        delete(&stage, &daemon, BILLS, "c").await?;
        stage.collection("files").insert_one(file("g", &["c"])).await?;
        stage.collection("bills").insert_one(bill("c", &[])).await?;
        says(&stage, &daemon, ALL, "g-c").await?;
        says(&stage, &daemon, HELD, "").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_pair_comes_with_whichever_of_its_rows_comes_last() -> Result<()> {
    let (stage, config) = stage("pair_late", PAIRS).await?;
    let (files, bills) = (stage.collection("files"), stage.collection("bills"));
    let mut forbidden = file("held", &["b"]);
    forbidden.insert("name", "forbidden");
    files.insert_many([forbidden, file("f", &["late", "b", "never"])]).await?;
    bills.insert_many([bill("b", &["held", "late"]), bill("c", &["held"])]).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ALL, "f-b").await?;
    says(&stage, &daemon, HELD, "held constraint").await?;
    bills.insert_one(bill("late", &[])).await?;
    says(&stage, &daemon, ALL, "f-b f-late").await?;
    files.insert_one(file("late", &[])).await?;
    says(&stage, &daemon, ALL, "f-b f-late late-b").await?;
    files.update_one(doc! { "_id": "held" }, doc! { "$set": { "name": "allowed" } }).await?;
    says(&stage, &daemon, ALL, "f-b f-late held-b held-c late-b").await?;
    // A document that is held keeps the row, and the pairs, of its last good state.
    let bad = doc! { "$set": { "name": "forbidden", "bills": [] } };
    files.update_one(doc! { "_id": "f" }, bad).await?;
    says(&stage, &daemon, HELD, "f constraint").await?;
    assert_eq!(pairs(&stage).await?, "f-b f-late held-b held-c late-b");
    Ok(())
}

#[tokio::test]
async fn both_sides_take_single_ids_and_leave_out_what_is_none() -> Result<()> {
    let junction = PAIRS.replace("each: bills,", "each: bills, not_array: single, on_error: drop,");
    let (stage, config) = stage("pair_elements", &junction).await?;
    stage
        .collection("files")
        .insert_many([
            doc! { "_id": "f", "bills": ["b", "b", Bson::Null, ["c"], "b"] },
            doc! { "_id": "g", "bills": "c" },
        ])
        .await?;
    stage
        .collection("bills")
        .insert_many([
            doc! { "_id": "b", "files": "g" },
            doc! { "_id": "c", "files": [Bson::Null, "f", "f"] },
        ])
        .await?;
    // The stream begins with the last operation before it: not with one of these, or it would be counted twice.
    stage.collection("elsewhere").insert_one(doc! {}).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ALL, "f-b f-c g-b g-c").await?;
    says(&stage, &daemon, HELD, "").await?;
    let (_, metrics) = daemon.get("/metrics").await?;
    let left_out = metrics.lines().find(|line| line.contains("rule=\"element_left_out\""));
    ensure!(left_out.is_some_and(|line| line.ends_with(" 3")), "{left_out:?}");
    Ok(())
}

#[tokio::test]
async fn documents_that_list_each_other_in_one_transaction_come_and_go_together() -> Result<()> {
    let (stage, config) = stage("pair_transaction", PAIRS).await?;
    let daemon = Daemon::start(&config)?;
    let marker = stage.collection("files");
    marker.insert_one(file("first", &[])).await?;
    says(&stage, &daemon, "select count(*) from files", "1").await?;
    let mut session = stage.client.start_session().await?;
    for number in 0..20 {
        session.start_transaction().await?;
        let (own, other) = (format!("f{number:02}"), format!("b{number:02}"));
        let files = stage.database.collection::<Document>("files");
        let bills = stage.database.collection::<Document>("bills");
        bills.insert_one(bill(&other, &[&own, "first"])).session(&mut session).await?;
        files.insert_one(file(&own, &[&other])).session(&mut session).await?;
        session.commit_transaction().await?;
    }
    says(&stage, &daemon, "select count(*) from pairs", "40").await?;
    session.start_transaction().await?;
    let everything = doc! { "_id": { "$ne": "first" } };
    stage.database.collection::<Document>("files").delete_many(everything).session(&mut session).await?;
    let update = doc! { "$set": { "files": [] } };
    stage.database.collection::<Document>("bills").update_many(doc! {}, update).session(&mut session).await?;
    session.commit_transaction().await?;
    says(&stage, &daemon, ALL, "").await?;
    says(&stage, &daemon, "select count(*) from rowstream.link", "0").await?;
    Ok(())
}

#[tokio::test]
async fn the_pairs_of_a_collection_go_with_it_and_what_the_other_lists_stays_listed() -> Result<()> {
    let (stage, config) = stage("pair_dropped", PAIRS).await?;
    stage.collection("files").insert_many([file("f", &["b", "c"]), file("g", &[])]).await?;
    stage.collection("bills").insert_many([bill("b", &["g"]), bill("c", &[])]).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ALL, "f-b f-c g-b").await?;
    stage.collection("files").drop().await?;
    says(&stage, &daemon, "select count(*) from files", "0").await?;
    assert_eq!(pairs(&stage).await?, "");
    stage.collection("files").insert_many([file("f", &[]), file("g", &[])]).await?;
    says(&stage, &daemon, ALL, "g-b").await?;
    stage.collection("bills").drop().await?;
    says(&stage, &daemon, "select count(*) from bills", "0").await?;
    assert_eq!(stage.text("select count(*) from rowstream.link").await?.as_deref(), Some("0"));
    Ok(())
}

#[tokio::test]
async fn ids_of_pairs_are_one_from_both_sides_and_equal_rows_are_not_written_again() -> Result<()> {
    let junction = "{ table: pairs, each: bills, also_from: { source: bills, each: files }, columns: {
        id: { key: uuid }, short: { key: { prefix: pair_ } }, kind: { value: crm },
        file_id: $parent, bill_id: { ref: { to: bills, from: $element, strip_prefix: bill_ }, missing: drop } } }";
    let (stage, config) = stage("pair_ids", junction).await?;
    stage
        .execute(
            "alter table pairs drop constraint pairs_pkey, add id uuid primary key, add short text not null,
                 add kind text not null, add made_at timestamptz not null default now(), add unique (file_id, bill_id)",
        )
        .await?;
    stage.collection("files").insert_many([file("f", &["bill_b"]), file("g", &["c"])]).await?;
    stage.collection("bills").insert_many([bill("b", &["f"]), bill("c", &[]), bill("d", &["f"])]).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ALL, "f-b f-d g-c").await?;
    let rows =
        "select string_agg(concat_ws(' ', id, short, kind, made_at, xmin), ',' order by id) from pairs";
    let before = stage.text(rows).await?;
    // The same pairs, each from the other side.
    lists(&stage, &daemon, FILES, "f", &["bill_d"]).await?;
    lists(&stage, &daemon, BILLS, "c", &["g"]).await?;
    lists(&stage, &daemon, FILES, "g", &[]).await?;
    assert_eq!(stage.text(rows).await?, before);
    ensure!(daemon.stop().await?.success());
    // Copied again, nothing is written again.
    stage.execute("update rowstream.mapping set mapping_hash = 'other'").await?;
    let daemon = Daemon::start(&config)?;
    let done =
        "select count(*) from rowstream.mapping where snapshot_state = 'done' and mapping_hash <> 'other'";
    says(&stage, &daemon, done, "2").await?;
    assert_eq!(stage.text(rows).await?, before);
    Ok(())
}

#[tokio::test]
async fn a_collection_can_be_paired_with_itself_and_is_copied_by_several_at_once() -> Result<()> {
    const PEOPLE: i32 = 3_000;
    let stage = Stage::new("pair_self").await?;
    stage
        .execute(
            "create table people (id serial primary key, mongo_id bigint not null unique);
             create table leads (leader integer references people on delete cascade,
                 led integer references people on delete cascade, primary key (leader, led));
             create index on leads (led); select setval('people_id_seq', 100000)",
        )
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: people, collection: {}.people, table: people, key: [mongo_id], columns: {{ mongo_id: _id }},
        children: [ {{ table: leads, each: leads, also_from: {{ source: people, each: is_led_by }}, columns: {{
            leader: $parent, led: {{ ref: {{ to: people, from: $element }} }} }} }} ] }}\n",
        stage.name
    )) + "snapshot: { chunk_documents: 60, workers: 4 }\n";
    // Each lists two that others know nothing of, near and far.
    let person = |id: i32| {
        let leads = vec![(id + 61) % PEOPLE, (id + 7) % PEOPLE];
        let is_led_by = vec![(id + 130) % PEOPLE, (id + 1_501) % PEOPLE];
        doc! { "_id": id, "leads": leads, "is_led_by": is_led_by }
    };
    let expected = |people: &mut dyn Iterator<Item = i32>| -> BTreeSet<(i32, i32)> {
        let of = |id: i32| {
            let leads = [(id, (id + 61) % PEOPLE), (id, (id + 7) % PEOPLE)];
            let is_led_by = [((id + 130) % PEOPLE, id), ((id + 1_501) % PEOPLE, id)];
            leads.into_iter().chain(is_led_by)
        };
        people.flat_map(of).collect()
    };
    stage.collection("people").insert_many((0..PEOPLE).map(person)).await?;
    let daemon = Daemon::start(&config)?;
    let done = "select count(*) from rowstream.mapping where snapshot_state = 'done'";
    says(&stage, &daemon, done, "1").await?;
    let text = |pairs: &BTreeSet<(i32, i32)>| {
        pairs.iter().map(|(leader, led)| format!("{leader}-{led}")).collect::<Vec<_>>().join(" ")
    };
    let all = "select string_agg(a.mongo_id || '-' || b.mongo_id, ' ' order by a.mongo_id, b.mongo_id)
        from leads join people a on a.id = leader join people b on b.id = led";
    says(&stage, &daemon, all, &text(&expected(&mut (0..PEOPLE)))).await?;

    // Somebody who goes takes the pairs of both roles along, and gets those back that others list.
    let people = stage.collection("people");
    people.delete_one(doc! { "_id": 5 }).await?;
    let mut without = expected(&mut (0..PEOPLE).filter(|id| *id != 5));
    let with = without.clone();
    without.retain(|(leader, led)| *leader != 5 && *led != 5);
    says(&stage, &daemon, all, &text(&without)).await?;
    people.insert_one(doc! { "_id": 5, "leads": [5] }).await?;
    let mut with = with;
    with.insert((5, 5));
    says(&stage, &daemon, all, &text(&with)).await?;
    says(&stage, &daemon, HELD, "").await?;
    Ok(())
}

#[tokio::test]
async fn a_junction_of_two_large_collections_is_copied_with_the_pairs_of_both() -> Result<()> {
    let (stage, config) = stage("pair_large", PAIRS).await?;
    let list = |from: i32, step: i32| -> Vec<Bson> {
        (0..5).map(|number| Bson::from(format!("{:05}", (from + number * step) % 10_000))).collect()
    };
    let files = (0..10_000).map(|id| doc! { "_id": format!("{id:05}"), "bills": list(id, 1) });
    let bills = (0..10_000).map(|id| doc! { "_id": format!("{id:05}"), "files": list(id, 10_000 - 3) });
    stage.collection("files").insert_many(files).await?;
    stage.collection("bills").insert_many(bills).await?;
    let mut expected = BTreeSet::new();
    for id in 0..10_000 {
        for number in 0..5 {
            expected.insert((id, (id + number) % 10_000));
            expected.insert(((id + number * 9_997) % 10_000, id));
        }
    }
    let daemon = Daemon::start(&config)?;
    let done = "select count(*) from rowstream.mapping where snapshot_state = 'done'";
    says(&stage, &daemon, done, "2").await?;
    let digest = "select count(*) || ' ' || sum(f.mongo_id::int8 * 10007 + b.mongo_id::int8 * 31)
        from pairs p join files f on f.id = p.file_id join bills b on b.id = p.bill_id";
    let sum: i64 =
        expected.iter().map(|(file, bill)| i64::from(*file) * 10_007 + i64::from(*bill) * 31).sum();
    says(&stage, &daemon, digest, &format!("{} {sum}", expected.len())).await?;
    Ok(())
}

#[tokio::test]
async fn verify_expects_the_pairs_that_either_side_lists_and_no_others() -> Result<()> {
    let (stage, config) = stage("pair_verified", PAIRS).await?;
    stage.collection("files").insert_many([file("f", &["b", "gone"]), file("g", &[])]).await?;
    stage.collection("bills").insert_many([bill("b", &["f", "g"]), bill("c", &["f"])]).await?;
    let copied = command(&["run", "--until-caught-up"], &config)?;
    ensure!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    assert_eq!(pairs(&stage).await?, "f-b f-c g-b");
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (0, BTreeSet::new()), "{report:#}");
    stage
        .execute(
            "delete from pairs using files f where f.id = file_id and f.mongo_id = 'g';
             insert into pairs select f.id, b.id from files f, bills b where f.mongo_id = 'g' and b.mongo_id = 'c'",
        )
        .await?;
    let (report, _) = verify(&config, &[])?;
    let wrong = ["extra_child c", "extra_child g", "missing_child b", "missing_child g"];
    assert_eq!(found(&report), wrong.map(ToOwned::to_owned).into(), "{report:#}");
    Ok(())
}

#[tokio::test]
async fn what_no_junction_can_be_is_a_mistake_of_the_file() -> Result<()> {
    let (_, config) = stage("pair_mistakes", PAIRS).await?;
    let (_, other) = config.split_once("  - { source: bills").context("bills")?;
    let shared = other.replacen("key: { source: null, source_id: mongo_id }", "shared: true, key: [name]", 1);
    for (from, to, told) in [
        ("source: bills, each: files }", "source: bils, each: files }", "bils is none"),
        ("from: $element } }", "from: $element }, missing: hold }", "missing: drop"),
        ("bill_id: {", "at: $element.at, bill_id: {", "and at is none"),
        ("ref: { to: bills,", "ref: { to: files,", "must have one reference beside $parent"),
        ("{ table: pairs, each: bills,", "{ table: pairs, object: bills,", "must be left out with object"),
        (other, &shared, "shared: true"),
        (
            "children: [  ] }",
            "children: [ { table: pairs, each: more, columns: { bill_id: $parent } } ] }",
            "the only ones that write public.pairs",
        ),
    ] {
        let broken = config.replacen(from, to, 1);
        ensure!(broken != config, "nothing to replace: {from}");
        let output = command(&["config", "show"], &broken)?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && text.contains(told), "{told}: {text}");
    }
    Ok(())
}
