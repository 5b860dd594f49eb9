//! The data: a ledger of payments, the same on every machine.

use anyhow::{Context, Result, ensure};
use bson::oid::ObjectId;
use bson::{DateTime, Decimal128, Document, Timestamp, doc};
use mongodb::error::Error;
use mongodb::{Client, Database};

pub(crate) const DATABASE: &str = "bench";
pub(crate) const COLLECTION: &str = "ledger";

/// Documents or operations of one command.
const AT_ONCE: usize = 1_000;

/// What a column is for every kind of value that is usual: 15 columns.
pub(crate) const TABLE: &str = "create table ledger (
    source text not null, source_id text not null, id uuid not null,
    transaction_date timestamptz not null, updated_at timestamptz, amount numeric(12,2) not null,
    currency text not null, status text not null, note text, merchant text, city text, likes bigint,
    is_public boolean, account_id text, document jsonb not null,
    primary key (source, source_id))";

pub(crate) const MAPPING: &str = "  - source: ledger
    collection: bench.ledger
    table: ledger
    id_type: object_id
    columns:
      id: { key: uuid, write: insert }
      transaction_date: { from: date_created, as: unix_seconds, required: true }
      updated_at: updated
      amount: { from: amount, required: true }
      currency: { from: currency, default: USD }
      status: status
      note: note
      merchant: merchant.name
      city: merchant.city
      likes: likes
      is_public: public
      account_id: account
      document: $document
";

/// The collection, and which of its documents live.
#[derive(Debug)]
pub(crate) struct Ledger {
    database: Database,
    live: Vec<u64>,
    next: u64,
    random: Random,
}

impl Ledger {
    /// In the place of the one before.
    pub(crate) async fn load(client: &Client, count: u64) -> Result<Self> {
        let database = client.database(DATABASE);
        database.collection::<Document>(COLLECTION).drop().await?;
        let numbers: Vec<u64> = (0..count).collect();
        for part in numbers.chunks(10 * AT_ONCE) {
            let documents: Vec<Document> = part.iter().map(|number| document(*number)).collect();
            run(&database, doc! { "insert": COLLECTION, "documents": documents, "ordered": false }).await?;
        }
        let mut ledger = Self { database, live: numbers, next: count, random: Random(7) };
        ledger.settle().await?;
        Ok(ledger)
    }

    /// Writes a backlog: of 100 events 58 are updates, 25 inserts, 17 deletes, all of different documents
    /// within a command. Every one of them gives an event.
    pub(crate) async fn change(&mut self, events: u64) -> Result<()> {
        let mut left = usize::try_from(events)?;
        while left > 0 {
            let now = left.min(AT_ONCE);
            left -= now;
            let (updates, deletes) = (now * 58 / 100, now * 17 / 100);
            let mut updated = Vec::with_capacity(updates);
            while updated.len() < updates {
                let number = self.live[self.random.below(self.live.len())];
                let stamp = self.random.next() as i64;
                updated.push(doc! { "q": { "_id": id(number) }, "u": { "$set": { "likes": stamp } } });
            }
            run(&self.database, doc! { "update": COLLECTION, "updates": updated, "ordered": false }).await?;
            let inserts = now - updates - deletes;
            let inserted: Vec<u64> = (self.next..self.next + inserts as u64).collect();
            self.next += inserts as u64;
            let documents: Vec<Document> = inserted.iter().map(|number| document(*number)).collect();
            run(&self.database, doc! { "insert": COLLECTION, "documents": documents, "ordered": false })
                .await?;
            let mut deleted = Vec::with_capacity(deletes);
            while deleted.len() < deletes {
                let place = self.random.below(self.live.len());
                deleted.push(doc! { "q": { "_id": id(self.live.swap_remove(place)) }, "limit": 1 });
            }
            run(&self.database, doc! { "delete": COLLECTION, "deletes": deleted, "ordered": false }).await?;
            self.live.extend(inserted);
        }
        self.settle().await
    }

    /// Everything written is majority-committed when this returns.
    async fn settle(&mut self) -> Result<()> {
        let marker = doc! { "_id": "marker", "n": self.random.next() as i64 };
        let insert = doc! { "q": { "_id": "marker" }, "u": marker, "upsert": true };
        let command = doc! {
            "update": "marker", "updates": [insert], "writeConcern": { "w": "majority" },
        };
        run(&self.database, command).await
    }
}

/// The newest time that a majority has.
pub(crate) async fn majority_time(client: &Client) -> Result<Timestamp> {
    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await?;
    Ok(hello.get_document("lastWrite")?.get_document("majorityOpTime")?.get_timestamp("ts")?)
}

pub(crate) fn id(number: u64) -> ObjectId {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    ObjectId::from_bytes(bytes)
}

pub(crate) fn document(number: u64) -> Document {
    let mut random = Random(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let cents = random.below(1_000_000);
    let seconds = 1_600_000_000 + random.below(100_000_000) as i64;
    let amount: Decimal128 =
        format!("{}.{:02}", cents / 100, cents % 100).parse().expect("digits are a decimal");
    let name = random.below(9_999);
    doc! {
        "_id": id(number),
        "date_created": seconds as f64 + 0.25,
        "updated": DateTime::from_millis(seconds * 1_000 + 777),
        "amount": amount,
        "currency": "USD",
        "status": if cents.is_multiple_of(3) { "settled" } else { "pending" },
        "note": format!("dinner number {name} with friends, tax and tip included, thanks – see you soon"),
        "merchant": { "name": format!("merchant {name}"), "city": "Springfield", "category": "restaurants" },
        "account": format!("acct_{:016x}", random.next()),
        "likes": (cents % 100) as i64,
        "public": cents.is_multiple_of(2),
        "tags": ["food", "shared", "2024"],
        "counterparty": { "id": format!("user_{name:08}"), "display": "Some Body", "verified": true },
    }
}

async fn run(database: &Database, command: Document) -> Result<()> {
    let reply: Result<Document, Error> = database.run_command(command).await;
    let reply = reply.context("writing to mongod")?;
    ensure!(!reply.contains_key("writeErrors"), "mongod refused a write: {reply}");
    Ok(())
}

/// splitmix64: good enough to spread, the same everywhere.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}
