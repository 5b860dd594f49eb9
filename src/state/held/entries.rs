//! Held changes for operators: looked at, tried again, discarded. Nothing here holds or resolves one.

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::domain::Reason;
use crate::state::wait::OWN_ID;

/// Which held changes are meant; what is empty says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub source: Option<String>,
    /// `table` or `schema.table`.
    pub table: Option<String>,
    /// `None`: whatever is not resolved.
    pub state: Option<State>,
    pub reason: Option<Reason>,
    pub column: Option<String>,
    /// By `source_id`; these alone.
    pub ids: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// For a row that is not there yet.
    Waiting,
    Failed,
    Resolved,
}

impl State {
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Failed, Self::Resolved];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Resolved => "resolved",
        }
    }
}

/// One held change. Times are UTC in RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldChange {
    pub source: String,
    pub source_id: String,
    pub table: Option<String>,
    pub state: String,
    pub reason: String,
    pub column: Option<String>,
    pub message: String,
    pub attempts: i32,
    pub first_held_at: String,
    pub last_attempt_at: String,
    /// Nobody tries a resolved one again.
    pub next_attempt_at: Option<String>,
    pub resolved_at: Option<String>,
    pub document_bytes: Option<i64>,
    pub document_kept: bool,
}

impl HeldChange {
    /// What to do.
    pub fn hint(&self) -> &'static str {
        hint(&self.reason)
    }
}

fn hint(reason: &str) -> &'static str {
    Reason::named(reason)
        .map_or("it was held by another version of rowstream: read its message", Reason::hint)
}

/// A part of a longer list, in the order of (source, source_id).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<HeldChange>,
    /// What matches in all.
    pub total: i64,
    /// There are more after the last of these.
    pub has_more: bool,
}

/// Where a page begins: after this key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    pub source: String,
    pub source_id: String,
}

/// Held changes of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    pub source: String,
    pub table: Option<String>,
    pub column: Option<String>,
    pub reason: String,
    pub state: String,
    pub count: i64,
    pub oldest: String,
    pub most_attempts: i32,
    /// A few of their source_ids.
    pub examples: Vec<String>,
    /// What to do.
    pub hint: &'static str,
}

/// What a document waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WaitsFor {
    /// `source <name>`, or `table <name> (<columns>)`.
    pub awaited: String,
    /// The source_id of the document that is awaited; what a look-up looks for is a value, and not told.
    pub source_id: Option<String>,
    pub since: String,
    /// It has come: the document is read again now.
    pub due: bool,
    /// Another row stands in for it until then.
    pub stub: bool,
}

/// The document as it was when its change was held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub change: HeldChange,
    /// BSON. `None`: too large, or keeping is switched off.
    pub document: Option<Vec<u8>>,
}

/// The columns of a `HeldChange`, in its order.
fn columns() -> String {
    let [first, last, next, resolved] =
        ["h.first_held_at", "h.last_attempt_at", "h.next_attempt_at", "h.resolved_at"].map(time);
    format!(
        "h.source, h.source_id, m.target, h.state, h.reason, h.column_name, h.message, h.attempts, {first}, {last},
         case when h.state <> 'resolved' then {next} end, {resolved}, h.document_bytes, h.document is not null"
    )
}

/// A time as text.
fn time(expression: &str) -> String {
    format!("to_char({expression} at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')")
}

/// `$1` pipeline, `$2` source, `$3` table, `$4` state, `$5` reason, `$6` column, `$7` ids.
const MATCHING: &str = "from rowstream.held as h left join rowstream.mapping as m using (pipeline, source)
    where h.pipeline = $1 and ($2::text is null or h.source = $2)
      and ($3::text is null or m.target = $3 or m.target = 'public.' || $3)
      and case when $4::text is null then h.state <> 'resolved' else h.state = $4 end
      and ($5::text is null or h.reason = $5) and ($6::text is null or h.column_name = $6)
      and (cardinality($7::text[]) = 0 or h.source_id = any($7))";

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bound<'q>(sql: String, pipeline: &'q str, filter: &'q Filter) -> Query<'q> {
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(pipeline)
        .bind(filter.source.as_deref())
        .bind(filter.table.as_deref())
        .bind(filter.state.map(State::as_str))
        .bind(filter.reason.map(Reason::as_str))
        .bind(filter.column.as_deref())
        .bind(filter.ids.as_slice())
}

fn change(row: &PgRow) -> HeldChange {
    HeldChange {
        source: row.get(0),
        source_id: row.get(1),
        table: row.get(2),
        state: row.get(3),
        reason: row.get(4),
        column: row.get(5),
        message: row.get(6),
        attempts: row.get(7),
        first_held_at: row.get(8),
        last_attempt_at: row.get(9),
        next_attempt_at: row.get(10),
        resolved_at: row.get(11),
        document_bytes: row.get(12),
        document_kept: row.get(13),
    }
}

pub async fn list(
    connection: &mut PgConnection,
    pipeline: &str,
    filter: &Filter,
    after: Option<&After>,
    limit: i64,
) -> Result<Page, sqlx::Error> {
    let total = bound(format!("select count(*) {MATCHING}"), pipeline, filter)
        .fetch_one(&mut *connection)
        .await?
        .get(0);
    let rows = page(connection, pipeline, filter, after, limit, &columns()).await?;
    let has_more = rows.len() as i64 > limit;
    let entries = rows.iter().take(usize::try_from(limit).unwrap_or(0)).map(change).collect();
    Ok(Page { entries, total, has_more })
}

/// As `list`, each with its document: for export.
pub async fn kept(
    connection: &mut PgConnection,
    pipeline: &str,
    filter: &Filter,
    after: Option<&After>,
    limit: i64,
) -> Result<Vec<Kept>, sqlx::Error> {
    let rows =
        page(connection, pipeline, filter, after, limit, &format!("{}, h.document", columns())).await?;
    let kept = |row: &PgRow| Kept { change: change(row), document: row.get(14) };
    Ok(rows.iter().take(usize::try_from(limit).unwrap_or(0)).map(kept).collect())
}

/// One more than the limit, if there is one.
async fn page(
    connection: &mut PgConnection,
    pipeline: &str,
    filter: &Filter,
    after: Option<&After>,
    limit: i64,
    columns: &str,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let sql = format!(
        "select {columns} {MATCHING} and ($8::text is null or (h.source, h.source_id) > ($8, $9))
         order by h.source, h.source_id limit $10"
    );
    bound(sql, pipeline, filter)
        .bind(after.map(|after| after.source.as_str()))
        .bind(after.map(|after| after.source_id.as_str()))
        .bind(limit + 1)
        .fetch_all(connection)
        .await
}

pub async fn summary(
    connection: &mut PgConnection,
    pipeline: &str,
    filter: &Filter,
) -> Result<Vec<Group>, sqlx::Error> {
    let oldest = time("min(h.first_held_at)");
    let sql = format!(
        "select h.source, m.target, h.column_name, h.reason, h.state, count(*), {oldest}, max(h.attempts),
                (array_agg(h.source_id order by h.first_held_at, h.source_id))[1:3]
         {MATCHING} group by 1, 2, 3, 4, 5 order by 6 desc, 1, 3, 4, 5"
    );
    let rows = bound(sql, pipeline, filter).fetch_all(connection).await?;
    let group = |row: &PgRow| {
        let reason: String = row.get(3);
        let hint = hint(&reason);
        Group {
            source: row.get(0),
            table: row.get(1),
            column: row.get(2),
            reason,
            state: row.get(4),
            count: row.get(5),
            oldest: row.get(6),
            most_attempts: row.get(7),
            examples: row.get(8),
            hint,
        }
    };
    Ok(rows.iter().map(group).collect())
}

/// One entry, whatever its state.
pub async fn find(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_id: &str,
) -> Result<Option<Kept>, sqlx::Error> {
    let sql = format!(
        "select {}, h.document from rowstream.held as h left join rowstream.mapping as m using (pipeline, source)
         where h.pipeline = $1 and h.source = $2 and h.source_id = $3",
        columns()
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(pipeline)
        .bind(source)
        .bind(source_id)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| Kept { change: change(&row), document: row.get(14) }))
}

pub async fn waits(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_id: &str,
) -> Result<Vec<WaitsFor>, sqlx::Error> {
    let sql = format!(
        "select awaited, awaited_key, {}, due_at is not null, stub is not null from rowstream.wait
         where pipeline = $1 and source = $2 and source_id = $3 and awaited <> '{OWN_ID}'
         order by since, awaited, awaited_key limit 1000",
        time("since")
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(pipeline)
        .bind(source)
        .bind(source_id)
        .fetch_all(connection)
        .await?;
    let wait = |row: &PgRow| {
        let awaited: String = row.get(0);
        let is_document = awaited.starts_with("source ");
        let source_id = String::from_utf8(row.get(1)).ok().filter(|_| is_document);
        WaitsFor { awaited, source_id, since: row.get(2), due: row.get(3), stub: row.get(4) }
    };
    Ok(rows.iter().map(wait).collect())
}

/// Makes them due now; the daemon that leads reads their documents again. How many there were.
pub async fn retry(
    connection: &mut PgConnection,
    pipeline: &str,
    filter: &Filter,
) -> Result<u64, sqlx::Error> {
    let sql = format!(
        "update rowstream.held set next_attempt_at = clock_timestamp()
         where pipeline = $1 and state <> 'resolved' and (source, source_id) in (select h.source, h.source_id {MATCHING})"
    );
    Ok(bound(sql, pipeline, filter).execute(connection).await?.rows_affected())
}

/// Forgets them. How many there were.
pub async fn discard(
    connection: &mut PgConnection,
    pipeline: &str,
    filter: &Filter,
) -> Result<u64, sqlx::Error> {
    let sql = format!(
        "delete from rowstream.held
         where pipeline = $1 and (source, source_id) in (select h.source, h.source_id {MATCHING})"
    );
    Ok(bound(sql, pipeline, filter).execute(connection).await?.rows_affected())
}

/// Whether a daemon holds the lease and has been heard of within `ttl`.
pub async fn is_led(
    connection: &mut PgConnection,
    pipeline: &str,
    ttl: std::time::Duration,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select exists (select from rowstream.lease
             where pipeline = $1 and owner <> '' and heartbeat > clock_timestamp() - $2::interval)",
    )
    .bind(pipeline)
    .bind(super::interval(ttl))
    .fetch_one(connection)
    .await
}
