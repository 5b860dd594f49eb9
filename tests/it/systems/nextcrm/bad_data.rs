//! Makes what `bad_data.md` lists: a good document of the collection with one thing wrong.

use bson::{Bson, DateTime, Decimal128, Document, doc, oid::ObjectId};

use super::generator::{Size, another, id};

/// One line of the table, made.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) collection: &'static str,
    pub(super) kind: &'static str,
    pub(super) bad: Document,
    /// As it is after somebody has repaired it.
    pub(super) good: Document,
    /// What the oracle cannot know: the value of a column after its rule.
    pub(super) columns: Vec<(&'static str, Option<&'static str>)>,
}

type Columns = &'static [(&'static str, Option<&'static str>)];

/// Collection, kind, what to do to a good document, and what its columns are in spite of it.
type Maker = (&'static str, &'static str, fn(&mut Document), Columns);

/// In no collection, until somebody inserts it.
pub(super) fn missing(collection: &str) -> ObjectId {
    id(collection, 999_999_999)
}

pub(super) fn cases() -> Vec<Case> {
    let case = |(number, &(collection, kind, spoil, columns)): (usize, &Maker)| {
        let mut good = another(collection, number, Size::Small);
        complete(collection, &mut good);
        let mut bad = good.clone();
        spoil(&mut bad);
        Case { collection, kind, bad, good, columns: columns.to_vec() }
    };
    MAKERS.iter().enumerate().map(case).collect()
}

/// What some cases take apart must be there to begin with.
fn complete(collection: &str, document: &mut Document) {
    let target = |target| Bson::ObjectId(id(target, 1));
    let fields: &[(&str, Bson)] = match collection {
        "crm_Opportunities" => &[("createdAt", Bson::DateTime(DateTime::from_millis(1_600_000_000_000)))],
        "Boards" => &[("sharedWith", Bson::Array(vec![target("Users")]))],
        _ => &[],
    };
    for (name, value) in fields {
        document.insert(*name, value.clone());
    }
}

fn set(document: &mut Document, field: &str, value: impl Into<Bson>) {
    document.insert(field, value);
}

fn ids<const N: usize>(ids: [ObjectId; N]) -> Bson {
    Bson::Array(ids.into_iter().map(Bson::ObjectId).collect())
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse::<Decimal128>().unwrap_or_else(|_| unreachable!("{text} is a decimal")))
}

const MAKERS: &[Maker] = &[
    ("crm_Accounts", "dangling_ref", |d| set(d, "assigned_to", missing("Users")), &[]),
    (
        "crm_Contacts",
        "dangling_ref",
        |d| {
            set(d, "account", missing("crm_Accounts"));
            set(d, "createdBy", missing("Users"));
        },
        &[],
    ),
    ("Documents", "dangling_ref", |d| set(d, "assigned_user", missing("Users")), &[]),
    ("Boards", "dangling_ref", |d| set(d, "user", missing("Users")), &[]),
    ("Sections", "dangling_ref", |d| set(d, "board", missing("Boards")), &[]),
    ("openAi_keys", "dangling_ref", |d| set(d, "user", missing("Users")), &[]),
    ("tasksComments", "dangling_ref user", |d| set(d, "user", missing("Users")), &[]),
    (
        "tasksComments",
        "dangling_ref task",
        |d| {
            set(d, "task", missing("Tasks"));
            d.remove("assigned_crm_account_task");
        },
        &[],
    ),
    (
        "Boards",
        "dangling_ref in a column of ids",
        |d| set(d, "sharedWith", ids([id("Users", 1), missing("Users"), id("Users", 2)])),
        &[],
    ),
    (
        "Documents",
        "dangling_array_ref",
        |d| set(d, "invoiceIDs", ids([missing("Invoices"), id("Invoices", 3)])),
        &[],
    ),
    (
        "crm_Accounts",
        "dangling_array_ref",
        |d| set(d, "watchers", ids([id("Users", 4), missing("Users")])),
        &[],
    ),
    (
        "Invoices",
        "dangling_array_ref from the other side",
        |d| set(d, "connected_documents", ids([missing("Documents"), id("Documents", 5)])),
        &[],
    ),
    (
        "Documents",
        "duplicate_array_ref",
        |d| set(d, "tasksIDs", ids([id("Tasks", 6), id("Tasks", 7), id("Tasks", 6)])),
        &[],
    ),
    (
        "Documents",
        "array_ref_not_array one id",
        |d| set(d, "opportunityIDs", id("crm_Opportunities", 8)),
        &[],
    ),
    (
        "Users",
        "array_ref_not_array one id, on the other side",
        |d| set(d, "watching_accountsIDs", id("crm_Accounts", 9)),
        &[],
    ),
    ("Documents", "array_ref_not_array \"\"", |d| set(d, "contactsIDs", ""), &[]),
    (
        "Documents",
        "array_ref_not_array an object",
        |d| set(d, "leadsIDs", doc! { "id": id("crm_Leads", 1) }),
        &[],
    ),
    ("Boards", "array_ref_not_array in a column of ids", |d| set(d, "sharedWith", id("Users", 1)), &[]),
    ("Documents", "one_sided_link", |d| set(d, "accountsIDs", ids([id("crm_Accounts", 10)])), &[]),
    (
        "Invoices",
        "one_sided_link from the other side",
        |d| set(d, "connected_documents", ids([id("Documents", 11)])),
        &[],
    ),
    ("crm_Leads", "malformed_ref \"undefined\"", |d| set(d, "assigned_to", "undefined"), &[]),
    ("crm_Leads", "malformed_ref \"\"", |d| set(d, "accountsIDs", ""), &[]),
    ("crm_Opportunities", "malformed_ref number", |d| set(d, "account", 12_345), &[]),
    (
        "crm_Opportunities",
        "malformed_ref object",
        |d| set(d, "contact", doc! { "id": id("crm_Contacts", 1) }),
        &[],
    ),
    ("crm_Leads", "malformed_ref array", |d| set(d, "assigned_to", ids([id("Users", 1)])), &[]),
    ("Boards", "malformed_ref \"null\"", |d| set(d, "user", "null"), &[]),
    ("crm_Accounts", "ref_as_string", |d| set(d, "assigned_to", id("Users", 12).to_hex()), &[]),
    ("Boards", "ref_as_string required", |d| set(d, "user", id("Users", 13).to_hex()), &[]),
    ("Tasks", "ref_as_string in capitals", |d| set(d, "user", id("Users", 14).to_hex().to_uppercase()), &[]),
    (
        "Documents",
        "ref_as_string in an array",
        |d| set(d, "tasksIDs", vec![id("Tasks", 15).to_hex(), id("Tasks", 16).to_hex()]),
        &[],
    ),
    (
        "crm_Opportunities",
        "unknown_enum \"Active\"",
        |d| set(d, "status", "Active"),
        &[("status", Some("ACTIVE"))],
    ),
    ("crm_Opportunities", "unknown_enum \"WON\"", |d| set(d, "status", "WON"), &[]),
    ("crm_Opportunities", "unknown_enum \"\"", |d| set(d, "status", ""), &[("status", None)]),
    ("Users", "unknown_enum \"en-US\"", |d| set(d, "userLanguage", "en-US"), &[("userLanguage", Some("en"))]),
    ("Users", "unknown_enum \"BANNED\"", |d| set(d, "userStatus", "BANNED"), &[]),
    ("gpt_models", "unknown_enum \"active\"", |d| set(d, "status", "active"), &[]),
    (
        "Documents",
        "unknown_enum \"PHOTO\"",
        |d| set(d, "document_system_type", "PHOTO"),
        &[("document_system_type", Some("OTHER"))],
    ),
    ("Tasks", "unknown_enum \"Done\"", |d| set(d, "taskStatus", "Done"), &[("taskStatus", None)]),
    (
        "crm_Contracts",
        "unknown_enum \"DRAFT\"",
        |d| set(d, "status", "DRAFT"),
        &[("status", Some("NOTSTARTED"))],
    ),
    ("Users", "missing_required", |d| drop(d.remove("email")), &[]),
    ("crm_Leads", "missing_required", |d| drop(d.remove("lastName")), &[]),
    ("Invoices", "missing_required", |d| drop(d.remove("invoice_file_url")), &[]),
    ("tasksComments", "missing_required", |d| drop(d.remove("createdAt")), &[]),
    ("Boards", "missing_required reference", |d| drop(d.remove("user")), &[]),
    ("crm_Accounts", "missing_required with a default", |d| drop(d.remove("__v")), &[]),
    ("crm_Opportunities", "missing_required with another path", |d| drop(d.remove("createdAt")), &[]),
    ("Users", "null_required", |d| set(d, "email", Bson::Null), &[]),
    ("Tasks", "null_required", |d| set(d, "title", Bson::Null), &[]),
    ("Users", "null_required boolean", |d| set(d, "is_admin", Bson::Null), &[]),
    ("crm_Contacts", "null_required boolean with a default", |d| set(d, "status", Bson::Null), &[]),
    (
        "crm_Contracts",
        "invalid_date with dots",
        |d| set(d, "startDate", "31.12.2023"),
        &[("startDate", Some("2023-12-31 00:00:00"))],
    ),
    (
        "Tasks",
        "invalid_date day alone",
        |d| set(d, "dueDateAt", "2024-01-15"),
        &[("dueDateAt", Some("2024-01-15 00:00:00"))],
    ),
    ("crm_Contracts", "invalid_date with slashes", |d| set(d, "endDate", "03/04/2023"), &[]),
    ("Tasks", "invalid_date \"next week\"", |d| set(d, "dueDateAt", "next week"), &[]),
    (
        "Users",
        "invalid_date text where the program writes dates",
        |d| set(d, "created_on", "2024-01-01T00:00:00Z"),
        &[],
    ),
    ("Invoices", "date_as_number", |d| set(d, "date_due", 1_700_000_000), &[]),
    (
        "crm_Leads",
        "date_as_number where the program writes dates",
        |d| set(d, "createdAt", 1_700_000_000_000_i64),
        &[],
    ),
    (
        "crm_Opportunities",
        "date_out_of_range year 275760",
        |d| set(d, "close_date", DateTime::from_millis(8_640_000_000_000_000)),
        &[("close_date", Some("275760-09-13 00:00:00"))],
    ),
    (
        "crm_Opportunities",
        "date_out_of_range before year 1",
        |d| set(d, "close_date", DateTime::from_millis(-62_167_219_200_000)),
        &[("close_date", Some("0001-01-01 00:00:00 BC"))],
    ),
    (
        "crm_Opportunities",
        "date_out_of_range the last BSON date",
        |d| set(d, "close_date", DateTime::from_millis(i64::MAX)),
        &[],
    ),
    (
        "tasksComments",
        "nul_char in free text",
        |d| set(d, "comment", "before\0after"),
        &[("comment", Some("beforeafter"))],
    ),
    ("crm_Accounts", "nul_char in a name", |d| set(d, "name", "A\0cme"), &[]),
    ("Tasks", "nul_char in JSON", |d| set(d, "tags", doc! { "tag": "x\0" }), &[]),
    ("crm_Accounts", "wrong_type_string number", |d| set(d, "company_id", 42), &[("company_id", Some("42"))]),
    (
        "Invoices",
        "wrong_type_string fraction",
        |d| set(d, "invoice_amount", 1250.5),
        &[("invoice_amount", Some("1250.5"))],
    ),
    (
        "crm_Leads",
        "wrong_type_string object",
        |d| set(d, "phone", doc! { "home": "123" }),
        &[("phone", Some("{\"home\":\"123\"}"))],
    ),
    ("crm_Accounts", "wrong_type_string number as a name", |d| set(d, "name", 42), &[]),
    ("crm_Contacts", "wrong_type_string list", |d| set(d, "first_name", vec!["Ann", "Bob"]), &[]),
    (
        "crm_Contacts",
        "wrong_type_string in an array",
        |d| set(d, "tags", vec![Bson::from("text"), Bson::from(1)]),
        &[],
    ),
    (
        "crm_Contacts",
        "wrong_type_string text for an array",
        |d| set(d, "notes", "a note"),
        &[("notes", Some("[\"a note\"]"))],
    ),
    ("crm_Opportunities", "number_as_string", |d| set(d, "budget", "12500"), &[("budget", Some("12500"))]),
    ("crm_Opportunities", "number_as_string with a separator", |d| set(d, "budget", "12,500"), &[]),
    ("crm_Contracts", "number_as_string where no rule reads it", |d| set(d, "value", "12500"), &[]),
    ("crm_Opportunities", "number_not_integer", |d| set(d, "budget", 12.75), &[]),
    ("Tasks", "number_not_integer of a place", |d| set(d, "position", 12.75), &[("position", Some("13"))]),
    (
        "Tasks",
        "number_not_integer decimal",
        |d| set(d, "position", decimal("2.5")),
        &[("position", Some("3"))],
    ),
    (
        "Employees",
        "number_not_integer whole decimal",
        |d| set(d, "salary", decimal("1000")),
        &[("salary", Some("1000"))],
    ),
    ("crm_Opportunities", "number_out_of_range 2^40", |d| set(d, "expected_revenue", 1_i64 << 40), &[]),
    ("Documents", "number_out_of_range 2^40 as a size", |d| set(d, "size", 1_i64 << 40), &[("size", None)]),
    (
        "Boards",
        "number_out_of_range 2^40 as a place",
        |d| set(d, "position", 1_i64 << 40),
        &[("position", Some("2147483647"))],
    ),
    ("Employees", "number_out_of_range NaN", |d| set(d, "salary", f64::NAN), &[]),
    ("Employees", "number_out_of_range Infinity", |d| set(d, "salary", f64::INFINITY), &[]),
    ("modulStatus", "bool_as_string \"true\"", |d| set(d, "isVisible", "true"), &[("isVisible", Some("t"))]),
    ("crm_Contacts", "bool_as_string \"yes\"", |d| set(d, "status", "yes"), &[("status", Some("t"))]),
    ("system_Modules_Enabled", "bool_as_string 1", |d| set(d, "enabled", 1), &[("enabled", Some("t"))]),
    ("Invoices", "bool_as_string \"maybe\"", |d| set(d, "favorite", "maybe"), &[]),
    ("Users", "bool_as_string of a right", |d| set(d, "is_admin", "true"), &[]),
    ("Users", "duplicate_natural_key", |d| set(d, "email", "user.0@crm.example"), &[]),
    ("Users", "duplicate_natural_key but for case", |d| set(d, "email", "User.1@CRM.example"), &[]),
    (
        "Users",
        "duplicate_natural_key not at all",
        |d| set(d, "email", " Nobody.Else@CRM.example"),
        &[("email", Some("nobody.else@crm.example"))],
    ),
    (
        "Users",
        "unknown_field",
        |d| {
            set(d, "legacyField", doc! { "any": "thing" });
            set(d, "Name", "in capitals");
            set(d, "", "a field without a name");
        },
        &[],
    ),
    (
        "tasksComments",
        "oddity comment on an account's task",
        |d| {
            set(d, "task", id("crm_Accounts_Tasks", 17));
            d.remove("assigned_crm_account_task");
        },
        &[],
    ),
    ("crm_Contacts", "oddity glued birthday", |d| set(d, "birthday", "undefined/undefined/undefined"), &[]),
    ("Invoices", "oddity money in words", |d| set(d, "invoice_amount", "1 234,50 Kč"), &[]),
    (
        "crm_Accounts",
        "oddity absent, null and \"\"",
        |d| {
            d.remove("website");
            set(d, "vat", Bson::Null);
            set(d, "fax", "");
        },
        &[],
    ),
    ("Documents", "oddity long text", |d| set(d, "description", "🙂 long ".repeat(4_500)), &[]),
    ("crm_Accounts", "oddity leading zeros", |d| set(d, "company_id", "00012345"), &[]),
    (
        "Tasks",
        "oddity JSON",
        |d| set(d, "tags", doc! { "a.dotted.name": 9_007_199_254_740_993_i64, "list": [1, "1", null] }),
        &[],
    ),
    (
        "Documents",
        "oddity dead ids in text",
        |d| set(d, "connected_documents", vec![missing("Documents").to_hex()]),
        &[],
    ),
];
