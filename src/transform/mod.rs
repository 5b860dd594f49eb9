//! Documents become rows. Pure: a mapping and raw BSON in, a binary COPY tuple or a rejection out.
//!
//! A value is stored exactly, or by a rule the operator wrote, or the document is rejected with the
//! column and the reason; nothing is rounded, cut, or replaced on the way. `docs/TYPES.md` is the table
//! of what is exact. Bytes from the server are not trusted: a flaw is a rejection, never a panic.

mod absent;
mod array;
mod base64;
mod constant;
mod custom;
mod date_text;
mod decimal;
mod encode;
mod expression;
mod fault;
mod filter;
mod json;
mod json_form;
mod json_text;
mod numeric;
mod path;
mod reading;
mod reference;
mod row;
mod rule;
mod strip;
mod taken;
mod text;
mod time;
mod unread;
mod walk;
mod word;

pub use absent::Absent;
pub use array::literal as array_literal;
pub use row::{ChildTransformer, Transformer};
pub use taken::taken;
pub use unread::Unread;

#[cfg(test)]
mod property_tests;
