//! The key space that scripts play in: few keys, in awkward places.

use bytes::Bytes;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Ordinary keys. Together with the awkward ones below 200, so that a script meets each many times.
const ORDINARY: usize = 120;
/// The first so many are drawn half of the time.
const HOT: usize = 16;

/// Keys where an encoding, a prefix rule or a comparison could slip.
const AWKWARD: [&[u8]; 24] = [
    b"\0",
    b"\0\0",
    b"\0a",
    b"a",
    b"a\0",
    b"a\0b",
    b"a\x01",
    b"ab",
    b"a\xff",
    b"a\xff\xff",
    b"b",
    b"k",
    b"k/",
    b"k/00",
    b"k/0000",
    b"k0",
    b"\x7f",
    b"\x80",
    b"\xfe",
    b"\xff",
    b"\xff\0",
    b"\xff\xff",
    b"\xff\xff\xff",
    b"\xc3\x28",
];

/// All keys of a script.
#[derive(Debug)]
pub(super) struct Keys {
    all: Vec<Bytes>,
}

impl Keys {
    pub(super) fn new() -> Self {
        let ordinary = (0..ORDINARY).map(|n| Bytes::from(format!("k/{n:03}")));
        let awkward = AWKWARD.iter().map(|key| Bytes::from_static(key));
        let long = [Bytes::from(vec![b'l'; 1024]), Bytes::from(vec![0xff; 300])];
        Self { all: ordinary.chain(awkward).chain(long).collect() }
    }

    /// A key that may exist.
    pub(super) fn key(&self, rng: &mut ChaCha8Rng) -> Bytes {
        let n = if rng.random_bool(0.5) { rng.random_range(0..HOT) } else { rng.random_range(0..self.all.len()) };
        self.all[n].clone()
    }

    /// A key, or rarely the empty one, which requests must not have.
    pub(super) fn key_or_empty(&self, rng: &mut ChaCha8Rng) -> Bytes {
        if rng.random_bool(0.01) { Bytes::new() } else { self.key(rng) }
    }

    /// An end for a range that starts at `key`: none, "from here on", "with this prefix", or any other key, which may lie
    /// before the start.
    pub(super) fn range_end(&self, rng: &mut ChaCha8Rng, key: &[u8]) -> Bytes {
        match rng.random_range(0..100) {
            0..35 => Bytes::new(),
            35..50 => Bytes::from_static(b"\0"),
            50..60 => prefix_end(key),
            60..70 => prefix_end(&key[..key.len().min(2)]),
            _ => self.key(rng),
        }
    }
}

/// The first key after all keys with this prefix; "from here on" if there is none.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}
