//! The bits of a page: levels and indices in runs, integers as differences. Each decoder ends (`None`) where its data do;
//! none of them trusts a count that it reads.

use bytes::{Buf, Bytes};

/// A number of seven bits a byte, the low ones first.
fn unsigned(data: &mut Bytes) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        if data.is_empty() {
            return None;
        }
        let byte = data.get_u8();
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The same with the sign in the lowest bit.
fn signed(data: &mut Bytes) -> Option<i64> {
    let value = unsigned(data)?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

/// `width` bits (at most 64) from the bit `at` on, the low ones first.
fn bits(data: &[u8], at: usize, width: u32) -> Option<u64> {
    let mut value = 0u128;
    let (first, skipped) = (at / 8, (at % 8) as u32);
    for index in 0..(skipped + width).div_ceil(8) {
        value |= u128::from(*data.get(first + index as usize)?) << (8 * index);
    }
    Some((value >> skipped) as u64 & (u64::MAX >> (64 - width.max(1))) & if width == 0 { 0 } else { u64::MAX })
}

/// Bits that are needed for the numbers up to `most`.
pub(crate) fn width_for(most: i16) -> u32 {
    u16::BITS - most.unsigned_abs().leading_zeros()
}

/// Runs of one number, and numbers packed bit by bit, in turns.
pub(crate) struct Hybrid {
    data: Bytes,
    width: u32,
    run: Run,
    /// How many numbers of the run are left.
    left: u64,
}

enum Run {
    Repeated(u32),
    Packed { data: Bytes, at: usize },
}

impl Hybrid {
    /// Numbers of `width` bits, at most 32.
    pub(crate) fn new(data: Bytes, width: u32) -> Option<Self> {
        (width <= 32).then_some(Self { data, width, run: Run::Repeated(0), left: 0 })
    }

    /// The same with its length in four bytes in front, which are taken off `data` with it.
    pub(crate) fn with_length(data: &mut Bytes, width: u32) -> Option<Self> {
        if data.len() < 4 {
            return None;
        }
        let length = data.get_u32_le() as usize;
        if length > data.len() {
            return None;
        }
        Self::new(data.split_to(length), width)
    }

    pub(crate) fn next(&mut self) -> Option<u32> {
        while self.left == 0 {
            let header = unsigned(&mut self.data)?;
            let count = header >> 1;
            if header & 1 == 1 {
                self.left = count.checked_mul(8)?;
                // The last run may be cut off where its numbers are not needed.
                let length = count.checked_mul(u64::from(self.width))?.min(self.data.len() as u64);
                self.run = Run::Packed { data: self.data.split_to(length as usize), at: 0 };
            } else {
                let length = self.width.div_ceil(8) as usize;
                if length > self.data.len() {
                    return None;
                }
                let mut value = [0; 4];
                self.data.copy_to_slice(&mut value[..length]);
                self.run = Run::Repeated(u32::from_le_bytes(value));
                self.left = count;
            }
        }
        self.left -= 1;
        match &mut self.run {
            Run::Repeated(value) => Some(*value),
            Run::Packed { data, at } => {
                let value = bits(data, *at, self.width)?;
                *at += self.width as usize;
                Some(value as u32)
            }
        }
    }
}

/// Integers as differences in blocks (DELTA_BINARY_PACKED), all of them; what follows them is left in `data`. `most`: a page
/// has no more values.
pub(crate) fn deltas(data: &mut Bytes, most: usize) -> Option<Vec<i64>> {
    let block = usize::try_from(unsigned(data)?).ok()?;
    let parts = usize::try_from(unsigned(data)?).ok()?;
    let count = usize::try_from(unsigned(data)?).ok().filter(|count| *count <= most)?;
    let mut value = signed(data)?;
    if parts == 0 || block % parts != 0 || !(8..=1 << 20).contains(&(block / parts)) {
        return None;
    }
    let each = block / parts;
    let mut values = Vec::new();
    if count > 0 {
        values.push(value);
    }
    while values.len() < count {
        let least = signed(data)?;
        if parts > data.len() {
            return None;
        }
        let widths = data.split_to(parts);
        for &width in widths.iter() {
            if values.len() == count {
                break; // Parts that hold nothing are not there.
            }
            let width = u32::from(width);
            // The last part is filled up.
            let length = (each * width as usize).div_ceil(8);
            if width > 64 || length > data.len() {
                return None;
            }
            let packed = data.split_to(length);
            for index in 0..each.min(count - values.len()) {
                let difference = bits(&packed, index * width as usize, width)? as i64;
                value = value.wrapping_add(least).wrapping_add(difference);
                values.push(value);
            }
        }
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut hybrid: Hybrid) -> Vec<u32> {
        std::iter::from_fn(|| hybrid.next()).take(1000).collect()
    }

    #[test]
    fn runs_and_packed_numbers() {
        // Four times 5, then 0..8 of three bits each: the example of the format's description.
        let data = [8, 5, 3, 0b1000_1000, 0b1100_0110, 0b1111_1010];
        let hybrid = |data: &[u8], width| Hybrid::new(Bytes::copy_from_slice(data), width);
        assert_eq!(all(hybrid(&data, 3).unwrap()), [5, 5, 5, 5, 0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(all(hybrid(&data[..5], 3).unwrap()), [5, 5, 5, 5, 0, 1, 2, 3, 4]);
        assert_eq!(all(hybrid(&[6], 0).unwrap()), [0, 0, 0]);
        assert_eq!(all(hybrid(&[4, 1, 0, 0, 0x80], 32).unwrap()), [0x8000_0001; 2]);
        assert!(hybrid(&[], 33).is_none());
        assert_eq!(all(hybrid(&[0xff; 30], 8).unwrap()), [], "a count of more than 64 bits");
        assert_eq!([0, 1, 2, 3, 4, i16::MAX].map(width_for), [0, 1, 2, 2, 3, 15]);
        let mut data = Bytes::from_static(&[2, 0, 0, 0, 4, 1, 9]);
        assert_eq!(all(Hybrid::with_length(&mut data, 1).unwrap()), [1, 1]);
        assert_eq!(data, [9][..]);
        assert!(Hybrid::with_length(&mut Bytes::from_static(&[3, 0, 0, 0, 4, 1]), 1).is_none());
    }

    #[test]
    fn differences() {
        // 128 in a block of 4 parts; 5 values; the first is 7; then -2, and 2 bits each above it: 5, 3, 4, 5.
        let data = [0x80, 1, 4, 5, 14, 3, 2, 0, 0, 0, 0b1110_0100, 0, 0, 0, 0, 0, 0, 0, 42];
        let mut data = Bytes::from(data.to_vec());
        assert_eq!(deltas(&mut data, 5), Some(vec![7, 5, 4, 4, 5]));
        assert_eq!(data, [42][..]);
        for broken in [&[0x80u8, 1, 4, 5][..], &[0x80, 1, 0, 1, 0], &[0x80, 1, 4, 9, 14], &[7, 2, 1, 0], &[0xff; 20]] {
            assert_eq!(deltas(&mut Bytes::copy_from_slice(broken), 5), None, "{broken:?}");
        }
        assert_eq!(deltas(&mut Bytes::from_static(&[0x80, 1, 4, 0, 0]), 5), Some(vec![]));
    }
}
