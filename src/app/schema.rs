//! Tables that do not exist: what they would have to be, and making those that may be made.

use mongodb::Client;
use sqlx::PgConnection;

use super::inspect::{known, specs, unread};
use crate::config::{Config, MappingSpec};
use crate::domain::{Document, TableName};
use crate::mapping::{Draft, DraftedFor};
use crate::pipeline::Error;
use crate::{sink, source};

/// A table that some mapping writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drafted {
    Existing(TableName),
    /// With its DDL.
    Missing(Draft, String),
}

/// Every table of the enabled mappings, in the order of the configuration. Changes nothing.
pub async fn schema(
    config: &Config,
    client: &Client,
    connection: &mut PgConnection,
) -> Result<Vec<Drafted>, Error> {
    let failed = |error| Error::retry("read the catalog", error);
    let known = known(config, connection).await?;
    let (specs, _) = specs(config, client, &known, &[]).await?;
    let mut tables: Vec<Drafted> = Vec::new();
    for (place, spec) in specs.iter().enumerate() {
        if specs[..place].iter().any(|earlier| earlier.table == spec.table) {
            continue;
        }
        tables.push(match sink::read_table(connection, &spec.table).await.map_err(failed)? {
            Some(_) => Drafted::Existing(spec.table.clone()),
            None => {
                let draft = draft(client, &spec.table, &specs).await?;
                let sql = sink::create_sql(connection, &draft).await.map_err(failed)?;
                Drafted::Missing(draft, sql)
            }
        });
    }
    Ok(tables)
}

/// What the table must be for all of these mappings that write it.
pub(super) async fn draft(client: &Client, table: &TableName, specs: &[MappingSpec]) -> Result<Draft, Error> {
    let specs: Vec<&MappingSpec> = specs.iter().filter(|spec| &spec.table == table).collect();
    let mut samples: Vec<Vec<Document>> = Vec::new();
    for spec in &specs {
        // Whole documents are json, whatever they hold.
        samples.push(match spec.columns {
            Some(_) => source::sample_documents(client, &spec.collection).await.map_err(unread)?,
            None => Vec::new(),
        });
    }
    let uses: Vec<DraftedFor<'_>> =
        specs.iter().zip(&samples).map(|(spec, sample)| DraftedFor { spec, sample }).collect();
    Ok(Draft::new(table, &uses))
}
