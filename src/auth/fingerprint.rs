//! Comparison of secrets in constant time.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// The hash of a secret. Comparing hashes takes the same time for every length, and the secret need not stay in memory.
pub(super) type Fingerprint = [u8; 32];

pub(super) fn fingerprint(secret: &SecretString) -> Fingerprint {
    Sha256::digest(secret.expose_secret()).into()
}

/// Compares with all fingerprints, so that the time does not depend on which one matches.
pub(super) fn is_one_of(candidate: &[u8], known: &[Fingerprint]) -> bool {
    let candidate: Fingerprint = Sha256::digest(candidate).into();
    known.iter().fold(Choice::from(0), |found, known| found | candidate.ct_eq(known)).into()
}
