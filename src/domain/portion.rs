/// How much of the usual amount is done at once: all of it, or all of it halved so many times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Portion {
    halvings: u32,
}

impl Portion {
    pub const WHOLE: Self = Self { halvings: 0 };

    pub fn halved(times: u32) -> Self {
        Self { halvings: times }
    }

    pub fn is_whole(self) -> bool {
        self.halvings == 0
    }

    /// At least one.
    pub fn of(self, amount: usize) -> usize {
        amount.checked_shr(self.halvings).unwrap_or(0).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_is_never_nothing() {
        assert_eq!(Portion::WHOLE.of(5_000), 5_000);
        assert_eq!(Portion::halved(3).of(5_000), 625);
        assert_eq!(Portion::halved(13).of(5_000), 1);
        assert_eq!(Portion::halved(64).of(5_000), 1);
    }
}
