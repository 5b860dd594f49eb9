//! Both servers over TLS, with certificates of a private authority on both sides; and no way around them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bson::doc;
use mongodb::Client;

use crate::daemon::{Daemon, command, config};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::servers::{Directory, Mongod, Postgres, shared};

/// Two authorities; of the first a server and a client, of the other a client that nobody knows.
const MAKE_CERTIFICATES: &str = r#"
authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$1" \
        -addext basicConstraints=critical,CA:true -keyout "$1.key" -out "$1.crt"
}
certificate() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$3" \
        -keyout "$2.key" -out "$2.csr"
    echo "$4" >"$2.ext"
    openssl x509 -req -days 2 -in "$2.csr" -CA "$1.crt" -CAkey "$1.key" -CAcreateserial \
        -extfile "$2.ext" -out "$2.crt"
    cat "$2.crt" "$2.key" >"$2.pem"
}
authority ours
authority other
certificate ours server /CN=server/O=rowstream/OU=servers subjectAltName=IP:127.0.0.1
certificate ours client /CN=rowstream/O=rowstream/OU=clients extendedKeyUsage=clientAuth
certificate other stranger /CN=rowstream/O=rowstream/OU=clients extendedKeyUsage=clientAuth
"#;

/// As mongod calls whom the certificate `client` stands for.
const SUBJECT: &str = "OU=clients,O=rowstream,CN=rowstream";

/// A folder of certificates and keys.
#[derive(Debug)]
struct Certificates(Directory);

impl Certificates {
    fn make() -> Result<Self> {
        let folder = Directory::new("certificates")?;
        let output = Command::new("sh")
            .args(["-ec", MAKE_CERTIFICATES])
            .current_dir(folder.path())
            .output()
            .context("starting sh")?;
        ensure!(
            output.status.success(),
            "openssl makes the certificates of this test (apt-get install openssl): {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Self(folder))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

/// Takes nobody without TLS, over TLS nobody without a certificate of ours, and then only users.
async fn guarded_mongod(certificates: &Certificates) -> Result<Mongod> {
    let key = certificates.path("keyfile");
    fs::write(&key, "bm9ib2R5IGVsc2UgaXMgaW4gdGhpcyBzZXQ=")?;
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let (server, authority) = (certificates.path("server.pem"), certificates.path("ours.crt"));
    Mongod::start_with(&[
        "--keyFile",
        &key,
        "--tlsMode",
        "preferTLS",
        "--tlsCertificateKeyFile",
        &server,
        "--tlsCAFile",
        &authority,
    ])
    .await
}

/// The role `rowstream` comes over TLS with its certificate, or not at all.
async fn guarded_postgres(certificates: &Certificates) -> Result<Postgres> {
    let postgres = Postgres::start_able_of_tls().await?;
    let mut connection = postgres.connect("postgres").await?;
    let hba: String = sqlx::query_scalar("show hba_file").fetch_one(&mut connection).await?;
    let folder = Path::new(&hba).parent().context("a folder")?.to_owned();
    for name in ["server.crt", "server.key", "ours.crt"] {
        fs::copy(certificates.path(name), folder.join(name))?;
        postgres.hand_over(&folder.join(name))?;
    }
    fs::write(
        &hba,
        "hostssl all rowstream 127.0.0.1/32 cert\nhost all rowstream 127.0.0.1/32 reject\n\
         host all postgres 127.0.0.1/32 trust\n",
    )?;
    for statement in [
        "create role rowstream login",
        "alter system set ssl_cert_file = 'server.crt'",
        "alter system set ssl_key_file = 'server.key'",
        "alter system set ssl_ca_file = 'ours.crt'",
        "alter system set ssl = on",
        "select pg_reload_conf()",
    ] {
        sqlx::query(statement).execute(&mut connection).await.context(statement)?;
    }
    Ok(postgres)
}

/// `check` fails and says this.
fn is_refused(mongodb: &str, postgres: &str, told: &str) -> Result<()> {
    let output = command(&["check"], &config(mongodb, postgres, ""))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    ensure!(output.status.code() != Some(0), "{mongodb} and {postgres} were taken: {text}");
    ensure!(text.contains(told), "{told:?} is not said of {mongodb} and {postgres}: {text}");
    Ok(())
}

#[tokio::test]
async fn both_servers_are_spoken_to_over_tls_with_certificates_on_both_sides_or_not_at_all() -> Result<()> {
    let certificates = Certificates::make()?;
    let (mongod, postgres) =
        tokio::try_join!(guarded_mongod(&certificates), guarded_postgres(&certificates))?;
    mongod.run_admin(doc! { "createUser": "root", "pwd": "root", "roles": ["root"] }).await?;

    let file = |name: &str| certificates.path(name);
    let tls = |authority: &str, certificate: &str| {
        format!("&tls=true&tlsCAFile={}&tlsCertificateKeyFile={}", file(authority), file(certificate))
    };
    let impatient = "&serverSelectionTimeoutMS=1000";
    let mut stage = Stage::on(&mongod, &postgres).await?;
    let plain = format!("{}{impatient}", stage.mongodb_uri);
    let as_user = format!("{}&authMechanism=MONGODB-X509{impatient}", stage.mongodb_uri);
    let root = stage.mongodb_uri.replace("mongodb://", "mongodb://root:root@") + "&authSource=admin";
    stage.client = Client::with_uri_str(root + &tls("ours.crt", "client.pem")).await?;
    stage.database = stage.client.database(&stage.name);
    stage
        .client
        .database("$external")
        .run_command(doc! { "createUser": SUBJECT, "roles": [{ "role": "read", "db": &stage.name }] })
        .await?;
    stage.client.database("admin").run_command(doc! { "setParameter": 1, "tlsMode": "requireTLS" }).await?;
    stage.execute("alter database app owner to rowstream; alter schema public owner to rowstream").await?;
    let from = stage.postgres_url.replace("postgres://postgres@", "postgres://rowstream@");
    let url = |options: &str| format!("{from}?{options}");
    let with = |authority: &str, certificate: &str| {
        let (authority, key) = (file(authority), file(&certificate.replace(".crt", ".key")));
        format!("sslrootcert={authority}&sslcert={}&sslkey={key}", file(certificate))
    };

    let mongodb = format!("{as_user}{}", tls("ours.crt", "client.pem"));
    let target = url(&format!("sslmode=verify-full&{}", with("ours.crt", "client.crt")));
    stage.collection("orders").insert_many(numbered(0, 100)).await?;
    let right = config(&mongodb, &target, &stage.whole("orders"));
    let daemon = Daemon::start(&right)?;
    daemon.logged("snapshot done").await?;
    stage.collection("orders").delete_one(doc! { "_id": 1_i64 }).await?;
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    let in_plain_text = "select count(*) from pg_stat_activity join pg_stat_ssl using (pid)
        where usename = 'rowstream' and (not ssl or client_dn is null)";
    assert_eq!(stage.number(in_plain_text).await?, 0);
    ensure!(stage.number("select count(*) from pg_stat_activity where usename = 'rowstream'").await? > 0);
    assert!(daemon.stop().await?.success());
    let verified = command(&["verify"], &right)?;
    ensure!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));

    // MongoDB, with PostgreSQL as it should be.
    for (uri, told) in [
        (&plain, "no suitable server answered in time"),
        (&format!("{as_user}{}", tls("other.crt", "client.pem")), "invalid peer certificate: UnknownIssuer"),
        (&format!("{as_user}{}", tls("other.crt", "client.pem")), "check tlsCAFile"),
        (&format!("{as_user}{}", tls("ours.crt", "stranger.pem")), "cannot reach mongodb"),
        (&format!("{plain}&tls=true&tlsCAFile={}", file("ours.crt")), "cannot reach mongodb"),
        (&format!("{as_user}{}", tls("missing.crt", "client.pem")), "missing.crt"),
        (
            &format!("{as_user}{}", tls("ours.crt", "client.pem")).replace("127.0.0.1", "localhost"),
            "invalid peer certificate: certificate not valid for name",
        ),
    ] {
        is_refused(uri, &target, told)?;
    }
    // PostgreSQL, with MongoDB as it should be. The server of all other tests speaks plain text alone.
    let unguarded = format!("{}?sslmode=require", shared().await.postgres.url());
    for (url, told) in [
        (&unguarded, "server does not support TLS"),
        (&url("sslmode=disable"), "pg_hba.conf rejects connection"),
        (&url("sslmode=verify-full"), "invalid peer certificate: UnknownIssuer"),
        (
            &url(&format!("sslmode=verify-full&{}", with("other.crt", "client.crt"))),
            "invalid peer certificate",
        ),
        // Who names an authority wants it to be asked, whatever the mode.
        (&url(&format!("sslmode=require&{}", with("other.crt", "client.crt"))), "invalid peer certificate"),
        (&url(&with("other.crt", "client.crt")), "invalid peer certificate"),
        (
            &format!("{unguarded}&sslmode=prefer&sslrootcert={}", file("ours.crt")),
            "server does not support TLS",
        ),
        (
            &target.replace("127.0.0.1", "localhost"),
            "invalid peer certificate: certificate not valid for name",
        ),
        (&url(&format!("sslmode=verify-ca&sslrootcert={}", file("ours.crt"))), "valid client certificate"),
        (
            &url(&format!("sslmode=verify-full&{}", with("ours.crt", "stranger.crt"))),
            "cannot reach postgresql",
        ),
    ] {
        is_refused(&mongodb, url, told)?;
    }
    Ok(())
}
