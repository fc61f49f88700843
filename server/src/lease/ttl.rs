//! How long a lease may live.

use crate::error::Error;

/// etcd's bound on a TTL, in seconds (its `MaxLeaseTTL`); clients are told of more than this as a mistake.
pub const MAX_TTL_SECONDS: i64 = 9_000_000_000;

/// The TTL in milliseconds that a request for `seconds` is granted.
///
/// No lease lives shorter than one and a half election timeouts, rounded up to a second (etcd's minimum): a shorter one
/// would run out while its holder looks for the new leader. Zero and less mean the minimum.
pub fn clamp_ttl(seconds: i64, election_ms: u64) -> Result<i64, Error> {
    if seconds > MAX_TTL_SECONDS {
        return Err(Error::LeaseTTLTooLarge);
    }
    let least = election_ms.saturating_mul(3).div_ceil(2).div_ceil(1000);
    Ok(seconds.max(i64::try_from(least).unwrap_or(MAX_TTL_SECONDS).min(MAX_TTL_SECONDS)) * 1000)
}
