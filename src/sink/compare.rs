//! Rows compared with what they should be. Everything here only reads, and works on a connection that may do
//! nothing else.

use std::collections::HashSet;

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::Target;
use super::arrays;
use super::error::Error;
use super::keyed::key_arguments;
use super::statement;
use crate::config::ValueSpec;
use crate::domain::RowKey;
use crate::mapping::Mapping;

/// Rows and bytes of one statement, as of a merge.
const ROWS: usize = 4_000;
const BYTES: usize = 4 * 1024 * 1024;

/// Keys of one statement.
const KEYS: usize = 10_000;

/// How a row is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deviation {
    Missing,
    /// In these columns, by place in the mapping.
    Differs(Vec<usize>),
}

/// One column of a row that differs: for the operator's own eyes, never for a log, the state or HTTP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShownValue {
    pub column: String,
    pub held: Option<String>,
    pub wanted: Option<String>,
}

/// What compares the rows of one mapping's table, or of a child table.
#[derive(Debug)]
pub struct Comparison {
    target: Target,
    deviations: String,
    living: String,
    count: Option<String>,
    sample: Option<String>,
}

impl Comparison {
    pub fn new(target: &Target) -> Self {
        let mapping = &target.mapping;
        Self {
            deviations: statement::deviations(mapping, &compared(mapping)),
            living: statement::living(mapping),
            count: statement::count_owned(mapping),
            sample: statement::sample_source_ids(mapping),
            target: target.clone(),
        }
    }

    /// The rows that are not as these COPY tuples of the mapping say, by place.
    pub async fn deviations(
        &self,
        conn: &mut PgConnection,
        tuples: &[&[u8]],
    ) -> Result<Vec<(usize, Deviation)>, Error> {
        let table = &self.target.mapping.table;
        let failed = |source| Error::from_sqlx(table, "compare rows", source);
        let mut found = Vec::new();
        let mut first = 0;
        while first < tuples.len() {
            let part = &tuples[first..first + length(&tuples[first..])];
            let arguments = arrays::arguments(&self.target.wire_types, part.iter().copied())
                .map_err(|source| Error::Malformed { table: table.clone(), source })?;
            let rows = sqlx::query_with(statement::safe(&self.deviations), arguments)
                .fetch_all(&mut *conn)
                .await
                .map_err(failed)?;
            for row in rows {
                let place = first + place_of(row.try_get(0).map_err(failed)?);
                let deviation = match row.try_get(1).map_err(failed)? {
                    false => Deviation::Missing,
                    true => {
                        let columns: Vec<i32> = row.try_get(2).map_err(failed)?;
                        Deviation::Differs(columns.into_iter().map(|column| column as usize).collect())
                    }
                };
                found.push((place, deviation));
            }
            first += part.len();
        }
        Ok(found)
    }

    /// What these columns of a row hold, and what they should hold, as text; of this COPY tuple of the mapping.
    pub async fn values(
        &self,
        conn: &mut PgConnection,
        tuple: &[u8],
        columns: &[usize],
    ) -> Result<Vec<ShownValue>, Error> {
        let mapping = &self.target.mapping;
        let failed = |source| Error::from_sqlx(&mapping.table, "show rows", source);
        let arguments = arrays::arguments(&self.target.wire_types, std::iter::once(tuple))
            .map_err(|source| Error::Malformed { table: mapping.table.clone(), source })?;
        let sql = statement::shown_values(mapping, columns);
        let row = sqlx::query_with(statement::safe(&sql), arguments).fetch_optional(conn).await;
        let Some(row) = row.map_err(failed)? else { return Ok(Vec::new()) };
        let held: Vec<Option<String>> = row.try_get(1).map_err(failed)?;
        let wanted: Vec<Option<String>> = row.try_get(2).map_err(failed)?;
        let name = |place: &usize| mapping.columns[*place].name.clone();
        let values = columns.iter().zip(held.into_iter().zip(wanted));
        Ok(values.map(|(place, (held, wanted))| ShownValue { column: name(place), held, wanted }).collect())
    }

    /// Which of these keys have a row that does not say that its document is gone.
    pub async fn living(&self, conn: &mut PgConnection, keys: &[RowKey]) -> Result<Vec<bool>, Error> {
        let table = &self.target.mapping.table;
        let failed = |source| Error::from_sqlx(table, "look for rows", source);
        let mut living = vec![false; keys.len()];
        for (number, part) in keys.chunks(KEYS).enumerate() {
            let arguments = key_arguments(&self.target, part.iter())
                .map_err(|source| Error::Malformed { table: table.clone(), source })?;
            let places: Vec<i64> = sqlx::query_scalar_with(statement::safe(&self.living), arguments)
                .fetch_all(&mut *conn)
                .await
                .map_err(failed)?;
            for place in places.into_iter().map(place_of) {
                if let Some(living) = living.get_mut(number * KEYS + place) {
                    *living = true;
                }
            }
        }
        Ok(living)
    }

    /// How many rows say that they are the mapping's; `None`: they do not say it.
    pub async fn count(&self, conn: &mut PgConnection) -> Result<Option<u64>, Error> {
        let Some(sql) = &self.count else { return Ok(None) };
        let mapping = &self.target.mapping;
        let mut query = sqlx::query_scalar(statement::safe(sql));
        if mapping.key.source().is_some() {
            query = query.bind(&mapping.source);
        }
        let count: i64 = query
            .fetch_one(conn)
            .await
            .map_err(|source| Error::from_sqlx(&mapping.table, "count the rows of a source", source))?;
        Ok(Some(count.unsigned_abs()))
    }

    /// The source_ids of some of the mapping's rows, at random by pages of the table.
    pub async fn sample(
        &self,
        conn: &mut PgConnection,
        percent: f32,
        limit: i64,
    ) -> Result<Vec<String>, Error> {
        let Some(sql) = &self.sample else { return Ok(Vec::new()) };
        let mapping = &self.target.mapping;
        let mut query = sqlx::query_scalar(statement::safe(sql)).bind(percent).bind(limit);
        if mapping.key.source().is_some() {
            query = query.bind(&mapping.source);
        }
        query
            .fetch_all(conn)
            .await
            .map_err(|source| Error::from_sqlx(&mapping.table, "sample the rows of a source", source))
    }

    pub fn mapping(&self) -> &Mapping {
        &self.target.mapping
    }

    pub fn target(&self) -> &Target {
        &self.target
    }
}

/// The first column of the first row that the operator's own statement gives, as text.
pub async fn ask(conn: &mut PgConnection, sql: &str) -> Result<Option<String>, sqlx::Error> {
    let sql = format!("select asked.first::text from ({sql}) as asked(first)");
    let found: Option<Option<String>> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_optional(conn).await?;
    Ok(found.flatten())
}

/// The columns that say the same of a row as of its document: those of the key are how it is found, and what
/// is written on insert only, or tells of the writing itself, follows no document.
fn compared(mapping: &Mapping) -> Vec<usize> {
    let marks = [&mapping.sync.status, &mapping.sync.error];
    let marks: HashSet<&str> = marks.into_iter().flatten().map(|column| column.name.as_str()).collect();
    let is_compared = |place: usize| {
        let column = &mapping.columns[place];
        !mapping.key.has(place)
            && !column.insert_only
            && !matches!(column.value, ValueSpec::ClusterTime)
            && !marks.contains(column.name.as_str())
    };
    (0..mapping.columns.len()).filter(|place| is_compared(*place)).collect()
}

/// How many of these tuples go into one statement: at least one.
fn length(tuples: &[&[u8]]) -> usize {
    let mut bytes = 0;
    let fitting = tuples.iter().take(ROWS).take_while(|tuple| {
        bytes += tuple.len();
        bytes <= BYTES
    });
    fitting.count().max(1)
}

/// Places of SQL begin with 1.
fn place_of(place: i64) -> usize {
    usize::try_from(place - 1).unwrap_or(usize::MAX / 2)
}
