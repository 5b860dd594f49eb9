//! http
mod health;
pub use health::*;
