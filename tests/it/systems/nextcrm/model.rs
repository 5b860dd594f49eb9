//! NextCRM's collections, as `collections.txt` lists them, and its ten junctions.

use std::sync::LazyLock;

/// One collection and its table, which have one name.
#[derive(Debug)]
pub(super) struct Collection {
    pub(super) name: &'static str,
    pub(super) columns: Vec<Column>,
    /// Key, then every column in a form whose text is the same on both sides.
    pub(super) select: &'static str,
}

#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
    /// As PostgreSQL prints it: what an absent field stands for.
    pub(super) default: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Text,
    Enum(&'static str),
    Bool,
    Date,
    Ref(&'static str),
    Refs(&'static str),
    Texts,
    Json,
}

impl Kind {
    fn read(text: &'static str) -> Self {
        let (word, of) = text.split_once(':').unwrap_or((text, ""));
        match word {
            "int" => Self::Int,
            "text" => Self::Text,
            "enum" => Self::Enum(of),
            "bool" => Self::Bool,
            "date" => Self::Date,
            "ref" => Self::Ref(of),
            "refs" => Self::Refs(of),
            "texts" => Self::Texts,
            "json" => Self::Json,
            other => unreachable!("collections.txt has no kind {other}"),
        }
    }

    /// The column's type, as `format_type` gives it.
    pub(super) fn sql_type(self) -> String {
        match self {
            Self::Int => "integer".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Enum(name) => format!("\"{name}\""),
            Self::Bool => "boolean".to_owned(),
            Self::Date => "timestamp(3) without time zone".to_owned(),
            Self::Ref(_) => "uuid".to_owned(),
            Self::Refs(_) => "uuid[]".to_owned(),
            Self::Texts => "text[]".to_owned(),
            Self::Json => "jsonb".to_owned(),
        }
    }

    /// Arrays have more than one text; as JSON they have one.
    pub(super) fn is_json(self) -> bool {
        matches!(self, Self::Refs(_) | Self::Texts | Self::Json)
    }
}

impl Column {
    /// What holds the value: the field of the column's name, and where the mapping has a list of paths, the others.
    pub(super) fn fields(&self, collection: &str) -> Vec<&'static str> {
        match (collection, self.name) {
            ("crm_Opportunities", "createdAt") => vec!["createdAt", "created_on"],
            ("Invoices", "last_updated") => vec!["last_updated", "date_created"],
            ("tasksComments", "assigned_crm_account_task") => vec!["assigned_crm_account_task", "task"],
            (_, name) => vec![name],
        }
    }
}

pub(super) static COLLECTIONS: LazyLock<Vec<Collection>> = LazyLock::new(|| {
    let mut collections: Vec<Collection> = Vec::new();
    for line in include_str!("collections.txt").lines().filter(|line| !line.starts_with('#')) {
        match (line.strip_prefix("    "), collections.last_mut()) {
            (Some(columns), Some(collection)) => collection.columns.extend(read_columns(columns)),
            (None, _) if !line.is_empty() => {
                collections.push(Collection { name: line, columns: Vec::new(), select: "" });
            }
            (Some(_) | None, _) => {}
        }
    }
    for collection in &mut collections {
        let columns = collection.columns.iter().map(|column| {
            let name = column.name;
            if column.kind.is_json() {
                format!(", to_jsonb(\"{name}\") as \"{name}\"")
            } else {
                format!(", \"{name}\"")
            }
        });
        collection.select =
            format!("select id{} from \"{}\"", columns.collect::<String>(), collection.name).leak();
    }
    collections
});

fn read_columns(line: &'static str) -> impl Iterator<Item = Column> {
    let (kind, names) = line.split_once(' ').unwrap_or((line, ""));
    let (kind, default) = kind.split_once('=').map_or((kind, None), |(kind, default)| (kind, Some(default)));
    let (kind, required) = kind.strip_suffix('!').map_or((kind, false), |kind| (kind, true));
    let kind = Kind::read(kind);
    names.split_whitespace().map(move |name| Column { name, kind, required, default })
}

pub(super) fn collection(name: &str) -> &'static Collection {
    let found = COLLECTIONS.iter().find(|collection| collection.name == name);
    found.unwrap_or_else(|| unreachable!("NextCRM has no collection {name}"))
}

/// One array of ids in a collection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    pub(super) collection: &'static str,
    /// `None`: this side keeps nothing.
    pub(super) array: Option<&'static str>,
    /// The junction's column that refers to this side.
    pub(super) column: &'static str,
}

#[derive(Debug)]
pub(super) struct Junction {
    pub(super) table: &'static str,
    pub(super) left: Side,
    pub(super) right: Side,
}

impl Junction {
    pub(super) fn select(&self) -> &'static str {
        let (left, right) = (self.left.column, self.right.column);
        format!("select \"{left}\" || ' ' || \"{right}\" as pair from \"{}\"", self.table).leak()
    }
}

const fn side(collection: &'static str, array: &'static str, column: &'static str) -> Side {
    Side { collection, array: Some(array), column }
}

const fn junction(table: &'static str, left: Side, right: Side) -> Junction {
    Junction { table, left, right }
}

pub(super) const JUNCTIONS: [Junction; 10] = [
    junction(
        "DocumentsToInvoices",
        side("Documents", "invoiceIDs", "document_id"),
        side("Invoices", "connected_documents", "invoice_id"),
    ),
    junction(
        "DocumentsToOpportunities",
        side("Documents", "opportunityIDs", "document_id"),
        side("crm_Opportunities", "connected_documents", "opportunity_id"),
    ),
    junction(
        "DocumentsToContacts",
        side("Documents", "contactsIDs", "document_id"),
        side("crm_Contacts", "documentsIDs", "contact_id"),
    ),
    junction(
        "DocumentsToTasks",
        side("Documents", "tasksIDs", "document_id"),
        side("Tasks", "documentIDs", "task_id"),
    ),
    junction(
        "DocumentsToCrmAccountsTasks",
        side("Documents", "crm_accounts_tasksIDs", "document_id"),
        Side { collection: "crm_Accounts_Tasks", array: None, column: "crm_accounts_task_id" },
    ),
    junction(
        "DocumentsToLeads",
        side("Documents", "leadsIDs", "document_id"),
        side("crm_Leads", "documentsIDs", "lead_id"),
    ),
    junction(
        "DocumentsToAccounts",
        side("Documents", "accountsIDs", "document_id"),
        side("crm_Accounts", "documentsIDs", "account_id"),
    ),
    junction(
        "AccountWatchers",
        side("crm_Accounts", "watchers", "account_id"),
        side("Users", "watching_accountsIDs", "user_id"),
    ),
    junction(
        "BoardWatchers",
        side("Boards", "watchers", "board_id"),
        side("Users", "watching_boardsIDs", "user_id"),
    ),
    junction(
        "ContactsToOpportunities",
        side("crm_Contacts", "opportunitiesIDs", "contact_id"),
        side("crm_Opportunities", "connected_contacts", "opportunity_id"),
    ),
];
