//! `rowstream schema`

use anyhow::Context;
use serde_json::{Value, json};

use super::{Exit, Output, connect_both, say};
use crate::app::{self, Drafted};
use crate::config::Config;
use crate::sink;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let app::Servers { client, mut connection } = connect_both(&config, "schema").await?;
    let tables = app::schema(&config, &client, &mut connection).await?;
    match arguments.output {
        Output::Json => {
            let tables: Vec<Value> = tables.iter().map(as_json).collect();
            say(&serde_json::to_string_pretty(&tables).context("cannot write json")?);
        }
        Output::Text => {
            let statements: Vec<String> = tables.into_iter().map(as_sql).collect();
            say(statements.join("\n").trim_end());
        }
    }
    Ok(Exit::Fine)
}

fn as_sql(table: Drafted) -> String {
    match table {
        Drafted::Existing(table) => sink::existing_comment(&table),
        Drafted::Missing(_, sql) => sql,
    }
}

fn as_json(table: &Drafted) -> Value {
    match table {
        Drafted::Existing(table) => json!({ "schema": table.schema, "table": table.name, "exists": true }),
        Drafted::Missing(draft, sql) => json!({
            "schema": draft.table.schema,
            "table": draft.table.name,
            "exists": false,
            "columns": draft.columns,
            "primary_key": draft.primary_key,
            "unique_key": draft.unique_key,
            "sql": sql,
        }),
    }
}
