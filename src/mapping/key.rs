//! How a mapping's rows are told apart, and how it is known whose they are.

use super::compile::ColumnPlan;
use super::problem::{Problems, quoted};
use super::table::colliding_keys;
use crate::config::{ColumnSpec, KeySpec, MappingSpec, is_derived};
use crate::domain::{Column, ColumnType, CopyFields, RowKey, Table, TextKind};

/// The key of a mapping's rows.
#[derive(Debug, Clone)]
pub struct KeyPlan {
    pub spec: KeySpec,
    pub kind: KeyKind,
    /// What a [`RowKey`] is made of: all columns of the key but that of the source, which is the same in all
    /// of the mapping's rows.
    pub columns: Vec<KeyColumn>,
    /// Unique keys by which rows without an owner are taken over, as places in `Mapping::columns`.
    pub adopt: Vec<Vec<usize>>,
    /// `adopt` names the key itself: a row that is there with a document's key is its row.
    pub adopts_by_key: bool,
    /// Several documents may stand for one row.
    pub shared: bool,
    /// A unique key in which documents could meet rows without an owner, unless `adopt` says what then.
    pub in_the_way: Option<String>,
}

/// How it is known whose a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// (source, source_id): the row says it itself. The place of the source's column, if there is one.
    SourceId { source: Option<usize> },
    /// It follows from `_id`; whose row it is stands in `rowstream.row`.
    Derived,
    /// It comes from the document's fields; whose row it is stands in `rowstream.row`.
    Fields,
}

/// One column of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyColumn {
    /// In `Mapping::columns`.
    pub place: usize,
    /// A whole number's bytes in the column; in a [`RowKey`] it has 8.
    int_bytes: Option<usize>,
}

/// Longer keys would not fit the indexes of the state schema.
const MAX_KEY_BYTES: usize = 2_000;

/// Why a row cannot be told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoKey {
    Null,
    TooLong,
}

impl KeyPlan {
    /// `None`: a column of the key is not among `columns`.
    pub fn new(spec: &KeySpec, specs: &[ColumnSpec], columns: &[ColumnPlan]) -> Option<Self> {
        let places: Option<Vec<usize>> = spec.names().into_iter().map(|name| place(name, columns)).collect();
        let mut places = places?;
        let kind = match spec {
            KeySpec::SourceId { source, .. } => {
                KeyKind::SourceId { source: source.as_ref().map(|_| places.remove(0)) }
            }
            KeySpec::Columns(names) if is_derived(names, specs) => KeyKind::Derived,
            KeySpec::Columns(_) => KeyKind::Fields,
        };
        let columns =
            places.into_iter().map(|place| KeyColumn { place, int_bytes: int_bytes(&columns[place]) });
        Some(Self {
            spec: spec.clone(),
            kind,
            columns: columns.collect(),
            adopt: Vec::new(),
            adopts_by_key: false,
            shared: false,
            in_the_way: None,
        })
    }

    pub(super) fn with_rules(mut self, spec: &MappingSpec, table: &Table, columns: &[ColumnPlan]) -> Self {
        if spec.adopt.is_none() {
            let other = colliding_keys(spec, spec.columns.as_deref().unwrap_or_default(), table).next();
            self.in_the_way = match self.kind {
                KeyKind::Fields => Some(spec.key.names().join(", ")),
                KeyKind::SourceId { .. } | KeyKind::Derived => other.map(|unique| unique.columns.join(", ")),
            };
        }
        let mut own = spec.key.names();
        own.sort_unstable();
        for names in spec.adopt.iter().flatten() {
            let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
            sorted.sort_unstable();
            if sorted == own {
                self.adopts_by_key = true;
                continue;
            }
            let places: Option<Vec<usize>> = names.iter().map(|name| place(name, columns)).collect();
            self.adopt.extend(places);
        }
        self.shared = spec.shared;
        self
    }

    /// Whose a row is stands in `rowstream.row`.
    pub fn is_claimed(&self) -> bool {
        match self.kind {
            KeyKind::SourceId { .. } => false,
            KeyKind::Derived | KeyKind::Fields => true,
        }
    }

    /// The place of the source's column, if there is one.
    pub fn source(&self) -> Option<usize> {
        match self.kind {
            KeyKind::SourceId { source } => source,
            KeyKind::Derived | KeyKind::Fields => None,
        }
    }

    /// Whether the column at this place is one of the key.
    pub fn has(&self, place: usize) -> bool {
        self.source() == Some(place) || self.columns.iter().any(|column| column.place == place)
    }

    /// The key of a row, from its COPY tuple.
    pub fn row_key(&self, tuple: &[u8]) -> Result<RowKey, NoKey> {
        let fields: Vec<&[u8]> = CopyFields::of_tuple(tuple).collect();
        let mut key = Vec::new();
        for column in &self.columns {
            let field = fields.get(column.place).copied().ok_or(NoKey::Null)?;
            column.append(field, &mut key)?;
        }
        if key.len() > MAX_KEY_BYTES { Err(NoKey::TooLong) } else { Ok(RowKey::from_bytes(key)) }
    }

    /// The tuple with the values of another key in the place of its own.
    pub fn with_key(&self, tuple: &[u8], key: &RowKey) -> Vec<u8> {
        let mut changed = tuple.get(..2).unwrap_or_default().to_vec();
        let values: Vec<&[u8]> = key.fields().collect();
        for (place, field) in CopyFields::of_tuple(tuple).enumerate() {
            let of_key = self.columns.iter().position(|column| column.place == place);
            match of_key.and_then(|number| Some((&self.columns[number], *values.get(number)?))) {
                Some((column, value)) => column.append_narrowed(value, &mut changed),
                None => changed.extend_from_slice(field),
            }
        }
        changed
    }

    /// A key that no document has, to keep a row at while others change their keys in a circle. `None`: no
    /// column of the key has a value to spare.
    pub fn parked(&self, key: &RowKey, plans: &[ColumnPlan], number: usize) -> Option<RowKey> {
        let spare =
            self.columns.iter().position(|column| spare_value(&plans[column.place], number).is_some())?;
        let mut parked = Vec::new();
        for (place, field) in key.fields().enumerate() {
            match (place == spare).then(|| spare_value(&plans[self.columns[place].place], number)).flatten() {
                Some(value) => {
                    parked.extend_from_slice(&(value.len() as i32).to_be_bytes());
                    parked.extend_from_slice(&value);
                }
                None => parked.extend_from_slice(field),
            }
        }
        Some(RowKey::from_bytes(parked))
    }
}

impl KeyColumn {
    /// A field of a tuple as a field of a key.
    fn append(&self, field: &[u8], key: &mut Vec<u8>) -> Result<(), NoKey> {
        let (_, value) = field.split_at_checked(4).ok_or(NoKey::Null)?;
        if field.starts_with(&(-1_i32).to_be_bytes()) {
            return Err(NoKey::Null);
        }
        if self.int_bytes.is_some() && value.len() < 8 {
            let sign = if value.first().is_some_and(|first| *first >= 0x80) { 0xff } else { 0 };
            key.extend_from_slice(&8_i32.to_be_bytes());
            key.extend(std::iter::repeat_n(sign, 8 - value.len()));
            key.extend_from_slice(value);
        } else {
            key.extend_from_slice(field);
        }
        Ok(())
    }

    fn append_narrowed(&self, field: &[u8], tuple: &mut Vec<u8>) {
        match self.int_bytes {
            Some(bytes) if field.len() == 12 => {
                tuple.extend_from_slice(&(bytes as i32).to_be_bytes());
                tuple.extend_from_slice(&field[12 - bytes..]);
            }
            Some(_) | None => tuple.extend_from_slice(field),
        }
    }
}

fn place(name: &str, columns: &[ColumnPlan]) -> Option<usize> {
    columns.iter().position(|column| column.name == name)
}

fn int_bytes(column: &ColumnPlan) -> Option<usize> {
    match column.column_type {
        ColumnType::Int2 => Some(2),
        ColumnType::Int4 => Some(4),
        ColumnType::Int8 => Some(8),
        _ => None,
    }
}

/// The lowest values of a type: nobody's documents have them.
fn spare_value(column: &ColumnPlan, number: usize) -> Option<Vec<u8>> {
    let number = i64::try_from(number).ok()?;
    match &column.column_type {
        ColumnType::Int2 => Some((i64::from(i16::MIN) + number).to_be_bytes().to_vec()),
        ColumnType::Int4 => Some((i64::from(i32::MIN) + number).to_be_bytes().to_vec()),
        ColumnType::Int8 => Some((i64::MIN + number).to_be_bytes().to_vec()),
        ColumnType::Uuid => Some((u128::MAX - number as u128).to_be_bytes().to_vec()),
        ColumnType::Text { limit, .. } => {
            let text = format!("\u{1}{number}");
            limit.is_none_or(|limit| text.len() <= limit as usize).then(|| text.into_bytes())
        }
        // -infinity is i32::MIN; the days after the first that PostgreSQL takes (4714-11-24 BC).
        ColumnType::Date => Some((-2_451_545 + i32::try_from(number).ok()?).to_be_bytes().to_vec()),
        _ => None,
    }
}

/// What the columns of a key must be like, whoever writes them.
pub(super) fn check_key_column(column: &Column, problems: &mut Problems) {
    let name = Some(column.name.as_str());
    if column.generated {
        problems.fatal(name, "a column of the key is generated and cannot be written", "use a plain column");
    }
    if column.nondeterministic {
        problems.fatal(
            name,
            "a column of the key has a nondeterministic collation",
            "different ids would share a row: use a deterministic collation",
        );
    }
}

/// What a key of the mapping's own columns needs of them.
pub(super) fn check_own_key(spec: &MappingSpec, table: &Table, problems: &mut Problems) {
    let KeySpec::Columns(names) = &spec.key else { return };
    for column in names.iter().filter_map(|name| table.column(name)) {
        check_key_column(column, problems);
        let fits = match &column.column_type {
            ColumnType::Int2
            | ColumnType::Int4
            | ColumnType::Int8
            | ColumnType::Uuid
            | ColumnType::Date
            | ColumnType::Enum { .. }
            | ColumnType::Text { kind: TextKind::Text | TextKind::Varchar, .. } => true,
            ColumnType::Text { kind: TextKind::Bpchar | TextKind::Citext, .. }
            | ColumnType::Bool
            | ColumnType::Float4
            | ColumnType::Float8
            | ColumnType::Numeric(_)
            | ColumnType::Bytea
            | ColumnType::Timestamp { .. }
            | ColumnType::TimestampTz { .. }
            | ColumnType::Json
            | ColumnType::Jsonb
            | ColumnType::Array { .. }
            | ColumnType::Other(_) => false,
        };
        if !fits {
            problems.fatal(
                Some(&column.name),
                format!("has the type {}, which cannot be part of a key", column.type_sql),
                "a key is made of smallint, integer, bigint, text, varchar, uuid, date or enum columns",
            );
        }
    }
    let insert_only =
        spec.columns.iter().flatten().find(|column| column.insert_only && names.contains(&column.name));
    if let Some(column) = insert_only
        && !is_derived(names, spec.columns.as_deref().unwrap_or_default())
    {
        problems.fatal(
            Some(&column.name),
            "is a column of the key, and written on insert only",
            "leave write out: a row moves when the field changes",
        );
    }
}

/// `adopt` looks rows up, for which it needs an index, and one row at most.
pub(super) fn check_adopt(spec: &MappingSpec, table: &Table, problems: &mut Problems) {
    let own = spec.key.names();
    let is_own = |names: &Vec<String>| {
        names.len() == own.len() && names.iter().all(|name| own.contains(&name.as_str()))
    };
    if spec.shared && spec.adopt.iter().flatten().any(|names| !is_own(names)) {
        problems.fatal(
            None,
            "adopt names another unique key than the key, and its rows are shared",
            "rows of several documents are taken over by their key alone",
        );
    }
    for names in spec.adopt.iter().flatten() {
        let same =
            |columns: &[String]| columns.len() == names.len() && columns.iter().all(|c| names.contains(c));
        let is_unique =
            table.unique_keys.iter().any(|unique| !unique.partial_or_expression && same(&unique.columns));
        if !is_unique {
            let list: Vec<String> = names.iter().map(|name| quoted(name)).collect();
            problems.fatal(
                None,
                format!("adopt needs a unique key on ({}), and there is none", names.join(", ")),
                format!(
                    "create unique index on {} ({})",
                    super::problem::quoted_table(&table.name),
                    list.join(", ")
                ),
            );
        }
    }
    if let (Some([_, ..]), KeySpec::SourceId { source_id, .. }) = (spec.adopt.as_deref(), &spec.key)
        && table.column(source_id).is_some_and(|column| column.not_null)
    {
        problems.fatal(
            Some(source_id),
            "is not null, so that there can be no row without an owner to adopt",
            "drop the column's not null, or leave adopt out",
        );
    }
}
