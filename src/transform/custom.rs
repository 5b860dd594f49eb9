//! A transformer of the program's own, called for each document; what it gives is found by name.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bson::RawDocument;

use super::path::Fields;
use super::walk::Raw;
use crate::domain::{self, Reason, Rejection};

pub(super) struct Custom {
    transformer: Arc<dyn domain::Transformer>,
    /// Names of the columns that take a value from it.
    names: Fields,
}

/// What was given, as BSON.
pub(super) struct Given(Vec<u8>);

impl Custom {
    pub(super) fn new(transformer: Arc<dyn domain::Transformer>, names: Fields) -> Self {
        Self { transformer, names }
    }

    pub(super) fn call(&self, document: &[u8]) -> Result<Given, Rejection> {
        let refused = |column, message: &str| Rejection {
            column,
            reason: Reason::Transformer,
            message: message.to_owned(),
        };
        let document = RawDocument::from_bytes(document)
            .map_err(|_| refused(None, "the document is not framed as BSON"))?;
        let given = catch_unwind(AssertUnwindSafe(|| self.transformer.transform(document)));
        let given = given
            .map_err(|_| refused(None, "the transformer panicked"))?
            .map_err(|refusal| refused(refusal.column, &refusal.message))?;
        let bytes = given.to_vec().map_err(|_| refused(None, "what the transformer gives is no BSON"))?;
        Ok(Given(bytes))
    }

    /// One place for each name, in their order.
    pub(super) fn values<'g>(&self, given: &'g Given) -> Result<Vec<Option<Raw<'g>>>, Rejection> {
        self.names.find(&given.0).map_err(|fault| fault.in_column(None))
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custom").finish_non_exhaustive()
    }
}
