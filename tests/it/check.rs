//! What `rowstream check` finds in the catalog and between us and the server.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bson::doc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

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

/// The connection to the server, and its answer to the first start-up.
type Session = Arc<Mutex<Option<(TcpStream, Vec<u8>)>>>;

/// One session of the real server for all that connect, statement by statement: what a transaction pooler
/// does when one connection is free. The answer to the first start-up is everybody's.
async fn pool(listener: TcpListener, server: String) -> Result<()> {
    let shared = Session::default();
    loop {
        let (mut client, _) = listener.accept().await?;
        let (shared, server) = (Arc::clone(&shared), server.clone());
        tokio::spawn(async move {
            let length = client.read_i32().await?;
            let mut startup = length.to_be_bytes().to_vec();
            startup.resize(usize::try_from(length)?, 0);
            client.read_exact(&mut startup[4..]).await?;
            {
                let mut shared = shared.lock().await;
                if shared.is_none() {
                    let mut backend = TcpStream::connect(server).await?;
                    backend.write_all(&startup).await?;
                    let answer = until_ready(&mut backend).await?;
                    *shared = Some((backend, answer));
                }
                let (_, answer) = shared.as_ref().context("a session")?;
                client.write_all(answer).await?;
            }
            let mut statement = vec![0; 1 << 16];
            loop {
                let length = client.read(&mut statement).await?;
                // Its end must not be the session's.
                if length == 0 || statement[0] == b'X' {
                    return Ok::<_, anyhow::Error>(());
                }
                let mut shared = shared.lock().await;
                let (backend, _) = shared.as_mut().context("a session")?;
                backend.write_all(&statement[..length]).await?;
                let answer = until_ready(backend).await?;
                client.write_all(&answer).await?;
            }
        });
    }
}

/// The server's messages up to `ReadyForQuery`.
async fn until_ready(backend: &mut TcpStream) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    loop {
        let kind = backend.read_u8().await?;
        let length = backend.read_i32().await?;
        answer.push(kind);
        answer.extend_from_slice(&length.to_be_bytes());
        let start = answer.len();
        answer.resize(start + usize::try_from(length - 4)?, 0);
        backend.read_exact(&mut answer[start..]).await?;
        if kind == b'Z' {
            return Ok(answer);
        }
    }
}

#[tokio::test]
async fn a_transaction_pooler_in_between_is_seen() -> Result<()> {
    const SEEN: &str = "a transaction pooler is in between";
    let stage = Stage::new("pooled").await?;
    stage.collection("things").insert_one(doc! { "_id": 1 }).await?;
    let config = stage.config(&stage.whole("things"));
    let (code, text) = check(&config)?;
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains(SEEN), "{text}");

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let server = stage.postgres_url.split(['@', '/']).nth(3).context("host and port")?.to_owned();
    let pooled = config
        .replace(&server, &address)
        .replace(&format!("{}\" }}", stage.name), &format!("{}?sslmode=disable\" }}", stage.name));
    let pooler = tokio::spawn(pool(listener, server));
    let answer = tokio::task::spawn_blocking(move || check(&pooled)).await?;
    pooler.abort();
    let (code, text) = answer?;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(SEEN), "{text}");
    Ok(())
}
