//! How a call ended, in gRPC's words, and how that looks in headers.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::{Code, Error};

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A gRPC status other than OK, or OK with an empty text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: Code,
    pub(super) text: Cow<'static, str>,
}

impl Status {
    pub(super) const fn new(code: Code, text: &'static str) -> Self {
        Self { code, text: Cow::Borrowed(text) }
    }

    pub(super) fn with(code: Code, text: String) -> Self {
        Self { code, text: Cow::Owned(text) }
    }

    /// What a service that is part of the wire contract but not built yet answers.
    pub(super) fn not_built(what: &str) -> Self {
        Self::with(Code::Unimplemented, format!("conclave: {what} is not available in this version"))
    }

    /// Writes the status into trailers, or into the headers of a reply that has nothing else.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(GRPC_STATUS, code_value(self.code));
        if !self.text.is_empty() {
            headers.insert(GRPC_MESSAGE, percent_encode(&self.text));
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.text())
    }
}

fn code_value(code: Code) -> HeaderValue {
    const VALUES: [&str; 17] =
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
    HeaderValue::from_static(VALUES[code as usize])
}

/// gRPC over HTTP/2, "Percent-Byte-Encoded": every byte but printable ASCII, and the percent sign itself.
fn percent_encode(text: &str) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(byte);
        } else {
            encoded.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    HeaderValue::from_bytes(&encoded).expect("only printable ASCII is left, which is what a header value may hold")
}

/// The trailers of a call that succeeded.
pub(super) fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, code_value(Code::Ok));
    trailers
}
