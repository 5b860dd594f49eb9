//! Everything that can be known before the first write: both servers, every mapping, every table.
//! `rowstream check` prints it; `rowstream run` begins with it.

mod servers;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use mongodb::Client;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::schema;
use crate::config::{Config, KeySpec, MappingSpec, Mappings, OnMappingChange, SchemaMode};
use crate::domain::{ClusterTime, IdType, Namespace, SourceIndex, Table, TableName};
use crate::mapping::{self, ChildPlan, Mapping, MissingPlan, Problem, StubPlan};
use crate::pipeline::{Error, Mapped, MappedChild, Plan, StubMaker};
use crate::sink::{self, Target};
use crate::source::{self, CollectionFacts, CollectionIndex, Facts, OplogWindow, Scope};
use crate::state::mapping::Known;
use crate::state::{self, SchemaState};
use crate::transform::{ChildTransformer, Transformer, Unread};

/// What may be done about tables that do not exist and may be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    Create,
    /// Mappings are compiled against what would be made.
    Draft,
    LeaveAlone,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    pub subject: String,
    pub verdict: Verdict,
    pub message: String,
    pub hint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Passed,
    Warning,
    Failed,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.verdict {
            Verdict::Passed => '✓',
            Verdict::Warning => '!',
            Verdict::Failed => '✗',
        };
        write!(f, "{mark} {}: {}", self.subject, self.message)?;
        if !self.hint.is_empty() {
            write!(f, "\n    {}", self.hint)?;
        }
        Ok(())
    }
}

/// What was found, and the plan if nothing fatal was.
#[derive(Debug)]
pub struct Inspection {
    pub lines: Vec<Line>,
    pub oplog: Option<OplogWindow>,
    looked_at: ClusterTime,
    scope: Scope,
    scope_hash: String,
    mapped: Vec<Mapped>,
}

impl Inspection {
    pub fn has_failed(&self) -> bool {
        self.lines.iter().any(|line| line.verdict == Verdict::Failed)
    }

    /// Logs the warnings that are not among `told`, which become those of now.
    pub fn warn(&self, told: &mut Vec<Line>) {
        let warnings: Vec<&Line> =
            self.lines.iter().filter(|line| line.verdict == Verdict::Warning).collect();
        for line in warnings.iter().filter(|line| !told.contains(line)) {
            tracing::warn!(
                event = "check_warning",
                severity = "warning",
                subject = line.subject,
                hint = line.hint,
                "{}",
                line.message
            );
        }
        *told = warnings.into_iter().cloned().collect();
    }

    /// Everything that is wrong, at once, as the reason to halt.
    pub fn into_plan(self) -> Result<Plan, Error> {
        let failed: Vec<&Line> = self.lines.iter().filter(|line| line.verdict == Verdict::Failed).collect();
        if failed.is_empty() {
            return Ok(Plan {
                mapped: self.mapped,
                scope: self.scope,
                looked_at: self.looked_at,
                scope_hash: self.scope_hash,
            });
        }
        let join = |part: fn(&Line) -> String| failed.iter().map(|line| part(line)).collect::<Vec<_>>();
        let reasons = join(|line| format!("{}: {}", line.subject, line.message)).join("; ");
        let mut hints = join(|line| line.hint.clone());
        hints.retain(|hint| !hint.is_empty());
        hints.dedup();
        Err(Error::halt(reasons, hints.join("; ")))
    }

    fn add(&mut self, verdict: Verdict, subject: impl Into<String>, message: impl Into<String>, hint: &str) {
        self.lines.push(Line {
            subject: subject.into(),
            verdict,
            message: message.into(),
            hint: hint.to_owned(),
        });
    }

    fn problem(&mut self, problem: Problem) {
        let verdict = if problem.fatal { Verdict::Failed } else { Verdict::Warning };
        let subject = match &problem.column {
            Some(column) => format!("mapping {}, table {}, column {column}", problem.source, problem.table),
            None => format!("mapping {}, table {}", problem.source, problem.table),
        };
        self.add(verdict, subject, problem.message, &problem.hint);
    }
}

/// An error means that a server could not be asked; whatever it answered is a line.
pub async fn inspect(
    config: &Config,
    client: &Client,
    connection: &mut PgConnection,
    tables: Tables,
    discovered: &[Namespace],
) -> Result<Inspection, Error> {
    let known = known(config, connection).await?;
    let (specs, discover) = specs(config, client, &known, discovered).await?;
    let scope = scope(&specs, discover);
    let scope_hash = hash(&format!("{scope:?}"));
    let facts = source::preflight(client, &scope).await.map_err(unread)?;
    let mut inspection = Inspection {
        lines: Vec::new(),
        oplog: facts.oplog,
        looked_at: facts.looked_at,
        scope,
        scope_hash,
        mapped: Vec::new(),
    };
    inspection.mongodb(&facts);
    inspection.postgresql(connection).await?;
    if specs.is_empty() {
        inspection.add(
            Verdict::Failed,
            "mappings",
            "there is nothing to copy: no enabled mapping and no collection",
            "add a mapping, enable one, or create a collection",
        );
    }
    if tables == Tables::Create {
        inspection.create(client, connection, &specs).await?;
    }
    let mut found = Vec::with_capacity(specs.len());
    for spec in &specs {
        if let Some(facts) = facts.collections.iter().find(|facts| facts.namespace == spec.collection) {
            inspection.collection(spec, facts);
        }
        found.push(inspection.table(connection, spec, &specs).await?);
    }
    let mut shapes: HashMap<TableName, Table> = HashMap::new();
    if tables == Tables::Draft {
        let drafts = schema::drafts(client, connection, &specs).await?;
        shapes.extend(drafts.iter().map(|draft| (draft.table.clone(), draft.shape())));
        for (spec, found) in specs.iter().zip(&mut found) {
            *found = found.take().or_else(|| shapes.get(&spec.table).cloned());
        }
    }
    shapes.extend(found.iter().flatten().map(|table| (table.name.clone(), table.clone())));
    inspection.looked_into(connection, &specs, &mut shapes).await?;
    let order = mapping::parents_first(&specs, &found.iter().map(Option::as_ref).collect::<Vec<_>>());
    inspection.cycles(&order.cycles);
    let mut compiled = Vec::new();
    for (index, place) in order.places.into_iter().enumerate() {
        if let Some(table) = &found[place] {
            let index = SourceIndex(index as u16);
            compiled.extend(inspection.mapping(config, index, &specs[place], table, &facts, &known));
        }
    }
    let problems = mapping::link(&mut compiled, &specs, &shapes);
    problems.into_iter().for_each(|problem| inspection.problem(problem));
    for mapping in compiled {
        let place = facts.collections.iter().position(|facts| facts.namespace == mapping.namespace);
        if let Some(place) = place {
            inspection.shared_key(&mapping);
            // A table that is only drafted has no rows.
            if mapping.table_oid != 0 && !known_table(&known, &mapping) {
                inspection.unowned_rows(connection, &mapping).await?;
            }
            let of_collection = &facts.collections[place];
            inspection.finish(config, mapping, CollectionIndex(place as u16), of_collection);
        }
    }
    if tables != Tables::Create {
        // A session has looked before it came here.
        inspection.pooler(config, connection).await;
    }
    Ok(inspection)
}

impl Inspection {
    fn mapping(
        &mut self,
        config: &Config,
        index: SourceIndex,
        spec: &MappingSpec,
        table: &Table,
        facts: &Facts,
        known: &[Known],
    ) -> Option<Mapping> {
        let of_collection = facts.collections.iter().find(|facts| facts.namespace == spec.collection)?;
        let known = known.iter().find(|known| known.source == spec.source);
        let id_type = self.id_type(spec, of_collection, known)?;
        match mapping::compile(index, spec, id_type, table) {
            Err(problems) => {
                problems.into_iter().for_each(|problem| self.problem(problem));
                None
            }
            Ok((mapping, warnings)) => {
                warnings.into_iter().for_each(|problem| self.problem(problem));
                self.mapping_change(&config.pipeline, spec, &mapping, known);
                Some(mapping)
            }
        }
    }

    /// Tables that are only looked into.
    async fn looked_into(
        &mut self,
        connection: &mut PgConnection,
        specs: &[MappingSpec],
        shapes: &mut HashMap<TableName, Table>,
    ) -> Result<(), Error> {
        for name in specs.iter().flat_map(mapping::looked_into) {
            if !shapes.contains_key(name) {
                let table = sink::read_table(connection, name).await;
                let table = table.map_err(|error| Error::retry("read the catalog", error))?;
                shapes.extend(table.map(|table| (name.clone(), table)));
            }
        }
        Ok(())
    }

    fn cycles(&mut self, cycles: &[Vec<TableName>]) {
        for cycle in cycles {
            let names: Vec<String> = cycle.iter().map(ToString::to_string).collect();
            let message = format!("tables refer to each other: {}", names.join(" → "));
            let hint =
                "no order has every parent first: what comes before its parent is made right when that comes";
            self.add(Verdict::Warning, "foreign keys", message, hint);
        }
    }

    fn collection(&mut self, spec: &MappingSpec, facts: &CollectionFacts) {
        // Empty by its statistics; a collection that is not there has none.
        let empty = facts.documents.unwrap_or(0) == 0;
        if empty && !spec.allow_empty {
            self.add(
                Verdict::Warning,
                format!("mapping {}", spec.source),
                format!("collection {} is empty or does not exist", facts.namespace),
                "check database and collection name, or say allow_empty: true",
            );
        }
    }

    async fn create(
        &mut self,
        client: &Client,
        connection: &mut PgConnection,
        specs: &[MappingSpec],
    ) -> Result<(), Error> {
        for created in schema::create(client, connection, specs).await? {
            let subject = format!("table {}", created.draft.table);
            for column in created.draft.columns.iter().filter(|column| column.is_unknown()) {
                let message = "no document tells the type of the column: it is created as jsonb";
                self.add(Verdict::Warning, format!("{subject}, column {}", column.name), message, "");
            }
            if let Some(refused) = created.refused {
                let hint = "grant create on the schema, or create the table yourself";
                self.add(Verdict::Failed, subject, refused, hint);
            }
        }
        Ok(())
    }

    async fn table(
        &mut self,
        connection: &mut PgConnection,
        spec: &MappingSpec,
        specs: &[MappingSpec],
    ) -> Result<Option<Table>, Error> {
        let failed = |error| Error::retry("read the catalog", error);
        let found = sink::read_table(connection, &spec.table).await.map_err(failed)?;
        if found.is_some() {
            return Ok(found);
        }
        let subject = format!("mapping {}, table {}", spec.source, spec.table);
        // One of several mappings of a table is enough to say that it may be made.
        let may_create =
            specs.iter().any(|other| other.table == spec.table && other.schema == SchemaMode::Create);
        if may_create {
            let hint = if spec.columns.is_some() { "`rowstream schema` prints it" } else { "" };
            self.add(Verdict::Passed, subject, "the table will be created", hint);
        } else {
            let hint =
                "create it with your own migrations, let `rowstream schema` print it, or say schema: create";
            self.add(Verdict::Failed, subject, "the table does not exist", hint);
        }
        Ok(None)
    }

    /// Declared, or what was stored when the mapping was first seen, or what most ids are.
    fn id_type(
        &mut self,
        spec: &MappingSpec,
        facts: &CollectionFacts,
        known: Option<&Known>,
    ) -> Option<IdType> {
        if let (Some(known), Some(declared)) = (known, spec.id_type)
            && known.id_type != declared
        {
            self.add(
                Verdict::Failed,
                format!("mapping {}", spec.source),
                format!("id_type is {declared:?} now, the rows were written with {:?}", known.id_type)
                    .to_lowercase(),
                "every source_id would change: set id_type back, or use a new source name and an empty table",
            );
            return None;
        }
        let sampled = facts.id_types.first().and_then(|(id_type, _)| *id_type);
        Some(known.map(|known| known.id_type).or(spec.id_type).or(sampled).unwrap_or(IdType::ObjectId))
    }

    /// Says what is otherwise than when the mapping's rows were written, and what comes of it.
    fn mapping_change(
        &mut self,
        pipeline: &str,
        spec: &MappingSpec,
        mapping: &Mapping,
        known: Option<&Known>,
    ) {
        let Some(known) = known.filter(|known| known.mapping_hash != mapping.hash) else { return };
        let differences = mapping::differences(&known.meaning, &mapping.meaning).join(", ");
        let subject = format!("mapping {}", mapping.source);
        let message = format!("it has changed since its rows were written: {differences}");
        match spec.on_mapping_change {
            OnMappingChange::Resync => {
                self.add(
                    Verdict::Warning,
                    subject,
                    message,
                    "its collection is copied again, and compared with all rows",
                );
            }
            OnMappingChange::Halt => {
                let literal = |text: &str| text.replace('\'', "''");
                let hint = format!(
                    "take the change back; or say on_mapping_change: resync to copy the collection again; or, to leave \
                     rows as they are until their documents change: update rowstream.mapping set mapping_hash = '{}' \
                     where pipeline = '{}' and source = '{}'",
                    mapping.hash,
                    literal(pipeline),
                    literal(&mapping.source)
                );
                self.add(Verdict::Failed, subject, message, &hint);
            }
        }
    }

    /// Rows that were there before the first copy must not be met by surprise.
    async fn unowned_rows(&mut self, connection: &mut PgConnection, mapping: &Mapping) -> Result<(), Error> {
        let Some(unique) = &mapping.key.in_the_way else { return Ok(()) };
        let target = Target::new(Arc::new(mapping.clone()));
        let found = sink::has_unowned_rows(connection, &target).await;
        if found.map_err(|error| Error::retry("look for rows without an owner", error))? {
            self.add(
                Verdict::Failed,
                format!("mapping {}, table {}", mapping.source, mapping.table),
                format!("has rows that belong to no document, and documents can meet them in ({unique})"),
                "adopt: names the unique keys by which they are taken over; adopt: [] leaves them alone, and holds the documents that meet one",
            );
        }
        Ok(())
    }

    /// Two sources in one table need a column that tells them apart.
    fn shared_key(&mut self, mapping: &Mapping) {
        let other = self.mapped.iter().find(|mapped| {
            mapped.mapping.table == mapping.table
                && !mapped.mapping.key.spec.can_share_with(&mapping.key.spec)
        });
        let Some(other) = other else { return };
        let message = format!(
            "the table is also written by mapping {}, and has no source column",
            other.mapping.source
        );
        self.add(
            Verdict::Failed,
            format!("mapping {}, table {}", mapping.source, mapping.table),
            message,
            "give both mappings a key with a source column",
        );
    }

    fn finish(
        &mut self,
        config: &Config,
        mapping: Mapping,
        collection: CollectionIndex,
        facts: &CollectionFacts,
    ) {
        let mapping = Arc::new(mapping);
        let stubs = self.stub_makers(config, &mapping);
        let children: Vec<Option<MappedChild>> =
            mapping.children.iter().map(|child| self.child(config, child)).collect();
        let Some(children) = children.into_iter().collect::<Option<Vec<_>>>() else { return };
        match Transformer::with_transformers(Arc::clone(&mapping), config.namespace, &config.transformers) {
            Err(problems) => self.untransformed(&mapping, problems),
            Ok(transformer) => {
                self.add(
                    Verdict::Passed,
                    format!("mapping {}", mapping.source),
                    format!("{} → {}, {} columns", mapping.namespace, mapping.table, mapping.columns.len()),
                    "",
                );
                let unread = unread_by(&config.mappings, &mapping);
                let fit = config.snapshot.chunk_bytes / facts.average_size.unwrap_or(0).max(1);
                self.mapped.push(Mapped {
                    target: Target::new(Arc::clone(&mapping)),
                    mapping,
                    stubs,
                    children,
                    unread,
                    collection,
                    collection_uuid: facts.uuid,
                    transformer,
                    documents_estimated: facts.documents.unwrap_or(0),
                    average_size: facts.average_size.unwrap_or(0),
                    chunk_documents: config.snapshot.chunk_documents.min(fit).max(1),
                });
            }
        }
    }
}

impl Inspection {
    /// By reference.
    fn stub_makers(&mut self, config: &Config, mapping: &Mapping) -> Vec<Option<StubMaker>> {
        let of_each = mapping.references.iter().map(|reference| match &reference.missing {
            MissingPlan::Create(stub) => self.stub_maker(config, stub),
            MissingPlan::Hold | MissingPlan::Null | MissingPlan::Keep | MissingPlan::Drop => None,
        });
        of_each.collect()
    }

    fn child(&mut self, config: &Config, child: &ChildPlan) -> Option<MappedChild> {
        let stubs = self.stub_makers(config, &child.mapping);
        match ChildTransformer::new(child, config.namespace) {
            Ok(transformer) => {
                let target = Target::new(Arc::clone(transformer.mapping()));
                Some(MappedChild { transformer, target, stubs })
            }
            Err(problems) => {
                self.untransformed(&child.mapping, problems);
                None
            }
        }
    }

    /// Why documents cannot become rows of it.
    fn untransformed(&mut self, mapping: &Mapping, problems: Vec<Problem>) {
        let is_new = |problem: &Problem| problem.column.as_deref().is_none_or(|name| mapping.is_linked(name));
        problems.into_iter().filter(is_new).for_each(|problem| self.problem(problem));
    }

    fn stub_maker(&mut self, config: &Config, stub: &StubPlan) -> Option<StubMaker> {
        let mapping = Arc::new(stub.mapping.clone());
        match Transformer::new(Arc::clone(&mapping), config.namespace) {
            Ok(transformer) => Some(StubMaker { transformer, target: Target::new(mapping) }),
            Err(problems) => {
                problems.into_iter().for_each(|problem| self.problem(problem));
                None
            }
        }
    }
}

/// Whether a mapping of this table was begun before: then rows may be its own.
fn known_table(known: &[Known], mapping: &Mapping) -> bool {
    let table = mapping.table.to_string();
    known.iter().any(|known| known.target == table)
}

/// What the state knows of mappings, if it is there.
pub(super) async fn known(config: &Config, connection: &mut PgConnection) -> Result<Vec<Known>, Error> {
    let failed = |error| Error::retry("load the state", error);
    match state::schema_state(connection).await.map_err(failed)? {
        SchemaState::Current => state::mapping::load(connection, &config.pipeline).await.map_err(failed),
        SchemaState::Missing | SchemaState::Outdated | SchemaState::Newer | SchemaState::Closed => {
            Ok(Vec::new())
        }
    }
}

/// The mappings that are enabled. Those of a whole database are made from what it has, from what was followed
/// so far, and from what was seen in the stream: a collection that is gone by now had changes all the same,
/// its end among them.
pub(super) async fn specs(
    config: &Config,
    client: &Client,
    known: &[Known],
    discovered: &[Namespace],
) -> Result<(Vec<MappingSpec>, Option<String>), Error> {
    match &config.mappings {
        Mappings::Listed(specs) => Ok((specs.iter().filter(|spec| spec.enabled).cloned().collect(), None)),
        Mappings::WholeDatabase { database, schema } => {
            let mut collections = source::collections(client, database).await.map_err(unread)?;
            collections.extend(known.iter().filter_map(|known| Namespace::parse(&known.collection)));
            collections.extend(discovered.iter().cloned());
            collections.retain(|collection| &collection.database == database);
            collections.sort();
            collections.dedup();
            let specs = collections.into_iter().map(|collection| whole(collection, schema)).collect();
            Ok((specs, Some(database.clone())))
        }
    }
}

/// By all mappings of its collection together.
fn unread_by(mappings: &Mappings, mapping: &Mapping) -> Option<Unread> {
    match mappings {
        Mappings::WholeDatabase { .. } => None,
        Mappings::Listed(specs) => {
            Unread::new(specs.iter().filter(|spec| spec.enabled && spec.collection == mapping.namespace))
        }
    }
}

fn whole(collection: Namespace, schema: &str) -> MappingSpec {
    MappingSpec {
        source: collection.collection.clone(),
        table: crate::domain::TableName {
            schema: schema.to_owned(),
            name: table_name(&collection.collection),
        },
        collection,
        id_type: None,
        key: KeySpec::SourceId { source: Some("source".to_owned()), source_id: "source_id".to_owned() },
        adopt: None,
        transform: None,
        shared: false,
        filter: None,
        columns: None,
        children: Vec::new(),
        ignore: Vec::new(),
        deletes: crate::config::Deletes::Hard,
        sync: None,
        schema: SchemaMode::Create,
        on_drop: crate::config::OnDrop::Delete,
        on_mapping_change: OnMappingChange::Resync,
        critical: false,
        enabled: true,
        allow_empty: true,
    }
}

/// PostgreSQL cuts names at 63 bytes, which would let two collections share a table.
fn table_name(collection: &str) -> String {
    if collection.len() <= 63 {
        return collection.to_owned();
    }
    let mut name = collection.to_owned();
    while name.len() > 54 {
        name.pop();
    }
    format!("{name}_{}", &hash(collection)[..8])
}

fn scope(specs: &[MappingSpec], discover: Option<String>) -> Scope {
    let mut collections: Vec<Namespace> = Vec::new();
    for spec in specs {
        if !collections.contains(&spec.collection) {
            collections.push(spec.collection.clone());
        }
    }
    Scope { collections, discover }
}

fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What an error of MongoDB means before there is a session.
pub(super) fn unread(error: source::Error) -> Error {
    match error.disposition() {
        source::Disposition::Retry => Error::retry("read", error),
        source::Disposition::Halt { hint } => Error::halt(Error::chain(&error), hint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_above_63_bytes_with_equal_beginnings_stay_apart() {
        let (left, right) = (format!("{}a", "é".repeat(40)), format!("{}b", "é".repeat(40)));
        assert_ne!(table_name(&left), table_name(&right));
        assert!(table_name(&left).len() <= 63);
        assert_eq!(table_name("orders"), "orders");
    }
}
