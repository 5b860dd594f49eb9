//! Columns of arrays whose elements refer to rows: each follows the row it means, as a single reference would.

use anyhow::{Result, ensure};
use bson::{Bson, doc};

use crate::daemon::{Daemon, command};
use crate::stage::{Stage, says};

async fn stage(name: &str, boards: &str, columns: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage
        .execute(&format!(
            "create table users (id serial primary key, mongo_id text not null unique);
             create table boards (mongo_id text primary key, {boards}); select setval('users_id_seq', 1000)"
        ))
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: boards, collection: {0}.boards, table: boards, id_type: string,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ {columns} }} }}
  - {{ source: users, collection: {0}.users, table: users, id_type: string, allow_empty: true,
        key: [mongo_id], columns: {{ mongo_id: _id }} }}\n",
        stage.name
    ));
    Ok((stage, config))
}

/// `board: user user`, in the order of the array; `-` for an element that is null.
const SHARED: &str = "select string_agg(mongo_id || ':' || case when shared is null then ' null' else (
        select coalesce(string_agg(coalesce(u.mongo_id, '-'), ' ' order by place), '')
        from unnest(shared) with ordinality as of(id, place) left join users u on u.id = of.id) end,
    '; ' order by mongo_id) from boards";
const HELD: &str =
    "select string_agg(concat_ws(' ', source_id, column_name, reason), ', ' order by source_id)
    from rowstream.held where state <> 'resolved'";

#[tokio::test]
async fn an_element_stands_in_its_array_while_its_row_is_there() -> Result<()> {
    let columns =
        "shared: { each: access.shared, ref: { to: users, from: $element.user, take: id }, missing: drop }";
    let (stage, config) = stage("array_drop", "shared integer[]", columns).await?;
    let (boards, users) = (stage.collection("boards"), stage.collection("users"));
    let shared = |ids: &[&str]| -> Bson {
        doc! { "shared": ids.iter().map(|id| doc! { "user": *id }).collect::<Vec<_>>() }.into()
    };
    users.insert_many(["u", "v", "w"].map(|id| doc! { "_id": id })).await?;
    boards
        .insert_many([
            doc! { "_id": "a", "access": shared(&["w", "late", "u", "u"]) },
            doc! { "_id": "b", "access": shared(&[]) },
            doc! { "_id": "c" },
            doc! { "_id": "d", "access": { "shared": Bson::Null } },
            doc! { "_id": "e", "access": { "shared": [{ "user": "v" }, { "user": Bson::Null }, {}] } },
            doc! { "_id": "f", "access": { "shared": "u" } },
            doc! { "_id": "g", "access": shared(&["late"]) },
        ])
        .await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, SHARED, "a:w u u; b:; c: null; d: null; e:v - -; g:").await?;
    says(&stage, &daemon, HELD, "f shared wrong_type").await?;
    says(&stage, &daemon, "select count(*) from rowstream.wait", "2").await?;
    users.insert_one(doc! { "_id": "late" }).await?;
    says(&stage, &daemon, SHARED, "a:w late u u; b:; c: null; d: null; e:v - -; g:late").await?;
    says(&stage, &daemon, "select count(*) from rowstream.wait", "0").await?;
    // Nobody writes the boards again when somebody goes, or comes back.
    users.delete_one(doc! { "_id": "u" }).await?;
    says(&stage, &daemon, SHARED, "a:w late; b:; c: null; d: null; e:v - -; g:late").await?;
    users.insert_one(doc! { "_id": "u" }).await?;
    says(&stage, &daemon, SHARED, "a:w late u u; b:; c: null; d: null; e:v - -; g:late").await?;
    let pushed = doc! { "$push": { "access.shared": { "user": "v" } } };
    boards.update_one(doc! { "_id": "b" }, pushed).await?;
    boards.update_one(doc! { "_id": "f" }, doc! { "$set": { "access": shared(&["u"]) } }).await?;
    boards.update_one(doc! { "_id": "g" }, doc! { "$unset": { "access": "" } }).await?;
    says(&stage, &daemon, SHARED, "a:w late u u; b:v; c: null; d: null; e:v - -; f:u; g: null").await?;
    says(&stage, &daemon, HELD, "").await?;
    let (_, metrics) = daemon.get("/metrics").await?;
    let counted =
        "rowstream_coercions_total{column=\"shared\",rule=\"missing_drop\",table=\"public.boards\"}";
    ensure!(metrics.contains(counted), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn an_element_whose_row_is_missing_is_null_or_kept_or_holds_its_document() -> Result<()> {
    let columns = "nulls: { each: of, ref: { to: users, from: $element, take: id }, missing: null },
        texts: { each: of, ref: { to: users, from: $element, take: mongo_id, strip_prefix: user_ }, missing: keep },
        needed: { each: needs, ref: { to: users, from: $element, take: id } }";
    let tables = "nulls integer[], texts text[], needed integer[] not null";
    let (stage, config) = stage("array_missing", tables, columns).await?;
    stage.collection("users").insert_one(doc! { "_id": "u" }).await?;
    stage
        .collection("boards")
        .insert_many([
            doc! { "_id": "a", "of": ["x", "u", "user_y", "a, \"b\"\\"], "needs": [] },
            doc! { "_id": "b", "of": ["user_u"], "needs": ["u", "x"] },
            doc! { "_id": "c", "of": [["u"]], "needs": [] },
            doc! { "_id": "d" },
        ])
        .await?;
    let daemon = Daemon::start(&config)?;
    const BOARDS: &str =
        "select string_agg(concat_ws(' ', mongo_id, array_to_json(array(select case when e is null then '-' end from unnest(nulls) e)),
            array_to_json(texts), cardinality(needed)), '; ' order by mongo_id) from boards";
    let a = r#"a ["-",null,"-","-"] ["x","u","y","a, \"b\"\\"] 0"#;
    says(&stage, &daemon, BOARDS, a).await?;
    says(
        &stage,
        &daemon,
        HELD,
        "b needed unresolved_reference, c nulls wrong_type, d needed missing_required",
    )
    .await?;
    stage.collection("users").insert_one(doc! { "_id": "x" }).await?;
    let a = r#"a [null,null,"-","-"] ["x","u","y","a, \"b\"\\"] 0"#;
    says(&stage, &daemon, BOARDS, &format!("{a}; b [\"-\"] [\"u\"] 2")).await?;
    says(&stage, &daemon, HELD, "c nulls wrong_type, d needed missing_required").await?;
    Ok(())
}

#[tokio::test]
async fn an_array_and_each_need_one_another() -> Result<()> {
    let each = "{ each: of, ref: { to: users, from: $element, take: id }, missing: drop }";
    for (name, boards, columns, told) in [
        (
            "scalar",
            "shared integer",
            format!("shared: {each}"),
            "is no array, but refers to a row with each element",
        ),
        (
            "array",
            "shared integer[]",
            "shared: { ref: { to: users, from: of, take: id } }".to_owned(),
            "is an array, but refers to one row",
        ),
        (
            "path",
            "shared integer[]",
            "shared: { each: of, ref: { to: users, from: of, take: id } }".to_owned(),
            "must begin with $element",
        ),
        (
            "stub",
            "shared integer[]",
            format!("shared: {}", each.replace("drop", "{ create: {} }")),
            "must be hold, null, keep or drop",
        ),
        (
            "value",
            "shared integer[]",
            "shared: { each: of, from: of }".to_owned(),
            "must be left out without ref",
        ),
    ] {
        let (_stage, config) = stage(&format!("array_{name}"), boards, &columns).await?;
        let output = command(&["check"], &config)?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(!output.status.success() && text.contains(told), "{name}: {text}");
    }
    Ok(())
}
