//! An expense tracker's MongoDB, made up: the raw answers of four payment services, and what the application
//! derived from them. The same seed gives the same documents on every machine.
//!
//! The shapes are a real application's, with its oddities: ids of four types, dates of four kinds, the same
//! number as an id in two collections, whole numbers where others have fractions, emoji and line breaks.

use std::fmt;

use bson::{Bson, Document, doc, oid::ObjectId};
use mongodb::Database;
use mongodb::options::{DatabaseOptions, WriteConcern};

/// A collection of the application, and the `source` its rows carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Collection {
    Venmo,
    Splitwise,
    Stripe,
    Cash,
    Accounts,
    LineItems,
    Events,
}

impl Collection {
    pub(crate) const ALL: [Self; 7] = [
        Self::Venmo,
        Self::Splitwise,
        Self::Stripe,
        Self::Cash,
        Self::Accounts,
        Self::LineItems,
        Self::Events,
    ];

    /// Its name in MongoDB.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Venmo => "venmo_raw_data",
            Self::Splitwise => "splitwise_raw_data",
            Self::Stripe => "stripe_raw_transaction_data",
            Self::Cash => "cash_raw_data",
            Self::Accounts => "accounts",
            Self::LineItems => "line_items",
            Self::Events => "events",
        }
    }

    /// Its name as a source, in the mapping file and in PostgreSQL.
    pub(crate) fn source(self) -> &'static str {
        match self {
            Self::Venmo => "venmo",
            Self::Splitwise => "splitwise",
            Self::Stripe => "stripe",
            Self::Cash => "cash",
            Self::Accounts => "accounts",
            Self::LineItems => "line_items",
            Self::Events => "events",
        }
    }

    /// Whether its rows are in `transactions`; the others have tables of whole documents.
    pub(crate) fn is_transaction(self) -> bool {
        matches!(self, Self::Venmo | Self::Splitwise | Self::Stripe | Self::Cash)
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source())
    }
}

/// Every write is majority-committed: only those are in a change stream.
pub(crate) fn database(client: &mongodb::Client, name: &str) -> Database {
    let options = DatabaseOptions::builder().write_concern(WriteConcern::majority()).build();
    client.database_with_options(name, options)
}

/// The tables as the application made them.
pub(crate) const SCHEMA: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/schema.sql"));

const MAPPINGS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo/rowstream.yaml"));

/// The example's configuration, reading from another database.
pub(crate) fn configuration(database: &str) -> String {
    MAPPINGS.replace("flask_db.", &format!("{database}."))
}

// ----------------------------------------------------------------------------------------------------
// Documents

/// What the application holds at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Expenses {
    documents: [Vec<Document>; Collection::ALL.len()],
}

impl Expenses {
    /// About `count` documents in all (at least one of each kind).
    pub(crate) fn generate(seed: u64, count: usize) -> Self {
        let mut random = Random(seed);
        let raw = (count.saturating_sub(Account::COUNT) * 3 / 7).max(4);
        let mut documents: [Vec<Document>; Collection::ALL.len()] = Default::default();
        documents[Collection::Accounts as usize] =
            (0..Account::COUNT).map(|number| account(&mut random, &Account::id(number))).collect();
        for number in 0..raw {
            // In every hundred: 32 of Venmo, 23 of Splitwise, 40 of Stripe, 5 of cash; one of each to begin.
            let collection = match number {
                0..4 => Collection::ALL[number],
                _ => match random.below(100) {
                    0..32 => Collection::Venmo,
                    32..55 => Collection::Splitwise,
                    55..95 => Collection::Stripe,
                    _ => Collection::Cash,
                },
            };
            let document = raw_document(&mut random, collection, &raw_id(collection, number as u64));
            let item = line_item(&mut random, collection, &document);
            // Where two services use one number, the application's line item is one, too.
            let items = &mut documents[Collection::LineItems as usize];
            if items.last().is_none_or(|last| last.get("_id") != item.get("_id")) {
                items.push(item);
            }
            documents[collection as usize].push(document);
        }
        let mut events = Vec::new();
        let mut rest = documents[Collection::LineItems as usize].as_mut_slice();
        while !rest.is_empty() {
            let (group, others) = rest.split_at_mut((1 + random.below(4) as usize).min(rest.len()));
            rest = others;
            // One in seven has not been reviewed yet, and is in no event.
            if random.below(7) > 0 {
                events.push(event(&mut random, group));
            }
        }
        documents[Collection::Events as usize] = events;
        Self { documents }
    }

    pub(crate) fn of(&self, collection: Collection) -> &[Document] {
        &self.documents[collection as usize]
    }

    pub(crate) fn count(&self) -> usize {
        self.documents.iter().map(Vec::len).sum()
    }

    pub(crate) async fn insert_into(&self, database: &Database) -> mongodb::error::Result<()> {
        for collection in Collection::ALL {
            for some in self.of(collection).chunks(1000) {
                database.collection::<Document>(collection.name()).insert_many(some).await?;
            }
        }
        Ok(())
    }
}

/// The id of the `number`th raw document: of a type of its own in each collection.
pub(crate) fn raw_id(collection: Collection, number: u64) -> Bson {
    let venmo = |number: u64| 2_100_000_000_000_000_000 + number * 1_000_003;
    match collection {
        Collection::Venmo => Bson::String(venmo(number).to_string()),
        // Now and then a number that Venmo has as text: only the source tells them apart.
        Collection::Splitwise if number % 20 == 1 => Bson::Int64(venmo(number - 1) as i64),
        Collection::Splitwise => Bson::Int64(2_900_000_000 + (number * 7) as i64),
        Collection::Stripe => {
            let mut random = Random(number);
            Bson::String(format!("fctxn_1{}", random.text(ALPHANUMERIC, 23)))
        }
        Collection::Cash => {
            let mut bytes = [0x65; 12];
            bytes[4..].copy_from_slice(&number.to_be_bytes());
            Bson::ObjectId(ObjectId::from_bytes(bytes))
        }
        Collection::Accounts | Collection::LineItems | Collection::Events => {
            Bson::String(format!("{}_{number}", collection.source()))
        }
    }
}

fn raw_document(random: &mut Random, collection: Collection, id: &Bson) -> Document {
    match collection {
        Collection::Venmo => venmo(random, id),
        Collection::Splitwise => splitwise(random, id),
        Collection::Stripe => stripe(random, id),
        Collection::Cash => cash(random, id),
        Collection::Accounts => account(random, id),
        Collection::LineItems => reviewed_line_item(random, id),
        Collection::Events => lone_event(random, id),
    }
}

fn venmo(random: &mut Random, id: &Bson) -> Document {
    let created = random.time();
    let actor = venmo_person(random);
    let target = venmo_person(random);
    let note = random.pick(NOTES);
    let amount = random.dollars();
    let kind = random.pick(&["pay", "charge"]);
    let answer = doc! {
        "id": id.clone(), "type": "payment", "date_created": rfc3339(created),
        "payment": {
            "id": random.text(DIGITS, 19), "status": "settled", "action": kind, "amount": amount, "note": note,
            "actor": { "id": actor.get_str("id").unwrap_or_default() },
        },
        "app": { "id": 1, "name": "Venmo for iPhone" },
        "likes": { "count": 0, "data": [] },
    };
    doc! {
        "_id": id.clone(),
        "id": id.clone(),
        "payment_id": random.text(DIGITS, 19),
        "date_created": number(created),
        "date_updated": number(created + random.below(86_400)),
        "date_completed": if random.below(10) == 0 { Bson::Null } else { number(created + random.below(600)) },
        "payment_type": kind,
        "amount": amount,
        "audience": random.pick(&["private", "friends", "public"]),
        "status": "settled",
        "note": note,
        "device_used": random.pick(&[Some("iPhone"), Some("Android"), Some("Other"), None]),
        "comments": if random.below(8) == 0 { vec![doc! { "message": random.pick(NOTES), "count": 1 }] } else { vec![] },
        "actor": actor,
        "target": target,
        "_json": answer,
    }
}

fn venmo_person(random: &mut Random) -> Document {
    let (first, last) = (random.pick(FIRST_NAMES), random.pick(LAST_NAMES));
    doc! {
        "id": random.text(DIGITS, 18),
        "username": format!("{first}-{last}"),
        "first_name": first,
        "last_name": last,
        "display_name": format!("{first} {last}"),
        "phone": Bson::Null,
        "profile_picture_url": "https://pics.venmo.example/u/v1/n",
        "about": " ",
        "date_joined": number(1_300_000_000 + random.below(200_000_000)),
        "is_group": false,
        "is_active": true,
    }
}

fn splitwise(random: &mut Random, id: &Bson) -> Document {
    let date = random.time();
    let users: Vec<Document> = (0..2 + random.below(3)).map(|_| splitwise_user(random)).collect();
    let cost = format!("{:.2}", random.dollars());
    let mut document = doc! {
        "_id": id.clone(),
        "id": id.clone(),
        "description": random.pick(NOTES),
        "cost": cost.as_str(),
        "currency_code": "USD",
        "date": rfc3339(date),
        "created_at": rfc3339(date + 60),
        "updated_at": rfc3339(date + 120),
        "deleted_at": Bson::Null,
        "deleted_by": Bson::Null,
        "updated_by": Bson::Null,
        "created_by": users[0].clone(),
        "repayments": [{ "fromUser": 1, "toUser": 2, "amount": cost, "currency_code": "USD" }],
        "users": users,
        "category": { "id": number(random.below(40)), "name": random.pick(CATEGORIES), "subcategories": [] },
        "receipt": { "original": Bson::Null, "large": Bson::Null },
        "payment": random.below(12) == 0,
        "repeats": false,
        "repeat_interval": "never",
        "email_reminder": false,
        "comments_count": 0,
        "creation_method": "equal",
        "transaction_method": "offline",
        "transaction_confirmed": false,
    };
    if random.below(3) == 0 {
        document.insert("group_id", Bson::Int64(10_000_000 + random.below(1000) as i64));
        document.insert("details", "Split evenly,\nas always");
    }
    document
}

fn splitwise_user(random: &mut Random) -> Document {
    let first = random.pick(FIRST_NAMES);
    let mut user = doc! {
        "id": number(20_000_000 + random.below(9_000_000)),
        "first_name": first,
        "email": format!("{}@example.org", first.to_lowercase()),
        "registration_status": "confirmed",
        "picture": { "small": "https://s.example/s.png", "medium": "https://s.example/m.png", "large": Bson::Null },
        "paid_share": format!("{:.2}", random.dollars()),
        "owed_share": format!("{:.2}", random.dollars()),
        "net_balance": format!("-{:.2}", random.dollars()),
    };
    if random.below(4) > 0 {
        user.insert("last_name", random.pick(LAST_NAMES));
    }
    user
}

fn stripe(random: &mut Random, id: &Bson) -> Document {
    let transacted = random.time();
    doc! {
        "_id": id.clone(),
        "id": id.clone(),
        "object": "financial_connections.transaction",
        "account": Account::id(random.below(Account::COUNT as u64) as usize),
        // Cents; spent is negative.
        "amount": 5_000 - random.below(30_000) as i32,
        "currency": "usd",
        "description": random.pick(SHOPS),
        "livemode": true,
        "status": "posted",
        "status_transitions": { "posted_at": number(transacted + 86_400), "void_at": Bson::Null },
        "transacted_at": number(transacted),
        "updated": number(transacted + 90_000),
        "transaction_refresh": format!("fctxnref_{}", random.text(ALPHANUMERIC, 24)),
    }
}

/// The only collection whose documents have no `id`, and whose date is a double.
fn cash(random: &mut Random, id: &Bson) -> Document {
    let midnight = random.time() / 86_400 * 86_400;
    doc! {
        "_id": id.clone(),
        "date": midnight as f64,
        "person": random.pick(FIRST_NAMES),
        "description": random.pick(NOTES),
        "amount": random.dollars(),
    }
}

struct Account;

impl Account {
    const COUNT: usize = 18;

    fn id(number: usize) -> Bson {
        let mut random = Random(number as u64 + 77);
        Bson::String(format!("fca_1{}", random.text(ALPHANUMERIC, 23)))
    }
}

fn account(random: &mut Random, id: &Bson) -> Document {
    let credit = random.below(2) == 0;
    doc! {
        "_id": id.clone(),
        "id": id.clone(),
        "object": "financial_connections.account",
        "account_holder": { "type": "customer", "customer": "cus_example" },
        "authorization": format!("fcauth_{}", random.text(ALPHANUMERIC, 24)),
        "balance_refresh": Bson::Null,
        "category": if credit { "credit" } else { "cash" },
        "subcategory": if credit { "credit_card" } else { random.pick(&["checking", "savings"]) },
        "created": number(random.time()),
        // Fewer names than accounts: a bank that is linked again has a second account of the same name.
        "display_name": random.pick(ACCOUNT_NAMES),
        "institution_name": random.pick(&["Chase", "Ally", "Bank of America"]),
        "last4": random.text(DIGITS, 4),
        "livemode": true,
        "permissions": ["transactions", "balances"],
        "status": random.pick(&["active", "active", "inactive"]),
        "supported_payment_method_types": ["us_bank_account"],
        "subscriptions": ["transactions"],
        "transaction_refresh": { "id": "fctxnref_example", "status": "succeeded", "last_attempted_at": number(random.time()) },
    }
}

fn line_item(random: &mut Random, collection: Collection, raw: &Document) -> Document {
    let raw_id = match raw.get("_id") {
        Some(Bson::ObjectId(id)) => id.to_hex(),
        Some(Bson::String(id)) => id.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let method = match collection {
        Collection::Venmo => "Venmo",
        Collection::Splitwise => "Splitwise",
        Collection::Cash => "Cash",
        _ => random.pick(ACCOUNT_NAMES),
    };
    let mut item = reviewed_line_item(random, &Bson::String(format!("line_item_{raw_id}")));
    item.insert("payment_method", method);
    item.remove("event_id");
    item
}

fn reviewed_line_item(random: &mut Random, id: &Bson) -> Document {
    let date = random.time();
    doc! {
        "_id": id.clone(),
        "id": id.clone(),
        "date": if random.below(2) == 0 { Bson::Double(date as f64) } else { number(date) },
        // The trailing blank is the application's.
        "responsible_party": format!("{} ", random.pick(FIRST_NAMES)),
        "payment_method": random.pick(&["Venmo", "Splitwise", "Cash", "Stripe"]),
        "description": random.pick(NOTES),
        // 12.3 + 0.1 and the like: doubles that no short decimal equals.
        "amount": random.dollars() + 0.1,
        "event_id": format!("event_{}", random.text(DIGITS, 19)),
    }
}

/// An event over some line items, which then name it.
fn event(random: &mut Random, items: &mut [Document]) -> Document {
    let ids: Vec<String> = items.iter().filter_map(|item| item.get_str("_id").ok().map(Into::into)).collect();
    let earliest = ids[0].trim_start_matches("line_item_");
    let id = format!("event_{earliest}");
    let amount: f64 = items.iter().filter_map(|item| item.get_f64("amount").ok()).sum();
    for item in items {
        item.insert("event_id", &id);
    }
    let mut event = lone_event(random, &Bson::String(id));
    event.insert("line_items", ids);
    event.insert("amount", amount);
    event
}

fn lone_event(random: &mut Random, id: &Bson) -> Document {
    let date = random.time();
    let mut event = doc! {
        "_id": id.clone(),
        "id": id.clone(),
        "name": random.pick(NOTES),
        "category": random.pick(CATEGORIES),
        "date": if random.below(3) == 0 { number(date) } else { Bson::Double(date as f64) },
        "line_items": [],
        // Old rows have "" here.
        "is_duplicate_transaction": if random.below(5) == 0 { Bson::String(String::new()) } else { Bson::Boolean(false) },
        "amount": random.dollars(),
    };
    if random.below(3) == 0 {
        event.insert("tags", [random.pick(TAGS), random.pick(TAGS)].to_vec());
    }
    event
}

// ----------------------------------------------------------------------------------------------------
// Changes

/// One write of the application.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) collection: Collection,
    pub(crate) operation: Operation,
}

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Insert(Document),
    Update { id: Bson, update: Document },
    Replace(Document),
    Delete { id: Bson },
}

impl Write {
    pub(crate) async fn apply(&self, database: &Database) -> mongodb::error::Result<()> {
        let collection = database.collection::<Document>(self.collection.name());
        match &self.operation {
            Operation::Insert(document) => {
                collection.insert_one(document).await?;
            }
            Operation::Update { id, update } => {
                collection.update_one(doc! { "_id": id }, update.clone()).await?;
            }
            Operation::Replace(document) => {
                collection.replace_one(doc! { "_id": document.get("_id") }, document).await?;
            }
            Operation::Delete { id } => {
                collection.delete_one(doc! { "_id": id }).await?;
            }
        }
        Ok(())
    }
}

/// The application at work: inserts, updates, replaces, deletes, and now and then an insert of what was deleted.
/// Writers of different lanes never touch the same document, so that what they leave behind does not depend on
/// which of them was faster.
#[derive(Debug)]
pub(crate) struct Writer {
    random: Random,
    next_number: u64,
    alive: [Vec<Bson>; Collection::ALL.len()],
    deleted: Vec<(Collection, Bson)>,
}

impl Writer {
    /// The writer number `lane` of `lanes`.
    pub(crate) fn new(seed: u64, lane: usize, lanes: usize, expenses: &Expenses) -> Self {
        let alive = Collection::ALL.map(|collection| {
            let own = expenses.of(collection).iter().skip(lane).step_by(lanes);
            own.filter_map(|document| document.get("_id").cloned()).collect()
        });
        let random = Random(seed ^ (lane as u64 + 1).wrapping_mul(0x2545_F491_4F6C_DD1D));
        Self { random, next_number: (lane as u64 + 1) * 1_000_000_000, alive, deleted: Vec::new() }
    }

    pub(crate) fn next_write(&mut self) -> Write {
        let collection = match self.random.below(100) {
            0..25 => Collection::Venmo,
            25..45 => Collection::Splitwise,
            45..70 => Collection::Stripe,
            70..75 => Collection::Cash,
            75..76 => Collection::Accounts,
            76..90 => Collection::LineItems,
            _ => Collection::Events,
        };
        let operation = match self.random.below(100) {
            0..40 => self.update(collection),
            40..55 => self.replace(collection),
            55..65 => self.delete(collection),
            65..68 => return self.insert_again(collection),
            _ => None,
        };
        let operation = operation.unwrap_or_else(|| self.insert(collection));
        Write { collection, operation }
    }

    fn insert(&mut self, collection: Collection) -> Operation {
        let id = raw_id(collection, self.next_number);
        self.next_number += 1;
        self.alive[collection as usize].push(id.clone());
        Operation::Insert(raw_document(&mut self.random, collection, &id))
    }

    /// The same `_id` as a document that this writer deleted.
    fn insert_again(&mut self, otherwise: Collection) -> Write {
        let Some((collection, id)) = self.deleted.pop() else {
            return Write { collection: otherwise, operation: self.insert(otherwise) };
        };
        self.alive[collection as usize].push(id.clone());
        Write { collection, operation: Operation::Insert(raw_document(&mut self.random, collection, &id)) }
    }

    fn replace(&mut self, collection: Collection) -> Option<Operation> {
        let id = self.some_id(collection)?;
        Some(Operation::Replace(raw_document(&mut self.random, collection, &id)))
    }

    fn delete(&mut self, collection: Collection) -> Option<Operation> {
        // A tracker without accounts is none.
        if collection == Collection::Accounts {
            return None;
        }
        let index = self.some_index(collection)?;
        let id = self.alive[collection as usize].swap_remove(index);
        self.deleted.push((collection, id.clone()));
        Some(Operation::Delete { id })
    }

    fn update(&mut self, collection: Collection) -> Option<Operation> {
        let id = self.some_id(collection)?;
        let random = &mut self.random;
        let time = random.time();
        let text = random.pick(NOTES);
        let update = match (collection, random.below(4)) {
            (Collection::Venmo, 0) => doc! { "$set": { "date_created": number(time) } },
            (Collection::Venmo, 1) => {
                doc! { "$unset": { "device_used": "" }, "$set": { "actor.about": text } }
            }
            (Collection::Venmo, 2) => doc! { "$push": { "comments": { "message": text, "count": 1 } } },
            (Collection::Venmo, _) => doc! { "$set": { "note": text }, "$inc": { "amount": 0.1 } },
            (Collection::Splitwise, 0) => doc! { "$set": { "date": rfc3339(time) } },
            (Collection::Splitwise, 1) => doc! { "$set": { "users.0.paid_share": "0.00" } },
            (Collection::Splitwise, 2) => doc! { "$inc": { "comments_count": 1 } },
            (Collection::Splitwise, _) => {
                doc! { "$set": { "description": text, "updated_at": rfc3339(time) } }
            }
            (Collection::Stripe, 0) => doc! { "$set": { "transacted_at": number(time) } },
            (Collection::Stripe, _) => doc! { "$set": { "description": text }, "$inc": { "amount": -1 } },
            (Collection::Cash, 0) => doc! { "$set": { "date": (time / 86_400 * 86_400) as f64 } },
            (Collection::Cash, _) => doc! { "$mul": { "amount": 1.1 } },
            (Collection::Accounts, _) => {
                doc! { "$set": { "balance_refresh": { "last_attempted_at": number(time) } } }
            }
            (Collection::LineItems, 0) => doc! { "$unset": { "event_id": "" } },
            (Collection::LineItems, _) => doc! { "$set": { "description": text } },
            (Collection::Events, 0) => doc! { "$push": { "tags": random.pick(TAGS) } },
            (Collection::Events, 1) => doc! { "$set": { "is_duplicate_transaction": true } },
            (Collection::Events, _) => doc! { "$set": { "name": text }, "$inc": { "amount": 1 } },
        };
        Some(Operation::Update { id, update })
    }

    fn some_index(&mut self, collection: Collection) -> Option<usize> {
        let count = self.alive[collection as usize].len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }

    fn some_id(&mut self, collection: Collection) -> Option<Bson> {
        let index = self.some_index(collection)?;
        self.alive[collection as usize].get(index).cloned()
    }
}

// ----------------------------------------------------------------------------------------------------
// Chance

/// SplitMix64: a page of code less than a dependency, and the same numbers for ever.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0 to `bound` - 1.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn text(&mut self, alphabet: &[u8], length: usize) -> String {
        (0..length).map(|_| char::from(self.pick(alphabet))).collect()
    }

    /// Seconds since 1970, in 2024 and 2025.
    fn time(&mut self) -> u64 {
        1_704_067_200 + self.below(2 * 365 * 86_400)
    }

    fn dollars(&mut self) -> f64 {
        (1 + self.below(25_000)) as f64 / 100.0
    }
}

/// As PyMongo stores an int: 32 bits where they suffice.
fn number(value: u64) -> Bson {
    i32::try_from(value).map_or(Bson::Int64(value as i64), Bson::Int32)
}

fn rfc3339(seconds: u64) -> String {
    bson::DateTime::from_millis(seconds as i64 * 1000).try_to_rfc3339_string().unwrap_or_default()
}

const DIGITS: &[u8] = b"123456789";
const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const FIRST_NAMES: &[&str] =
    &["Ana", "Björn", "Chidi", "Dolores", "Émile", "Fatima", "Grace", "Hiro", "Ines", "Jo"];
const LAST_NAMES: &[&str] =
    &["Almeida", "O'Brien", "Çelik", "de la Cruz", "Eze", "Fischer", "García", "Hayashi"];
const NOTES: &[&str] = &[
    "🍕",
    "rent \u{2014} March",
    "\"thanks\" for dinner",
    "It's on me\nnext time",
    "tab\tseparated \\ backslash",
    "Füße & Straße",
    "夕食",
    "👨‍👩‍👧‍👦 zoo",
    " leading and trailing ",
    "",
    "50% of $12.50, 100% {json: \"like\"}",
    "MTA subway fare",
];
const SHOPS: &[&str] =
    &["TRADER JOE'S #552", "AMZN Mktp US*2K4", "Uber   *TRIP", "SQ *BLUE BOTTLE", "Payment Thank You-Mobile"];
const CATEGORIES: &[&str] = &["Dining", "Groceries", "Travel", "Transit", "Rent", "Shopping", "All", "N/A"];
const TAGS: &[&str] = &["trip", "work", "wedding", "reimbursed", "tax"];
const ACCOUNT_NAMES: &[&str] =
    &["Sapphire Reserve", "Freedom", "Total Checking", "Online Savings", "Cash Rewards"];
