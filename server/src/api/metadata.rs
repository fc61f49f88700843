//! What a client says about its call in headers, and the count that every call ends in.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;

use super::{Method, status::Status};
use crate::{
    error::{Code, Error},
    metrics::Calls,
    state,
};

/// The metadata that this server looks at.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// etcd's `hasleader: true`: refuse rather than wait while no leader is known.
    pub(super) require_leader: bool,
    /// Empty, or the key under which a retry of this write finds the first outcome.
    pub(super) idempotency: Bytes,
}

impl Metadata {
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Status> {
        if let Some(version) = headers.get("client-api-version")
            && std::str::from_utf8(version.as_bytes()).is_err()
        {
            return Err(Error::InvalidClientAPIVersion.into());
        }
        Ok(Self {
            require_leader: headers.get("hasleader").is_some_and(|value| value.as_bytes() == b"true"),
            idempotency: idempotency(headers)?,
        })
    }
}

fn idempotency(headers: &HeaderMap) -> Result<Bytes, Status> {
    let key = if let Some(value) = headers.get("conclave-idempotency-key-bin") {
        Bytes::from(
            base64(value.as_bytes())
                .ok_or(Status::new(Code::InvalidArgument, "conclave: conclave-idempotency-key-bin is not base64"))?,
        )
    } else if let Some(value) = headers.get("conclave-idempotency-key") {
        Bytes::copy_from_slice(value.as_bytes())
    } else {
        return Ok(Bytes::new());
    };
    state::check_idempotency_key(&key)?;
    Ok(key)
}

/// RFC 4648, standard alphabet, with or without padding, as gRPC wants binary metadata read.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let unpadded = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    if unpadded.len() % 4 == 1 {
        return None;
    }
    let mut decoded = Vec::with_capacity(unpadded.len() * 3 / 4);
    for group in unpadded.chunks(4) {
        let mut bits = 0_u32;
        for &letter in group {
            let six = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        let bytes = (bits << (6 * (4 - group.len()))).to_be_bytes();
        decoded.extend_from_slice(&bytes[1..group.len()]);
    }
    Some(decoded)
}

/// `grpc-timeout`: up to eight digits and a unit. The error is grpc-go's.
pub(super) fn timeout(value: &str) -> Result<Duration, String> {
    let bad = |why: &str| Err(format!("transport: timeout {why}: {value:?}"));
    if value.len() < 2 {
        return bad("string is too short");
    }
    if value.len() > 9 {
        return bad("string is too long");
    }
    let (digits, unit) = value.split_at_checked(value.len() - 1).unwrap_or(("", value));
    let nanoseconds: u64 = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return bad("unit is not recognized"),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("strconv.ParseUint: parsing {digits:?}: invalid syntax"));
    }
    let count: u64 = digits.parse().map_err(|_| format!("strconv.ParseUint: parsing {digits:?}: invalid syntax"))?;
    Ok(Duration::from_nanos(count.saturating_mul(nanoseconds)))
}

/// Counts a call as started, and once as handled: with the code it ended in, or as canceled when it is dropped before.
pub(super) struct Tally {
    calls: Arc<Calls>,
    method: Method,
    open: bool,
}

impl Tally {
    pub(super) fn start(calls: &Arc<Calls>, method: Method) -> Self {
        calls.started(method as usize);
        Self { calls: Arc::clone(calls), method, open: true }
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.calls.sent(bytes);
    }

    pub(super) fn end(&mut self, code: Code) {
        if std::mem::take(&mut self.open) {
            self.calls.handled(self.method as usize, code);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.end(Code::Canceled);
    }
}
