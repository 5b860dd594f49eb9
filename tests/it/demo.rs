//! The demo's comparison is trusted by people: it must be able to fail.

use std::path::Path;
use std::process::{Command, Output};

/// The demo's program, which `cargo test` builds beside the tests.
fn demo(variables: &[(&str, &str)]) -> Output {
    let rowstream = Path::new(env!("CARGO_BIN_EXE_rowstream"));
    let demo = rowstream.with_file_name("examples").join("demo");
    assert!(
        demo.exists(),
        "{} is missing: cargo test builds it, or cargo build --example demo",
        demo.display()
    );
    Command::new(demo)
        .env("ROWSTREAM_BIN", rowstream)
        .env("DEMO_SECONDS", "2")
        .env("DEMO_DOCUMENTS", "500")
        .env_remove("MONGODB_URI")
        .env_remove("DATABASE_URL")
        .envs(variables.iter().copied())
        .output()
        .expect("the demo can be started")
}

#[test]
fn the_demo_finds_both_sides_equal() {
    let output = demo(&[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("both sides are equal"), "{text}");
}

#[test]
fn the_demo_finds_a_planted_wrong_value_and_nothing_else() {
    let output = demo(&[("DEMO_PLANT_WRONG_VALUE", "1")]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let planted = text
        .lines()
        .find_map(|line| line.strip_prefix("planted a wrong value: the transaction_date of stripe "))
        .expect("the demo says what it planted");
    let found: Vec<&str> = text.lines().filter(|line| line.contains(": transaction_date is ")).collect();
    assert_eq!(found.len(), 1, "{text}");
    assert!(found[0].starts_with(&format!("  ✗ stripe {planted}: ")), "{text}");
    // The mark of its source in the table, and the row itself.
    assert_eq!(text.matches('✗').count(), 2, "{text}");
}
