//! Decimal numbers as JSON spells them (RFC 8259, section 6), compared exactly: rules look at numbers of any size, and
//! what is decided must not hang on how somebody rounds.

use core::cmp::Ordering;

/// A number as it is spelt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decimal<'a> {
    is_negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: i64,
}

impl<'a> Decimal<'a> {
    /// Reads a number; `None` if the text is not one.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let is_digits =
            |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let (is_negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => {
                if !is_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)) {
                    return None;
                }
                // Numbers with more digits in the exponent than this are as good as the largest and the smallest.
                let clamped = exponent.parse::<i32>().unwrap_or_else(|_| {
                    if exponent.starts_with('-') {
                        i32::MIN
                    } else {
                        i32::MAX
                    }
                });
                (mantissa, i64::from(clamped))
            }
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) if is_digits(fraction) => (whole, fraction),
            Some(_) => return None,
            None => (mantissa, ""),
        };
        let is_whole = is_digits(whole) && (whole.len() == 1 || !whole.starts_with('0'));
        is_whole.then_some(Self {
            is_negative,
            whole,
            fraction,
            exponent,
        })
    }

    /// The digits from the first that is not 0 on.
    fn digits(&self) -> impl Iterator<Item = u8> + use<'a> {
        let digits = self.whole.bytes().chain(self.fraction.bytes());
        digits.skip_while(|digit| *digit == b'0')
    }

    /// How many places before the point the first digit stands; `None` for zero.
    fn magnitude(&self) -> Option<i64> {
        let whole = self.whole.trim_start_matches('0');
        if !whole.is_empty() {
            return Some(self.exponent + whole.len() as i64);
        }
        let zeros = self.fraction.bytes().position(|digit| digit != b'0')?;
        Some(self.exponent - zeros as i64)
    }

    fn cmp_size(&self, other: &Self) -> Ordering {
        // Nothing is below the smallest magnitude, so zero comes first.
        self.magnitude().cmp(&other.magnitude()).then_with(|| {
            let (mut ours, mut theirs) = (self.digits(), other.digits());
            loop {
                match (ours.next(), theirs.next()) {
                    (None, None) => return Ordering::Equal,
                    (a, b) => match a.unwrap_or(b'0').cmp(&b.unwrap_or(b'0')) {
                        Ordering::Equal => {}
                        unequal => return unequal,
                    },
                }
            }
        })
    }
}

impl Ord for Decimal<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.magnitude(), number.is_negative) {
            (None, _) => 0,
            (Some(_), true) => -1,
            (Some(_), false) => 1,
        };
        sign(self).cmp(&sign(other)).then_with(|| {
            if self.is_negative {
                other.cmp_size(self)
            } else {
                self.cmp_size(other)
            }
        })
    }
}

impl PartialOrd for Decimal<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Decimal<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_as_they_should() {
        let rising = [
            "-1e400",
            "-18446744073709551617",
            "-18446744073709551616",
            "-2",
            "-1.5",
            "-1.25",
            "-0.001",
            "0",
            "1e-400",
            "0.0009",
            "0.001",
            "0.10",
            "0.11",
            "1",
            "9.99",
            "10",
            "10.000000000000000000001",
            "123456789012345678901234567890",
            "1e30",
            "1e99999999999",
        ];
        for (left, a) in rising.iter().enumerate() {
            for (right, b) in rising.iter().enumerate() {
                let (a, b) = (Decimal::parse(a).unwrap(), Decimal::parse(b).unwrap());
                assert_eq!(a.cmp(&b), left.cmp(&right), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn one_number_has_many_spellings() {
        for (a, b) in [
            ("0", "-0.00e7"),
            ("1", "1.0"),
            ("1", "10e-1"),
            ("0.5", "5E-1"),
            ("1200", "1.2e+3"),
            ("-100", "-1e2"),
        ] {
            assert_eq!(Decimal::parse(a), Decimal::parse(b), "{a} {b}");
        }
    }

    #[test]
    fn other_texts_are_no_numbers() {
        for text in [
            "", "-", "+1", "01", ".5", "1.", "1e", "1e+", "1 ", "0x1", "1_0", "NaN", "1.2.3",
            "1e1.5",
        ] {
            assert!(Decimal::parse(text).is_none(), "{text}");
        }
    }
}
