//! What can go wrong at the source, and what to do about it.

use std::fmt;
use std::time::Duration;

use mongodb::error::ErrorKind;

use crate::domain::Namespace;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the MongoDB URI is not valid: {reason}")]
    InvalidUri { reason: String },
    #[error("could not {action}")]
    Failed {
        action: &'static str,
        #[source]
        fault: Fault,
    },
    #[error("could not {action} of {namespace}")]
    Collection {
        action: &'static str,
        namespace: Namespace,
        #[source]
        fault: Fault,
    },
    /// What the server sent, or what is to be sent to it, is not what was agreed on.
    #[error("{what} was not understood")]
    Malformed { what: &'static str },
    /// The stream's position has left the oplog: changes in between are gone for good.
    #[error("the change stream cannot go on from its position, which has left the oplog")]
    HistoryLost {
        #[source]
        fault: Fault,
    },
    /// The stored token is none of this server's.
    #[error("the stored resume token is not accepted")]
    InvalidToken {
        #[source]
        fault: Fault,
    },
    /// One event is too large for the server, even without its document.
    #[error("the server cannot send an event of the change stream, not even without its document")]
    EventTooLarge {
        #[source]
        fault: Fault,
    },
}

/// What happens next. Nothing at the source is held: whatever is wrong concerns all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It passes: try again with back-off, without end.
    Retry,
    /// Somebody must act.
    Halt { hint: &'static str },
}

impl Error {
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Failed { fault, .. } | Self::Collection { fault, .. } => fault.kind.disposition(),
            Self::InvalidUri { .. } => Disposition::Halt { hint: "correct the MongoDB URI" },
            Self::Malformed { .. } => Disposition::Halt {
                hint: "the server may be of a version rowstream does not know, or no MongoDB at all",
            },
            Self::HistoryLost { .. } => FaultKind::HistoryLost.disposition(),
            Self::InvalidToken { .. } => FaultKind::InvalidToken.disposition(),
            Self::EventTooLarge { .. } => FaultKind::TooLarge.disposition(),
        }
    }

    pub(super) fn failed(action: &'static str) -> impl Fn(mongodb::error::Error) -> Self {
        move |error| Self::Failed { action, fault: Fault::from(&error) }
    }

    pub(super) fn collection(
        action: &'static str,
        namespace: &Namespace,
    ) -> impl Fn(mongodb::error::Error) -> Self {
        move |error| Self::Collection { action, namespace: namespace.clone(), fault: Fault::from(&error) }
    }

    /// The kind of the server's or driver's fault, if it was one.
    pub fn fault_kind(&self) -> Option<FaultKind> {
        match self {
            Self::Failed { fault, .. }
            | Self::Collection { fault, .. }
            | Self::HistoryLost { fault }
            | Self::InvalidToken { fault }
            | Self::EventTooLarge { fault } => Some(fault.kind),
            Self::InvalidUri { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// A driver's error, cut down to what may be printed: the driver's own text carries server replies,
/// and some of those quote the command with all its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    pub code: Option<i32>,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// No connection, no server, no answer.
    Unreachable,
    /// The server was there and asks to be asked again: election, shutdown, killed cursor, time limit.
    Interrupted,
    /// 286: the position has left the oplog.
    HistoryLost,
    /// 280: the event of the token is not there.
    TokenNotFound,
    /// The token cannot be read, or belongs elsewhere.
    InvalidToken,
    /// 10334: an event above 16 MB.
    TooLarge,
    /// A certificate is not accepted, by us or by the server.
    Tls,
    Authentication,
    Unauthorized,
    /// The server cannot do it: a standalone, a view, too old a version.
    Unsupported,
    /// Codes and driver errors nobody has met here.
    Unknown,
}

impl FaultKind {
    pub const ALL: [Self; 11] = [
        Self::Unreachable,
        Self::Interrupted,
        Self::HistoryLost,
        Self::TokenNotFound,
        Self::InvalidToken,
        Self::TooLarge,
        Self::Tls,
        Self::Authentication,
        Self::Unauthorized,
        Self::Unsupported,
        Self::Unknown,
    ];

    fn disposition(self) -> Disposition {
        let hint = match self {
            Self::Unreachable | Self::Interrupted => return Disposition::Retry,
            Self::HistoryLost => {
                "size the oplog for the longest outage; `on_history_lost: resync` goes on from now and brings every row up to date"
            }
            Self::TokenNotFound => {
                "the source may have been restored from a backup: `on_history_lost: resync` goes on from now and brings every row up to date"
            }
            Self::InvalidToken => {
                "the checkpoint belongs to another cluster or another scope: restore the URI, or let `on_history_lost: resync` go on from now and bring every row up to date"
            }
            Self::TooLarge => {
                "shorten the document; `rowstream reset --yes` then lets `run` begin behind the event, and `rowstream resync <source>` finds what was deleted meanwhile"
            }
            Self::Tls => {
                "check tlsCAFile, tlsCertificateKeyFile and the host names of the MongoDB URI against the certificates"
            }
            Self::Authentication => "correct user, password or authSource of the MongoDB URI",
            Self::Unauthorized => {
                "grant the user `read` on the database, or `readAnyDatabase` if several databases are mapped"
            }
            Self::Unsupported => {
                "change streams need a replica set or sharded cluster, and collections, not views"
            }
            Self::Unknown => "look the code up in the MongoDB manual; `rowstream check` may say more",
        };
        Disposition::Halt { hint }
    }

    fn from_code(code: i32, message: &str) -> Self {
        match code {
            286 => Self::HistoryLost,
            280 => Self::TokenNotFound,
            // InvalidResumeToken, and what unreadable key strings and tokens of other streams raise.
            260 | 40647 | 40649 | 50790 | 50811 | 50788 | 50791 | 50792 => Self::InvalidToken,
            10334 => Self::TooLarge,
            11 | 18 => Self::Authentication,
            13 => Self::Unauthorized,
            // CommandNotFound, CommandNotSupportedOnView, CommandNotSupported, $changeStream needs a
            // replica set, no change streams on a view or time-series collection.
            59 | 115 | 166 | 40573 | 20 => Self::Unsupported,
            // A read time that a server restored or elected just now has not reached yet.
            72 if message.contains("afterClusterTime") => Self::Interrupted,
            _ if INTERRUPTED_CODES.contains(&code) => Self::Interrupted,
            _ => Self::Unknown,
        }
    }
}

/// Codes after which the same request may succeed: the change stream specification's sixteen, those of
/// retryable reads, and CursorKilled, which drivers do not resume.
const INTERRUPTED_CODES: [i32; 40] = [
    6,     // HostUnreachable
    7,     // HostNotFound
    24,    // LockTimeout
    43,    // CursorNotFound
    46,    // LockBusy
    50,    // MaxTimeMSExpired
    63,    // StaleShardVersion
    70,    // ShardNotFound
    83,    // IncompatibleShardingMetadata
    89,    // NetworkTimeout
    91,    // ShutdownInProgress
    112,   // WriteConflict
    117,   // ConflictingOperationInProgress
    133,   // FailedToSatisfyReadPreference
    134,   // ReadConcernMajorityNotAvailableYet
    136,   // CappedPositionLost
    146,   // ExceededMemoryLimit
    150,   // StaleEpoch
    175,   // QueryPlanKilled
    189,   // PrimarySteppedDown
    202,   // NetworkInterfaceExceededTimeLimit
    234,   // RetryChangeStream
    237,   // CursorKilled
    239,   // SnapshotTooOld
    246,   // SnapshotUnavailable
    249,   // StaleChunkHistory
    262,   // ExceededTimeLimit
    314,   // ObjectIsBusy
    317,   // ConnectionPoolExpired
    365,   // TemporarilyUnavailable
    384,   // ConnectionError
    391,   // ReauthenticationRequired
    9001,  // SocketException
    10107, // NotWritablePrimary
    11600, // InterruptedAtShutdown
    11601, // Interrupted
    11602, // InterruptedDueToReplStateChange
    13388, // StaleConfig
    13435, // NotPrimaryNoSecondaryOk
    13436, // NotPrimaryOrSecondary
];

/// Labels by which a server itself says that trying again is right.
const RETRYABLE_LABELS: [&str; 3] =
    [mongodb::error::RESUMABLE_CHANGE_STREAM_ERROR, mongodb::error::RETRYABLE_ERROR, "RetryableReadError"];

impl From<&mongodb::error::Error> for Fault {
    fn from(error: &mongodb::error::Error) -> Self {
        let (kind, code, message) = match error.kind.as_ref() {
            ErrorKind::Command(command) => {
                let known = FaultKind::from_code(command.code, &command.message);
                let retryable = RETRYABLE_LABELS.iter().any(|label| error.contains_label(label));
                let kind =
                    if known == FaultKind::Unknown && retryable { FaultKind::Interrupted } else { known };
                (kind, Some(command.code), format!("{}: {}", command.code_name, command.message))
            }
            ErrorKind::Authentication { message, .. } => (FaultKind::Authentication, None, message.clone()),
            ErrorKind::Io(cause) => match refused_certificate(&cause.to_string()) {
                Some(reason) => (FaultKind::Tls, None, reason),
                None => (FaultKind::Unreachable, None, format!("network: {cause}")),
            },
            ErrorKind::ConnectionPoolCleared { .. } => {
                (FaultKind::Unreachable, None, "the connection was lost".into())
            }
            ErrorKind::ServerSelection { message, .. } => return Self::from_selection(message),
            ErrorKind::DnsResolve { message, .. } => {
                (FaultKind::Unreachable, None, format!("DNS: {message}"))
            }
            ErrorKind::InvalidTlsConfig { message, .. } => (FaultKind::Tls, None, message.clone()),
            ErrorKind::IncompatibleServer { message, .. } => (FaultKind::Unsupported, None, message.clone()),
            ErrorKind::SessionsNotSupported => (FaultKind::Unsupported, None, error.kind.to_string()),
            ErrorKind::InvalidResponse { message, .. } => (FaultKind::Unknown, None, message.clone()),
            other => (FaultKind::Unknown, None, other.to_string()),
        };
        Self { kind, code, message: without_values(&message) }
    }
}

impl Fault {
    /// A change stream's cursor ends by itself only when the server has closed it.
    pub(super) fn cursor_closed() -> Self {
        Self { kind: FaultKind::Interrupted, code: None, message: "the server closed the cursor".into() }
    }

    /// No answer on a connection that may be there or not.
    pub(super) fn silent(patience: Duration) -> Self {
        let message = format!("no answer within {} s", patience.as_secs());
        Self { kind: FaultKind::Unreachable, code: None, message }
    }

    /// The driver tells each server's last error in braces; a refused password or certificate hides there.
    fn from_selection(message: &str) -> Self {
        if let Some(reason) = refused_certificate(message) {
            return Self { kind: FaultKind::Tls, code: None, message: reason };
        }
        let refused = ["SCRAM failure", "Authentication failed", "AuthenticationFailed"]
            .iter()
            .any(|words| message.contains(words));
        if refused {
            return Self {
                kind: FaultKind::Authentication,
                code: None,
                message: "authentication failed".into(),
            };
        }
        let addresses: Vec<_> = message
            .split("Address: ")
            .skip(1)
            .filter_map(|rest| rest.split([',', ' ']).next())
            .take(7)
            .collect();
        let message = match addresses.as_slice() {
            [] => "no server answered in time".into(),
            addresses => format!("no suitable server answered in time ({})", addresses.join(", ")),
        };
        Self { kind: FaultKind::Unreachable, code: None, message }
    }
}

/// Why a certificate was refused, in the words of rustls; they name hosts and nothing secret.
fn refused_certificate(message: &str) -> Option<String> {
    let begins = ["invalid peer certificate", "received fatal alert"];
    let start = begins.iter().filter_map(|words| message.find(words)).min()?;
    let reason = &message[start..];
    let end = reason.find([',', '{', '}', '[']).unwrap_or(reason.len());
    Some(format!("TLS: {}", reason[..end].trim_end()))
}

/// Server messages quote commands and documents in braces or brackets; nothing from there on is kept.
fn without_values(message: &str) -> String {
    const LONGEST: usize = 300;
    let end = message.find(['{', '[']).unwrap_or(message.len());
    let kept: String = message[..end].chars().take(LONGEST).collect();
    kept.trim_end_matches([' ', ':', '.', ',']).to_owned()
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "{} (code {code})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_into_retry_and_halt() {
        for code in
            [6, 7, 43, 89, 91, 133, 150, 189, 234, 237, 262, 9001, 10107, 11600, 11602, 13388, 13435, 13436]
        {
            assert_eq!(FaultKind::from_code(code, ""), FaultKind::Interrupted, "{code}");
        }
        for (code, kind) in [
            (13, FaultKind::Unauthorized),
            (18, FaultKind::Authentication),
            (260, FaultKind::InvalidToken),
            (280, FaultKind::TokenNotFound),
            (286, FaultKind::HistoryLost),
            (10334, FaultKind::TooLarge),
            (40573, FaultKind::Unsupported),
            (72, FaultKind::Unknown),
            (4711, FaultKind::Unknown),
        ] {
            assert_eq!(FaultKind::from_code(code, ""), kind, "{code}");
            assert_ne!(kind.disposition(), Disposition::Retry);
        }
        let ahead = "readConcern afterClusterTime value must not be greater than the current clusterTime";
        assert_eq!(FaultKind::from_code(72, ahead), FaultKind::Interrupted);
    }

    #[test]
    fn every_kind_of_fault_says_what_happens_next() {
        let table: Vec<_> =
            FaultKind::ALL.iter().map(|kind| format!("{kind:?}: {:?}", kind.disposition())).collect();
        insta::assert_snapshot!(table.join("\n"));
    }

    #[test]
    fn quoted_values_are_cut_off() {
        let quoted =
            "not authorized on shop to execute command { find: \"orders\", filter: { _id: \"secret\" } }";
        assert_eq!(without_values(quoted), "not authorized on shop to execute command");
    }

    #[test]
    fn a_refused_certificate_is_found_inside_a_selection_error() {
        let fault = Fault::from_selection(
            "Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [ { Address: \
             db1:27017, Type: Unknown, Error: Kind: I/O error: invalid peer certificate: UnknownIssuer, labels: \
             {}, source: None } ] }",
        );
        assert_eq!(fault.kind, FaultKind::Tls);
        assert_eq!(fault.to_string(), "TLS: invalid peer certificate: UnknownIssuer");
    }

    #[test]
    fn a_refused_password_is_found_inside_a_selection_error() {
        let fault = Fault::from_selection(
            "Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [ { Address: \
             db1:27017, Type: Unknown, Error: SCRAM failure: Authentication failed } ] }",
        );
        assert_eq!(fault.kind, FaultKind::Authentication);
        let fault = Fault::from_selection(
            "No available servers: { Servers: [ { Address: db1:27017, Type: Unknown } ] }",
        );
        assert_eq!(fault.kind, FaultKind::Unreachable);
        assert_eq!(fault.to_string(), "no suitable server answered in time (db1:27017)");
    }
}
