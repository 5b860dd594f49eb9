//! The command line: one file per verb.
//!
//! Exit codes: 0 fine, 1 findings, 2 usage or configuration, 3 a server could not be reached.

mod check;
mod config;
mod held;
mod migrate;
mod pause;
mod repair;
mod reset;
mod resync;
mod run;
mod schema;
mod status;
mod table;
mod verify;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::Config;
use crate::domain::Transformers;
use crate::pipeline::Error as PipelineError;
use crate::{app, config as configuration, logging, source};

/// Keeps PostgreSQL tables in step with MongoDB collections.
#[derive(Debug, Parser)]
#[command(name = "rowstream", version, max_term_width = 100)]
struct Arguments {
    /// Configuration file (YAML). Without one, the environment alone must say where the servers are
    #[arg(short, long, global = true, env = "ROWSTREAM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy what is there, then follow what changes, until stopped
    Run(run::Arguments),
    /// Check both servers, the mappings and the tables before the first write; change nothing
    Check(check::Arguments),
    /// Print the tables that the mappings need and that are not there, as SQL; change nothing
    Schema(schema::Arguments),
    /// Create or upgrade the schema rowstream, which holds the state
    Migrate(migrate::Arguments),
    /// Show how far the pipeline is, from the state in PostgreSQL
    Status(status::Arguments),
    /// Let the daemon stop applying changes until `resume`, also through restarts
    Pause,
    /// Let a paused pipeline go on
    Resume,
    /// Look after changes that could not be applied
    Held(held::Arguments),
    /// Compare the rows with the documents they come from; change nothing
    Verify(verify::Arguments),
    /// Bring rows that `verify` has found to what their documents say; without --apply, only say how
    Repair(repair::Arguments),
    /// Compare everything of a mapping and repair what differs, until nothing does
    Resync(resync::Arguments),
    /// Forget everything about the pipeline; its rows stay as they are
    Reset(reset::Arguments),
    /// Look at the configuration as it is understood
    Config(config::Arguments),
    /// Print the completions of a shell: `rowstream completions bash > /etc/bash_completion.d/rowstream`
    Completions {
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table for people
    Text,
    Json,
}

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Fine,
    Findings,
    Usage,
    Unreachable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Fine => 0,
            Exit::Findings => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
        })
    }
}

/// Runs one command to its end. Failures that need no runtime happen before there is one.
pub fn main(
    arguments: impl IntoIterator<Item = OsString>,
    environment: BTreeMap<String, String>,
) -> ExitCode {
    main_with(arguments, environment, Transformers::default())
}

/// As `main`, for a program with transformers of its own.
pub fn main_with(
    arguments: impl IntoIterator<Item = OsString>,
    environment: BTreeMap<String, String>,
    transformers: Transformers,
) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too; clap knows which stream and which code they want.
            let _ = error.print();
            return ExitCode::from(error.exit_code().clamp(0, 255) as u8);
        }
    };
    if let Command::Completions { shell } = arguments.command {
        clap_complete::generate(shell, &mut Arguments::command(), "rowstream", &mut std::io::stdout());
        return Exit::Fine.into();
    }
    if let Command::Config(arguments) = &arguments.command
        && arguments.is_schema()
    {
        return config::schema().into();
    }
    let config = match configuration::load(arguments.config.as_deref(), &environment) {
        Ok(config) => Config { transformers, ..config },
        Err(error) => {
            complain(&error.to_string());
            return Exit::Usage.into();
        }
    };
    if let Err(error) = logging::init(&config.log) {
        complain(&format!("log.level: {error}"));
        return Exit::Usage.into();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start the runtime: {error}"));
            return Exit::Unreachable.into();
        }
    };
    let exit = runtime.block_on(execute(arguments.command, config));
    // Threads that still wait for a server's answer are not worth waiting for.
    runtime.shutdown_background();
    exit.into()
}

async fn execute(command: Command, config: Config) -> Exit {
    let result = match command {
        Command::Run(arguments) => run::run(arguments, config).await,
        Command::Check(arguments) => check::run(arguments, config).await,
        Command::Schema(arguments) => schema::run(arguments, config).await,
        Command::Migrate(arguments) => migrate::run(arguments, config).await,
        Command::Status(arguments) => status::run(arguments, config).await,
        Command::Pause => pause::pause(config).await,
        Command::Resume => pause::resume(config).await,
        Command::Held(arguments) => held::run(arguments, config).await,
        Command::Verify(arguments) => verify::run(arguments, config).await,
        Command::Resync(arguments) => resync::run(arguments, config).await,
        Command::Reset(arguments) => reset::run(arguments, config).await,
        Command::Repair(arguments) => repair::run(arguments, config).await,
        Command::Config(arguments) => Ok(config::run(&arguments, &config)),
        // Printed before there was a configuration.
        Command::Completions { .. } => Ok(Exit::Fine),
    };
    result.unwrap_or_else(|error| {
        complain(&in_one_line(&error));
        match error.downcast_ref::<PipelineError>() {
            Some(PipelineError::Halt { hint, .. }) => {
                if !hint.is_empty() {
                    complain(&format!("  {hint}"));
                }
                Exit::Findings
            }
            Some(PipelineError::Paused { .. }) => {
                complain(&format!("  {}", PipelineError::RESUME));
                Exit::Findings
            }
            _ => {
                let of_mongodb = error.downcast_ref::<source::Error>().map(source::Error::disposition);
                if let Some(source::Disposition::Halt { hint }) = of_mongodb {
                    complain(&format!("  {hint}"));
                }
                Exit::Unreachable
            }
        }
    })
}

/// Both are asked before either is judged: whoever must mend two things wants to know of both.
async fn connect_both(config: &Config, verb: &str) -> anyhow::Result<app::Servers> {
    let client = source::connect(config.mongodb.uri.expose(), &format!("rowstream {verb}")).await?;
    let (mongodb, postgresql) =
        tokio::join!(source::operation_time(&client), app::connect_postgres(config, verb));
    match (mongodb, postgresql) {
        (Ok(_), postgresql) => {
            Ok(app::Servers { client, connection: postgresql.context("cannot reach postgresql")? })
        }
        (Err(mongodb), Ok(_)) => Err(mongodb).context("cannot reach mongodb"),
        (Err(mongodb), Err(postgresql)) => {
            let mongodb = anyhow::Error::new(mongodb).context("cannot reach mongodb");
            complain(&in_one_line(&mongodb));
            Err(postgresql).context("cannot reach postgresql")
        }
    }
}

/// The chain of causes; what a cause repeats of the one before is left out.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    for place in (1..causes.len()).rev() {
        if causes[place - 1].contains(&causes[place]) {
            causes.remove(place);
        }
    }
    causes.join(": ")
}

/// Ids are text of documents: nothing in them may act on a terminal.
fn printable(text: &str) -> String {
    let spelled = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.to_string(),
    };
    text.chars().map(spelled).collect()
}

#[expect(clippy::print_stderr, reason = "the command line speaks to people here")]
fn complain(text: &str) {
    eprintln!("rowstream: {text}");
}

#[expect(clippy::print_stdout, reason = "the command line's answer")]
fn say(text: &str) {
    println!("{text}");
}
