//! The one thing read out of a resume token: its time.

use super::element::{BINARY, elements};
use crate::domain::{ClusterTime, ResumeToken};

/// A token's `_data` is a key string that begins with a timestamp: 0x82, then seconds and increment,
/// big-endian. Servers since 4.2 send it as hexadecimal text, 4.0 sent binary.
/// `None` if the token has no such beginning.
pub fn token_time(token: &ResumeToken) -> Option<ClusterTime> {
    let data =
        elements(&token.0).find_map(|element| element.ok().filter(|element| element.name == b"_data"))?;
    let key = match data.text() {
        Some(text) => decode_hexadecimal(text.get(..18)?)?,
        None if data.element_type == BINARY => data.value.get(5..14)?.try_into().ok()?,
        None => return None,
    };
    match key {
        [0x82, s0, s1, s2, s3, i0, i1, i2, i3] => {
            Some(ClusterTime::new(u32::from_be_bytes([s0, s1, s2, s3]), u32::from_be_bytes([i0, i1, i2, i3])))
        }
        _ => None,
    }
}

fn decode_hexadecimal(text: &[u8]) -> Option<[u8; 9]> {
    let mut key = [0; 9];
    for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |character: u8| char::from(character).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::element::Writer;

    fn token(data: &str) -> ResumeToken {
        ResumeToken(Writer::new().string("_data", data).bytes())
    }

    #[test]
    fn the_time_is_read_from_tokens_of_a_real_server() {
        // An event's token, and an idle stream's (high-water mark), both of mongod 6.0.5.
        for (data, expected) in [
            (
                "826B01034A000000042B022C0100296E5A10043CA3C53BD7B745BEA0EC834A568D7A24461E5F696400290004",
                ClusterTime::new(0x6B01_034A, 4),
            ),
            ("826B01034A000000172B0229296E04", ClusterTime::new(0x6B01_034A, 0x17)),
        ] {
            assert_eq!(token_time(&token(data)), Some(expected));
        }
    }

    #[test]
    fn the_time_is_read_from_a_binary_token() {
        let key = [9, 0, 0, 0, 0, 0x82, 0, 0, 0, 7, 0, 0, 0, 9];
        let token = ResumeToken(Writer::new().value("_data", BINARY, &key).bytes());
        assert_eq!(token_time(&token), Some(ClusterTime::new(7, 9)));
    }

    #[test]
    fn what_is_no_token_has_no_time() {
        for data in ["", "82", "zz6B01034A00000004", "296B01034A00000004"] {
            assert_eq!(token_time(&token(data)), None);
        }
        assert_eq!(token_time(&ResumeToken(Vec::new())), None);
    }
}
