//! Logs on standard error: text for people, JSON for collectors. Standard output belongs to the commands.

use std::env;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat};

/// What the libraries below say at `info` and `debug` is of no use to an operator, and comes per query.
/// It stands before the configured filter, so that `mongodb=debug` there still wins.
const QUIET: &str = "mongodb=warn,sqlx=warn,hyper=warn,hyper_util=warn,axum=warn,rustls=warn,hickory_proto=warn,\
                     hickory_resolver=warn";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{origin} is not a log filter (a level such as info, or rowstream=debug,info): {filter:?}")]
    Filter { origin: &'static str, filter: String, source: ParseError },
    #[error("logging was already set up")]
    Twice(#[from] TryInitError),
}

/// Once per process. `RUST_LOG` wins over the configuration.
pub fn init(log: &Log) -> Result<(), Error> {
    let filter = filter(&log.level, env::var("RUST_LOG").ok().as_deref())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match log.format {
        LogFormat::Text => builder.with_ansi(wants_color()).finish().try_init()?,
        LogFormat::Json => builder.with_ansi(false).json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

fn wants_color() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn filter(configured: &str, environment: Option<&str>) -> Result<EnvFilter, Error> {
    let (origin, filter) = match environment.map(str::trim).filter(|text| !text.is_empty()) {
        Some(filter) => ("RUST_LOG", filter),
        None => ("log.level", configured.trim()),
    };
    EnvFilter::builder().parse(format!("{QUIET},{filter}")).map_err(|source| Error::Filter {
        origin,
        filter: filter.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_over_the_configuration() {
        assert!(filter("info", Some("debug")).expect("a filter").to_string().ends_with("debug"));
        assert!(filter("info", Some(" ")).expect("a filter").to_string().ends_with("info"));
        assert!(filter("info", None).expect("a filter").to_string().ends_with("info"));
    }

    #[test]
    fn libraries_are_quiet_unless_asked() {
        let quiet = filter("debug", None).expect("a filter").to_string();
        assert!(quiet.contains("mongodb=warn") && quiet.contains("sqlx=warn"), "{quiet}");
        let asked = filter("info,mongodb=debug", None).expect("a filter").to_string();
        assert!(asked.contains("mongodb=debug") && !asked.contains("mongodb=warn"), "{asked}");
    }

    #[test]
    fn a_bad_filter_is_an_error_that_names_where_it_came_from() {
        let error = filter("rowstream=loud", None).expect_err("not a level");
        insta::assert_snapshot!(error, @r#"log.level is not a log filter (a level such as info, or rowstream=debug,info): "rowstream=loud""#);
        let error = filter("info", Some("a=b=c")).expect_err("not a filter");
        assert!(error.to_string().starts_with("RUST_LOG"), "{error}");
    }
}
