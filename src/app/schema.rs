//! Tables that do not exist: what they would have to be, and making those that may be made.

use mongodb::Client;
use sqlx::PgConnection;

use super::inspect::{known, specs, unread};
use crate::config::{Config, MappingSpec, SchemaMode};
use crate::domain::{Document, Table, TableName};
use crate::mapping::{self, Draft, DraftedFor, Surroundings};
use crate::pipeline::Error;
use crate::{sink, source};

/// A table that some mapping writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drafted {
    Existing(TableName),
    /// With its DDL.
    Missing(Draft, String),
}

/// Every table of the enabled mappings, parents first. Changes nothing.
pub async fn schema(
    config: &Config,
    client: &Client,
    connection: &mut PgConnection,
) -> Result<Vec<Drafted>, Error> {
    let failed = |error| Error::retry("read the catalog", error);
    let known = known(config, connection).await?;
    let (specs, _) = specs(config, client, &known, &[]).await?;
    let existing = existing(connection, &specs).await?;
    let mut drafts: Vec<Draft> = Vec::new();
    let mut tables: Vec<Drafted> = Vec::new();
    for name in in_order(&specs, &existing) {
        if existing.iter().any(|table| table.name == name) {
            tables.push(Drafted::Existing(name));
            continue;
        }
        let draft = draft(client, &name, &specs, &existing, &drafts).await?;
        let sql = sink::create_sql(connection, &draft).await.map_err(failed)?;
        drafts.push(draft.clone());
        tables.push(Drafted::Missing(draft, sql));
    }
    Ok(tables)
}

/// A table that was to be made.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) draft: Draft,
    /// Why it was not.
    pub(super) refused: Option<String>,
}

/// Makes the tables that are not there and may be made.
pub(super) async fn create(
    client: &Client,
    connection: &mut PgConnection,
    specs: &[MappingSpec],
) -> Result<Vec<Created>, Error> {
    let failed = |error| Error::retry("create a table", error);
    let wanted = specs.iter().filter(|spec| spec.schema == SchemaMode::Create).flat_map(tables_of);
    let missing = sink::missing_tables(connection, wanted).await.map_err(failed)?;
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let existing = existing(connection, specs).await?;
    let (mut drafts, mut created) = (Vec::new(), Vec::new());
    for name in in_order(specs, &existing).into_iter().filter(|name| missing.contains(name)) {
        let draft = draft(client, &name, specs, &existing, &drafts).await?;
        let refused = match sink::create_table(connection, &draft).await {
            Ok(()) => {
                tracing::info!(table = %name, "table created");
                None
            }
            Err(error) if matches!(error.disposition(), sink::Disposition::Halt { .. }) => {
                Some(Error::chain(&error))
            }
            Err(error) => return Err(failed(error)),
        };
        drafts.push(draft.clone());
        created.push(Created { draft, refused });
    }
    Ok(created)
}

/// The tables that are there, of the mappings and of what they look into.
async fn existing(connection: &mut PgConnection, specs: &[MappingSpec]) -> Result<Vec<Table>, Error> {
    let mut names: Vec<&TableName> =
        specs.iter().flat_map(|spec| mapping::looked_into(spec).chain([&spec.table])).collect();
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for name in names {
        let table = sink::read_table(connection, name).await;
        found.extend(table.map_err(|error| Error::retry("read the catalog", error))?);
    }
    Ok(found)
}

/// Each table of the mappings once, parents first.
fn in_order(specs: &[MappingSpec], existing: &[Table]) -> Vec<TableName> {
    let tables: Vec<Option<&Table>> =
        specs.iter().map(|spec| existing.iter().find(|table| table.name == spec.table)).collect();
    let mut names: Vec<TableName> = Vec::new();
    for place in mapping::parents_first(specs, &tables).places {
        if !names.contains(&specs[place].table) {
            names.push(specs[place].table.clone());
        }
    }
    // What is inside of documents comes after all that it may refer to.
    for name in specs.iter().flat_map(tables_of) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// The tables that a mapping writes.
fn tables_of(spec: &MappingSpec) -> impl Iterator<Item = &TableName> {
    std::iter::once(&spec.table).chain(mapping::drafted_children(spec).map(|child| &child.table))
}

/// What those tables would be that are not there and may be made; none is made.
pub(super) async fn drafts(
    client: &Client,
    connection: &mut PgConnection,
    specs: &[MappingSpec],
) -> Result<Vec<Draft>, Error> {
    let failed = |error| Error::retry("read the catalog", error);
    let wanted = specs.iter().filter(|spec| spec.schema == SchemaMode::Create).flat_map(tables_of);
    let missing = sink::missing_tables(connection, wanted).await.map_err(failed)?;
    let existing = existing(connection, specs).await?;
    let mut drafts = Vec::new();
    for name in in_order(specs, &existing).into_iter().filter(|name| missing.contains(name)) {
        drafts.push(draft(client, &name, specs, &existing, &drafts).await?);
    }
    Ok(drafts)
}

/// What the table must be for all of the mappings that write it.
async fn draft(
    client: &Client,
    table: &TableName,
    specs: &[MappingSpec],
    tables: &[Table],
    drafts: &[Draft],
) -> Result<Draft, Error> {
    let of_table: Vec<&MappingSpec> = specs.iter().filter(|spec| &spec.table == table).collect();
    if of_table.is_empty() {
        return draft_of_children(client, table, specs, tables, drafts).await;
    }
    let mut samples: Vec<Vec<Document>> = Vec::new();
    for spec in &of_table {
        // Whole documents are json, whatever they hold.
        samples.push(match spec.columns {
            Some(_) => source::sample_documents(client, &spec.collection).await.map_err(unread)?,
            None => Vec::new(),
        });
    }
    let uses: Vec<DraftedFor<'_>> = of_table
        .iter()
        .zip(&samples)
        .map(|(spec, sample)| DraftedFor { spec, sample, parent: None })
        .collect();
    Ok(Draft::new(table, &uses, Surroundings { specs, tables, drafts }))
}

/// As [`draft`], of a table for what is inside of documents.
async fn draft_of_children(
    client: &Client,
    table: &TableName,
    specs: &[MappingSpec],
    tables: &[Table],
    drafts: &[Draft],
) -> Result<Draft, Error> {
    let mut children = Vec::new();
    for spec in specs {
        for child in mapping::drafted_children(spec).filter(|child| &child.table == table) {
            let sample = source::sample_documents(client, &spec.collection).await.map_err(unread)?;
            children.push((&spec.table, mapping::child_as_mapping(spec, child, &sample)));
        }
    }
    let uses: Vec<DraftedFor<'_>> = children
        .iter()
        .map(|(parent, (spec, sample))| DraftedFor { spec, sample, parent: Some(*parent) })
        .collect();
    Ok(Draft::new(table, &uses, Surroundings { specs, tables, drafts }))
}
