//! What PostgreSQL refuses: rows that stand alone, and what is no row's fault.

use rowstream::config::KeySpec;
use rowstream::domain::{Portion, Reason, Row};
use rowstream::sink::{self, Disposition};
use sqlx::{Connection, PgConnection};

use super::setup::Field::{Int4, Null};
use super::setup::{
    Database, both_keys, canonical, counts, delete, drop_rows, insert_new, large, public, run, table, target,
    texts, upsert, venmo,
};

#[tokio::test]
async fn three_bad_rows_of_five_thousand_stand_alone() {
    let mut database = Database::create("isolate").await;
    let conn = &mut database.conn;
    run(
        conn,
        "create table t (source text, source_id text, n int constraint positive check (n > 0), m int not null,
                         primary key (source, source_id))",
    )
    .await;
    let found = table(conn, &public("t")).await;
    let target = target(&found, both_keys(), &["source", "source_id", "n", "m"]);
    let rows: Vec<Row> = (1..=5000)
        .map(|id| match id {
            17 | 4000 => venmo(&id.to_string(), &[Int4(-1), Int4(1)]),
            2500 => venmo(&id.to_string(), &[Int4(1), Null]),
            _ => venmo(&id.to_string(), &[Int4(id), Int4(1)]),
        })
        .collect();
    let outcome = upsert(conn, &target, &rows).await;
    assert_eq!(counts(&outcome), (4997, 0, 0, 3));
    let mut refused: Vec<_> = outcome
        .rejected
        .iter()
        .map(|(id, rejection)| (id.clone(), rejection.reason, rejection.to_string()))
        .collect();
    refused.sort_by(|left, right| left.0.as_bytes().cmp(right.0.as_bytes()));
    assert_eq!(
        refused,
        [
            (canonical("17"), Reason::Constraint, "violates check constraint positive (23514)".into()),
            (
                canonical("2500"),
                Reason::MissingRequired,
                "column m: is null, and the column takes none (23502)".into()
            ),
            (canonical("4000"), Reason::Constraint, "violates check constraint positive (23514)".into()),
        ]
    );
    assert_eq!(texts(conn, "select count(*)::text from t").await, ["4997"]);
    database.drop().await;
}

#[tokio::test]
async fn a_changed_column_type_never_takes_bytes_of_the_old_one() {
    let mut database = Database::create("stale").await;
    let conn = &mut database.conn;
    run(
        conn,
        "create table t (source text, source_id text, n int, filler text, primary key (source, source_id))",
    )
    .await;
    let found = table(conn, &public("t")).await;
    let target = target(&found, both_keys(), &["source", "source_id", "n", "filler"]);
    assert_eq!(counts(&upsert(conn, &target, &[venmo("a", &[Int4(1), Null])]).await), (1, 0, 0, 0));

    // The same width in bytes: as raw bytes, 7 would become 9.8e-45.
    let mut other = database.other().await;
    run(&mut other, "alter table t alter n type float4").await;
    let conn = &mut database.conn;
    assert_eq!(counts(&upsert(conn, &target, &[venmo("a", &[Int4(7), Null])]).await), (0, 1, 0, 0));
    assert_eq!(counts(&upsert(&mut other, &target, &[venmo("b", &[Int4(8), Null])]).await), (1, 0, 0, 0));
    assert_eq!(texts(conn, "select n::text from t order by 1").await, ["7", "8"]);
    let error = insert_new(conn, &target, &large(0..1000)).await.expect_err("another table");
    assert_eq!(error.disposition(), Disposition::Refresh);

    for change in
        ["alter table t alter n type bool using true", "alter table t drop column n", "drop table t"]
    {
        run(&mut other, change).await;
        let mut transaction = conn.begin().await.expect("begin");
        let error = sink::upsert(&mut transaction, &target, &[venmo("c", &[Int4(1), Null])], Portion::WHOLE)
            .await
            .expect_err(change);
        assert_eq!(error.disposition(), Disposition::Refresh, "{change}: {error:?}");
        transaction.rollback().await.expect("rollback");
    }
    other.close().await.expect("close");
    database.drop().await;
}

#[tokio::test]
async fn a_delete_that_a_referrer_forbids_is_held_alone() {
    let mut database = Database::create("delete").await;
    let conn = &mut database.conn;
    run(
        conn,
        "create table t (source text, source_id text, n int, primary key (source, source_id));
         create table line (source text default 'venmo', t_id text,
                            constraint line_of foreign key (source, t_id) references t on delete restrict);
         insert into t select 'venmo', g::text, g from generate_series(1, 100) g;
         insert into t values ('other', '1', 1);
         insert into line (t_id) values ('33'), ('77')",
    )
    .await;
    let found = table(conn, &public("t")).await;
    let target = target(&found, both_keys(), &["source", "source_id", "n"]);
    let ids: Vec<_> = (1..=101).map(|id: i32| (canonical(&id.to_string()), id.to_string())).collect();
    let outcome = delete(conn, &target, &ids).await;
    assert_eq!(outcome.deleted, 98);
    let refused: Vec<_> =
        outcome.rejected.iter().map(|(id, rejection)| (id.clone(), rejection.reason)).collect();
    assert_eq!(
        refused,
        [(canonical("33"), Reason::ForeignKeyViolation), (canonical("77"), Reason::ForeignKeyViolation)]
    );
    assert!(outcome.rejected[0].1.message.contains("line_of"), "{}", outcome.rejected[0].1);
    run(conn, "delete from line").await;
    assert_eq!(drop_rows(conn, &target).await.deleted, 2);
    assert_eq!(texts(conn, "select source from t").await, ["other"]);
    database.drop().await;
}

#[tokio::test]
async fn what_is_no_rows_fault_leaves_the_batch() {
    let mut database = Database::create("retry").await;
    let mut other = database.other().await;
    let conn = &mut database.conn;
    run(conn, "create table t (source text, source_id text, n int, primary key (source, source_id))").await;
    let found = table(conn, &public("t")).await;
    let target = target(&found, both_keys(), &["source", "source_id", "n"]);
    run(conn, "set lock_timeout = '20ms'").await;
    run(&mut other, "begin; lock table t in access exclusive mode").await;
    let mut transaction = conn.begin().await.expect("begin");
    let error = sink::upsert(&mut transaction, &target, &[venmo("a", &[Int4(1)])], Portion::WHOLE)
        .await
        .expect_err("lock time-out");
    assert_eq!(error.disposition(), Disposition::Shrink);
    transaction.rollback().await.expect("rollback");
    run(&mut other, "rollback; select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()").await;
    let error = sink::upsert(conn, &target, &[venmo("a", &[Int4(1)])], Portion::WHOLE)
        .await
        .expect_err("connection gone");
    assert_eq!(error.disposition(), Disposition::Retry, "{error:?}");
    let cut = Row { tuple: vec![0, 3, 0].into(), ..venmo("a", &[Null]) };
    let mut transaction = other.begin().await.expect("begin");
    let error = sink::upsert(&mut transaction, &target, &[cut], Portion::WHOLE).await.expect_err("cut tuple");
    assert!(matches!(error.disposition(), Disposition::Halt { .. }));
    transaction.rollback().await.expect("rollback");
    // The first session is gone: only the server is asked to drop the database.
    let Database { name, server, .. } = database;
    other.close().await.expect("close");
    let mut admin = PgConnection::connect_with(&server).await.expect("PostgreSQL answers");
    run(&mut admin, &format!("drop database {name} with (force)")).await;
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
