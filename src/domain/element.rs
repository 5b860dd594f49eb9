/// How many bytes a BSON value of this type takes by its own account: more than there are if it is cut off, and
/// too few to be sound if its length is false. `None` for an unknown type, or if not even the length is there.
#[inline]
pub fn value_length(element_type: u8, bytes: &[u8]) -> Option<usize> {
    let prefix = || usize::try_from(i32::from_le_bytes(*bytes.first_chunk()?)).ok();
    Some(match element_type {
        // Double, date, timestamp, int64; int32; bool; object id; decimal128.
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        0x10 => 4,
        0x08 => 1,
        0x07 => 12,
        0x13 => 16,
        // Undefined, null, max key, min key.
        0x06 | 0x0a | 0x7f | 0xff => 0,
        // String, code, symbol; document, array, code with scope; binary; pointer.
        0x02 | 0x0d | 0x0e => prefix()?.checked_add(4)?,
        0x03 | 0x04 | 0x0f => prefix()?,
        0x05 => prefix()?.checked_add(5)?,
        0x0c => prefix()?.checked_add(16)?,
        // Regex: two texts.
        0x0b => {
            let pattern = bytes.iter().position(|&byte| byte == 0)?;
            pattern + bytes[pattern + 1..].iter().position(|&byte| byte == 0)? + 2
        }
        _ => return None,
    })
}
