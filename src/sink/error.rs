//! What PostgreSQL refused, and what to do about it. A server's message may quote a document's values
//! (`invalid input syntax for type integer: "…"`), so it is kept only where it speaks of the catalog or
//! of the server itself; DETAIL and CONTEXT are never kept.

use std::fmt;

use sqlx::postgres::PgDatabaseError;
use thiserror::Error;

use crate::domain::{Reason, Rejection, TableName};

#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot {doing}, table {table}")]
    Refused {
        table: Tables,
        doing: &'static str,
        #[source]
        source: ServerError,
    },
    #[error("cannot {doing}, table {table}")]
    Connection {
        table: Tables,
        doing: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// The table is not the one that the mapping was compiled against.
    #[error("table {table} is no longer what the mapping was compiled against")]
    CatalogChanged { table: TableName },
    #[error("cannot encode rows for table {table}")]
    Malformed {
        table: TableName,
        #[source]
        source: MalformedTuple,
    },
}

/// One, but for a statement that locks several.
#[derive(Debug, Clone)]
pub struct Tables(Vec<TableName>);

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(TableName::to_string).collect();
        f.write_str(&names.join(", "))
    }
}

/// A row's tuple does not have the mapping's columns: a mistake of ours, never of a document.
#[derive(Debug, Error)]
#[error("a tuple does not have one field per column")]
pub struct MalformedTuple;

/// A server's error without what may hold a document's values.
#[derive(Debug, Error)]
pub struct ServerError {
    pub sqlstate: String,
    pub column: Option<String>,
    pub constraint: Option<String>,
    message: Option<String>,
    /// The server's C function that refused a value: `enum_in`.
    routine: Option<String>,
    /// It was raised inside something that our statement set off: a trigger, a function of the user's.
    has_context: bool,
}

/// What the caller does about an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// It passes by itself: roll back, wait, try again.
    Retry,
    /// It took too long: as `Retry`, but with less at once.
    Shrink,
    /// One document's fault: hold it, go on with the others.
    Hold(Rejection),
    /// Passes at another try, or else is one row's fault, which only writing the rows apart can tell.
    Suspect(Rejection),
    /// The catalog has changed: read it again; go on if the mapping still fits, else halt.
    Refresh,
    /// A human must act.
    Halt { hint: &'static str },
}

impl Error {
    pub(super) fn from_sqlx(table: &TableName, doing: &'static str, source: sqlx::Error) -> Self {
        Self::of_tables(vec![table.clone()], doing, source)
    }

    pub(super) fn of_tables(tables: Vec<TableName>, doing: &'static str, source: sqlx::Error) -> Self {
        let table = Tables(tables);
        match &source {
            sqlx::Error::Database(database) => {
                let source = match database.try_downcast_ref::<PgDatabaseError>() {
                    Some(postgres) => ServerError::new(postgres),
                    None => ServerError::unnamed(database.code().unwrap_or_default().into_owned()),
                };
                Self::Refused { table, doing, source }
            }
            _ => Self::Connection { table, doing, source },
        }
    }

    /// An error of a statement on the state schema: the same server, the same rules.
    pub fn of_state(source: sqlx::Error) -> Self {
        let state = TableName { schema: "rowstream".to_owned(), name: "*".to_owned() };
        Self::from_sqlx(&state, "read or write the state", source)
    }

    /// A statement that was planned before its table changed.
    pub fn is_stale_plan(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.sqlstate == "0A000")
    }

    /// What could not be written.
    pub fn tables(&self) -> &[TableName] {
        match self {
            Self::Refused { table, .. } | Self::Connection { table, .. } => &table.0,
            Self::CatalogChanged { table } | Self::Malformed { table, .. } => std::slice::from_ref(table),
        }
    }

    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Refused { source, .. } => source.disposition(),
            Self::CatalogChanged { .. } => Disposition::Refresh,
            Self::Malformed { .. } => Disposition::Halt { hint: REPORT },
            Self::Connection { source, .. } => match source {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => Disposition::Retry,
                sqlx::Error::Configuration(_) => {
                    Disposition::Halt { hint: "correct the PostgreSQL connection settings" }
                }
                _ => Disposition::Halt { hint: REPORT },
            },
        }
    }
}

const REPORT: &str = "this is a defect of rowstream: please report it with the log";

impl ServerError {
    fn new(error: &PgDatabaseError) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let has_context = error.r#where().is_some();
        Self {
            sqlstate: error.code().to_owned(),
            column: owned(error.column()),
            constraint: owned(error.constraint()),
            message: names_no_value(error.code(), has_context).then(|| error.message().to_owned()),
            routine: owned(error.routine()),
            has_context,
        }
    }

    fn unnamed(sqlstate: String) -> Self {
        Self { sqlstate, column: None, constraint: None, message: None, routine: None, has_context: false }
    }

    pub fn disposition(&self) -> Disposition {
        match Verdict::of(&self.sqlstate, self.has_context) {
            Verdict::Retry => Disposition::Retry,
            Verdict::Shrink => Disposition::Shrink,
            Verdict::Refresh => Disposition::Refresh,
            Verdict::Halt(hint) => Disposition::Halt { hint },
            Verdict::Hold(reason, why) => Disposition::Hold(self.rejection(reason, why)),
            Verdict::Suspect(why) => Disposition::Suspect(self.rejection(Reason::RejectedByTarget, why)),
        }
    }

    fn rejection(&self, reason: Reason, why: &str) -> Rejection {
        let unknown_label = self.routine.as_deref() == Some("enum_in");
        let (reason, why) = if unknown_label {
            (Reason::UnknownEnumLabel, "is not a label of the column's enum")
        } else {
            (reason, why)
        };
        let message = match &self.constraint {
            Some(constraint) => format!("{why} {constraint} ({})", self.sqlstate),
            None => format!("{why} ({})", self.sqlstate),
        };
        Rejection { column: self.column.clone(), reason, message }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL refused with {}", self.sqlstate)?;
        if let Some(column) = &self.column {
            write!(f, ", column {column}")?;
        }
        if let Some(constraint) = &self.constraint {
            write!(f, ", constraint {constraint}")?;
        }
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        Ok(())
    }
}

/// Only these classes are about the session, the server or names; data exceptions (22), integrity (23),
/// limits met by a row (54) and messages of the user's functions (P0 and others) may quote values. So may
/// class 42 where a function of the user's makes SQL out of them.
fn names_no_value(sqlstate: &str, has_context: bool) -> bool {
    let class = sqlstate.get(..2).unwrap_or_default();
    if class == "42" && has_context {
        return false;
    }
    matches!(class, "08" | "25" | "26" | "28" | "3D" | "3F" | "40" | "42" | "53" | "55" | "57" | "58")
}

/// The whole policy: SQLSTATE → what to do. Codes before their class, the unknown last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Retry,
    Shrink,
    Hold(Reason, &'static str),
    Suspect(&'static str),
    Refresh,
    Halt(&'static str),
}

const GRANT: &str =
    "grant usage on the schema and select, insert, update, delete on the table to rowstream's role";
const CREDENTIALS: &str = "check user, password and pg_hba.conf";
const BY_TRIGGER: &str = "is refused by a trigger or function of the table";
const POOLER: &str = "connect without a transaction pooler in between, or use session pooling";

impl Verdict {
    /// Statements of ours have no context: what names something unknown there, fails inside the server (XX000),
    /// or has a code of the user's own is a matter of the user's function, at this row.
    fn of(sqlstate: &str, has_context: bool) -> Self {
        let is_functions_own = match Self::of_code(sqlstate) {
            Self::Refresh | Self::Suspect(_) => true,
            Self::Halt(_) => !matches!(sqlstate, "42501" | "XX001" | "XX002"),
            Self::Retry | Self::Shrink | Self::Hold(..) => false,
        };
        if has_context && is_functions_own {
            Self::Hold(Reason::RejectedByTarget, BY_TRIGGER)
        } else {
            Self::of_code(sqlstate)
        }
    }

    fn of_code(sqlstate: &str) -> Self {
        match sqlstate {
            "21000" => Self::Hold(Reason::DuplicateId, "has the key of another row of the same batch"),

            "22001" => Self::Hold(Reason::TooLong, "is too long for its column"),
            "22003" => Self::Hold(Reason::OutOfRange, "is out of range for its column"),
            "22007" | "22008" => Self::Hold(Reason::InvalidDate, "is no date or time that PostgreSQL takes"),
            "22P05" => Self::Hold(Reason::NulCharacter, "has a character that PostgreSQL cannot store"),
            "22021" => Self::Hold(Reason::InvalidUtf8, "has bytes that are no text in UTF-8"),
            "22P02" | "22P03" | "22018" | "22000" => {
                Self::Hold(Reason::WrongType, "is no value of its column's type")
            }

            "23502" => Self::Hold(Reason::MissingRequired, "is null, and the column takes none"),
            "23503" | "23001" => Self::Hold(Reason::ForeignKeyViolation, "violates foreign key"),
            "23505" => Self::Hold(Reason::UniqueViolation, "violates unique key"),
            "23514" => Self::Hold(Reason::Constraint, "violates check constraint"),
            "23P01" => Self::Hold(Reason::Constraint, "violates exclusion constraint"),
            "44000" => Self::Hold(Reason::Constraint, "violates the check option of a view"),

            // Deferred to a later look: the catalog says what is gone and whether the mapping still fits.
            "42703" | "42P01" | "42P10" | "42704" | "42804" | "42846" | "42883" | "42809" | "428C9"
            | "3F000" | "0A000" => Self::Refresh,

            "42501" => Self::Halt(GRANT),
            "3D000" => Self::Halt("create the database, or correct its name"),
            "55P03" | "57014" => Self::Shrink,
            "55006" => Self::Retry,
            "55000" => Self::Halt("the table does not take writes: check replica identity and publications"),
            "54001" => Self::Hold(Reason::RejectedByTarget, "is nested too deeply for PostgreSQL"),
            "54000" => {
                Self::Hold(Reason::RejectedByTarget, "is too large for the table or one of its indexes")
            }
            "26000" | "42P05" => Self::Halt(POOLER),
            // A server that is promoted or demoted is read-only for a while; 25P02 follows another error.
            "25006" | "25P02" | "25P03" | "25P04" => Self::Retry,
            "XX001" | "XX002" => Self::Halt("PostgreSQL reports corrupted data: check the server"),
            // "tuple concurrently updated", "could not open relation" during DDL: gone at the next try. But also
            // a value that an extension's type does not take: PostGIS says so for every bad geometry.
            "XX000" => Self::Suspect("fails inside PostgreSQL or an extension"),

            _ => Self::of_class(sqlstate.get(..2).unwrap_or_default()),
        }
    }

    fn of_class(class: &str) -> Self {
        match class {
            "08" | "40" | "53" | "57" | "58" | "72" | "F0" => Self::Retry,
            "22" => Self::Hold(Reason::RejectedByTarget, "is no value that PostgreSQL takes"),
            "23" => Self::Hold(Reason::Constraint, "violates constraint"),
            "54" => Self::Hold(Reason::RejectedByTarget, "exceeds a limit of PostgreSQL"),
            // Raised by the user's triggers and functions.
            "P0" | "38" | "39" | "2F" | "09" | "27" => Self::Hold(Reason::RejectedByTarget, BY_TRIGGER),
            "28" => Self::Halt(CREDENTIALS),
            "42" => Self::Halt("PostgreSQL does not take the statement: check the mapping against the table"),
            _ => Self::Halt("unexpected answer of PostgreSQL: check its log"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_reads_as_one_table() {
        let codes = [
            "08006", "09000", "0A000", "21000", "22000", "22001", "22003", "22007", "22008", "22021",
            "22P02", "22P03", "22P05", "22012", "23000", "23001", "23502", "23503", "23505", "23514",
            "23P01", "25001", "25006", "25P02", "25P03", "26000", "27000", "28P01", "2F000", "38000",
            "39000", "3D000", "3F000", "40001", "40P01", "42501", "42601", "42703", "42704", "42804",
            "42846", "42883", "42809", "428C9", "42P01", "42P05", "42P10", "44000", "53100", "53300",
            "54000", "54001", "54023", "55000", "55006", "55P03", "57014", "57P01", "57P02", "57P03",
            "58030", "72000", "F0000", "P0001", "XX000", "XX001", "99999",
        ];
        let table: String = codes
            .iter()
            .map(|code| match Verdict::of(code, false) {
                Verdict::Retry => format!("{code} retry\n"),
                Verdict::Shrink => format!("{code} shrink\n"),
                Verdict::Refresh => format!("{code} refresh\n"),
                Verdict::Hold(reason, why) => format!("{code} hold    {}: {why}\n", reason.as_str()),
                Verdict::Suspect(why) => format!("{code} suspect {why}\n"),
                Verdict::Halt(hint) => format!("{code} halt    {hint}\n"),
            })
            .collect();
        insta::assert_snapshot!(table);
    }

    #[test]
    fn what_a_users_function_names_is_no_change_of_the_catalog() {
        let held = Verdict::Hold(Reason::RejectedByTarget, BY_TRIGGER);
        for code in ["42P01", "42703", "42601", "0A000", "3F000", "XX000", "55000", "28000", "99999"] {
            assert_eq!(Verdict::of(code, true), held, "{code}");
            assert_ne!(Verdict::of(code, false), held, "{code}");
        }
        for code in ["42501", "XX001", "40P01", "23503"] {
            assert_eq!(Verdict::of(code, true), Verdict::of(code, false), "{code}");
        }
        assert!(names_no_value("42P01", false) && !names_no_value("42P01", true));
    }

    #[test]
    fn a_rejection_names_the_constraint_and_no_value() {
        let mut error = ServerError::unnamed("23514".into());
        error.constraint = Some("transactions_amount_check".into());
        let Disposition::Hold(rejection) = error.disposition() else { panic!("a check is held") };
        assert_eq!(rejection.to_string(), "violates check constraint transactions_amount_check (23514)");
        assert_eq!(rejection.reason, Reason::Constraint);
    }

    #[test]
    fn an_unknown_enum_label_is_told_from_other_bad_input() {
        let mut error = ServerError::unnamed("22P02".into());
        error.routine = Some("enum_in".into());
        let Disposition::Hold(rejection) = error.disposition() else { panic!("bad input is held") };
        assert_eq!(rejection.reason, Reason::UnknownEnumLabel);
    }

    #[test]
    fn only_connection_trouble_is_retried_without_a_sqlstate() {
        let table = TableName { schema: "public".into(), name: "t".into() };
        let disposition = |source| Error::from_sqlx(&table, "merge rows", source).disposition();
        assert_eq!(disposition(sqlx::Error::PoolTimedOut), Disposition::Retry);
        assert_eq!(disposition(sqlx::Error::Io(std::io::ErrorKind::BrokenPipe.into())), Disposition::Retry);
        assert_eq!(disposition(sqlx::Error::RowNotFound), Disposition::Halt { hint: REPORT });
    }
}
