use std::fmt;

/// A time in MongoDB's oplog (`clusterTime`, `operationTime`): seconds and a counter within them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterTime {
    pub seconds: u32,
    pub increment: u32,
}

impl ClusterTime {
    pub fn new(seconds: u32, increment: u32) -> Self {
        Self { seconds, increment }
    }

    /// Order-preserving, for a `bigint` column. Seconds above 2^31 do not occur before 2038.
    pub fn to_i64(self) -> i64 {
        ((u64::from(self.seconds) << 32) | u64::from(self.increment)) as i64
    }

    pub fn from_i64(value: i64) -> Self {
        let value = value as u64;
        Self { seconds: (value >> 32) as u32, increment: value as u32 }
    }
}

impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seconds, self.increment)
    }
}

/// A resume token: the BSON document the server gave, kept as bytes and handed back unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeToken(pub Vec<u8>);

/// How far the stream has been taken. Without a token, the stream starts at `time` inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub token: Option<ResumeToken>,
    pub time: ClusterTime,
}
