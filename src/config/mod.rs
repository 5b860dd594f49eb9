//! Configuration: YAML and environment in, one valid `Config` or every mistake at once out.

mod model;

pub use model::*;
