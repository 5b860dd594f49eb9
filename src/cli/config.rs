//! `rowstream config show` and `config schema`

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
    /// Print the JSON schema of the configuration, for editors; needs no configuration
    Schema,
}

/// What an editor is to know: `# yaml-language-server: $schema=rowstream.schema.json`.
const SCHEMA: &str = include_str!("../../config/schema.json");

impl Arguments {
    pub(super) fn is_schema(&self) -> bool {
        matches!(self.what, What::Schema)
    }
}

pub(super) fn schema() -> Exit {
    say(SCHEMA.trim_end());
    Exit::Fine
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Exit {
    match arguments.what {
        What::Show => {
            say(&redacted(config));
            Exit::Fine
        }
        What::Schema => schema(),
    }
}
