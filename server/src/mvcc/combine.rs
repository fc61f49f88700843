//! The CRC of two strings from the CRCs of each.
//!
//! A CRC is a remainder of polynomials over GF(2): appending n bytes multiplies what was before by x^8n. The crate that
//! computes CRCs has this too, by squaring matrices: 5 µs a record, ten times what the rest of hashing one costs.

/// The Castagnoli polynomial without its highest term. Like all polynomials here with the bits reversed: x^0 is the top
/// bit.
const CASTAGNOLI: u32 = 0x82f6_3b78;

/// x^(8·2^i) for each i: what 2^i bytes multiply with.
const POWERS: [u32; 32] = {
    let mut powers = [1 << (31 - 8); 32];
    let mut i = 1;
    while i < 32 {
        powers[i] = times(powers[i - 1], powers[i - 1]);
        i += 1;
    }
    powers
};

/// The product of two polynomials, modulo Castagnoli's.
const fn times(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    while a != 0 {
        if a >> 31 == 1 {
            product ^= b;
        }
        a <<= 1;
        b = (b >> 1) ^ if b & 1 == 1 { CASTAGNOLI } else { 0 };
    }
    product
}

/// CRC32-Castagnoli of two strings, one after the other.
pub(super) fn combine(first: u32, second: u32, second_len: u32) -> u32 {
    let mut shifted = first;
    for (i, power) in POWERS.iter().enumerate() {
        if second_len >> i & 1 == 1 {
            shifted = times(*power, shifted);
        }
    }
    shifted ^ second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combined_is_the_same_as_one_after_the_other() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        for cut in [0, 1, 2, 3, 7, 8, 9, 255, 256, 257, 4095, 65_535, 65_536, 69_999, 70_000] {
            let (first, second) = bytes.split_at(cut);
            let len = u32::try_from(second.len()).expect("70,000 at most");
            assert_eq!(
                combine(crc32c::crc32c(first), crc32c::crc32c(second), len),
                crc32c::crc32c(&bytes),
                "cut at {cut}"
            );
        }
        for len in [1, 1 << 16, 1 << 24, u32::MAX] {
            let (first, second) = (0x1234_5678, 0x9abc_def0);
            assert_eq!(combine(first, second, len), crc32c::crc32c_combine(first, second, len as usize), "{len}");
        }
    }
}
