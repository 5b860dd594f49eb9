use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bson::RawDocument;

/// What no rule can say, as code of one's own. A program registers it by name ([`Transformers`]), and a mapping
/// names it with `transform:`; its columns `$transform` take the values that it gives under their names.
///
/// The contract:
/// - **Pure**: the same document gives the same values, today and after a restart, on whatever thread. No I/O, no
///   clock, no memory of other documents; several threads call it at once. Rows are made again at any time, in
///   any order, and some never: a transformer must not count, send or store anything.
/// - **Values by column**: each goes the way of a value of the document from there on: by the column's rules,
///   exactly or not at all. A name that is not there is absent, as an absent field is; names of columns that are
///   not `$transform` are ignored.
/// - **Refusals hold the document**, with the reason `transformer`, until it or the program has changed. Their text
///   reaches logs and operators: it must not quote values. A panic is a refusal, too.
/// - **The document is as the server sent it**: it may hold anything that MongoDB stores.
/// - **Another meaning is another name.** Rows that are there are made again when a mapping changes; the code
///   behind a name is not looked at.
pub trait Transformer: Send + Sync + 'static {
    fn transform(&self, document: &RawDocument) -> Result<bson::Document, Refusal>;
}

/// A function is a transformer.
impl<F> Transformer for F
where
    F: Fn(&RawDocument) -> Result<bson::Document, Refusal> + Send + Sync + 'static,
{
    fn transform(&self, document: &RawDocument) -> Result<bson::Document, Refusal> {
        self(document)
    }
}

/// Why a document has no values. The message names what is wrong with it, never a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The column that it is about, if it is about one.
    pub column: Option<String>,
    pub message: String,
}

impl Refusal {
    pub fn new(message: impl Into<String>) -> Self {
        Self { column: None, message: message.into() }
    }

    pub fn of_column(column: impl Into<String>, message: impl Into<String>) -> Self {
        Self { column: Some(column.into()), message: message.into() }
    }
}

/// For `?` on what `bson` finds wrong. Its message may quote a value, so it is not passed on.
impl From<bson::error::Error> for Refusal {
    fn from(_: bson::error::Error) -> Self {
        Self::new("the document cannot be read as the transformer expects it")
    }
}

/// The transformers that a program was built with, by name.
#[derive(Clone, Default)]
pub struct Transformers(BTreeMap<String, Arc<dyn Transformer>>);

impl Transformers {
    pub fn new() -> Self {
        Self::default()
    }

    /// A second one of the same name takes the place of the first.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, transformer: impl Transformer) -> Self {
        self.0.insert(name.into(), Arc::new(transformer));
        self
    }

    pub fn get(&self, name: &str) -> Option<Arc<dyn Transformer>> {
        self.0.get(name).map(Arc::clone)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl fmt::Debug for Transformers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
