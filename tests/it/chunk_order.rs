//! chunk_order
