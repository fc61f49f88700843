//! What clients see: bytes in, bytes out.

mod framing;
mod services;
