//! What an application does to its documents, at random: every update operator, transactions, documents that go
//! and come again, and relations between collections.

use anyhow::Result;
use bson::{Bson, Document, doc, oid::ObjectId};
use mongodb::{ClientSession, Database};
use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};

/// Few ids, so that they meet again.
pub(super) const IDS: i32 = 24;
const PARENTS: i32 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any documents at all, kept whole.
    Orders,
    /// A number that is no number now and then.
    People,
    Parents,
    /// Each names a parent, there or not.
    Children,
}

impl Kind {
    pub(super) fn collection(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::People => "people",
            Self::Parents => "parents",
            Self::Children => "children",
        }
    }

    fn id(self, number: i32) -> Bson {
        match self {
            Self::Orders | Self::People => Bson::Int32(number),
            Self::Parents => Bson::String(parent(number)),
            Self::Children => Bson::String(format!("c{number}")),
        }
    }
}

fn parent(number: i32) -> String {
    format!("p{}", number % PARENTS)
}

#[derive(Debug, Clone)]
pub(super) enum Operation {
    Insert(Kind, i32, Document),
    /// The document, or by upsert a new one.
    Replace(Kind, i32, Document),
    /// A document of operators, or an array of stages.
    Update {
        kind: Kind,
        id: i32,
        update: Bson,
        upsert: bool,
    },
    UpdateMany(Kind, Bson),
    Delete(Kind, i32),
    DeleteMany(Kind, i32),
    /// Of the others; none of them in turn.
    Transaction(Vec<Operation>),
}

pub(super) fn operations() -> BoxedStrategy<Vec<Operation>> {
    let transaction = vec(single(), 1..8).prop_map(Operation::Transaction);
    vec(prop_oneof![8 => single(), 1 => transaction], 1..40).boxed()
}

fn single() -> BoxedStrategy<Operation> {
    let kind = prop_oneof![
        4 => Just(Kind::Orders), 2 => Just(Kind::People), 1 => Just(Kind::Parents), 2 => Just(Kind::Children)
    ];
    kind.prop_flat_map(|kind| {
        prop_oneof![
            4 => (0..IDS, document(kind)).prop_map(move |(id, document)| Operation::Insert(kind, id, document)),
            3 => (0..IDS, document(kind)).prop_map(move |(id, document)| Operation::Replace(kind, id, document)),
            9 => (0..IDS, update(kind), any::<bool>()).prop_map(move |(id, update, upsert)| {
                Operation::Update { kind, id, update, upsert }
            }),
            1 => update(kind).prop_map(move |update| Operation::UpdateMany(kind, update)),
            4 => (0..IDS).prop_map(move |id| Operation::Delete(kind, id)),
            1 => (0..IDS / 4).prop_map(move |id| Operation::DeleteMany(kind, id)),
        ]
    })
    .boxed()
}

fn document(kind: Kind) -> BoxedStrategy<Document> {
    match kind {
        Kind::Orders => vec((field(), value()), 0..6).prop_map(|fields| fields.into_iter().collect()).boxed(),
        Kind::People => {
            (text(), score()).prop_map(|(name, score)| doc! { "name": name, "score": score }).boxed()
        }
        Kind::Parents => text().prop_map(|name| doc! { "name": name }).boxed(),
        Kind::Children => {
            (text(), 0..IDS).prop_map(|(title, of)| doc! { "title": title, "parent": parent(of) }).boxed()
        }
    }
}

fn update(kind: Kind) -> BoxedStrategy<Bson> {
    match kind {
        Kind::Orders => prop_oneof![9 => any_operator(), 1 => stages()].boxed(),
        Kind::People => prop_oneof![
            score().prop_map(|score| doc! { "$set": { "score": score } }),
            text().prop_map(|name| doc! { "$set": { "name": name } }),
            any::<i32>().prop_map(|by| doc! { "$inc": { "score": by } }),
            (-3..3).prop_map(|by| doc! { "$mul": { "score": by } }),
            Just(doc! { "$unset": { "score": "" } }),
            Just(doc! { "$unset": { "name": "" } }),
        ]
        .prop_map(Bson::Document)
        .boxed(),
        Kind::Parents => text().prop_map(|name| Bson::Document(doc! { "$set": { "name": name } })).boxed(),
        Kind::Children => prop_oneof![
            (0..IDS).prop_map(|of| doc! { "$set": { "parent": parent(of) } }),
            text().prop_map(|title| doc! { "$set": { "title": title } }),
            Just(doc! { "$unset": { "parent": "" } }),
        ]
        .prop_map(Bson::Document)
        .boxed(),
    }
}

/// Most fail at most documents, and change nothing then: the field is of another type.
fn any_operator() -> BoxedStrategy<Bson> {
    let number = prop_oneof![
        any::<i32>().prop_map(Bson::Int32),
        (-8..8).prop_map(|n| Bson::Double(f64::from(n) / 4.0))
    ];
    prop_oneof![
        3 => (path(), value()).prop_map(|(path, value)| doc! { "$set": { path: value } }),
        1 => path().prop_map(|path| doc! { "$unset": { path: "" } }),
        1 => (path(), number.clone()).prop_map(|(path, by)| doc! { "$inc": { path: by } }),
        1 => (path(), number.clone()).prop_map(|(path, by)| doc! { "$mul": { path: by } }),
        1 => (path(), value()).prop_map(|(path, value)| doc! { "$min": { path: value } }),
        1 => (path(), value()).prop_map(|(path, value)| doc! { "$max": { path: value } }),
        1 => (field(), field()).prop_map(|(from, to)| doc! { "$rename": { from: format!("{to}_renamed") } }),
        1 => path().prop_map(|path| doc! { "$currentDate": { path: true } }),
        1 => (path(), value()).prop_map(|(path, value)| doc! { "$setOnInsert": { path: value } }),
        1 => (path(), vec(value(), 0..4)).prop_map(|(path, values)| doc! { "$push": { path: { "$each": values, "$slice": -3 } } }),
        1 => (path(), vec(value(), 0..4)).prop_map(|(path, values)| {
            doc! { "$push": { path: { "$each": values, "$position": 0, "$sort": 1 } } }
        }),
        1 => (path(), value()).prop_map(|(path, value)| doc! { "$addToSet": { path: value } }),
        1 => (path(), prop_oneof![Just(-1), Just(1)]).prop_map(|(path, end)| doc! { "$pop": { path: end } }),
        1 => (path(), scalar()).prop_map(|(path, value)| doc! { "$pull": { path: value } }),
        1 => (path(), vec(scalar(), 0..3)).prop_map(|(path, values)| doc! { "$pullAll": { path: values } }),
        1 => (path(), any::<i32>()).prop_map(|(path, mask)| doc! { "$bit": { path: { "xor": mask } } }),
        1 => (field(), value()).prop_map(|(field, value)| doc! { "$set": { format!("{field}.$[]"): value } }),
    ]
    .prop_map(Bson::Document)
    .boxed()
}

fn stages() -> BoxedStrategy<Bson> {
    prop_oneof![
        (field(), field()).prop_map(|(to, from)| doc! { "$set": { to: format!("${from}") } }),
        field().prop_map(|field| doc! { "$unset": field }),
        value().prop_map(|value| doc! { "$replaceWith": { "a": { "$literal": value } } }),
    ]
    .prop_map(|stage| Bson::Array(vec![Bson::Document(stage)]))
    .boxed()
}

fn field() -> BoxedStrategy<String> {
    prop_oneof!["[abc]", Just("ü".to_owned())].boxed()
}

fn path() -> BoxedStrategy<String> {
    prop_oneof![
        3 => field(),
        1 => (field(), field()).prop_map(|(outer, inner)| format!("{outer}.{inner}")),
        1 => (field(), 0..3).prop_map(|(array, index)| format!("{array}.{index}")),
    ]
    .boxed()
}

fn text() -> BoxedStrategy<String> {
    prop_oneof!["[a-zA-Z0-9 ]{0,12}", "[\\PC]{0,6}"].prop_map(|text: String| text.replace('\0', "")).boxed()
}

/// Some of it is no number, or none that fits.
fn score() -> BoxedStrategy<Bson> {
    prop_oneof![
        6 => any::<i32>().prop_map(Bson::Int32),
        1 => any::<i64>().prop_map(Bson::Int64),
        1 => Just(Bson::String("many".into())),
        1 => Just(Bson::Null),
    ]
    .boxed()
}

fn scalar() -> BoxedStrategy<Bson> {
    prop_oneof![
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        (-1_000_000..1_000_000).prop_map(|n| Bson::Double(f64::from(n) / 64.0)),
        any::<bool>().prop_map(Bson::Boolean),
        Just(Bson::Null),
        text().prop_map(Bson::String),
        (0_i64..4_000_000_000_000).prop_map(|at| Bson::DateTime(bson::DateTime::from_millis(at))),
        any::<[u8; 12]>().prop_map(|bytes| Bson::ObjectId(ObjectId::from_bytes(bytes))),
    ]
    .boxed()
}

fn value() -> BoxedStrategy<Bson> {
    scalar()
        .prop_recursive(3, 16, 4, |inner| {
            let document = vec((field(), inner.clone()), 0..4)
                .prop_map(|fields| Bson::Document(fields.into_iter().collect()));
            prop_oneof![vec(inner, 0..4).prop_map(Bson::Array), document]
        })
        .boxed()
}

impl Operation {
    /// What MongoDB does not take changes nothing, and is no error here.
    pub(super) async fn apply(&self, database: &Database) -> Result<()> {
        let Self::Transaction(operations) = self else {
            for (verb, of, operation) in self.commands() {
                refused_is_fine(run(database, None, &verb, of, operation).await)?;
            }
            return Ok(());
        };
        let mut session = database.client().start_session().await?;
        let commands: Vec<_> = operations.iter().flat_map(Self::commands).collect();
        session.start_transaction().await?;
        for (verb, of, operation) in commands {
            if let Err(error) = run(database, Some(&mut session), &verb, of, operation).await {
                // Whatever failed has ended it.
                let _ = session.abort_transaction().await;
                return refused_is_fine(Err(error));
            }
        }
        refused_is_fine(session.commit_transaction().await)
    }

    /// Command, collection, and the one operation of it.
    fn commands(&self) -> Vec<(String, Kind, Document)> {
        let update = |kind: Kind, filter: Document, update: Bson, multi: bool, upsert: bool| {
            vec![(
                "update".to_owned(),
                kind,
                doc! { "q": filter, "u": update, "multi": multi, "upsert": upsert },
            )]
        };
        match self {
            Self::Insert(kind, id, document) => {
                let mut whole = doc! { "_id": kind.id(*id) };
                whole.extend(document.clone());
                vec![("insert".to_owned(), *kind, whole)]
            }
            Self::Replace(kind, id, document) => {
                update(*kind, doc! { "_id": kind.id(*id) }, Bson::Document(document.clone()), false, true)
            }
            Self::Update { kind, id, update: with, upsert } => {
                update(*kind, doc! { "_id": kind.id(*id) }, with.clone(), false, *upsert)
            }
            Self::UpdateMany(kind, with) => update(*kind, doc! {}, with.clone(), true, false),
            Self::Delete(kind, id) => {
                vec![("delete".to_owned(), *kind, doc! { "q": { "_id": kind.id(*id) }, "limit": 1 })]
            }
            Self::DeleteMany(kind, below) => {
                let ids: Vec<Bson> = (0..*below).map(|id| kind.id(id)).collect();
                vec![("delete".to_owned(), *kind, doc! { "q": { "_id": { "$in": ids } }, "limit": 0 })]
            }
            Self::Transaction(_) => Vec::new(),
        }
    }
}

async fn run(
    database: &Database,
    session: Option<&mut ClientSession>,
    verb: &str,
    of: Kind,
    operation: Document,
) -> mongodb::error::Result<()> {
    let list = match verb {
        "insert" => "documents",
        "update" => "updates",
        _ => "deletes",
    };
    let mut command = doc! { verb: of.collection(), list: [operation] };
    match session {
        Some(session) => database.run_command(command).session(session).await?,
        None => {
            command.insert("writeConcern", doc! { "w": "majority" });
            database.run_command(command).await?
        }
    };
    Ok(())
}

fn refused_is_fine(result: mongodb::error::Result<()>) -> Result<()> {
    use mongodb::error::ErrorKind;
    match result {
        Err(error) if !matches!(*error.kind, ErrorKind::Command(_) | ErrorKind::Write(_)) => {
            Err(error.into())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
