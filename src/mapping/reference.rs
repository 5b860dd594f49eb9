//! References: which row of which table each of them means, and what is taken from it.

use std::collections::HashMap;

use super::cascade::cascades;
use super::child;
use super::circle::circles;
use super::compile::{Mapping, compile};
use super::problem::{Problem, Problems, quoted, quoted_columns, quoted_table};
use super::taking::{Taking, alternatives, taking};
use crate::config::{
    Aim, ColumnSpec, Deletes, KeySpec, MappingSpec, MatchSpec, Missing, OnDrop, Reading, ReferenceSpec,
    SchemaMode, StubSpec, Targets, ValueSpec, nearest,
};
use crate::domain::{Column, ColumnType, IdType, SourceIndex, Table, TableName, TextKind};

/// A reference of one column.
#[derive(Debug, Clone)]
pub struct ReferencePlan {
    /// Index into the mapping's columns.
    pub column: usize,
    /// Of a column of arrays, each of whose elements refers to a row: their type.
    pub element: Option<ColumnType>,
    /// Where the row may be.
    pub finders: Vec<Finder>,
    pub missing: MissingPlan,
    /// What PostgreSQL would do to this row if the one it refers to were deleted.
    pub on_delete: OnDelete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDelete {
    /// There is no foreign key.
    Nothing,
    Restrict,
    Cascade,
    /// Null, or the column's default.
    Clear,
}

/// A way to find a row of one table by a key, and the column that is taken from it.
#[derive(Debug, Clone)]
pub struct Finder {
    /// What is waited for, as the state schema names it: `source venmo`, `table public.tags (name)`.
    pub awaited: String,
    pub table: TableName,
    /// Whose documents these rows are of; `None`: any row of the table.
    pub target: Option<TargetOfReference>,
    pub key: Vec<SoughtColumn>,
    pub take: String,
    pub take_type: ColumnType,
    pub taking: Taking,
    /// The referring column's: the value becomes one of it.
    pub column_type: ColumnType,
    pub type_sql: String,
}

#[derive(Debug, Clone)]
pub struct TargetOfReference {
    pub index: SourceIndex,
    pub source: String,
    pub id_type: IdType,
}

/// A column of the key that a finder looks for, and the type in which its values are given.
#[derive(Debug, Clone)]
pub struct SoughtColumn {
    pub name: String,
    pub column_type: ColumnType,
    pub type_sql: String,
    /// Equal values have equal bytes.
    pub has_one_form: bool,
}

#[derive(Debug, Clone)]
pub enum MissingPlan {
    Hold,
    Null,
    Keep,
    /// The element has no row.
    Drop,
    Create(Box<StubPlan>),
}

/// How a row is made that nobody's document stands for.
#[derive(Debug, Clone)]
pub struct StubPlan {
    /// Its rows are not of a source: the index is the referring mapping's.
    pub mapping: Mapping,
    pub prefix: String,
    pub finder: Finder,
}

/// Finishes what `compile` could not know: other mappings and their tables. `specs` and `mappings` are in one
/// order; `tables` has every table that is named.
///
/// What does not fit, warnings among it: every reference that cannot work.
pub fn link(
    mappings: &mut [Mapping],
    specs: &[MappingSpec],
    tables: &HashMap<TableName, Table>,
) -> Vec<Problem> {
    let mut found = Vec::new();
    let all: Vec<Mapping> = mappings.to_vec();
    for mapping in mappings.iter_mut() {
        let Some(spec) = specs.iter().find(|spec| spec.source == mapping.source) else { continue };
        let Some(table) = tables.get(&mapping.table) else { continue };
        let mut problems = Problems::new(&mapping.source, &mapping.table);
        let linking = Linking { spec, table, all: &all, tables };
        for column in spec.columns.iter().flatten() {
            if let ValueSpec::Reference(reference) = &column.value
                && let Some(place) = mapping.columns.iter().position(|plan| plan.name == column.name)
            {
                let plan = linking.reference(mapping, place, column, reference, &mut problems);
                mapping.references.extend(plan);
            }
        }
        found.extend(problems.into_found());
        mapping.children = child::children(mapping, spec, &all, tables, &mut found);
    }
    found.extend(circles(mappings, tables));
    found.extend(cascades(mappings, tables));
    found
}

/// The tables that this mapping needs besides its own: those of its children, and those it looks into.
pub fn looked_into(spec: &MappingSpec) -> impl Iterator<Item = &TableName> {
    let looked_into = spec.columns.iter().flatten().filter_map(|column| match &column.value {
        ValueSpec::Reference(reference) => match &reference.aim {
            Aim::Row { table, .. } => Some(table),
            Aim::Document { .. } | Aim::Parent => None,
        },
        _ => None,
    });
    looked_into.chain(child::tables_of(spec))
}

pub(super) struct Linking<'a> {
    pub(super) spec: &'a MappingSpec,
    pub(super) table: &'a Table,
    pub(super) all: &'a [Mapping],
    pub(super) tables: &'a HashMap<TableName, Table>,
}

impl Linking<'_> {
    pub(super) fn reference(
        &self,
        mapping: &Mapping,
        place: usize,
        column: &ColumnSpec,
        reference: &ReferenceSpec,
        problems: &mut Problems,
    ) -> Option<ReferencePlan> {
        let name = column.name.as_str();
        let column = self.table.column(name)?;
        let own = &referring(column, reference, problems)?;
        let finders: Vec<Finder> = match &reference.aim {
            Aim::Document { to, .. } => {
                let sources: Vec<&String> = match to {
                    Targets::First(sources) => sources.iter().collect(),
                    Targets::By { map, .. } => map.iter().map(|(_, source)| source).collect(),
                };
                sources
                    .into_iter()
                    .filter_map(|source| self.of_source(source, own, reference, problems))
                    .collect()
            }
            Aim::Parent => vec![self.of_source(&self.spec.source, own, reference, problems)?],
            Aim::Row { table, matches } => {
                vec![self.of_row(table, matches, own, reference, problems)?]
            }
        };
        let first = finders.first()?;
        if reference.each.is_some() && !self.table.element_indexes.contains(&own.name) {
            let message =
                format!("no index finds its elements: each delete in {} reads the whole table", first.table);
            let (table, column) = (quoted_table(&self.table.name), quoted(name));
            problems.warning(Some(name), message, format!("create index on {table} using gin ({column})"));
        }
        let missing = match &reference.missing {
            Missing::Hold => MissingPlan::Hold,
            Missing::Null if own.not_null && reference.each.is_none() => {
                problems.fatal(Some(name), "is not null, but missing: null", "say hold, or create");
                return None;
            }
            Missing::Null => MissingPlan::Null,
            Missing::Keep if !matches!(own.column_type, ColumnType::Text { .. }) => {
                problems.fatal(Some(name), "is no text, but missing: keep", "say hold, null or create");
                return None;
            }
            Missing::Keep => MissingPlan::Keep,
            Missing::Drop => MissingPlan::Drop,
            Missing::Create(stub) => {
                let plan = self.stub(mapping, own, first, &reference.aim, stub, problems)?;
                MissingPlan::Create(Box::new(plan))
            }
        };
        let foreign_key = self
            .table
            .foreign_keys
            .iter()
            .find(|key| key.columns.contains(&own.name) && key.references == first.table);
        let on_delete = match foreign_key.map(|key| key.on_delete) {
            None => OnDelete::Nothing,
            Some('c') => OnDelete::Cascade,
            Some('n' | 'd') => OnDelete::Clear,
            Some(_) => OnDelete::Restrict,
        };
        let element = reference.each.is_some().then(|| own.column_type.clone());
        Some(ReferencePlan { column: place, element, finders, missing, on_delete })
    }

    fn of_source(
        &self,
        source: &str,
        own: &Column,
        reference: &ReferenceSpec,
        problems: &mut Problems,
    ) -> Option<Finder> {
        let name = Some(own.name.as_str());
        let Some(target) = self.all.iter().find(|mapping| mapping.source == source) else {
            let hint = nearest(source, self.all.iter().map(|mapping| mapping.source.as_str()));
            let hint = hint.map_or_else(String::new, |near| format!("did you mean {near}?"));
            problems.fatal(name, format!("refers to {source}, which is no mapping"), hint);
            return None;
        };
        let table = self.tables.get(&target.table)?;
        let (take, taking) = self.take(own, table, reference, single_key(target), problems)?;
        Some(Finder {
            awaited: format!("source {source}"),
            table: target.table.clone(),
            target: Some(TargetOfReference {
                index: target.index,
                source: target.source.clone(),
                id_type: target.id_type,
            }),
            key: SoughtColumn::of_mapping(target),
            take: take.name.clone(),
            take_type: take.column_type.clone(),
            taking,
            column_type: own.column_type.clone(),
            type_sql: own.type_sql.clone(),
        })
    }

    fn of_row(
        &self,
        table: &TableName,
        matches: &[(String, MatchSpec)],
        own: &Column,
        reference: &ReferenceSpec,
        problems: &mut Problems,
    ) -> Option<Finder> {
        let name = Some(own.name.as_str());
        let Some(shape) = self.tables.get(table) else {
            let hint = "create it with your own migrations";
            problems.fatal(name, format!("is looked up in {table}, which does not exist"), hint);
            return None;
        };
        let mut key = Vec::new();
        for (column, _) in matches {
            match shape.column(column) {
                Some(column) => {
                    if let ColumnType::Json | ColumnType::Array { .. } | ColumnType::Other(_) =
                        column.column_type
                    {
                        let message = format!(
                            "is matched by {} of {table}, whose type {} cannot be looked up by",
                            column.name, column.type_sql
                        );
                        problems.fatal(name, message, "match another column");
                    }
                    key.push(SoughtColumn::from(column));
                }
                None => {
                    let near = nearest(column, shape.columns.iter().map(|column| column.name.as_str()));
                    let hint = near.map_or_else(String::new, |near| format!("did you mean {near}?"));
                    problems.fatal(
                        name,
                        format!("is matched by {column}, which {table} does not have"),
                        hint,
                    );
                }
            }
        }
        let columns: Vec<&str> = matches.iter().map(|(column, _)| column.as_str()).collect();
        let is_key = |unique: &crate::domain::UniqueKey| {
            !unique.partial_or_expression
                && !unique.columns.is_empty()
                && unique.columns.iter().all(|column| columns.contains(&column.as_str()))
        };
        if !shape.unique_keys.iter().any(is_key) {
            let list = quoted_columns(columns.iter().copied());
            let names: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
            let lacking = match shape.has_index_on(&names) {
                true => "a unique key",
                false => "an index: each look-up reads the whole table",
            };
            problems.warning(
                name,
                format!("is looked up in {table} by columns without {lacking}"),
                format!("create unique index on {} ({list})", quoted_table(table)),
            );
        }
        let awaited = format!("table {table} ({})", columns.join(", "));
        let (take, taking) = self.take(own, shape, reference, None, problems)?;
        Some(Finder {
            awaited,
            table: table.clone(),
            target: None,
            key,
            take: take.name.clone(),
            take_type: take.column_type.clone(),
            taking,
            column_type: own.column_type.clone(),
            type_sql: own.type_sql.clone(),
        })
    }

    /// What is said, or what the column's foreign key to that table refers to, or the only column of the
    /// target's own key.
    fn take<'t>(
        &self,
        own: &Column,
        table: &'t Table,
        reference: &ReferenceSpec,
        single_key: Option<&str>,
        problems: &mut Problems,
    ) -> Option<(&'t Column, Taking)> {
        let name = Some(own.name.as_str());
        let taken = self.taken(own, table, reference, single_key, problems)?;
        let Some(column) = table.column(&taken) else {
            let near = nearest(&taken, table.columns.iter().map(|column| column.name.as_str()));
            let hint = near.map_or_else(String::new, |near| format!("did you mean {near}?"));
            problems.fatal(name, format!("takes {taken}, which {} does not have", table.name), hint);
            return None;
        };
        let taking = taking(&column.column_type, &own.column_type);
        if taking.is_none() {
            let message = format!(
                "has the type {}, but takes {taken} of {}, which is {}",
                own.type_sql, table.name, column.type_sql
            );
            let hint = match alternatives(table, own).as_slice() {
                [] => "say take: another column, or alter the type of one of the two".to_owned(),
                some => format!("say take: {}", some.join(", or take: ")),
            };
            problems.fatal(name, message, hint);
        }
        Some((column, taking?))
    }

    fn taken(
        &self,
        own: &Column,
        table: &Table,
        reference: &ReferenceSpec,
        single_key: Option<&str>,
        problems: &mut Problems,
    ) -> Option<String> {
        let name = Some(own.name.as_str());
        if let Some(take) = &reference.take {
            return Some(take.clone());
        }
        let by_key = self.table.foreign_keys.iter().find_map(|key| {
            let place = key.columns.iter().position(|column| *column == own.name)?;
            (key.references == table.name).then(|| key.referenced_columns.get(place).cloned())?
        });
        let taken = by_key.or_else(|| single_key.map(str::to_owned));
        if taken.is_none() {
            let message = format!("has no foreign key to {}, so it is not clear what to take", table.name);
            problems.fatal(
                name,
                message,
                format!("say take: the column of {} that is meant", quoted(&table.name.name)),
            );
        }
        taken
    }

    fn stub(
        &self,
        mapping: &Mapping,
        own: &Column,
        first: &Finder,
        aim: &Aim,
        stub: &StubSpec,
        problems: &mut Problems,
    ) -> Option<StubPlan> {
        let table = self.tables.get(&first.table)?;
        let target = first
            .target
            .as_ref()
            .and_then(|target| self.all.iter().find(|mapping| mapping.index == target.index));
        let (key, columns, source) = match (aim, target) {
            (Aim::Document { .. }, Some(target)) => {
                if target.key.is_claimed() {
                    problems.fatal(
                        Some(&own.name),
                        "create: needs a target whose rows have a source_id",
                        "say hold or null",
                    );
                    return None;
                }
                let source = stub.source.clone().unwrap_or_else(|| self.spec.source.clone());
                (target.key.spec.clone(), stub.columns.clone(), source)
            }
            (Aim::Document { .. }, None) | (Aim::Parent, _) => return None,
            (Aim::Row { matches, .. }, _) => {
                let names = matches.iter().map(|(column, _)| column.clone()).collect();
                (KeySpec::Columns(names), with_matches(matches, &stub.columns), first.table.name.clone())
            }
        };
        let spec = mapping_spec(self.spec, source, &first.table, key, columns);
        match compile(mapping.index, &spec, IdType::String, table) {
            Ok((compiled, _)) => {
                let finder = Finder {
                    awaited: format!("stub {}", first.table),
                    target: None,
                    key: compiled.key_columns().map(SoughtColumn::from).collect(),
                    ..first.clone()
                };
                let prefix = stub.prefix.clone().unwrap_or_default();
                Some(StubPlan { mapping: compiled, prefix, finder })
            }
            Err(found) => {
                for problem in found.into_iter().filter(|problem| problem.fatal) {
                    let column = problem.column.map_or_else(String::new, |name| format!("column {name} of "));
                    let message = format!("create: {column}{} {}", first.table, problem.message);
                    problems.fatal(Some(&own.name), message, problem.hint);
                }
                None
            }
        }
    }
}

/// The column as one reference fills it: in a column of arrays, an element.
fn referring(column: &Column, reference: &ReferenceSpec, problems: &mut Problems) -> Option<Column> {
    let name = Some(column.name.as_str());
    match (&column.column_type, &reference.each) {
        (ColumnType::Array { element, cast_sql }, Some(_)) => Some(Column {
            column_type: (**element).clone(),
            type_sql: cast_sql.trim_end_matches("[]").to_owned(),
            ..column.clone()
        }),
        (ColumnType::Array { .. }, None) => {
            problems.fatal(name, "is an array, but refers to one row", "say each: the path of an array");
            None
        }
        (_, Some(_)) => {
            problems.fatal(name, "is no array, but refers to a row with each element", "leave each: out");
            None
        }
        (_, None) => Some(column.clone()),
    }
}

/// What a row is looked up by is also written into one that is made, unless the stub says otherwise.
fn with_matches(matches: &[(String, MatchSpec)], columns: &[ColumnSpec]) -> Vec<ColumnSpec> {
    let missing = matches.iter().filter(|(name, _)| columns.iter().all(|column| column.name != *name));
    let written = missing.map(|(name, value)| ColumnSpec {
        name: name.clone(),
        value: match value {
            MatchSpec::Path(path) => {
                ValueSpec::Path { from: vec![path.clone()], reading: Reading::default() }
            }
            MatchSpec::Constant(scalar) => ValueSpec::Constant(scalar.clone()),
        },
        insert_only: false,
        required: false,
        default: None,
    });
    written.chain(columns.iter().cloned()).collect()
}

/// A mapping of another table that is made for one.
pub(super) fn mapping_spec(
    of: &MappingSpec,
    source: String,
    table: &TableName,
    key: KeySpec,
    columns: Vec<ColumnSpec>,
) -> MappingSpec {
    MappingSpec {
        source,
        collection: of.collection.clone(),
        table: table.clone(),
        id_type: Some(IdType::String),
        key,
        adopt: Some(Vec::new()),
        shared: false,
        transform: None,
        filter: None,
        columns: Some(columns),
        children: Vec::new(),
        ignore: Vec::new(),
        deletes: Deletes::Hard,
        sync: None,
        schema: SchemaMode::Expect,
        on_drop: OnDrop::Delete,
        on_mapping_change: of.on_mapping_change,
        critical: false,
        enabled: true,
        allow_empty: true,
    }
}

impl Mapping {
    /// Whether this column refers to no row, or it is known to which. Why not has been told.
    pub fn is_linked(&self, name: &str) -> bool {
        self.columns.iter().enumerate().filter(|(_, column)| column.name == name).all(|(place, column)| {
            !matches!(column.value, ValueSpec::Reference(_))
                || self.references.iter().any(|reference| reference.column == place)
        })
    }
}

/// The only column of the key.
fn single_key(mapping: &Mapping) -> Option<&str> {
    match mapping.key.columns.as_slice() {
        [column] if mapping.key.source().is_none() => Some(&mapping.columns[column.place].name),
        _ => None,
    }
}

impl Finder {
    /// What the rows of a mapping have in a column, by their own keys.
    pub fn of_column(mapping: &Mapping, column: SoughtColumn) -> Self {
        Self {
            awaited: String::new(),
            table: mapping.table.clone(),
            target: None,
            key: SoughtColumn::of_mapping(mapping),
            take: column.name,
            take_type: column.column_type.clone(),
            taking: Taking::Fits,
            column_type: column.column_type,
            type_sql: column.type_sql,
        }
    }
}

impl SoughtColumn {
    /// Keys of documents: whole numbers have 8 bytes where a [`crate::domain::RowKey`] says whose row it is.
    pub fn of_mapping(mapping: &Mapping) -> Vec<Self> {
        let columns = mapping.key_columns().map(Self::from);
        let widened = columns.map(|column| match column.column_type {
            ColumnType::Int2 | ColumnType::Int4 if mapping.key.is_claimed() => {
                Self { column_type: ColumnType::Int8, type_sql: "bigint".to_owned(), ..column }
            }
            _ => column,
        });
        widened.collect()
    }
}

/// 1.0 and 1.00 are equal numbers, and citext has many ways to write one text.
fn has_one_form(column_type: &ColumnType) -> bool {
    match column_type {
        ColumnType::Bool
        | ColumnType::Int2
        | ColumnType::Int4
        | ColumnType::Int8
        | ColumnType::Text { kind: TextKind::Text | TextKind::Varchar, .. }
        | ColumnType::Uuid
        | ColumnType::Bytea
        | ColumnType::Date
        | ColumnType::Timestamp { .. }
        | ColumnType::TimestampTz { .. }
        | ColumnType::Enum { .. } => true,
        ColumnType::Float4
        | ColumnType::Float8
        | ColumnType::Numeric(_)
        | ColumnType::Text { kind: TextKind::Bpchar | TextKind::Citext, .. }
        | ColumnType::Json
        | ColumnType::Jsonb
        | ColumnType::Array { .. }
        | ColumnType::Other(_) => false,
    }
}

impl From<&Column> for SoughtColumn {
    fn from(column: &Column) -> Self {
        Self {
            name: column.name.clone(),
            has_one_form: has_one_form(&column.column_type) && !column.nondeterministic,
            column_type: column.column_type.clone(),
            type_sql: column.type_sql.clone(),
        }
    }
}

impl From<&super::ColumnPlan> for SoughtColumn {
    fn from(column: &super::ColumnPlan) -> Self {
        Self {
            name: column.name.clone(),
            has_one_form: has_one_form(&column.column_type),
            column_type: column.column_type.clone(),
            type_sql: column.type_sql.clone(),
        }
    }
}
