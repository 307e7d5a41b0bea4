//! Shamir's secret sharing ("How to share a secret", 1979) over GF(2⁸) with AES's polynomial: each byte of a secret is the
//! value at 0 of a random polynomial, and a share has the values at its number. No branch and no index depends on a
//! secret. What fewer shares than needed say of the secret is nothing.
//!
//! Own code, because the crates for it take their randomness from a trait of theirs rather than from `Env`, choose the
//! shape of shares, and the one that was used most had coefficients of zero left out (RUSTSEC-2024-0398).

use crate::Result;
use crate::env::{Env, random_array};
use zeroize::Zeroizing;

/// The bytes of a secret and of a share.
pub(super) type Bytes = Zeroizing<[u8; 32]>;

/// The product in GF(2⁸), modulo x⁸ + x⁴ + x³ + x + 1.
fn product(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0);
    for bit in 0..8 {
        product ^= a & (b >> bit & 1).wrapping_neg();
        a = a << 1 ^ 0x1b & (a >> 7).wrapping_neg();
    }
    product
}

/// The inverse: a²⁵⁴. That of 0 is 0.
fn inverse(a: u8) -> u8 {
    let (mut power, mut inverse) = (a, 1);
    for _ in 0..7 {
        power = product(power, power);
        inverse = product(inverse, power);
    }
    inverse
}

/// The shares of the numbers 1 to `count`, of which `threshold` give the secret.
pub(super) fn split(secret: &[u8; 32], threshold: u8, count: u8, env: &dyn Env) -> Result<Vec<Bytes>> {
    // All values are drawn, zero included: else a share would rule one value out for each byte of the secret.
    let drawn: Result<Vec<Bytes>> = (1..threshold).map(|_| Ok(Zeroizing::new(random_array(env)?))).collect();
    let drawn = drawn?;
    let share = |number: u8| {
        let mut share = Zeroizing::new([0; 32]);
        // Horner's rule, from the highest power down.
        for coefficient in drawn.iter().rev().map(|bytes| &**bytes).chain([secret]) {
            for (byte, more) in share.iter_mut().zip(coefficient) {
                *byte = product(*byte, number) ^ more;
            }
        }
        share
    };
    Ok((1..=count).map(share).collect())
}

/// The value at 0 of the polynomials through these points, whose numbers differ and are not 0.
pub(super) fn combine(points: &[(u8, &[u8; 32])]) -> Bytes {
    let mut secret = Zeroizing::new([0; 32]);
    for (number, share) in points {
        let others = points.iter().map(|(other, _)| *other).filter(|other| other != number);
        let weight = others.fold(1, |weight, other| product(weight, product(other, inverse(other ^ number))));
        for (byte, more) in secret.iter_mut().zip(share.iter()) {
            *byte ^= product(weight, *more);
        }
    }
    secret
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEnv;
    use proptest::prelude::*;

    /// FIPS 197, section 4.2 and its examples.
    #[test]
    fn products_are_those_of_the_standard() {
        assert_eq!(product(0x57, 0x83), 0xc1);
        assert_eq!(product(0x57, 0x13), 0xfe);
        assert_eq!(inverse(0x53), 0xca);
        for a in 1..=255 {
            assert_eq!(product(a, inverse(a)), 1);
        }
        assert_eq!(inverse(0), 0);
    }

    /// A polynomial whose values can be computed by hand: s + a·x, in each byte.
    #[test]
    fn a_line_is_followed() {
        let (secret, slope) = (0x42, 0x57);
        let at = |number| [secret ^ product(slope, number); 32];
        assert_eq!(at(0x83)[0], 0x42 ^ 0xc1);
        assert_eq!(*combine(&[(0x83, &at(0x83)), (0x13, &at(0x13))]), [secret; 32]);
    }

    proptest! {
        #[test]
        fn enough_shares_give_the_secret_and_fewer_do_not(
            secret in any::<[u8; 32]>(), seed in any::<u64>(), threshold in 2u8..=16, more in 0u8..=14,
            order in any::<u64>(),
        ) {
            let count = (threshold + more).min(16);
            let shares = split(&secret, threshold, count, &SeededEnv::new(seed)).unwrap();
            let mut points: Vec<(u8, &[u8; 32])> = (1..).zip(shares.iter().map(|share| &**share)).collect();
            points.rotate_left((order % u64::from(count)) as usize);
            if order % 2 == 1 {
                points.reverse();
            }
            prop_assert_eq!(*combine(&points[..usize::from(threshold)]), secret);
            prop_assert_eq!(*combine(&points), secret);
            prop_assert_ne!(*combine(&points[..usize::from(threshold) - 1]), secret);
        }
    }
}
