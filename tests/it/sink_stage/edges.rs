//! Tables and changes at the edge of what the sink can serve.

use rowstream::config::KeySpec;
use rowstream::domain::Reason;
use rowstream::sink::{self, Disposition, Target};
use sqlx::{Connection, PgConnection};

use super::setup::Field::Int4;
use super::setup::{
    Database, both_keys, canonical, counts, delete, drop_rows, public, run, table, target, texts, upsert,
    venmo,
};

#[tokio::test]
async fn partitions_with_their_parents_layout_are_merged() {
    let mut database = Database::create("same_layout").await;
    let conn = &mut database.conn;
    run(
        conn,
        "create table t (source text, source_id text, n int, primary key (source, source_id))
             partition by hash (source_id);
         create table t0 partition of t for values with (modulus 2, remainder 0);
         create table t1 partition of t for values with (modulus 2, remainder 1)",
    )
    .await;
    let found = table(conn, &public("t")).await;
    let target = target(&found, both_keys(), &["source", "source_id", "n"]);
    let rows = |n| (0..20).map(|id| venmo(&id.to_string(), &[Int4(n)])).collect::<Vec<_>>();
    assert_eq!(counts(&upsert(conn, &target, &rows(1)).await), (20, 0, 0, 0));
    assert_eq!(counts(&upsert(conn, &target, &rows(1)).await), (0, 0, 20, 0));
    assert_eq!(counts(&upsert(conn, &target, &rows(2)).await), (0, 20, 0, 0));
    assert_eq!(delete(conn, &target, &[(canonical("3"), "3".into())]).await.deleted, 1);
    assert_eq!(drop_rows(conn, &target).await.deleted, 19);
    database.drop().await;
}

#[tokio::test]
async fn a_delete_whose_trigger_fails_is_held() {
    let mut database = Database::create("delete_trigger").await;
    let conn = &mut database.conn;
    run(
        conn,
        "create table t (source text, source_id text, primary key (source, source_id));
         create table gone (id varchar(3));
         create function note() returns trigger language plpgsql as
             'begin insert into gone values (old.source_id); return null; end';
         create trigger note after delete on t for each row execute function note();
         insert into t values ('venmo', 'abc'), ('venmo', 'abcd')",
    )
    .await;
    let found = table(conn, &public("t")).await;
    let target = target(&found, both_keys(), &["source", "source_id"]);
    let ids = ["abc", "abcd"].map(|id| (canonical(id), id.to_owned()));
    let outcome = delete(conn, &target, &ids).await;
    assert_eq!(outcome.deleted, 1);
    let refused: Vec<_> =
        outcome.rejected.iter().map(|(id, rejection)| (id.clone(), rejection.reason)).collect();
    assert_eq!(refused, [(canonical("abcd"), Reason::TooLong)]);
    database.drop().await;
}

#[tokio::test]
async fn dropping_a_source_takes_its_own_rows_and_leaves_what_is_referred_to() {
    let mut database = Database::create("drop_rows").await;
    let conn = &mut database.conn;
    run(
        conn,
        "create table t (id int, mongo_id text unique);
         create table heir () inherits (t);
         insert into t select g, g::text from generate_series(1, 50) g;
         insert into t values (0, null);
         insert into heir values (100, '100');
         create table line (t_id text constraint line_of references t (mongo_id));
         insert into line values ('33'), ('7')",
    )
    .await;
    let found = table(conn, &public("t")).await;
    let target =
        target(&found, KeySpec::SourceId { source: None, source_id: "mongo_id".into() }, &["mongo_id"]);
    let dropped = drop_rows(conn, &target).await;
    assert_eq!(dropped.deleted, 48);
    let refused: Vec<_> = dropped.refused.iter().map(|rejection| rejection.reason).collect();
    assert_eq!(refused, [Reason::ForeignKeyViolation; 2]);
    run(conn, "delete from line").await;
    assert_eq!(drop_rows(conn, &target).await.deleted, 2);
    assert_eq!(texts(conn, "select id::text from t order by id").await, ["0", "100"], "not rowstream's");
    database.drop().await;
}

async fn guarded(conn: &mut PgConnection, targets: &[&Target]) -> Result<(), sink::Error> {
    let mut transaction = conn.begin().await.expect("begin");
    if let Some(lock) = sink::lock(targets) {
        sqlx::raw_sql(lock).execute(&mut *transaction).await.expect("lock");
    }
    let answer = sink::guard(&mut transaction, targets).await;
    transaction.rollback().await.expect("rollback");
    answer
}

#[tokio::test]
async fn the_guard_sees_every_change_that_would_round() {
    let mut database = Database::create("guard").await;
    let mut other = database.other().await;
    let conn = &mut database.conn;
    run(
        conn,
        r#"create table "T t" (source text, source_id text, n numeric(12, 4), at timestamptz, f float8,
                              primary key (source, source_id));
           create table u (id text primary key)"#,
    )
    .await;
    let names = ["source", "source_id", "n", "at", "f"];
    let plain = target(
        &table(conn, &public("u")).await,
        KeySpec::SourceId { source: None, source_id: "id".into() },
        &["id"],
    );
    for change in [
        r#"alter table "T t" alter n type numeric(12, 2)"#,
        r#"alter table "T t" alter at type timestamptz(0)"#,
        r#"alter table "T t" alter f type int"#,
        r#"alter table "T t" add more text"#,
        r#"drop table "T t"; create table "T t" (source text, source_id text, n numeric(12, 2),
           at timestamptz(0), f int, more text, primary key (source, source_id))"#,
    ] {
        let target = target(&table(conn, &public("T t")).await, both_keys(), &names);
        for _ in 0..2 {
            guarded(conn, &[&target, &plain, &target]).await.expect("nothing has changed");
        }
        run(&mut other, change).await;
        let error = guarded(conn, &[&plain, &target]).await.expect_err(change);
        assert_eq!(error.disposition(), Disposition::Refresh);
        assert!(error.to_string().contains("public.T t"), "{error}");
    }
    guarded(conn, &[&plain]).await.expect("another table");
    guarded(conn, &[]).await.expect("no table");
    other.close().await.expect("close");
    database.drop().await;
}

#[tokio::test]
async fn a_trigger_that_names_something_unknown_holds_its_row_and_tells_no_value() {
    let mut database = Database::create("trigger_sql").await;
    let conn = &mut database.conn;
    run(
        conn,
        "create table t (source text, source_id text, n int, primary key (source, source_id));
         create function route() returns trigger language plpgsql as
             $$begin if new.n = 2 then execute 'insert into part_' || new.source_id || ' values (1)'; end if;
               return new; end$$;
         create trigger route before insert on t for each row execute function route()",
    )
    .await;
    let found = table(conn, &public("t")).await;
    let target = target(&found, both_keys(), &["source", "source_id", "n"]);
    let outcome = upsert(conn, &target, &[venmo("a", &[Int4(1)]), venmo("secret", &[Int4(2)])]).await;
    assert_eq!(counts(&outcome), (1, 0, 0, 1));
    let (id, rejection) = &outcome.rejected[0];
    assert_eq!((id, rejection.reason), (&canonical("secret"), Reason::RejectedByTarget));
    assert!(!rejection.to_string().contains("secret"), "{rejection}");
    database.drop().await;
}

#[tokio::test]
async fn the_catalog_tells_rules_collations_and_column_privileges() {
    let mut database = Database::create("obstacles").await;
    let role = format!("sink_columns_{}", std::process::id());
    let conn = &mut database.conn;
    run(
        conn,
        &format!(
            "create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             create table t (id text collate ci, plain text, n serial, m int, o int generated always as identity);
             create unique index by_id on t (id);
             create unique index by_plain on t (plain);
             create unique index by_plain_ci on t (plain collate ci);
             create rule kept as on delete to t do instead nothing;
             create rule noted as on insert to t do also notify t;
             create rule deleted as on delete to t do also notify t;
             create role {role};
             grant select (id, plain), insert (id, plain, m), update (plain), delete on t to {role}"
        ),
    )
    .await;
    run(conn, &format!("set role {role}")).await;
    let found = table(conn, &public("t")).await;
    let marked: Vec<_> = found
        .columns
        .iter()
        .filter(|column| column.nondeterministic)
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(marked, ["id"]);
    let marked: Vec<_> =
        found.unique_keys.iter().filter(|key| key.nondeterministic).map(|key| key.name.as_str()).collect();
    assert_eq!(marked, ["by_id", "by_plain_ci"]);
    assert_eq!(found.rules, ["kept", "noted"]);
    assert_eq!(found.missing_privileges, ["select"], "xmax is read");
    let missing: Vec<String> = found
        .missing_column_privileges
        .iter()
        .map(|(column, privilege)| format!("{column} {privilege}"))
        .collect();
    assert_eq!(
        missing,
        [
            "id update",
            "n insert",
            "n select",
            "n update",
            "n usage on sequence t_n_seq",
            "m select",
            "m update",
            "o insert",
            "o select",
            "o update"
        ]
    );
    run(conn, &format!("reset role; drop owned by {role}; drop role {role}")).await;
    database.drop().await;
}
