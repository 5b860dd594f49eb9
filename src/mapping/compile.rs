use std::borrow::Cow;

use super::child::ChildPlan;
use super::fit::{fit, fit_source, fit_source_id};
use super::hash::{hash, meaning};
use super::key::{KeyPlan, check_adopt, check_key_column, check_own_key};
use super::marks::{SyncPlan, clock_mark, sync_plan, written_marks};
use super::problem::{Problem, Problems, quoted, quoted_table};
use super::reference::ReferencePlan;
use super::table::{check_columns_access, check_table, check_unmapped_columns};
use crate::config::{
    ColumnSpec, Deletes, Filter, JsonForm, KeySpec, MappingSpec, OnDrop, Scalar, ValueSpec, nearest,
};
use crate::domain::{
    Column, ColumnType, CopyFields, IdType, Namespace, Sequence, SourceIndex, Table, TableName,
};

/// The column of whole documents.
const DOCUMENT: &str = "document";

/// A mapping that fits its table.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub index: SourceIndex,
    pub source: String,
    pub namespace: Namespace,
    pub table: TableName,
    pub id_type: IdType,
    pub key: KeyPlan,
    /// Which documents of the collection have a row.
    pub filter: Option<Filter>,
    /// Written columns: those of the key that rowstream adds first (source if there is one, then source_id),
    /// then in file order.
    pub columns: Vec<ColumnPlan>,
    /// A transformer of the program's own, by its name.
    pub transform: Option<String>,
    /// Columns whose values stand in other rows; complete once the mapping is linked.
    pub references: Vec<ReferencePlan>,
    /// Rows of other tables; complete once the mapping is linked.
    pub children: Vec<ChildPlan>,
    pub deletes: Deletes,
    pub sync: SyncPlan,
    pub on_drop: OnDrop,
    pub critical: bool,
    /// Of the table this was compiled against.
    pub table_oid: u32,
    pub fingerprint: String,
    /// What it says about rows, and the hash of that.
    pub meaning: String,
    pub hash: String,
}

impl Mapping {
    /// The columns that say whose row it is, the source's first.
    pub fn key_columns(&self) -> impl Iterator<Item = &ColumnPlan> {
        let places = self.key.source().into_iter().chain(self.key.columns.iter().map(|column| column.place));
        places.map(|place| &self.columns[place])
    }
}

/// One written column.
#[derive(Debug, Clone)]
pub struct ColumnPlan {
    pub name: String,
    pub column_type: ColumnType,
    /// The type as SQL, for staging.
    pub type_sql: String,
    pub not_null: bool,
    pub value: ValueSpec,
    pub insert_only: bool,
    pub required: bool,
    pub default: Option<Scalar>,
    /// To be kept past what is written.
    pub sequence: Option<Sequence>,
}

impl Mapping {
    /// Places of the columns that collect from several documents, and whether each value stands once.
    pub fn collects(&self) -> impl Iterator<Item = (usize, bool)> {
        self.columns.iter().enumerate().filter_map(|(place, column)| match &column.value {
            ValueSpec::Collect { distinct, .. } => Some((place, *distinct)),
            _ => None,
        })
    }

    /// A COPY tuple with this JSON in the place of one of its fields.
    pub fn with_json(&self, tuple: &[u8], place: usize, json: &str) -> Vec<u8> {
        let version: &[u8] = if self.columns[place].column_type == ColumnType::Jsonb { &[1] } else { &[] };
        let mut changed = tuple.get(..2).unwrap_or_default().to_vec();
        for (number, field) in CopyFields::of_tuple(tuple).enumerate() {
            if number == place {
                changed.extend_from_slice(&((version.len() + json.len()) as i32).to_be_bytes());
                changed.extend_from_slice(version);
                changed.extend_from_slice(json.as_bytes());
            } else {
                changed.extend_from_slice(field);
            }
        }
        changed
    }
}

/// Compiles one mapping against its table.
///
/// # Errors
/// Every mismatch at once, with the warnings among them. The second half of a success are warnings.
pub fn compile(
    index: SourceIndex,
    spec: &MappingSpec,
    id_type: IdType,
    table: &Table,
) -> Result<(Mapping, Vec<Problem>), Vec<Problem>> {
    let mut problems = Problems::new(&spec.source, &table.name);
    check_table(spec, table, &mut problems);
    check_own_key(spec, table, &mut problems);
    check_adopt(spec, table, &mut problems);
    let mut columns = key_columns(spec, id_type, table, &mut problems);
    let mut specs = specs_of(spec).into_owned();
    specs.extend(written_marks(spec, table, &mut problems));
    for column in &specs {
        columns.extend(written_column(spec, column, table, &mut problems));
    }
    let clock = clock_mark(spec);
    let at = clock.as_ref().and_then(|mark| written_column(spec, mark, table, &mut problems));
    let sync = sync_plan(spec, &columns, at, &mut problems);
    let filled: Vec<ColumnSpec> = specs.iter().cloned().chain(clock).collect();
    check_unmapped_columns(spec, &filled, table, &mut problems);
    check_columns_access(spec, &filled, table, &mut problems);
    if let KeySpec::Columns(names) = &spec.key {
        // A row without a key is none, whatever the table says.
        columns
            .iter_mut()
            .filter(|column| names.contains(&column.name))
            .for_each(|column| column.not_null = true);
    }
    let meaning = meaning(spec, id_type, &specs);
    let key = KeyPlan::new(&spec.key, &specs, &columns).map(|key| key.with_rules(spec, table, &columns));
    let (Some(key), false) = (key, problems.has_fatal()) else { return Err(problems.into_found()) };
    let mapping = Mapping {
        index,
        source: spec.source.clone(),
        namespace: spec.collection.clone(),
        table: table.name.clone(),
        id_type,
        key,
        filter: spec.filter.clone(),
        columns,
        references: Vec::new(),
        children: Vec::new(),
        deletes: spec.deletes.clone(),
        sync,
        on_drop: spec.on_drop,
        critical: spec.critical,
        table_oid: table.oid,
        fingerprint: table.fingerprint.clone(),
        hash: hash(&meaning),
        meaning,
        transform: spec.transform.clone(),
    };
    Ok((mapping, problems.into_found()))
}

/// The columns beside the key; without any in the file, that of whole documents.
pub(super) fn specs_of(spec: &MappingSpec) -> Cow<'_, [ColumnSpec]> {
    match &spec.columns {
        Some(columns) => Cow::Borrowed(columns),
        None => Cow::Owned(whole_document()),
    }
}

fn whole_document() -> Vec<ColumnSpec> {
    vec![ColumnSpec {
        name: DOCUMENT.to_owned(),
        value: ValueSpec::Document { without: Vec::new(), json: JsonForm::default(), strip_nul: false },
        insert_only: false,
        required: false,
        default: None,
    }]
}

fn key_columns(
    spec: &MappingSpec,
    id_type: IdType,
    table: &Table,
    problems: &mut Problems,
) -> Vec<ColumnPlan> {
    let mut plans = Vec::new();
    let KeySpec::SourceId { source, source_id } = &spec.key else { return plans };
    if let Some(name) = source
        && let Some(column) = key_column(name, table, problems)
    {
        fit_source(&spec.source, column, problems);
        plans.push(key_plan(column, ValueSpec::Constant(Scalar::Text(spec.source.clone()))));
    }
    if let Some(column) = key_column(source_id, table, problems) {
        fit_source_id(id_type, column, problems);
        plans.push(key_plan(column, ValueSpec::SourceId));
    }
    plans
}

fn key_column<'t>(name: &str, table: &'t Table, problems: &mut Problems) -> Option<&'t Column> {
    let Some(column) = table.column(name) else {
        let ddl = format!("alter table {} add column {} text", quoted_table(&table.name), quoted(name));
        problems.fatal(
            Some(name),
            "a column of the key does not exist",
            format!("{ddl}; or name the key's columns with key:"),
        );
        return None;
    };
    check_key_column(column, problems);
    Some(column)
}

fn key_plan(column: &Column, value: ValueSpec) -> ColumnPlan {
    ColumnPlan {
        name: column.name.clone(),
        column_type: column.column_type.clone(),
        type_sql: column.type_sql.clone(),
        not_null: column.not_null,
        value,
        insert_only: false,
        required: false,
        default: None,
        // One that counts down, or turns around, is the user's own affair.
        sequence: column.sequence.clone().filter(|sequence| sequence.increment > 0),
    }
}

fn written_column(
    mapping: &MappingSpec,
    spec: &ColumnSpec,
    table: &Table,
    problems: &mut Problems,
) -> Option<ColumnPlan> {
    let name = Some(spec.name.as_str());
    let Some(column) = table.column(&spec.name) else {
        problems.fatal(name, "does not exist", hint_for_unknown(mapping, &spec.name, table));
        return None;
    };
    if mapping.key.added().contains(&spec.name.as_str()) {
        problems.fatal(
            name,
            "is a column of the key, which rowstream writes itself",
            "leave it out of columns",
        );
        return None;
    }
    if column.generated {
        problems.fatal(name, "is generated always and cannot be written", "leave it out of columns");
        return None;
    }
    fit(spec, column, problems);
    Some(ColumnPlan {
        value: spec.value.clone(),
        insert_only: spec.insert_only,
        required: spec.required,
        default: spec.default.clone(),
        ..key_plan(column, ValueSpec::SourceId)
    })
}

fn hint_for_unknown(mapping: &MappingSpec, name: &str, table: &Table) -> String {
    if mapping.columns.is_none() {
        let table = quoted_table(&table.name);
        return format!(
            "whole documents need it: alter table {table} add column \"{DOCUMENT}\" jsonb; or list columns"
        );
    }
    let names = table.columns.iter().map(|column| column.name.as_str());
    match nearest(name, names.clone()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("the table has {}", names.collect::<Vec<_>>().join(", ")),
    }
}
