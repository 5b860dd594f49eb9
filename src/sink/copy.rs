//! Binary COPY: signature, tuples as they are, trailer.

use sqlx::PgConnection;

use crate::domain::Row;

/// Signature, flags, length of the header's extension.
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// How much is handed to the socket at once. Below 64 KiB system calls begin to count; above 1 MiB
/// memory is held for nothing.
const SEND_BYTES: usize = 256 * 1024;

/// Sends the rows through one COPY statement; how many the server took.
pub(super) async fn copy_rows(conn: &mut PgConnection, sql: &str, rows: &[&Row]) -> Result<u64, sqlx::Error> {
    let mut copy = conn.copy_in_raw(sql).await?;
    let mut buffer = Vec::with_capacity(SEND_BYTES + SEND_BYTES / 4);
    buffer.extend_from_slice(HEADER);
    for row in rows {
        buffer.extend_from_slice(&row.tuple);
        if buffer.len() >= SEND_BYTES {
            copy.send(buffer.as_slice()).await?;
            buffer.clear();
        }
    }
    buffer.extend_from_slice(&TRAILER);
    copy.send(buffer.as_slice()).await?;
    copy.finish().await
}
