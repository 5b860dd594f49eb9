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

/// One mapping of references to the table of its name, keyed by mongo_id.
fn referring(stage: &Stage, table: &str, more: &str) -> String {
    format!(
        "  - {{ source: {table}, collection: {0}.{table}, table: {table}, id_type: string, allow_empty: true,
        key: {{ source: null, source_id: mongo_id }}, {more} }}\n",
        stage.name
    )
}

#[tokio::test]
async fn a_circle_of_references_that_no_row_can_begin_is_refused_and_one_that_some_can_is_told() -> Result<()>
{
    let stage = Stage::new("check_circles").await?;
    stage
        .execute(
            "create table hens (id serial primary key, mongo_id text not null unique, egg int not null);
             create table eggs (id serial primary key, mongo_id text not null unique,
                 hen int not null references hens deferrable initially deferred);
             alter table hens add foreign key (egg) references eggs deferrable initially deferred;
             create table nests (id serial primary key, mongo_id text not null unique, egg int not null references eggs);
             create table straws (nest int references nests, place int, bird int references hens, primary key (nest, place))",
        )
        .await?;
    let mappings = |egg: &str, bird: &str| {
        let straws = format!(
            "columns: {{ egg: {{ ref: {{ to: eggs, from: egg }} }} }},
        children: [{{ table: straws, each: straws, key: [nest, place],
            columns: {{ nest: $parent, place: $index, bird: {{ ref: {{ to: {bird}, from: $element }}{egg} }} }} }}]"
        );
        let hens = format!("columns: {{ egg: {{ ref: {{ to: eggs, from: egg }}{egg} }} }}");
        [
            referring(&stage, "hens", &hens),
            referring(&stage, "eggs", "columns: { hen: { ref: { to: hens, from: hen } } }"),
            referring(&stage, "nests", &straws),
        ]
        .concat()
    };
    const FIRST: &str = "no row can come first";
    const GOOD: &str = "wait for good";
    let (code, text) = check(&stage.config(&mappings("", "hens")))?;
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("eggs.hen waits for hens, hens.egg waits for eggs"), "{text}");
    assert_eq!((text.matches(FIRST).count(), text.matches(GOOD).count()), (1, 0), "{text}");

    // Where there are rows already, others can refer to them.
    stage
        .execute("begin; insert into hens (mongo_id, egg) values ('h', 1); insert into eggs (mongo_id, hen) values ('e', 1); commit")
        .await?;
    let (_, text) = check(&stage.config(&mappings("", "hens")))?;
    assert_eq!((text.matches(FIRST).count(), text.matches(GOOD).count()), (0, 1), "{text}");
    stage.execute("begin; delete from hens; delete from eggs; commit; alter table hens alter column egg drop not null").await?;

    // A column that may be null lets some begin; one that is null meanwhile keeps nobody.
    let (code, text) = check(&stage.config(&mappings("", "hens")))?;
    assert_eq!((code, text.matches(FIRST).count(), text.matches(GOOD).count()), (0, 0, 1), "{text}");
    let (code, text) = check(&stage.config(&mappings(", missing: null", "hens")))?;
    assert_eq!((code, text.matches(FIRST).count(), text.matches(GOOD).count()), (0, 0, 0), "{text}");

    // Elements that hold their document wait like anything else.
    stage.execute("alter table straws drop constraint straws_bird_fkey").await?;
    let (code, text) = check(&stage.config(&mappings("", "nests, take: id")))?;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("nests.bird waits for nests"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_foreign_key_that_would_change_rows_of_other_documents_is_refused_where_no_reference_watches()
-> Result<()> {
    let stage = Stage::new("check_cascades").await?;
    stage
        .execute(
            "create table users (id serial primary key, mongo_id text not null unique, name text);
             create table deleted (mongo_id text primary key, owner text references users (mongo_id) on delete cascade);
             create table emptied (mongo_id text primary key, owner text references users (mongo_id) on delete set null);
             create table kept (mongo_id text primary key, owner text references users (mongo_id));
             create table watched (mongo_id text primary key, owner text references users (mongo_id) on delete cascade);
             create table own (mongo_id text primary key, name text, owner text references users (mongo_id) on delete cascade);
             create table foreign_null (mongo_id text primary key, name text, owner text references users (mongo_id) on delete set null)",
        )
        .await?;
    let mut mappings: String = ["deleted", "emptied", "kept"]
        .iter()
        .map(|table| referring(&stage, table, "columns: { owner: owner }"))
        .collect();
    let watched = "columns: { owner: { ref: { to: users, from: owner } } }";
    mappings.push_str(&referring(&stage, "watched", watched));
    for table in ["own", "foreign_null"] {
        mappings.push_str(&referring(&stage, table, "columns: { name: name }"));
    }
    let users = referring(&stage, "users", "columns: { name: name }");
    let (code, text) = check(&stage.config(&format!("{mappings}{users}")))?;
    assert_eq!(code, 1, "{text}");
    let told: Vec<&str> = text.lines().filter(|line| line.contains("PostgreSQL would")).collect();
    let begins = |line: &str, with: &str| assert!(line.starts_with(with), "{text}");
    assert_eq!(told.len(), 3, "{text}");
    begins(
        told[0],
        "✗ mapping deleted, table public.deleted, column owner: foreign key deleted_owner_fkey: PostgreSQL would delete the row",
    );
    begins(
        told[1],
        "✗ mapping emptied, table public.emptied, column owner: foreign key emptied_owner_fkey: PostgreSQL would empty the column",
    );
    begins(
        told[2],
        "! mapping own, table public.own: foreign key own_owner_fkey: PostgreSQL would delete the row",
    );
    // Rows that nobody deletes take nothing with them.
    let users = referring(&stage, "users", "deletes: keep, columns: { name: name }");
    let (code, text) = check(&stage.config(&format!("{mappings}{users}")))?;
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains("PostgreSQL would"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_foreign_key_that_would_carry_a_changed_key_into_rows_of_other_documents_is_refused() -> Result<()>
{
    let stage = Stage::new("check_carried").await?;
    stage
        .execute(
            "create table countries (mongo_id text primary key, id uuid unique, code text unique, zone text unique);
             create table changed (mongo_id text primary key, country text references countries (code) on update cascade);
             create table emptied (mongo_id text primary key, country text references countries (code) on update set null);
             create table kept (mongo_id text primary key, country text references countries (code));
             create table found (mongo_id text primary key, country text references countries (code) on update cascade);
             create table own (mongo_id text primary key, name text, country text references countries (code) on update cascade);
             create table by_id (mongo_id text primary key, country text references countries (mongo_id) on update cascade,
                 id uuid references countries (id) on update cascade, zone text references countries (zone) on update cascade)",
        )
        .await?;
    let mut mappings: String = ["changed", "emptied", "kept"]
        .iter()
        .map(|table| referring(&stage, table, "columns: { country: country }"))
        .collect();
    let found =
        "columns: { country: { lookup: { table: countries, match: { code: country }, take: code } } }";
    mappings.push_str(&referring(&stage, "found", found));
    mappings.push_str(&referring(&stage, "own", "columns: { name: name }"));
    // What never changes is carried nowhere.
    let by_id = "columns: { country: country, id: id, zone: zone }";
    mappings.push_str(&referring(&stage, "by_id", by_id));
    let countries =
        "columns: { id: { key: uuid }, code: code, zone: { from: zone, write: insert } }, deletes: keep";
    let (code, text) = check(&stage.config(&(mappings + &referring(&stage, "countries", countries))))?;
    assert_eq!(code, 1, "{text}");
    let told: Vec<&str> = text.lines().filter(|line| line.contains("PostgreSQL would")).collect();
    let begins = |line: &str, with: &str| assert!(line.starts_with(with), "{text}");
    assert_eq!(told.len(), 2, "{text}");
    begins(
        told[0],
        "✗ mapping changed, table public.changed, column country: foreign key changed_country_fkey: PostgreSQL would change \
         the column whenever countries changes code of public.countries",
    );
    begins(
        told[1],
        "✗ mapping emptied, table public.emptied, column country: foreign key emptied_country_fkey: PostgreSQL would empty \
         the column whenever countries changes code of public.countries",
    );
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
