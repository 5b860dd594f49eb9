use std::borrow::Cow;

use crate::domain::{Reason, Rejection};

/// Why a value does not fit, before it is known which column it was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: Reason,
    /// Names types and limits, never a value.
    pub(super) message: Cow<'static, str>,
}

impl Fault {
    pub(super) fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, message: message.into() }
    }

    pub(super) fn wrong_type(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Reason::WrongType, message)
    }

    pub(super) fn out_of_range(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Reason::OutOfRange, message)
    }

    pub(super) fn not_exact(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Reason::NotExact, message)
    }

    pub(super) fn malformed() -> Self {
        Self::new(Reason::Malformed, "the bytes are not valid BSON")
    }

    /// The same fault of one element of an array.
    pub(super) fn in_element(self, place: usize) -> Self {
        Self { message: format!("element {place}: {}", self.message).into(), ..self }
    }

    pub(super) fn in_column(self, column: Option<&str>) -> Rejection {
        Rejection {
            column: column.map(str::to_owned),
            reason: self.reason,
            message: self.message.into_owned(),
        }
    }
}
