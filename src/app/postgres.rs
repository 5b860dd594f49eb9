//! Connections to PostgreSQL, all made alike.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_ok;
use mongodb::Client;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::config::{Config, Postgres, url_of_each_host};
use crate::operator::Operator;
use crate::pipeline::Error;

/// A server that does not answer within this is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Of a statement that somebody waits for over HTTP.
const HTTP_STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("postgresql does not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut,
    #[error("cannot connect to postgresql")]
    Failed(#[from] sqlx::Error),
    /// Of several hosts, this one cannot be written to.
    #[error("no host of postgres.url is a primary: those that answer are standbys")]
    Standby,
}

/// Both servers, reached.
#[derive(Debug)]
pub struct Servers {
    pub client: Client,
    pub connection: PgConnection,
}

/// As `connect`, for one that can write nothing: the server sees to it.
pub(super) async fn connect_read_only(postgres: &Postgres, name: &str) -> Result<PgConnection, ConnectError> {
    connect_with(postgres, name, &[("default_transaction_read_only", "on")]).await
}

/// For a command: `rowstream <verb>` is what `pg_stat_activity` shows.
pub async fn connect_postgres(config: &Config, verb: &str) -> Result<PgConnection, ConnectError> {
    connect(&config.postgres, &format!("rowstream {verb}")).await
}

/// For what is asked over HTTP: nobody waits there for long.
pub(super) fn operator(config: &Config) -> Operator {
    let patient = &config.postgres;
    let statement_timeout = patient.statement_timeout.min(HTTP_STATEMENT_TIMEOUT);
    let lock_timeout = patient.lock_timeout.min(HTTP_STATEMENT_TIMEOUT);
    let postgres = Arc::new(Postgres { statement_timeout, lock_timeout, ..patient.clone() });
    Operator::new(&config.pipeline, config.lease.ttl, config.mappings.clone(), move || {
        let postgres = Arc::clone(&postgres);
        Box::pin(async move { Ok(connect(&postgres, "rowstream http").await?) })
    })
}

pub(super) async fn connect(postgres: &Postgres, name: &str) -> Result<PgConnection, ConnectError> {
    connect_with(postgres, name, &[]).await
}

/// For what writes rows beside the position that they are at.
pub(super) async fn connect_writer(postgres: &Postgres, name: &str) -> Result<PgConnection, ConnectError> {
    connect_with(postgres, name, &[("synchronous_commit", postgres.synchronous_commit)]).await
}

async fn connect_with(
    postgres: &Postgres,
    name: &str,
    settings: &[(&str, &str)],
) -> Result<PgConnection, ConnectError> {
    let hosts = match &postgres.url {
        Some(url) => {
            let urls = url_of_each_host(url.expose());
            urls.iter().map(|url| PgConnectOptions::from_str(url)).collect::<Result<Vec<_>, _>>()?
        }
        // PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGSSLMODE … are read here.
        None => vec![PgConnectOptions::new()],
    };
    let hosts = hosts.into_iter().map(|options| with_name(options, postgres, name));
    let mut hosts: Vec<PgConnectOptions> = hosts.collect();
    let settings = settings_of(postgres, settings);
    match hosts.pop() {
        Some(only) if hosts.is_empty() => open(&only, &settings).await,
        last => {
            hosts.extend(last);
            // At once: a host that swallows packets must not cost the others their time.
            let opened = hosts.iter().map(|host| Box::pin(open_primary(host, &settings)));
            let (primary, _) = select_ok(opened).await?;
            Ok(primary)
        }
    }
}

fn with_name(options: PgConnectOptions, postgres: &Postgres, name: &str) -> PgConnectOptions {
    let options = match &postgres.password {
        Some(password) => options.password(password.expose()),
        None => options,
    };
    // PgBouncer takes no start-up parameter but the few that it follows: the rest is set once we are in.
    let options = options.application_name(name).extra_float_digits(None);
    checking_what_is_given(options, postgres.url.as_ref().map(|url| url.expose()))
}

/// What every session begins with, as SQL.
fn settings_of(postgres: &Postgres, more: &[(&str, &str)]) -> String {
    let milliseconds = |duration: Duration| duration.as_millis().to_string();
    let settings = [
        ("statement_timeout", milliseconds(postgres.statement_timeout)),
        ("lock_timeout", milliseconds(postgres.lock_timeout)),
        ("idle_in_transaction_session_timeout", milliseconds(postgres.idle_in_transaction_timeout)),
        // What is looked at behind a lock is as it is then.
        ("default_transaction_isolation", "read committed".to_owned()),
        // A server that lost us notices within a minute, and gives our locks back.
        ("tcp_keepalives_idle", "20".to_owned()),
        ("tcp_keepalives_interval", "10".to_owned()),
        ("tcp_keepalives_count", "4".to_owned()),
        // Texts of floats come back as the same floats, whatever the role is set to.
        ("extra_float_digits", "1".to_owned()),
        ("timezone", "UTC".to_owned()),
    ];
    let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
    let set = |(name, value): (&str, String)| format!("set {name} = '{value}'");
    settings.into_iter().chain(more).map(set).collect::<Vec<_>>().join("; ")
}

/// Whoever names a certificate authority wants the server to be checked against it; the driver does so from
/// `verify-ca` on only, and falls back to plain text below `require`.
fn checking_what_is_given(options: PgConnectOptions, url: Option<&str>) -> PgConnectOptions {
    let unchecked =
        matches!(options.get_ssl_mode(), PgSslMode::Allow | PgSslMode::Prefer | PgSslMode::Require);
    let in_url = url.is_some_and(|url| {
        let query = url.split_once('?').map_or("", |(_, query)| query);
        let mut keys = query.split('&').filter_map(|option| option.split('=').next());
        keys.any(|key| matches!(key, "sslrootcert" | "ssl-root-cert" | "ssl-ca"))
    });
    let names_authority = in_url || std::env::var_os("PGSSLROOTCERT").is_some_and(|path| !path.is_empty());
    if unchecked && names_authority { options.ssl_mode(PgSslMode::VerifyCa) } else { options }
}

/// As `open`, of a server that can be written to: a standby may be promoted while we look for a primary.
async fn open_primary(options: &PgConnectOptions, settings: &str) -> Result<PgConnection, ConnectError> {
    let mut connection = open(options, settings).await?;
    let standby: bool = sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(&mut connection).await?;
    if standby { Err(ConnectError::Standby) } else { Ok(connection) }
}

async fn open(options: &PgConnectOptions, settings: &str) -> Result<PgConnection, ConnectError> {
    let opening = async {
        let mut connection = PgConnection::connect_with(options).await?;
        sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut connection).await?;
        Ok::<_, ConnectError>(connection)
    };
    let mut connection =
        tokio::time::timeout(CONNECT_TIMEOUT, opening).await.map_err(|_| ConnectError::TimedOut)??;
    // Half of the work of large documents is their compression; lz4 does it in a fraction. Servers
    // without it keep their own way.
    let _ = sqlx::raw_sql("set default_toast_compression = 'lz4'").execute(&mut connection).await;
    Ok(connection)
}

/// A wrong password, certificate or database does not pass by itself, but may be mended on the server: say so, go on.
pub(super) fn failed(stage: &'static str, error: ConnectError) -> Error {
    let halt = |hint: &str| Error::halt(Error::chain(&error), hint.to_owned());
    if let ConnectError::Failed(sqlx::Error::Database(database)) = &error {
        match database.code().as_deref() {
            Some("28P01") => return halt("check the user and password of postgres.url"),
            Some("28000") => {
                return halt(
                    "check the user of postgres.url, its sslmode, sslcert and sslkey, and pg_hba.conf",
                );
            }
            Some("42501") => return halt("grant connect on the database to the role of postgres.url"),
            Some("3D000") => return halt("create the database that postgres.url names, or correct the name"),
            _ => {}
        }
    }
    // What rustls refuses comes as an error of the socket.
    let of_tls = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::InvalidData;
    if matches!(&error, ConnectError::Failed(sqlx::Error::Tls(_)))
        || matches!(&error, ConnectError::Failed(sqlx::Error::Io(cause)) if of_tls(cause))
    {
        return halt("check sslmode, sslrootcert, sslcert, sslkey and the host of postgres.url");
    }
    if let ConnectError::Failed(sqlx::Error::Configuration(_)) = &error {
        return halt("correct postgres.url");
    }
    Error::retry(stage, error)
}
