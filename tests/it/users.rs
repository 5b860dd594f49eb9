//! MongoDB users who may do little: what docs and hints tell to grant is enough, and less is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use bson::doc;
use mongodb::Client;

use crate::daemon::{Daemon, command};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::servers::{Directory, Mongod};

pub(crate) const PASSWORD: &str = "s3cret/p@ss";
/// As a connection string has it.
const ENCODED: &str = "s3cret%2Fp%40ss";

/// A mongod that lets nobody in without a password, and an administrator.
pub(crate) async fn guarded() -> Result<(Directory, Mongod, String)> {
    let folder = Directory::new("keyfile")?;
    let key = folder.path().join("key");
    fs::write(&key, "bm9ib2R5IGVsc2UgaXMgaW4gdGhpcyBzZXQ=")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let key = key.to_str().context("a path in UTF-8")?.to_owned();
    let mongod = Mongod::start_with(&["--keyFile", &key]).await?;
    // The first user may be made without one.
    mongod.run_admin(doc! { "createUser": "root", "pwd": PASSWORD, "roles": ["root"] }).await?;
    let root = uri(&mongod.uri(), "root", "");
    Ok((folder, mongod, root))
}

pub(crate) fn uri(server: &str, user: &str, more: &str) -> String {
    server.replace("mongodb://", &format!("mongodb://{user}:{ENCODED}@")) + more
}

/// The stage as the administrator writes to it.
pub(crate) async fn stage(mongod: &Mongod, root: &str, name: &str) -> Result<Stage> {
    let mut stage = Stage::with_mongod(mongod, name).await?;
    stage.client = Client::with_uri_str(root).await?;
    stage.database = stage.client.database(&stage.name);
    Ok(stage)
}

/// It passes the check, copies, follows, and goes on after a restart.
async fn works(stage: &Stage, config: &str, collections: &[&str]) -> Result<()> {
    let output = command(&["check"], config)?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(0), "{text}");
    for begin in [0, 1] {
        let daemon = Daemon::start(config)?;
        for name in collections {
            let documents = stage.collection(name);
            documents.insert_one(doc! { "_id": 1_000 + begin }).await?;
            documents.update_one(doc! { "_id": begin }, doc! { "$set": { "n": "followed" } }).await?;
            documents.delete_one(doc! { "_id": 10 + begin }).await?;
            stage.becomes_equal(&daemon, name, Plain::Int).await?;
        }
        let log = daemon.log().join("\n");
        ensure!(!log.contains(PASSWORD) && !log.contains(ENCODED), "the password is in the log");
        assert!(daemon.stop().await?.success());
    }
    Ok(())
}

/// `check` fails with this, and with no password.
fn is_refused(config: &str, told: &[&str]) -> Result<()> {
    let output = command(&["check"], config)?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    ensure!(output.status.code() != Some(0), "{text}");
    for told in told {
        ensure!(text.contains(told), "{told:?} is not in {text}");
    }
    ensure!(!text.contains(PASSWORD) && !text.contains(ENCODED), "the password is told");
    Ok(())
}

#[tokio::test]
async fn a_user_who_may_read_one_database_or_one_collection_is_enough() -> Result<()> {
    let (_folder, mongod, root) = guarded().await?;
    let one = stage(&mongod, &root, "users").await?;
    for name in ["orders", "customers"] {
        one.collection(name).insert_many(numbered(0, 50)).await?;
    }
    let admin = one.client.database("admin");
    let of_one = doc! { "role": "read", "db": &one.name };
    admin.run_command(doc! { "createUser": "reader", "pwd": PASSWORD, "roles": [of_one.clone()] }).await?;
    // A user of the database's own, and of the older of both mechanisms.
    one.database
        .run_command(doc! {
            "createUser": "local", "pwd": PASSWORD, "roles": [of_one], "mechanisms": ["SCRAM-SHA-1"],
        })
        .await?;
    let resource = doc! { "db": &one.name, "collection": "orders" };
    admin
        .run_command(doc! {
            "createRole": "of_orders", "roles": [],
            "privileges": [{ "resource": resource, "actions": ["find", "changeStream"] }],
        })
        .await?;
    admin.run_command(doc! { "createUser": "narrow", "pwd": PASSWORD, "roles": ["of_orders"] }).await?;

    let as_user = |user: &str, source: &str, mappings: &str| {
        let uri = uri(&one.mongodb_uri, user, &format!("&authSource={source}"));
        one.config(mappings).replace(&one.mongodb_uri, &uri)
    };
    let fresh = async || {
        one.execute("drop schema if exists rowstream cascade; drop table if exists orders, customers").await
    };
    works(&one, &as_user("reader", "admin", ""), &["orders", "customers"]).await.context("reader")?;
    fresh().await?;
    for name in ["orders", "customers"] {
        one.collection(name).delete_many(doc! { "_id": { "$gte": 1_000 } }).await?;
    }
    works(&one, &as_user("local", &one.name, ""), &["orders", "customers"]).await.context("local")?;
    fresh().await?;
    one.collection("orders").delete_many(doc! { "_id": { "$gte": 1_000 } }).await?;
    works(&one, &as_user("narrow", "admin", &one.whole("orders")), &["orders"]).await.context("narrow")?;

    // What is not enough is told with what to do.
    is_refused(&as_user("narrow", "admin", &one.whole("customers")), &["grant the user `read`"])?;
    let both = one.whole("orders") + &one.whole("customers");
    is_refused(
        &as_user("narrow", "admin", &both),
        &["a change stream on the database", "grant the user `read`"],
    )?;
    is_refused(
        &as_user("reader", &one.name, ""),
        &["Authentication failed", "correct user, password or authSource"],
    )?;
    is_refused(
        &as_user("nobody", "admin", ""),
        &["Authentication failed", "correct user, password or authSource"],
    )?;
    is_refused(&one.config(""), &["grant the user `read`"])?;
    let other = "  - { source: other, collection: other_database.things, table: other, allow_empty: true }\n";
    let two = one.whole("orders") + other;
    is_refused(&as_user("reader", "admin", &two), &["the whole deployment", "readAnyDatabase"])?;
    let any = doc! { "createUser": "any", "pwd": PASSWORD, "roles": ["readAnyDatabase"] };
    admin.run_command(any).await?;
    fresh().await?;
    one.collection("orders").delete_many(doc! { "_id": { "$gte": 1_000 } }).await?;
    works(&one, &as_user("any", "admin", &two), &["orders"]).await.context("any")
}
