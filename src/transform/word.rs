//! Short texts, eight bytes at a time. Names and values of documents have ten bytes or so: there a loop byte by
//! byte, or a call that compares any length, costs more than all else that is done with them.

/// A byte in each place of a word.
pub(super) const EACH: u64 = u64::MAX / 255;
/// The top bit of each.
pub(super) const TOP: u64 = EACH * 0x80;

/// The first eight bytes, the first one lowest; zeros where there are none.
#[inline]
pub(super) fn first(bytes: &[u8]) -> u64 {
    if let Some(word) = bytes.first_chunk() {
        return u64::from_le_bytes(*word);
    }
    // What is read twice is the same both times.
    if let (Some(head), Some(tail)) = (bytes.first_chunk(), bytes.last_chunk()) {
        let (head, tail) = (u32::from_le_bytes(*head), u32::from_le_bytes(*tail));
        return u64::from(head) | u64::from(tail) << (8 * (bytes.len() - 4));
    }
    match *bytes {
        [] => 0,
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, ..] => u64::from(u32::from_le_bytes([a, b, c, 0])),
    }
}

/// Where the first zero is.
#[inline]
pub(super) fn zero(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk() {
        let word = u64::from_le_bytes(*word);
        // A borrow spoils only bytes above the first that is marked.
        let marked = word.wrapping_sub(EACH) & !word & TOP;
        if marked != 0 {
            return Some(at + marked.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    bytes[at..].iter().position(|&byte| byte == 0).map(|rest| at + rest)
}

/// Whether each byte is ASCII and none is zero.
#[inline]
pub(super) fn is_ascii_without_nul(text: &[u8]) -> bool {
    let is_plain = |word: u64| (word.wrapping_sub(EACH) | word) & TOP == 0;
    match text.last_chunk() {
        Some(last) => {
            let (words, _) = text.as_chunks();
            words.iter().all(|word| is_plain(u64::from_le_bytes(*word)))
                && is_plain(u64::from_le_bytes(*last))
        }
        None => text.iter().all(|byte| (1..0x80).contains(byte)),
    }
}

/// A name, and a number by which most names are told apart and put in order: by length, then by bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name<'a> {
    head: u64,
    pub(super) bytes: &'a [u8],
}

impl<'a> Name<'a> {
    #[inline]
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let head = match bytes.len() {
            length @ ..255 => (length as u64) << 56 | first(bytes).swap_bytes() >> 8,
            // Of these the head says only that they are long.
            _ => u64::MAX,
        };
        Self { head, bytes }
    }

    #[inline]
    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// Whether it is a name that has this head and these bytes.
    #[inline]
    pub(super) fn is(&self, head: u64, bytes: &[u8]) -> bool {
        self.head == head && (self.bytes.len() < 8 || self.bytes == bytes)
    }
}

impl Ord for Name<'_> {
    #[inline]
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.head.cmp(&other.head).then_with(|| match self.bytes.len() {
            ..8 => std::cmp::Ordering::Equal,
            length => length.cmp(&other.bytes.len()).then_with(|| self.bytes.cmp(other.bytes)),
        })
    }
}

impl PartialOrd for Name<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![8 => b'a'..=b'c', 1 => Just(0), 1 => any::<u8>()];
        prop_oneof![
            9 => proptest::collection::vec(byte, 0..40),
            1 => proptest::collection::vec(b'a'..=b'b', 250..260),
        ]
    }

    proptest! {
        #[test]
        fn words_say_what_bytes_say(text in text()) {
            prop_assert_eq!(zero(&text), text.iter().position(|byte| *byte == 0));
            let mut bytes = [0; 8];
            let length = text.len().min(8);
            bytes[..length].copy_from_slice(&text[..length]);
            prop_assert_eq!(first(&text), u64::from_le_bytes(bytes));
            let plain = text.iter().all(|byte| (1..0x80).contains(byte));
            prop_assert_eq!(is_ascii_without_nul(&text), plain);
        }

        #[test]
        fn names_are_in_the_order_of_their_lengths_and_bytes(left in text(), right in text()) {
            let (one, other) = (Name::new(&left), Name::new(&right));
            let order = left.len().cmp(&right.len()).then_with(|| left.cmp(&right));
            prop_assert_eq!(one.cmp(&other), order);
            prop_assert_eq!(one.is(other.head(), other.bytes), left == right);
        }
    }
}
