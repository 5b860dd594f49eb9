//! The connection, and what time it is on the server.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::options::ClientOptions;

use super::error::{Error, Fault};
use crate::domain::ClusterTime;

/// How long one operation looks for a server that can serve it, unless the URI says otherwise. Elections
/// take 2 to 10 s and are waited out by the callers' own retries; longer hides an outage from the status,
/// shorter turns a slow TLS handshake into one.
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(8);

/// One attempt to connect; also bounds the wait for a host that swallows packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);

/// Parses the URI and makes a client. Nothing is sent yet, except DNS look-ups of a `mongodb+srv` URI.
pub async fn connect(uri: &str, application_name: &str) -> Result<Client, Error> {
    let mut options = ClientOptions::parse(uri).await.map_err(|error| describe(uri, &error))?;
    options.app_name = Some(application_name.into());
    options.server_selection_timeout.get_or_insert(SERVER_SELECTION_TIMEOUT);
    options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
    options.retry_reads = Some(true);
    Client::with_options(options).map_err(|error| describe(uri, &error))
}

/// As `connect`; reads go where this read preference of the connection string's words says.
pub async fn connect_preferring(
    uri: &str,
    application_name: &str,
    preference: &str,
) -> Result<Client, Error> {
    let preferring = match uri.split_once('?') {
        Some((head, options)) => {
            let others = options.split('&').filter(|option| {
                let name = option.split('=').next().unwrap_or_default();
                !name.eq_ignore_ascii_case("readPreference")
            });
            let others: Vec<&str> = others.filter(|option| !option.is_empty()).collect();
            let wanted = format!("readPreference={preference}");
            format!("{head}?{}", [others, vec![wanted.as_str()]].concat().join("&"))
        }
        None => {
            let path = uri.split_once("://").map_or("", |(_, rest)| rest);
            let slash = if path.contains('/') { "" } else { "/" };
            format!("{uri}{slash}?readPreference={preference}")
        }
    };
    connect(&preferring, application_name).await
}

/// The driver quotes parts of the URI. It is asked again with the secrets replaced: what it says then
/// may be printed.
fn describe(uri: &str, error: &mongodb::error::Error) -> Error {
    let fault = Fault::from(error);
    if matches!(error.kind.as_ref(), mongodb::error::ErrorKind::DnsResolve { .. }) {
        return Error::Failed { action: "resolve the host name of the MongoDB URI", fault };
    }
    // Its files are opened with the first client.
    if matches!(
        error.kind.as_ref(),
        mongodb::error::ErrorKind::InvalidTlsConfig { .. } | mongodb::error::ErrorKind::Io(_)
    ) {
        return Error::InvalidUri { reason: format!("a file of its TLS options cannot be used: {fault}") };
    }
    let reason = match mongodb::options::ConnectionString::parse(without_secrets(uri)) {
        Err(error) => Fault::from(&error).to_string(),
        Ok(_) => "the user name, the password, or an option after the ? is not acceptable; in user name and \
                  password, all of : / ? # [ ] @ % must be percent-encoded"
            .into(),
    };
    Error::InvalidUri { reason }
}

fn without_secrets(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("", uri));
    // An unescaped @ in the password is a mistake too: everything up to the last one goes.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("user:password@", rest),
        None => ("", rest),
    };
    let (hosts, query) = rest.split_once('?').unwrap_or((rest, ""));
    let secret =
        ["authmechanismproperties", "tlscertificatekeyfilepassword", "proxypassword", "proxyusername"];
    let options: Vec<_> = query
        .split('&')
        .filter(|option| {
            let name = option.split('=').next().unwrap_or_default().to_ascii_lowercase();
            !option.is_empty() && !secret.contains(&name.as_str())
        })
        .collect();
    let query = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
    format!("{scheme}://{user}{hosts}{query}")
}

/// The time of the newest operation that a majority has: a stream whose token has reached it has seen
/// everything that was acknowledged before the question.
pub async fn operation_time(client: &Client) -> Result<ClusterTime, Error> {
    Ok(server_times(client).await?.majority)
}

/// What the server's clocks say.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerTimes {
    pub(super) majority: ClusterTime,
    /// The newest time the whole cluster knows of. Never behind what this cluster has handed out.
    pub(super) cluster: ClusterTime,
}

pub(super) async fn server_times(client: &Client) -> Result<ServerTimes, Error> {
    let hello = hello(client).await?;
    let majority = hello
        .get_document("lastWrite")
        .and_then(|write| write.get_document("majorityOpTime"))
        .ok()
        .and_then(|time| timestamp(time, "ts"))
        // A mongos has no oplog of its own.
        .or_else(|| timestamp(&hello, "operationTime"))
        .ok_or(Error::Malformed { what: "the time of the server" })?;
    let cluster = hello
        .get_document("$clusterTime")
        .ok()
        .and_then(|time| timestamp(time, "clusterTime"))
        .unwrap_or(majority);
    Ok(ServerTimes { majority, cluster: cluster.max(majority) })
}

pub(super) async fn hello(client: &Client) -> Result<Document, Error> {
    run(client, "admin", doc! { "hello": 1 }, "ask the server for its state").await
}

/// Runs a command by the URI's read preference, which `run_command` ignores.
pub(super) async fn run(
    client: &Client,
    database: &str,
    command: Document,
    action: &'static str,
) -> Result<Document, Error> {
    let database = client.database(database);
    let mut request = database.run_command(command);
    if let Some(criteria) = client.selection_criteria() {
        request = request.selection_criteria(criteria.clone());
    }
    request.await.map_err(Error::failed(action))
}

pub(super) fn timestamp(document: &Document, name: &str) -> Option<ClusterTime> {
    match document.get(name) {
        Some(Bson::Timestamp(time)) => Some(ClusterTime::new(time.time, time.increment)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn mistakes_in_the_uri_are_told_without_its_secrets() {
        for uri in [
            "mongodb://user:se@cret@host/",
            "mongodb://user:sec/ret@host/",
            "mongodb://user:sec?ret@host/",
            "mongodb://user:sec%ret@host/",
            "mongodb://user:secret@host:port/",
            "mongodb://user:secret@host/?tls=perhaps&tlsInsecure=maybe&proxyPassword=secret",
            "mongodb://user:secret@host/?w=majority&authMechanismProperties=secret",
            "postgres://user:secret@host/",
            "user:secret@host",
        ] {
            let Err(error) = connect(uri, "test").await else { panic!("accepted: {uri}") };
            let text = format!("{error} {error:?}");
            assert!(!text.contains("cret"), "{uri}: {text}");
        }
    }

    #[tokio::test]
    async fn an_ordinary_uri_is_accepted() -> Result<(), Error> {
        connect("mongodb://user:p%40ss@127.0.0.1:27017/shop?replicaSet=rs0&authSource=admin", "test").await?;
        Ok(())
    }
}
