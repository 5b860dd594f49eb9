use super::{Mapping, Problem, compile};
use crate::config::{
    ColumnSpec, Deletes, EnumMap, JsonForm, KeySpec, MappingSpec, OnDrop, OnError, OnMappingChange,
    Otherwise, Reading, Rounding, Rule, Scalar, Scale, SchemaMode, ValueSpec,
};
use crate::domain::{
    Column, ColumnType, ForeignKey, IdType, Namespace, SourceIndex, Table, TableName, TextKind, UniqueKey,
};

const TEXT: ColumnType = ColumnType::Text { kind: TextKind::Text, limit: None };

fn varchar(limit: u32) -> ColumnType {
    ColumnType::Text { kind: TextKind::Varchar, limit: Some(limit) }
}

fn column(name: &str, column_type: ColumnType, type_sql: &str) -> Column {
    let (name, type_sql) = (name.to_owned(), type_sql.to_owned());
    Column {
        name,
        column_type,
        type_sql,
        not_null: false,
        has_default: false,
        generated: false,
        nondeterministic: false,
        sequence: None,
    }
}

fn not_null(column: Column) -> Column {
    Column { not_null: true, ..column }
}

fn unique(name: &str, columns: &[&str]) -> UniqueKey {
    let columns = columns.iter().map(|column| (*column).to_owned()).collect();
    UniqueKey {
        name: name.to_owned(),
        columns,
        deferrable: false,
        nondeterministic: false,
        partial_or_expression: false,
        predicate: None,
    }
}

fn name(name: &str) -> TableName {
    TableName { schema: "public".into(), name: name.into() }
}

/// The target of the expense tracker's four raw sources.
fn transactions() -> Table {
    let sources = ["venmo", "splitwise", "stripe", "cash", "manual"].map(str::to_owned).to_vec();
    let timestamptz = || ColumnType::TimestampTz { precision: 6 };
    Table {
        name: name("transactions"),
        columns: vec![
            not_null(column("id", varchar(40), "character varying(40)")),
            not_null(column("source", ColumnType::Enum { labels: sources }, "transaction_source")),
            not_null(column("source_id", varchar(255), "character varying(255)")),
            not_null(column("source_data", ColumnType::Jsonb, "jsonb")),
            not_null(column("transaction_date", timestamptz(), "timestamp with time zone")),
            Column {
                has_default: true,
                ..not_null(column("created_at", timestamptz(), "timestamp with time zone"))
            },
        ],
        unique_keys: vec![
            unique("transactions_pkey", &["id"]),
            unique("transactions_key", &["source", "source_id"]),
        ],
        foreign_keys: Vec::new(),
        indexes: Vec::new(),
        element_indexes: Vec::new(),
        oid: 1,
        triggers: Vec::new(),
        rules: Vec::new(),
        row_security: false,
        missing_privileges: Vec::new(),
        missing_column_privileges: Vec::new(),
        kind: 'r',
        is_empty: true,
        fingerprint: "f1".into(),
    }
}

fn value(name: &str, value: ValueSpec) -> ColumnSpec {
    ColumnSpec { name: name.into(), value, insert_only: false, required: false, default: None }
}

fn path(from: &str, rule: Option<Rule>) -> ValueSpec {
    let reading = rule.map(Reading::from).unwrap_or_default();
    ValueSpec::Path { from: vec![from.to_owned()], reading }
}

fn venmo() -> MappingSpec {
    MappingSpec {
        source: "venmo".into(),
        collection: Namespace { database: "flask_db".into(), collection: "venmo_raw_data".into() },
        table: name("transactions"),
        id_type: Some(IdType::String),
        key: KeySpec::SourceId { source: Some("source".into()), source_id: "source_id".into() },
        adopt: None,
        transform: None,
        shared: false,
        filter: None,
        columns: Some(vec![
            ColumnSpec { insert_only: true, ..value("id", ValueSpec::KeyPrefixed("txn_".into())) },
            value(
                "source_data",
                ValueSpec::Document {
                    without: vec!["_id".into()],
                    json: JsonForm::default(),
                    strip_nul: false,
                },
            ),
            ColumnSpec {
                required: true,
                ..value("transaction_date", path("date_created", Some(Rule::UnixSeconds)))
            },
        ]),
        children: Vec::new(),
        ignore: Vec::new(),
        deletes: Deletes::Hard,
        sync: None,
        schema: SchemaMode::Expect,
        on_drop: OnDrop::Delete,
        on_mapping_change: OnMappingChange::Resync,
        critical: false,
        enabled: true,
        allow_empty: false,
    }
}

/// A mapping of whole documents into a table of its own name.
pub(super) fn named(source: &str) -> MappingSpec {
    MappingSpec { source: source.into(), table: name(source), columns: None, ..venmo() }
}

fn fitting(spec: &MappingSpec, id_type: IdType, table: &Table) -> (Mapping, Vec<Problem>) {
    compile(SourceIndex(3), spec, id_type, table).unwrap_or_else(|problems| panic!("{}", text(&problems)))
}

fn problems(spec: &MappingSpec, id_type: IdType, table: &Table) -> Vec<Problem> {
    compile(SourceIndex(0), spec, id_type, table).expect_err("the mapping fits")
}

fn text(problems: &[Problem]) -> String {
    let lines = problems.iter().map(|problem| {
        let weight = if problem.fatal { "fatal" } else { "warning" };
        format!("{weight}: {problem}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_mapping_that_fits_has_its_key_first_and_no_warnings() {
    let (mapping, warnings) = fitting(&venmo(), IdType::String, &transactions());
    assert_eq!(text(&warnings), "");
    let names: Vec<&str> = mapping.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["source", "source_id", "id", "source_data", "transaction_date"]);
    assert_eq!(mapping.columns[0].value, ValueSpec::Constant(Scalar::Text("venmo".into())));
    assert_eq!(mapping.columns[1].value, ValueSpec::SourceId);
    assert!(mapping.columns[2].insert_only && mapping.columns[4].required);
    assert_eq!(mapping.columns[4].type_sql, "timestamp with time zone");
    assert_eq!((mapping.index, mapping.fingerprint.as_str()), (SourceIndex(3), "f1"));
}

#[test]
fn whole_documents_need_a_key_and_a_document() {
    let spec = MappingSpec {
        columns: None,
        key: KeySpec::SourceId { source: None, source_id: "source_id".into() },
        ..venmo()
    };
    let mut table = transactions();
    table.columns =
        vec![not_null(column("source_id", TEXT, "text")), column("document", ColumnType::Jsonb, "jsonb")];
    table.unique_keys = vec![unique("pkey", &["source_id"])];
    let (mapping, warnings) = fitting(&spec, IdType::ObjectId, &table);
    let names: Vec<&str> = mapping.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!((names, text(&warnings).as_str()), (vec!["source_id", "document"], ""));

    table.columns.pop();
    table.unique_keys.clear();
    insta::assert_snapshot!(text(&problems(&spec, IdType::ObjectId, &table)), @r#"
fatal: mapping venmo, table public.transactions: has no unique key on (source_id) (create unique index on "public"."transactions" ("source_id"))
fatal: mapping venmo, table public.transactions, column document: does not exist (whole documents need it: alter table "public"."transactions" add column "document" jsonb; or list columns)
"#);
}

#[test]
fn every_problem_of_a_table_is_told_at_once() {
    let table = Table {
        kind: 'v',
        row_security: true,
        missing_privileges: vec!["INSERT".into(), "DELETE".into()],
        triggers: vec!["touch_updated_at".into()],
        unique_keys: vec![
            UniqueKey { deferrable: true, ..unique("late", &["source_id", "source"]) },
            unique("transactions_date", &["transaction_date"]),
        ],
        foreign_keys: vec![ForeignKey {
            name: "fk_day".into(),
            columns: vec!["transaction_date".into()],
            references: name("days"),
            referenced_columns: vec!["day".into()],
            on_delete: 'a',
            on_update: 'a',
            deferrable: false,
        }],
        ..transactions()
    };
    insta::assert_snapshot!(text(&problems(&venmo(), IdType::String, &table)), @r#"
fatal: mapping venmo, table public.transactions: is a view (map to an ordinary or a partitioned table)
fatal: mapping venmo, table public.transactions: has row-level security that applies to rowstream's role (grant the role bypassrls, or let it own the table without force row level security)
fatal: mapping venmo, table public.transactions: rowstream's role lacks insert, delete (grant insert, delete on "public"."transactions" to the role of postgres.url)
fatal: mapping venmo, table public.transactions: has a unique key on (source, source_id), but late is deferrable (create unique index on "public"."transactions" ("source", "source_id"))
warning: mapping venmo, table public.transactions: has triggers that will fire for each row: touch_updated_at (what they change in mapped columns is written over by the next change)
warning: mapping venmo, table public.transactions: foreign key fk_day: a row whose parent in public.days is missing is held (it is retried until the parent is there)
warning: mapping venmo, table public.transactions: foreign key fk_day: no index on (transaction_date) (each delete in public.days reads the whole table: create index on "public"."transactions" ("transaction_date"))
warning: mapping venmo, table public.transactions: unique key transactions_date on (transaction_date): the second row with one value is held
"#);

    let predicate = Some("(active)".to_owned());
    let partial =
        UniqueKey { partial_or_expression: true, predicate, ..unique("part", &["source", "source_id"]) };
    let table = Table { unique_keys: vec![partial], ..transactions() };
    insta::assert_snapshot!(text(&problems(&venmo(), IdType::String, &table)), @r#"fatal: mapping venmo, table public.transactions: has a unique key on (source, source_id), but part holds only where (active) (create unique index on "public"."transactions" ("source", "source_id"))"#);
    let table = Table { unique_keys: vec![unique("more", &["source", "source_id", "id"])], ..transactions() };
    insta::assert_snapshot!(text(&problems(&venmo(), IdType::String, &table)), @r#"fatal: mapping venmo, table public.transactions: has no unique key on (source, source_id) (create unique index on "public"."transactions" ("source", "source_id"))"#);
}

#[test]
fn every_problem_of_the_columns_is_told_at_once() {
    let mut table = transactions();
    let numeric = ColumnType::Numeric(Some((12, 2)));
    table.columns.extend([
        Column { generated: true, ..column("search", TEXT, "text") },
        column("place", ColumnType::Other("point".into()), "point"),
        column("count", ColumnType::Int4, "integer"),
        column("short", varchar(20), "character varying(20)"),
        column("flag", ColumnType::Bool, "boolean"),
        column("note", TEXT, "text"),
        not_null(column("amount", numeric, "numeric(12,2)")),
        not_null(column("rate", ColumnType::Float8, "double precision")),
        not_null(column("seen_at", ColumnType::Timestamp { precision: 6 }, "timestamp without time zone")),
        not_null(column("owner", TEXT, "text")),
        not_null(column("kind", TEXT, "text")),
    ]);
    let mut spec = venmo();
    spec.source = "paypal".into();
    spec.columns = Some(vec![
        value("transaction_dat", path("date", None)),
        value("elsewhere", path("a", None)),
        value("search", path("a", None)),
        value("source_id", path("a", None)),
        value("place", path("a", None)),
        value("count", ValueSpec::KeyPrefixed("c_".into())),
        value("id", ValueSpec::KeyPrefixed("transaction_id_".into())),
        value("short", ValueSpec::KeyUuid),
        value(
            "flag",
            ValueSpec::Document { without: Vec::new(), json: JsonForm::default(), strip_nul: false },
        ),
        value("note", path("a", Some(Rule::UnixSeconds))),
        value("amount", path("amount", None)),
        ColumnSpec { default: Some(Scalar::Null), ..value("rate", path("rate", Some(Rule::Number))) },
        value("seen_at", ValueSpec::ClusterTime),
        value("kind", ValueSpec::Constant(Scalar::Null)),
    ]);
    insta::assert_snapshot!(text(&problems(&spec, IdType::String, &table)), @r#"
fatal: mapping paypal, table public.transactions, column source: is an enum without the label 'paypal' (alter type transaction_source add value 'paypal')
fatal: mapping paypal, table public.transactions, column transaction_dat: does not exist (did you mean transaction_date?)
fatal: mapping paypal, table public.transactions, column elsewhere: does not exist (the table has id, source, source_id, source_data, transaction_date, created_at, search, place, count, short, flag, note, amount, rate, seen_at, owner, kind)
fatal: mapping paypal, table public.transactions, column search: is generated always and cannot be written (leave it out of columns)
fatal: mapping paypal, table public.transactions, column source_id: is a column of the key, which rowstream writes itself (leave it out of columns)
fatal: mapping paypal, table public.transactions, column place: has the type point, which rowstream cannot write (leave it out of columns, or use text or jsonb)
fatal: mapping paypal, table public.transactions, column count: has the type integer, but a key with a prefix needs text or varchar
fatal: mapping paypal, table public.transactions, column id: holds 40 characters, but its ids have 41 (widen the column)
fatal: mapping paypal, table public.transactions, column short: holds 20 characters, but its ids have 36 (widen the column)
fatal: mapping paypal, table public.transactions, column flag: has the type boolean, but a whole document needs json, jsonb or text
fatal: mapping paypal, table public.transactions, column note: has the type text, but as: unix_seconds needs date, timestamp or timestamptz
warning: mapping paypal, table public.transactions, column amount: is not null, and a document without this field will be held (give it a default, or say required: true)
fatal: mapping paypal, table public.transactions, column rate: is not null, but its default is null (give another default)
fatal: mapping paypal, table public.transactions, column seen_at: is not null, but a document that is copied by snapshot has no $cluster_time (drop the column's not null)
fatal: mapping paypal, table public.transactions, column kind: is not null, but its value is null (give another value)
fatal: mapping paypal, table public.transactions, column source_data: is not null and has no default, but is not mapped (map it, or give the column a default)
fatal: mapping paypal, table public.transactions, column transaction_date: is not null and has no default, but is not mapped (map it, or give the column a default)
fatal: mapping paypal, table public.transactions, column owner: is not null and has no default, but is not mapped (map it, or give the column a default)
"#);
}

#[test]
fn a_key_column_must_hold_every_id() {
    let with = |source: Column, source_id: Column| {
        let mut table = transactions();
        table.columns[1] = source;
        table.columns[2] = source_id;
        table
    };
    let citext = ColumnType::Text { kind: TextKind::Citext, limit: None };
    let table = with(column("source", varchar(3), "varchar(3)"), column("source_id", citext, "citext"));
    insta::assert_snapshot!(text(&problems(&venmo(), IdType::String, &table)), @r#"
fatal: mapping venmo, table public.transactions, column source: holds 3 characters, but 'venmo' has 5 (widen the column)
fatal: mapping venmo, table public.transactions, column source_id: has the type citext, but the id of a key needs text or varchar (two ids may differ only in case or in blanks, or be of another type)
"#);
    let table =
        with(column("source", ColumnType::Int4, "integer"), column("source_id", varchar(20), "varchar(20)"));
    insta::assert_snapshot!(text(&problems(&venmo(), IdType::ObjectId, &table)), @r#"
fatal: mapping venmo, table public.transactions, column source: has the type integer, but the source of a key needs text, varchar or an enum
fatal: mapping venmo, table public.transactions, column source_id: holds 20 characters, but an ObjectId has 24 (widen the column)
"#);
    let table = with(column("source", TEXT, "text"), column("source_id", varchar(19), "varchar(19)"));
    let (_, warnings) = fitting(&venmo(), IdType::Int, &table);
    insta::assert_snapshot!(text(&warnings), @r#"warning: mapping venmo, table public.transactions, column source_id: holds 19 characters, but a large whole number has 20 (what does not fit is held; widen the column)"#);
    let mut table = transactions();
    table.columns.retain(|column| !column.name.starts_with("source"));
    insta::assert_snapshot!(text(&problems(&venmo(), IdType::String, &table)), @r#"
fatal: mapping venmo, table public.transactions, column source: a column of the key does not exist (alter table "public"."transactions" add column "source" text; or name the key's columns with key:)
fatal: mapping venmo, table public.transactions, column source_id: a column of the key does not exist (alter table "public"."transactions" add column "source_id" text; or name the key's columns with key:)
fatal: mapping venmo, table public.transactions, column source_data: does not exist (the table has id, transaction_date, created_at)
"#);
}

#[test]
fn what_may_be_held_later_is_a_warning_and_no_mistake() {
    let mut table = transactions();
    table.columns.push(column("email", TEXT, "text"));
    table.unique_keys.push(unique("transactions_email_key", &["email"]));
    let mut spec = venmo();
    for column in spec.columns.iter_mut().flatten() {
        column.required = false;
    }
    spec.columns.get_or_insert_default().push(value("email", path("email", None)));
    // Every document has one.
    table.columns.push(not_null(column("number", TEXT, "text")));
    spec.columns.get_or_insert_default().push(value("number", path("_id", None)));
    let (_, warnings) = fitting(&spec, IdType::String, &table);
    insta::assert_snapshot!(text(&warnings), @r#"
warning: mapping venmo, table public.transactions: unique key transactions_email_key on (email): the second row with one value is held
warning: mapping venmo, table public.transactions, column transaction_date: is not null, and a document without this field will be held (give it a default, or say required: true)
"#);
}

#[test]
fn rules_that_cannot_work_for_their_column_are_told_at_once() {
    let labels = vec!["OPEN".to_owned(), "DONE".to_owned()];
    let mut table = transactions();
    table.columns.extend([
        column("note", TEXT, "text"),
        column("code", varchar(3), "character varying(3)"),
        column("amount", ColumnType::Numeric(Some((12, 2))), "numeric(12,2)"),
        not_null(column("state", ColumnType::Enum { labels }, "state")),
        column("flag", ColumnType::Bool, "boolean"),
        column("document", ColumnType::Jsonb, "jsonb"),
    ]);
    let mut spec = venmo();
    let label = |text: &str| Scalar::Text(text.to_owned());
    let map = EnumMap {
        labels: vec![("a".into(), label("OPEN")), ("b".into(), label("OPENED")), ("c".into(), Scalar::Null)],
        fold_case: false,
        otherwise: Otherwise::Label(label("OTHER")),
    };
    let scale = Some(Scale { places: 2, rounding: Rounding::HalfEven });
    let none = Reading::default;
    let columns = [
        ("note", Reading { scale, truncate: true, on_error: OnError::Clamp, wrap: true, ..none() }),
        ("code", Reading { truncate: true, json: JsonForm::Plain, strip_nul: true, trim: true, ..none() }),
        ("amount", Reading { rules: vec![Rule::Iso8601, Rule::Number], scale, strip_nul: true, ..none() }),
        ("state", Reading { labels: Some(map), on_error: OnError::Null, ..none() }),
        ("flag", Reading { rules: vec![Rule::Boolean, Rule::ObjectId], ..none() }),
        ("document", Reading { json: JsonForm::Plain, wrap: true, strip_nul: true, ..none() }),
    ];
    spec.columns.as_mut().unwrap().extend(
        columns.map(|(name, reading)| value(name, ValueSpec::Path { from: vec![name.to_owned()], reading })),
    );
    insta::assert_snapshot!(text(&problems(&spec, IdType::String, &table)), @r"
fatal: mapping venmo, table public.transactions, column note: has the type text, but scale needs an integer type, numeric, real or double precision
fatal: mapping venmo, table public.transactions, column note: has the type text, but truncate needs varchar(n), character(n), date, or a timestamp of fewer than 6 digits
fatal: mapping venmo, table public.transactions, column note: has the type text, but on_error: clamp needs a number or a moment
fatal: mapping venmo, table public.transactions, column note: has the type text, but as: array needs an array, json or jsonb
fatal: mapping venmo, table public.transactions, column code: has the type character varying(3), but json needs json, jsonb, or as: json with text
fatal: mapping venmo, table public.transactions, column amount: has the type numeric(12,2), but as: iso8601 needs date, timestamp or timestamptz
fatal: mapping venmo, table public.transactions, column amount: has the type numeric(12,2), but strip_nul needs json, jsonb or text
fatal: mapping venmo, table public.transactions, column state: is an enum without the label 'OPENED', to which enum: leads (the labels are OPEN, DONE)
fatal: mapping venmo, table public.transactions, column state: is an enum without the label 'OTHER', to which enum: leads (the labels are OPEN, DONE)
fatal: mapping venmo, table public.transactions, column state: is not null, but on_error: null would make it null (use default, or drop the column's not null)
fatal: mapping venmo, table public.transactions, column state: is not null, but a null in enum would make it null (use default, or drop the column's not null)
warning: mapping venmo, table public.transactions, column state: is not null, and a document without this field will be held (give it a default, or say required: true)
fatal: mapping venmo, table public.transactions, column flag: has the type boolean, but as: object_id needs text or varchar
");
}

#[test]
fn the_hash_follows_the_meaning_and_nothing_else() {
    let table = transactions();
    let hash = |spec: &MappingSpec| fitting(spec, IdType::String, &table).0.hash;
    let before = hash(&venmo());
    // Pinned: a new version that hashes the same mapping otherwise would copy everything again.
    insta::assert_snapshot!(before, @r#"3b87eb8779668ef7"#);

    let mut same = MappingSpec { critical: true, on_drop: OnDrop::Halt, allow_empty: true, ..venmo() };
    same.columns.iter_mut().for_each(|columns| columns.reverse());
    assert_eq!(hash(&same), before);

    let mut other = venmo();
    other.columns.iter_mut().flatten().for_each(|column| column.insert_only = false);
    let others = [
        MappingSpec { deletes: Deletes::Keep, ..venmo() },
        MappingSpec { source: "stripe".into(), ..venmo() },
        other,
    ];
    assert!(others.iter().all(|spec| hash(spec) != before));
    assert_ne!(fitting(&venmo(), IdType::ObjectId, &table).0.hash, before);
}

#[test]
fn a_key_whose_collation_calls_ids_equal_is_refused() {
    let mut table = transactions();
    table.columns[2].nondeterministic = true;
    table.unique_keys.push(UniqueKey { nondeterministic: true, ..unique("ci", &["source_id", "source"]) });
    insta::assert_snapshot!(text(&problems(&venmo(), IdType::String, &table)), @r#"
fatal: mapping venmo, table public.transactions: unique key ci on (source, source_id) has a nondeterministic collation (different ids would share a row: drop it, or build it with a deterministic collation)
fatal: mapping venmo, table public.transactions, column source_id: a column of the key has a nondeterministic collation (different ids would share a row: use a deterministic collation)
"#);
}

#[test]
fn a_deferrable_key_beside_a_good_one_and_rules_are_refused() {
    let mut table = transactions();
    table.unique_keys.push(UniqueKey { deferrable: true, ..unique("late", &["source_id", "source"]) });
    table.unique_keys.push(UniqueKey {
        deferrable: true,
        partial_or_expression: true,
        ..unique("part", &["source_id", "source"])
    });
    table.rules = vec!["redirect".into()];
    insta::assert_snapshot!(text(&problems(&venmo(), IdType::String, &table)), @r#"
fatal: mapping venmo, table public.transactions: has more than one unique key on (source, source_id), of which late is deferrable (drop "late": on conflict fails with it)
fatal: mapping venmo, table public.transactions: has rules that change or forbid what is written: redirect (drop rule "redirect" on "public"."transactions"; or use a trigger)
"#);
}

#[test]
fn privileges_are_needed_only_where_a_column_is_read_or_written() {
    let mut table = transactions();
    let missing = |column: &str, privilege: &str| (column.to_owned(), privilege.to_owned());
    table.missing_column_privileges = vec![
        missing("id", "select"),
        missing("id", "update"),
        missing("source", "update"),
        missing("created_at", "insert"),
        missing("id", "usage on sequence s"),
        // Kept ahead only where its column is written.
        missing("created_at", "select, update on sequence s"),
    ];
    assert_eq!(text(&fitting(&venmo(), IdType::String, &table).1), "");
    table.missing_column_privileges.extend([
        missing("id", "insert"),
        missing("source_id", "select"),
        missing("source_data", "update"),
        missing("created_at", "usage on sequence s"),
        missing("id", "select, update on sequence t"),
    ]);
    insta::assert_snapshot!(text(&problems(&venmo(), IdType::String, &table)), @r#"
fatal: mapping venmo, table public.transactions, column id: rowstream's role lacks insert (grant insert ("id") on "public"."transactions" to the role of postgres.url)
fatal: mapping venmo, table public.transactions, column source_id: rowstream's role lacks select (grant select ("source_id") on "public"."transactions" to the role of postgres.url)
fatal: mapping venmo, table public.transactions, column source_data: rowstream's role lacks update (grant update ("source_data") on "public"."transactions" to the role of postgres.url)
fatal: mapping venmo, table public.transactions, column created_at: rowstream's role lacks usage on sequence s (grant usage on sequence s to the role of postgres.url)
fatal: mapping venmo, table public.transactions, column id: rowstream's role lacks select, update on sequence t (grant select, update on sequence t to the role of postgres.url)
"#);
}
