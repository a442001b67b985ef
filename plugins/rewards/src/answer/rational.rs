//! Exact fractions. Whatever does not fit into 128 bits is not a number here: the caller compares it as text.

use std::cmp::Ordering;

/// A reduced fraction with a positive denominator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rational {
    numerator: i128,
    denominator: i128,
}

impl Rational {
    /// `None` for a denominator of 0, and for what 128 bits do not hold.
    pub(crate) fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 {
            return None;
        }
        let divisor = i128::try_from(gcd(numerator.unsigned_abs(), denominator.unsigned_abs())).ok()?;
        let (numerator, denominator) = (numerator / divisor, denominator.checked_div(divisor)?);
        if denominator < 0 {
            Some(Self { numerator: numerator.checked_neg()?, denominator: denominator.checked_neg()? })
        } else {
            Some(Self { numerator, denominator })
        }
    }

    pub(crate) fn whole(value: i128) -> Self {
        Self { numerator: value, denominator: 1 }
    }

    pub(crate) fn is_whole(self) -> bool {
        self.denominator == 1
    }

    /// The whole number, if it is one and small enough for an exponent.
    pub(crate) fn as_exponent(self) -> Option<i32> {
        if self.is_whole() { i32::try_from(self.numerator).ok() } else { None }
    }

    pub(crate) fn negated(self) -> Option<Self> {
        Some(Self { numerator: self.numerator.checked_neg()?, denominator: self.denominator })
    }

    pub(crate) fn plus(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::new(left.checked_add(right)?, self.denominator.checked_mul(other.denominator)?)
    }

    pub(crate) fn times(self, other: Self) -> Option<Self> {
        // Reduced crosswise first, so that only a product that is really too large overflows.
        let a = Self::new(self.numerator, other.denominator)?;
        let b = Self::new(other.numerator, self.denominator)?;
        Self::new(a.numerator.checked_mul(b.numerator)?, a.denominator.checked_mul(b.denominator)?)
    }

    pub(crate) fn inverse(self) -> Option<Self> {
        Self::new(self.denominator, self.numerator)
    }

    pub(crate) fn power(self, exponent: i32) -> Option<Self> {
        let base = if exponent < 0 { self.inverse()? } else { self };
        let exponent = exponent.unsigned_abs();
        Some(Self {
            numerator: base.numerator.checked_pow(exponent)?,
            denominator: base.denominator.checked_pow(exponent)?,
        })
    }

    /// A decimal: these digits without their point, of which `places` stand behind it, times a power of ten.
    pub(crate) fn decimal(digits: &str, places: usize, exponent: i32) -> Option<Self> {
        let places = i32::try_from(places).ok()?;
        Self::whole(digits.parse().ok()?).times(Self::whole(10).power(exponent.checked_sub(places)?)?)
    }

    /// Rounded to six places behind the point, half to even, in millionths.
    fn millionths(self) -> Option<i128> {
        let scaled = self.times(Self::whole(1_000_000))?;
        let (whole, rest) =
            (scaled.numerator.div_euclid(scaled.denominator), scaled.numerator.rem_euclid(scaled.denominator));
        Some(match rest.checked_mul(2)?.cmp(&scaled.denominator) {
            Ordering::Less => whole,
            Ordering::Equal => whole + (whole & 1),
            Ordering::Greater => whole + 1,
        })
    }

    /// Equal when both are rounded to six places.
    pub(crate) fn is_nearly(self, other: Self) -> bool {
        match (self.millionths(), other.millionths()) {
            (Some(one), Some(two)) => one == two,
            _ => self == other,
        }
    }

    /// The order on the number line: by whole parts, then by what is left of them, turned over.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        let (mut one, mut two, mut turned) = (self, other, false);
        loop {
            let whole = |of: Self| of.numerator.div_euclid(of.denominator);
            let rest = |of: Self| of.numerator.rem_euclid(of.denominator);
            let order = whole(one).cmp(&whole(two));
            let order = if order == Ordering::Equal && (rest(one) == 0 || rest(two) == 0) {
                Some(rest(one).cmp(&rest(two)))
            } else {
                Some(order).filter(|order| order.is_ne())
            };
            if let Some(order) = order {
                return if turned { order.reverse() } else { order };
            }
            one = Self { numerator: one.denominator, denominator: rest(one) };
            two = Self { numerator: two.denominator, denominator: rest(two) };
            turned = !turned;
        }
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fraction(numerator: i128, denominator: i128) -> Rational {
        Rational::new(numerator, denominator).expect("it fits")
    }

    #[test]
    fn arithmetic_is_exact_and_reduced() {
        assert_eq!(fraction(6, -4), fraction(-3, 2));
        assert_eq!(fraction(1, 3).plus(fraction(1, 6)), Some(fraction(1, 2)));
        assert_eq!(fraction(2, 3).times(fraction(9, 4)), Some(fraction(3, 2)));
        assert_eq!(fraction(2, 3).power(-2), Some(fraction(9, 4)));
        assert_eq!(Rational::decimal("125", 2, 0), Some(fraction(5, 4)));
        assert_eq!(Rational::decimal("15", 1, 3), Some(Rational::whole(1500)));
    }

    #[test]
    fn the_order_is_exact() {
        let ascending = [
            fraction(-7, 3),
            fraction(-2, 1),
            fraction(-1, 2),
            fraction(0, 1),
            fraction(1, i128::MAX),
            fraction(3, 7),
            fraction(i128::MAX - 2, i128::MAX - 1),
            fraction(i128::MAX - 1, i128::MAX),
            fraction(1, 1),
            fraction(i128::MAX, 2),
        ];
        for (i, one) in ascending.into_iter().enumerate() {
            for (j, two) in ascending.into_iter().enumerate() {
                assert_eq!(one.compare(two), i.cmp(&j), "{one:?} and {two:?}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_no_number() {
        assert_eq!(Rational::new(1, 0), None);
        assert_eq!(Rational::new(i128::MIN, -1), None);
        assert_eq!(Rational::whole(i128::MAX).plus(Rational::whole(1)), None);
        assert_eq!(Rational::whole(2).power(127), None);
        assert_eq!(Rational::whole(0).inverse(), None);
        assert_eq!(Rational::decimal("1", 0, 99), None);
        assert_eq!(Rational::decimal(&"9".repeat(60), 0, 0), None);
        assert_eq!(Rational::whole(i128::MIN).negated(), None);
    }

    #[test]
    fn near_means_equal_at_six_places() {
        let third = fraction(1, 3);
        assert!(third.is_nearly(Rational::decimal("333333", 6, 0).expect("it fits")));
        assert!(!third.is_nearly(Rational::decimal("33333", 5, 0).expect("it fits")));
        assert!(fraction(-1, 3).is_nearly(Rational::decimal("-3333333", 7, 0).expect("it fits")));
        let huge = Rational::whole(i128::MAX / 2);
        assert!(huge.is_nearly(huge) && !huge.is_nearly(Rational::whole(1)));
    }
}
