//! `rowstream config show`

use clap::Subcommand;

use super::{Exit, say};
use crate::config::{Config, redacted};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the configuration with every default filled in and every secret left out
    Show,
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Exit {
    match arguments.what {
        What::Show => say(&redacted(config)),
    }
    Exit::Fine
}
