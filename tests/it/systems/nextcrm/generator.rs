//! NextCRM's MongoDB, made up: the same seed gives the same documents everywhere. Nothing in them is bad data, but all
//! of the source's oddities are here: absent, null and "" side by side, comments on the wrong kind of task, glued
//! birthdays, money in words, pairs that only one side lists.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Bson, DateTime, Document, doc, oid::ObjectId};

use super::model::{COLLECTIONS, Collection, Column, JUNCTIONS, Kind};

/// Documents by collection.
pub(super) type Documents = BTreeMap<&'static str, Vec<Document>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// Some hundred documents.
    Small,
    /// Ten thousand in each of the collections that grow with use.
    Large,
}

impl Size {
    pub(super) fn count(self, collection: &str) -> usize {
        let (small, large) = match collection {
            "Users" | "crm_Accounts" | "crm_Contacts" | "crm_Opportunities" | "Tasks" | "Documents" => {
                (40, 10_000)
            }
            "crm_Leads" | "crm_Accounts_Tasks" | "tasksComments" | "Invoices" => (30, 3_000),
            "crm_Contracts" => (15, 2_000),
            "Boards" => (10, 500),
            "Sections" => (20, 1_500),
            "openAi_keys" | "secondBrain_notions" | "TodoList" => (4, 1_000),
            _ => (5, 12),
        };
        match self {
            Self::Small => small,
            Self::Large => large,
        }
    }
}

/// The id of the `number`th document of a collection.
pub(super) fn id(collection: &str, number: usize) -> ObjectId {
    let place = COLLECTIONS.iter().position(|known| known.name == collection);
    let mut bytes = [0x65; 12];
    bytes[3] = place.map_or(0xff, |place| place as u8);
    bytes[4..].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    ObjectId::from_bytes(bytes)
}

pub(super) fn generate(seed: u64, size: Size) -> Documents {
    let mut random = Random(seed);
    let mut documents: Documents = COLLECTIONS
        .iter()
        .map(|collection| {
            let made = (0..size.count(collection.name))
                .map(|number| document(&mut random, collection, number, size));
            (collection.name, made.collect())
        })
        .collect();
    link(&mut random, &mut documents, size);
    documents
}

/// A document like the others, with a number that none of them has.
pub(super) fn another(collection: &str, number: usize, size: Size) -> Document {
    document(&mut Random(number as u64), super::model::collection(collection), 1_000_000 + number, size)
}

fn document(random: &mut Random, collection: &Collection, number: usize, size: Size) -> Document {
    let mut document = doc! { "_id": id(collection.name, number) };
    for column in &collection.columns {
        if let Some(value) = value(random, collection.name, column, number, size) {
            document.insert(column.name, value);
        }
    }
    if collection.name == "tasksComments" && random.below(4) == 0 {
        // The comment form of an account's tasks.
        document.insert("task", some_id(random, "crm_Accounts_Tasks", size));
    }
    document
}

fn value(random: &mut Random, collection: &str, column: &Column, number: usize, size: Size) -> Option<Bson> {
    let always = match (collection, column.name) {
        // Whatever it points at, every comment has it.
        ("tasksComments", "task") => true,
        // The other path of these may be what stands in.
        ("crm_Opportunities", "created_on") | ("Invoices", "date_created") => true,
        _ => column.required && column.default.is_none(),
    };
    if !always {
        let nothing = match column.kind {
            Kind::Text if !column.required => [None, Some(Bson::Null), Some(Bson::String(String::new()))],
            Kind::Texts | Kind::Refs(_) => [None, None, Some(Bson::Array(Vec::new()))],
            _ if column.required => [None, None, None],
            _ => [None, None, Some(Bson::Null)],
        };
        if random.below(100) < 25 {
            return nothing[random.below(3) as usize].clone();
        }
    }
    Some(match column.kind {
        Kind::Int => Bson::Int32(random.below(100_000) as i32),
        Kind::Text => Bson::String(text(random, collection, column.name, number)),
        Kind::Enum(name) => Bson::String((*random.pick(labels(name))).to_owned()),
        Kind::Bool => Bson::Boolean(random.below(2) == 0),
        Kind::Date => Bson::DateTime(date(random)),
        Kind::Ref(target) => Bson::ObjectId(some_id(random, target, size)),
        Kind::Refs(target) => {
            let count = random.below(4);
            Bson::Array((0..count).map(|_| Bson::ObjectId(some_id(random, target, size))).collect())
        }
        Kind::Texts => {
            let count = random.below(4);
            Bson::Array((0..count).map(|_| Bson::String((*random.pick(TEXTS)).to_owned())).collect())
        }
        Kind::Json => json(random),
    })
}

fn text(random: &mut Random, collection: &str, name: &str, number: usize) -> String {
    let text = match (collection, name) {
        ("Users", "email") => return format!("user.{number}@crm.example"),
        ("crm_Contacts", "birthday") => {
            random.pick(&["undefined/undefined/undefined", "//", "7/undefined/1980", "31/12/1999"])
        }
        (_, "company_id" | "invoice_number") => return format!("{:08}", random.below(1_000_000)),
        (_, "annual_revenue" | "invoice_amount") => {
            random.pick(&["1 234,50 Kč", "12.5 million", "€ 1.000", "100000", "a lot"])
        }
        (_, "currency" | "invoice_currency") => {
            random.pick(&["CZK", "Czech crowns", "€", "US dollars, mostly"])
        }
        (_, "createdAt") => random.pick(&["2023-11-02", "Thu Nov 02 2023", "2 Nov"]),
        (_, "priority") => random.pick(&["low", "normal", "medium", "high", "critical"]),
        (_, "visibility") => random.pick(&["public", "private"]),
        ("Documents" | "tasksComments" | "crm_Leads", "description" | "comment") if random.below(60) == 0 => {
            return "A long story. ".repeat(1 + random.below(2_900) as usize);
        }
        _ => random.pick(TEXTS),
    };
    (*text).to_owned()
}

const TEXTS: &[&str] = &[
    "Acme",
    "Nováková & synové, s.r.o.",
    "O'Brien \"Bob\"",
    "tab\there",
    "two\nlines",
    "back\\slash",
    "zero\u{200b}width",
    "🙂 emoji 👩‍👩‍👧",
    "{braces,and commas}",
    "NULL",
    " blanks at both ends ",
    "00042",
    "+420 777 123 456",
    "https://crm.example/?a=b&c=d%20e",
    "Ελληνικά, 日本語, עברית",
];

pub(super) fn labels(of: &str) -> &'static [&'static str] {
    match of {
        "crm_Opportunity_Status" => &["ACTIVE", "INACTIVE", "PENDING", "CLOSED"],
        "crm_Contracts_Status" => &["NOTSTARTED", "INPROGRESS", "SIGNED"],
        "DocumentSystemType" => &["INVOICE", "RECEIPT", "CONTRACT", "OFFER", "OTHER"],
        "taskStatus" => &["ACTIVE", "PENDING", "COMPLETE"],
        "ActiveStatus" => &["ACTIVE", "INACTIVE", "PENDING"],
        "Language" => &["cz", "en", "de", "uk"],
        "gptStatus" => &["ACTIVE", "INACTIVE"],
        other => unreachable!("no column has the enum {other}"),
    }
}

fn date(random: &mut Random) -> DateTime {
    // 2015 to 2025; one in three at a whole second, as forms send it.
    let seconds = 1_420_070_400 + random.below(347_000_000) as i64;
    let milliseconds = if random.below(3) == 0 { 0 } else { random.below(1_000) as i64 };
    DateTime::from_millis(seconds * 1_000 + milliseconds)
}

fn json(random: &mut Random) -> Bson {
    match random.below(6) {
        0 => Bson::Array(Vec::new()),
        1 => Bson::Array(vec!["urgent".into(), "🙂".into()]),
        2 => Bson::Document(
            doc! { "a.dotted.name": 1, "": "a field without a name", "nested": { "list": [1, 2.5, null] } },
        ),
        3 => Bson::Document(
            doc! { "above 2^53": 9_007_199_254_740_993_i64, "whole double": 2.0, "large": 1e300 },
        ),
        4 => Bson::Document(
            doc! { "when": DateTime::from_millis(1_700_000_000_120), "who": ObjectId::from_bytes([7; 12]) },
        ),
        _ => Bson::String("text, \"quoted\"\n".to_owned()),
    }
}

pub(super) fn some_id(random: &mut Random, collection: &str, size: Size) -> ObjectId {
    id(collection, random.below(size.count(collection) as u64) as usize)
}

/// Fills the arrays of both sides: most pairs are in both, some in one alone.
fn link(random: &mut Random, documents: &mut Documents, size: Size) {
    for junction in &JUNCTIONS {
        let sides = [junction.left, junction.right];
        let counts = sides.map(|side| size.count(side.collection) as u64);
        let pairs: BTreeSet<[usize; 2]> =
            (0..counts[0] * 4 / 5).map(|_| counts.map(|count| random.below(count) as usize)).collect();
        let mut arrays: [BTreeMap<usize, Vec<Bson>>; 2] = Default::default();
        for pair in pairs {
            let only = match random.below(5) {
                0 => Some(0),
                1 => Some(1),
                _ => None,
            };
            for (place, side) in sides.iter().enumerate() {
                let lists = only.is_none_or(|only| only == place) || sides[1 - place].array.is_none();
                if side.array.is_some() && lists {
                    let other = id(sides[1 - place].collection, pair[1 - place]);
                    arrays[place].entry(pair[place]).or_default().push(Bson::ObjectId(other));
                }
            }
        }
        for (side, mut arrays) in sides.iter().zip(arrays) {
            let Some(array) = side.array else { continue };
            for (number, document) in documents.entry(side.collection).or_default().iter_mut().enumerate() {
                match arrays.remove(&number) {
                    Some(ids) => {
                        document.insert(array, ids);
                    }
                    // Emptied, where it is not absent.
                    None if random.below(3) == 0 => {
                        document.insert(array, Bson::Array(Vec::new()));
                    }
                    None => {}
                }
            }
        }
    }
}

/// Splitmix: small, and the same on every machine.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len() as u64) as usize]
    }
}
