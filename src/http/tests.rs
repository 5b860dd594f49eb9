use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::domain::{ClusterTime, SourceIndex};
use crate::pipeline::STALLED_AFTER;

struct Server {
    address: SocketAddr,
    status: Status,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

async fn server() -> Server {
    server_started_at(Moment::now()).await
}

async fn server_started_at(moment: Moment) -> Server {
    server_with(moment, Access::Loopback).await
}

async fn server_with(moment: Moment, access: Access) -> Server {
    server_asking(moment, access, nowhere()).await
}

async fn server_asking(moment: Moment, access: Access, operator: Operator) -> Server {
    let status = Status::new("expenses", "0.1.0", moment);
    let metrics = Arc::new(Metrics::new("0.1.0", "abc").expect("metrics"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel::<()>();
    let http = Http::new(status.clone(), metrics, limits(), access, operator);
    let task = tokio::spawn(serve(listener, http, async {
        stopped.await.ok();
    }));
    Server { address, status, stop, task }
}

/// A database that is away.
fn nowhere() -> Operator {
    let mappings = config::Mappings::Listed(Vec::new());
    Operator::new("expenses", Duration::from_secs(1), mappings, || Box::pin(async { Err("away".into()) }))
}

fn limits() -> config::Health {
    config::Health {
        lag_degraded: Duration::from_secs(30),
        lag_failing: Duration::from_secs(300),
        outage_failing: Duration::from_secs(120),
        oplog_headroom: Duration::from_secs(3_600),
        checkpoint_degraded: Duration::from_secs(60),
        snapshot_degraded: Duration::from_secs(120),
    }
}

struct Answer {
    code: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

impl Server {
    async fn send(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.expect("reads");
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
        Answer { code, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
    }

    fn make_well(&self) {
        let now = Moment::now();
        self.status.source_added(SourceIndex(0), "venmo", "flask_db.venmo", "public.transactions");
        self.status.became_leader(1, "host/1", now);
        self.status.mongodb_up(now);
        self.status.postgresql_up(now);
        self.status.polled(now);
        self.status.checkpoint_committed(ClusterTime::new(100, 1), 1, now);
        self.status.lag_measured(Duration::ZERO, now);
    }
}

#[tokio::test]
async fn health_is_503_only_when_it_fails() {
    let server = server().await;
    server.make_well();
    let answer = server.get("/health").await;
    assert_eq!((answer.code, &answer.json()["status"]), (200, &"ok".into()));
    assert_eq!(answer.json()["checks"][1]["name"], "mongodb");

    server.status.mongodb_failed("connection refused", Moment::now());
    let answer = server.get("/health").await;
    assert_eq!((answer.code, &answer.json()["status"]), (200, &"degraded".into()));

    server.status.halted("table is gone", "create it", Moment::now());
    let answer = server.get("/health").await;
    assert_eq!((answer.code, &answer.json()["status"]), (503, &"failing".into()));
    assert_eq!(answer.json()["checks"][0]["detail"], "halted: table is gone (create it)");
}

#[tokio::test]
async fn livez_follows_the_loop_and_no_server() {
    let server = server_started_at(Moment::now().before(STALLED_AFTER)).await;
    assert_eq!(server.get("/livez").await.code, 503, "no progress since the start");
    server.status.progressed(Moment::now());
    server.status.mongodb_failed("gone", Moment::now());
    server.status.halted("gone", "", Moment::now());
    assert_eq!(server.get("/livez").await.code, 200, "the loop turns, whatever it says");
}

#[tokio::test]
async fn readyz_falls_when_the_process_cannot_do_its_part() {
    let server = server().await;
    assert_eq!(server.get("/readyz").await.code, 503, "not started");
    server.status.became_standby("host/2", Moment::now());
    assert_eq!(server.get("/readyz").await.code, 200, "a standby is ready");
    server.make_well();
    server.status.postgresql_failed("gone", Moment::now());
    server.status.lag_measured(Duration::from_secs(9_999), Moment::now());
    assert_eq!(server.get("/readyz").await.code, 200, "an outage and lag are no reason");
    server.status.restarting(Moment::now());
    assert_eq!(server.get("/readyz").await.code, 200, "waits for its lease");
    server.status.halted("gone", "", Moment::now());
    assert_eq!(server.get("/readyz").await.code, 503, "halted");
    server.status.became_leader(2, "host/1", Moment::now());
    assert_eq!(server.get("/readyz").await.code, 200, "goes on");
    server.status.stopping(Moment::now());
    assert_eq!(server.get("/readyz").await.code, 503, "stopping");
}

#[tokio::test]
async fn metrics_are_the_text_format_of_prometheus() {
    let server = server().await;
    server.make_well();
    let answer = server.get("/metrics").await;
    assert_eq!(answer.code, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    assert!(answer.body.contains("\nrowstream_leader 1\n"));
    assert!(answer.body.contains("\nrowstream_health_check{check=\"mongodb\"} 0\n"));
}

#[tokio::test]
async fn status_is_json() {
    let server = server().await;
    server.make_well();
    let answer = server.get("/status").await;
    assert_eq!((answer.code, &answer.json()["role"]), (200, &"leader".into()));
    assert_eq!(answer.json()["sources"][0]["source"], "venmo");
    assert_eq!(answer.json()["changes"], "open");
}

#[tokio::test]
async fn the_page_brings_everything_and_allows_nothing_else() {
    let server = server().await;
    let answer = server.get("/").await;
    assert_eq!(answer.code, 200);
    assert!(answer.head.contains("content-type: text/html"));
    let nonce = answer
        .head
        .split("script-src 'nonce-")
        .nth(1)
        .and_then(|rest| rest.split('\'').next())
        .expect("a nonce in the policy");
    assert_eq!(answer.body.matches(nonce).count(), 2, "one style, one script");
    for elsewhere in ["http://", "https://", "//cdn", "{{", "onclick=", "innerHTML"] {
        let body = answer.body.replace("http://www.w3.org", "");
        assert!(!body.contains(elsewhere), "{elsewhere}");
    }
}

#[tokio::test]
async fn an_unknown_path_names_the_known_ones() {
    let server = server().await;
    let answer = server.get("/nowhere").await;
    assert_eq!(answer.code, 404);
    assert_eq!(answer.json()["endpoints"], json!(ENDPOINTS));
    for endpoint in ENDPOINTS {
        match endpoint.strip_prefix("POST ") {
            None => assert_ne!(server.get(endpoint).await.code, 404, "{endpoint}"),
            Some(path) => assert_eq!(server.get(path).await.code, 405, "{endpoint}"),
        }
    }
}

#[tokio::test]
async fn a_wrong_method_is_405_with_the_right_ones() {
    let server = server().await;
    let request =
        "POST /health HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let answer = server.send(request).await;
    assert_eq!(answer.code, 405);
    assert!(answer.head.contains("allow: get, head") || answer.head.contains("allow: get,head"));
    assert!(answer.json()["error"].is_string());
}

#[tokio::test]
async fn what_changes_something_needs_the_token_and_what_reads_does_not() {
    let token = config::Secret::new("0123456789abcdef".into());
    let server = server_with(Moment::now(), Access::new(Some(token), ([127, 0, 0, 1], 1).into())).await;
    let post = |authorization: &str| {
        format!(
            "POST /health HTTP/1.1\r\nhost: x\r\n{authorization}content-length: 0\r\nconnection: close\r\n\r\n"
        )
    };
    for wrong in ["", "authorization: Bearer 0123456789abcdeX\r\n"] {
        let answer = server.send(&post(wrong)).await;
        assert_eq!(answer.code, 401, "{wrong}");
        assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        assert!(answer.head.contains("cache-control: no-store") && !answer.body.contains("0123456789abcdef"));
    }
    assert_eq!(server.send(&post("authorization: Bearer 0123456789abcdef\r\n")).await.code, 405);
    assert_eq!(server.get("/health").await.code, 200);
    let open = server_with(Moment::now(), Access::new(None, ([0, 0, 0, 0], 1).into())).await;
    let answer = open.send(&post("")).await;
    assert_eq!(answer.code, 403);
    assert!(answer.json()["error"].as_str().is_some_and(|error| error.contains("http.token")));
}

#[tokio::test]
async fn what_only_postgresql_knows_is_503_with_a_sentence_while_it_is_away() {
    let server = server().await;
    for path in ["/held", "/held/summary", "/status/a/b", "/held?source=a&limit=5&after_source=a&after_id=b"]
    {
        let answer = server.get(path).await;
        assert_eq!(
            (answer.code, &answer.json()["error"]),
            (503, &"postgresql cannot be reached".into()),
            "{path}"
        );
    }
    for (path, what) in [
        ("/held?sorce=a", "not known"),
        ("/held?limit=0", "limit"),
        ("/held?limit=1001", "limit"),
        ("/held?state=lost", "waiting, failed, resolved"),
        ("/held?reason=because", "missing_required"),
        ("/held?after_id=a", "belong together"),
        ("/held?id=a", "source"),
        ("/held/summary?source=%00", "NUL"),
    ] {
        let answer = server.get(path).await;
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.code, 400, "{path}");
        assert!(error.contains(what), "{path}: {error}");
    }
}

#[tokio::test]
async fn a_database_that_is_silent_is_asked_by_a_few_at_a_time_and_told_of_within_seconds() {
    let mappings = config::Mappings::Listed(Vec::new());
    let (asked, mut asking) = tokio::sync::mpsc::channel(4);
    let silent = Operator::new("expenses", Duration::from_secs(1), mappings, move || {
        asked.try_send(()).expect("the test listens");
        Box::pin(std::future::pending())
    });
    let server = Arc::new(server_asking(Moment::now(), Access::Loopback, silent).await);
    let mut first = Vec::new();
    for _ in 0..4 {
        let server = Arc::clone(&server);
        first.push(tokio::spawn(async move { server.get("/held").await }));
        asking.recv().await.expect("it is asked");
    }
    let fifth = server.get("/held/summary").await;
    let error = fifth.json()["error"].as_str().unwrap_or_default().to_owned();
    assert!(fifth.code == 503 && error.contains("4 other requests"), "{error}");
    assert_eq!(server.get("/status").await.code, 200, "what needs no database is answered");
    for first in first {
        let answer = first.await.expect("no panic");
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(answer.code == 503 && error.contains("within 4 s"), "{error}");
    }
}

#[tokio::test]
async fn discarding_needs_keys_or_the_word_all() {
    let server = server().await;
    let post = |body: &str| {
        let length = body.len();
        format!(
            "POST /held/discard HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        )
    };
    for body in ["", "{}", "{\"source\": \"a\"}", "{\"ids\": [\"1\"]}", "{\"al\": true}", "[]"] {
        assert_eq!(server.send(&post(body)).await.code, 400, "{body}");
    }
    for body in ["{\"all\": true}", "{\"source\": \"a\", \"ids\": [\"1\"]}"] {
        assert_eq!(server.send(&post(body)).await.code, 503, "{body}");
    }
    let large = format!("{{\"source\": \"{}\"}}", "x".repeat(BODY_BYTES));
    assert_eq!(server.send(&post(&large)).await.code, 413);
}

#[tokio::test]
async fn every_answer_is_hardened() {
    let server = server().await;
    for path in ["/", "/health", "/metrics", "/nowhere"] {
        let head = server.get(path).await.head;
        for header in ["cache-control: no-store", "x-content-type-options: nosniff", "default-src 'none'"] {
            assert!(head.contains(header), "{path} lacks {header}: {head}");
        }
    }
}

#[tokio::test]
async fn a_request_that_never_ends_is_let_go() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.address).await.expect("connects");
    // More than a request may have. Writing may fail half-way, which is the point.
    let line = format!("x-filler: {}\r\n", "x".repeat(1_000));
    stream.write_all(b"GET /health HTTP/1.1\r\n").await.expect("writes");
    for _ in 0..64 {
        if stream.write_all(line.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.ok();
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(server.get("/livez").await.code, 200);
}

#[tokio::test]
async fn idle_connections_do_not_keep_a_probe_waiting() {
    let server = server().await;
    server.status.progressed(Moment::now());
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(server.address).await.expect("connects"));
    }
    let began = Instant::now();
    let answer = tokio::time::timeout(Duration::from_secs(2), server.get("/livez")).await;
    assert_eq!(answer.expect("an answer in time").code, 200);
    // The oldest had to go, the youngest may still ask.
    assert!(ends(&mut idle[0], Duration::from_secs(2)).await);
    let last = idle.last_mut().expect("a connection");
    assert!(!ends(last, Duration::from_millis(100)).await);
    // One that says nothing, or half a request, is let go soon.
    last.write_all(b"GET /livez HTTP/1.1\r\n").await.expect("writes");
    assert!(ends(last, Duration::from_secs(10)).await);
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
}

async fn ends(stream: &mut TcpStream, within: Duration) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(within, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn a_shutdown_ends_it_although_a_connection_is_open() {
    let server = server().await;
    let open = TcpStream::connect(server.address).await.expect("connects");
    assert_eq!(server.get("/livez").await.code, 200);
    server.stop.send(()).expect("serving");
    let ended = tokio::time::timeout(Duration::from_secs(10), server.task).await;
    ended.expect("ends in time").expect("no panic").expect("no error");
    drop(open);
    assert!(TcpStream::connect(server.address).await.is_err());
}
